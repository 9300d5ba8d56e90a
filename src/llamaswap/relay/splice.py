"""Carries chunked streams between plain sockets without waking a task for every chunk.

The engine moves the bytes of all streams; the task that a stream belongs to sleeps until something needs it.
Where there is no engine, `ready` is False and streams are carried the ordinary way.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from functools import partial

import outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from llamaswap.relay.engine import Engine
from llamaswap.relay.transport import RECV_BYTES


class Pause(Enum):
    """Why a stream came back to its task."""

    COMPLETE = "complete"
    """The parser has seen the end; its last bytes are in `Stream.unsent`."""
    FULL = "full"
    """The client reads too slowly; what it has not taken is in `Stream.unsent`."""
    ENDED = "ended"
    """The upstream closed or broke the connection."""


class Stream:
    """One stream while it is being carried."""

    __slots__ = ("feed", "is_complete", "moved", "note", "recv", "send", "source", "task", "unsent")

    def __init__(
        self,
        source: socket.socket,
        send: Callable[[bytes], int],
        feed: Callable[[bytes], None],
        is_complete: Callable[[], bool],
        note: Callable[[bytes], None],
    ) -> None:
        self.source = source
        self.recv = source.recv
        self.send = send
        """Takes bytes for the client, says how many went; OSError if it has left."""
        self.feed = feed
        """Told of all bytes before they go; what it raises ends the stream."""
        self.is_complete = is_complete
        self.note = note
        """Told of all bytes as well, once `feed` has found nothing wrong; must not raise."""
        self.unsent = b""
        self.moved = 0
        """Bytes given to the client so far."""
        self.task: Task | None = None


class Splicer:
    """Moves streams while its engine runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def ready(self) -> bool:
        return self._engine.ready

    async def carry(self, stream: Stream) -> Pause:
        """Move the stream's bytes until its task is needed. Raises what its `send` and `feed` raise.

        A cancelled call loses nothing: what was read has been sent, or is in `unsent`.
        """
        fd = stream.source.fileno()
        stream.task = current_task()
        self._engine.watch(fd, partial(self._move, stream, fd))

        def abort(_: RaiseCancelT) -> Abort:
            self._engine.forget(fd)
            return Abort.SUCCEEDED

        reason: Pause = await wait_task_rescheduled(abort)
        return reason

    def _move(self, stream: Stream, fd: int) -> None:
        try:
            data = stream.recv(RECV_BYTES)
            if not data:
                self._wake(stream, fd, Pause.ENDED)
                return
        except BlockingIOError:
            return
        except OSError:
            self._wake(stream, fd, Pause.ENDED)
            return
        try:
            stream.feed(data)
            stream.note(data)
            if stream.is_complete():
                stream.unsent = data
                self._wake(stream, fd, Pause.COMPLETE)
                return
            sent = stream.send(data)
        except Exception as error:
            self._engine.forget(fd)
            assert stream.task is not None
            reschedule(stream.task, outcome.Error(error))
            return
        stream.moved += sent
        if sent < len(data):
            stream.unsent = data[sent:]
            self._wake(stream, fd, Pause.FULL)

    def _wake(self, stream: Stream, fd: int, reason: Pause) -> None:
        self._engine.forget(fd)
        assert stream.task is not None
        reschedule(stream.task, outcome.Value(reason))
