"""What was said lately: one bounded log per source, with live readers that can never hold a writer up.

Everything here is memory only and synchronous; a write costs a few appends. Model output arrives as
the process wrote it, our own lines come through stdlib logging (`setup_logging`) or, where a line per
request must be cheap, straight through `Logs.log`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

import trio

from llamaswap.config.settings import Config
from llamaswap.observe.logformat import TimeFormat, format_line, level_number, time_format
from llamaswap.observe.ring import ByteRing
from llamaswap.observe.stdout import FLUSH_S, OutputThread, stdout_fd

HISTORY_BYTES = 100 * 1024
SUBSCRIBER_BYTES = 2 * HISTORY_BYTES
"""What waits for one slow reader: a whole history and as much again."""


class Subscription:
    """One reader of a `LogMonitor`: a context manager, an async iterator, or plain `receive()`.

    A reader that falls behind by more than `SUBSCRIBER_BYTES` loses the oldest of it and finds a line
    in its stream that says how much. One task at a time may receive.
    """

    def __init__(self, monitor: LogMonitor, history: bool) -> None:
        self._monitor = monitor
        self._pending = ByteRing(SUBSCRIBER_BYTES)
        self._wakeup = trio.Event()
        self._at_line_start = True
        self._closed = False
        if history:
            self._push(monitor.history())
        monitor._subscribers.append(self)

    def _push(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._wakeup.set()

    async def receive(self) -> bytes:
        """Everything written since the last call, waiting for something if there is nothing.

        A checkpoint; cancelled, it loses nothing. Raises trio.EndOfChannel once closed and read out.
        """
        await trio.lowlevel.checkpoint()
        while not len(self._pending):
            if self._closed:
                raise trio.EndOfChannel
            self._wakeup = trio.Event()
            await self._wakeup.wait()
        data, dropped = self._pending.take()
        if dropped:
            start = b"" if self._at_line_start else b"\n"
            data = start + b"[WARN] %d bytes of log skipped: this reader fell behind\n" % dropped + data
        self._at_line_start = data.endswith(b"\n")
        return data

    def close(self) -> None:
        """Stop receiving. Idempotent; a task that waits in `receive` is woken with EndOfChannel."""
        if not self._closed:
            self._closed = True
            self._monitor._subscribers.remove(self)
            self._wakeup.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None


class LogMonitor:
    """The last 100 KiB of one log, starting at a line if it can, and those who follow it live."""

    def __init__(self, *forward: Callable[[bytes], None]) -> None:
        self._ring = ByteRing(HISTORY_BYTES)
        self.listeners = list(forward)
        """Called with everything that is written; they must be quick and must not raise."""
        self.written = 0
        """Bytes so far; what is remembered are the last of them."""
        self._subscribers: list[Subscription] = []

    def write(self, data: bytes) -> None:
        """Append `data`. Synchronous, bounded, never waits for a reader; Trio's thread only."""
        self._ring.append(data)
        self.written += len(data)
        for subscriber in self._subscribers:
            subscriber._push(data)
        for listener in self.listeners:
            listener(data)

    def history(self) -> bytes:
        """At most the last 100 KiB."""
        return self._ring.snapshot()

    def subscribe(self, *, history: bool = True) -> Subscription:
        """Follow this log, what is remembered first unless `history` is False. Close it (`with`)."""
        return Subscription(self, history)

    def close(self) -> None:
        """Nothing more will be written: end those who follow it."""
        for subscriber in self._subscribers[:]:
            subscriber.close()


class Logs:
    """All logs of the server, and the way to standard output.

    A model's output also reaches `upstream` and `combined`, our own lines (`proxy`) reach `combined`.
    """

    def __init__(self, *, to_stdout: str = "proxy", fd: int | None = None) -> None:
        """`to_stdout`: proxy, upstream, both or none (logToStdout). `fd` stands in for stdout."""
        if fd is None and to_stdout != "none":
            fd = stdout_fd()
        self._output = OutputThread(fd) if fd is not None else None
        screen = (self._output.write,) if self._output is not None else ()
        self.combined = LogMonitor()
        self.proxy = LogMonitor(self.combined.write, *(screen if to_stdout in ("proxy", "both") else ()))
        self.upstream = LogMonitor(self.combined.write, *(screen if to_stdout in ("upstream", "both") else ()))
        self._models: dict[str, LogMonitor] = {}
        self.level = logging.INFO
        """Lines below it are not written."""
        self.time_format: TimeFormat | None = None
        self._thread = threading.get_ident()
        self._token: trio.lowlevel.TrioToken | None = None

    def model(self, model_id: str) -> LogMonitor:
        """The log of one model's process, made on demand."""
        monitor = self._models.get(model_id)
        if monitor is None:
            monitor = self._models[model_id] = LogMonitor(self.upstream.write)
        return monitor

    def retain(self, model_ids: Collection[str]) -> None:
        """Forget the logs of all other models; who follows one of those is at its end."""
        for model_id in self._models.keys() - set(model_ids):
            self._models.pop(model_id).close()

    def get(self, name: str) -> LogMonitor | None:
        """`proxy`, `upstream`, or a model that has a log already; else None."""
        if name == "proxy":
            return self.proxy
        if name == "upstream":
            return self.upstream
        return self._models.get(name)

    def log(self, level: int, message: str) -> None:
        """Write one of our own lines (`level` as in stdlib logging). Any thread; never raises.

        The cheap way past stdlib logging for lines that every request writes.
        """
        if level < self.level:
            return
        line = format_line(level, message, time.time_ns(), self.time_format)
        if threading.get_ident() == self._thread:
            if self._token is None:
                self.bind()
            self.proxy.write(line)
            return
        token = self._token
        if token is None:
            self.proxy.write(line)  # no loop runs yet, so nobody follows the log either
            return
        try:
            token.run_sync_soon(self.proxy.write, line)
        except trio.RunFinishedError:
            self.proxy.write(line)

    def bind(self) -> None:
        """Inside `trio.run`: hand lines of other threads to this loop from now on. Outside: does nothing.

        The first line that this loop's thread logs does it by itself.
        """
        try:
            self._token = trio.lowlevel.current_trio_token()
        except RuntimeError:
            return
        self._thread = threading.get_ident()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait (blocking, at most `timeout_s`) until standard output has everything. Runs by itself at
        a normal exit; call it before `os._exit`."""
        if self._output is not None:
            self._output.flush(timeout_s)


class _Handler(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self.logs = logs

    def handle(self, record: logging.LogRecord) -> bool:
        # Without Handler's lock: Logs.log takes lines from any thread.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{_FORMATTER.formatException(record.exc_info)}"
        except Exception as exc:  # a line with wrong arguments must not break what it reports on
            message = f"{record.msg!s} (log line with wrong arguments: {exc})"
        self.logs.log(record.levelno, message)


_FORMATTER = logging.Formatter()


def setup_logging(config: Config, logs: Logs) -> None:
    """Lead stdlib logging of `llamaswap.*` (and warnings of the HTTP server) into `logs.proxy`.

    Applies logLevel and logTimeFormat; where lines go beside memory was decided when `logs` was made.
    Call again after a reload. Inside `trio.run`, lines of other threads become safe as well.
    """
    logs.level = level_number(config.log_level)
    logs.time_format = time_format(config.log_time_format)
    logs.bind()
    handler = _Handler(logs)
    for name, least in (("llamaswap", logs.level), ("hypercorn", logging.WARNING)):
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            if isinstance(old, _Handler):
                logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(max(least, logs.level))
        logger.propagate = False
