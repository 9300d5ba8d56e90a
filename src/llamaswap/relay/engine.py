"""Calls a function when a socket can be read, for many sockets in one task.

Waiting for a socket costs a Trio task more than what it waits for: registering with epoll each time, being
scheduled, walking down its frames. Here one task waits for all of them, and what has to happen, happens in plain
functions. Where there is no epoll, or no `run`, `ready` is False and its users go the ordinary way.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress

import trio
from trio.lowlevel import wait_readable

SPELL_S = 0.004  # of polls in a row before everybody else gets a turn: under load the next event is there already


class Engine:
    """Serves `watch` while `run` runs. Trio's thread only."""

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._epoll: select.epoll | None = None

    @property
    def ready(self) -> bool:
        return self._epoll is not None

    def __len__(self) -> int:
        return len(self._callbacks)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call it whenever `fd` can be read or has ended, until `forget`. It must not raise; one per descriptor.

        A closed descriptor must be forgotten before it is closed. Later than the end of `run` nothing is called:
        whoever waits then is about to be cancelled.
        """
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def swap(self, fd: int, callback: Callable[[], None]) -> None:
        """Another callback for a descriptor that is watched."""
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """The opposite of `watch`; harmless if it is not watched."""
        if self._callbacks.pop(fd, None) is not None and self._epoll is not None:
            with suppress(OSError):  # closed already, which is as good
                self._epoll.unregister(fd)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait and call, until cancelled."""
        if not hasattr(select, "epoll"):
            task_status.started()
            return
        with select.epoll() as epoll:
            self._epoll = epoll
            try:
                task_status.started()
                await self._serve(epoll)
            finally:
                self._epoll = None

    async def _serve(self, epoll: select.epoll) -> None:
        callbacks = self._callbacks
        while True:
            await wait_readable(epoll.fileno())
            until = time.monotonic() + SPELL_S
            while events := epoll.poll(0):
                for fd, _ in events:
                    callback = callbacks.get(fd)
                    if callback is not None:  # else an earlier one of these calls has ended it
                        callback()
                if time.monotonic() > until:
                    break
