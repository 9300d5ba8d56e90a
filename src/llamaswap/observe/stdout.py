"""Log lines on standard output without the event loop ever waiting for whoever reads them.

A pipe nobody empties, a stopped terminal or a full disk blocks `write(2)`; so a daemon thread writes,
and the loop only appends to a bounded buffer. The thread rests between batches: a wake-up per line
would cost more than the line.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import sys
import threading

from llamaswap.observe.ring import ByteRing

BUFFER_BYTES = 1 << 20
"""Of output that waits for its reader; beyond that the oldest is dropped."""
REST_S = 0.02  # between two batches: at most 50 wake-ups a second
FLUSH_S = 1.0  # a reader that is alive takes a buffer in milliseconds; a stuck one must not hold the exit
_GONE = {errno.EPIPE, errno.EBADF, errno.ENXIO, errno.ECONNRESET}


def stdout_fd() -> int | None:
    """The descriptor of the real standard output; None if the process was started without one."""
    try:
        return None if sys.__stdout__ is None else sys.__stdout__.fileno()
    except (OSError, ValueError):
        return None


class OutputThread:
    """Writes to `fd` from a thread of its own, started with the first line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._pending = ByteRing(BUFFER_BYTES)
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._dead = False

    def write(self, data: bytes) -> None:
        """Queue `data`. From any thread; never waits for the reader, never raises."""
        if self._dead or not data:
            return
        with self._lock:
            self._pending.append(data)
            self._idle.clear()
        if not self._wake.is_set():
            self._wake.set()
        if self._thread is None:
            self._start()

    def flush(self, timeout_s: float = FLUSH_S) -> bool:
        """Wait up to `timeout_s` until everything queued is written; False if it was not."""
        self._hurry.set()
        try:
            return self._dead or self._idle.wait(timeout_s)
        finally:
            self._hurry.clear()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="stdout", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is going down and gives out no more threads
            self._dead = True
            return
        atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                data, dropped = self._pending.take()
            if dropped:
                data = b"[WARN] %d bytes of output dropped: nobody read them\n" % dropped + data
            if not self._write_all(data):
                self._dead = True
            with self._lock:
                done = self._dead or not len(self._pending)
                if done:
                    self._idle.set()
            if self._dead:
                return
            self._hurry.wait(REST_S)

    def _write_all(self, data: bytes) -> bool:
        """Whether output still makes sense afterwards."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view[:65536]) :]
            except BlockingIOError:  # somebody made our descriptor non-blocking
                try:
                    select.select((), (self._fd,), (), 1.0)
                except (OSError, ValueError):
                    return False
            except OSError as exc:
                return exc.errno not in _GONE  # a full disk may have room again for the next batch
        return True
