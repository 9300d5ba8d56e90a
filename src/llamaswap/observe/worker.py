"""Blocking calls that may hang: a file of a driver that does not answer, a disk whose server is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

log = logging.getLogger("llamaswap.observe")

PART_S = 5.0  # for one look; it takes milliseconds unless something hangs
THREADS = trio.CapacityLimiter(8)  # our own: what hangs here must not hold up the threads of others
T = TypeVar("T")


class Worker(Generic[T]):
    """A blocking function in a worker thread that may hang: then it is left alone, and not called again
    before it has come back."""

    def __init__(self, work: Callable[..., T]) -> None:
        self._work = work
        self._busy = False

    async def run(self, *args: Any) -> T | None:
        """What it returns; None if it is late, still hangs, or fails. Cancel-safe."""
        if self._busy:
            return None
        begun = False

        def work() -> T:
            nonlocal begun
            begun = self._busy = True
            try:
                return self._work(*args)
            finally:
                self._busy = False

        self._busy = True
        try:
            with trio.move_on_after(PART_S):
                return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=THREADS)
        except Exception:  # a task boundary: a part of the machine that cannot be read is not the sampler's end
            log.debug("%r failed", self._work, exc_info=True)
        finally:
            if not begun:
                self._busy = False
        return None
