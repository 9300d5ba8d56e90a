"""What happens to models, and the log's warnings, led into the store; the past load times led out of it."""

from __future__ import annotations

import logging
import threading

import trio

from llamaswap.errors import NotStarted
from llamaswap.observe.logformat import level_name
from llamaswap.observe.modellog import LOADS_KEPT, ModelLog, ModelObserver
from llamaswap.observe.store import Store

LOGGERS = ("llamaswap", "hypercorn")
LINE_CHARS = 4000  # of a log line that is kept


class Keeper(ModelObserver):
    """Attach it to `fleet.observers`. Its state changes: starting, ready, stopped, failed, crashed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recall(self, model_log: ModelLog) -> None:
        """Tell `model_log` the load times of earlier runs."""
        for model, loads_s in self._store.past_loads(LOADS_KEPT).items():
            model_log.remember(model, loads_s)

    def started(self, model: str) -> None:
        self._store.record_state(model, "starting")

    def ready(self, model: str, load_s: float) -> None:
        self._store.record_load(model, load_s)
        self._store.record_state(model, "ready")

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        self._store.record_state(model, "stopped", f"{reason} for {for_model}" if for_model else reason)

    def failed(self, model: str, error: NotStarted) -> None:
        self._store.record_state(model, "failed", error.summary)

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        reason = "no longer accepted connections" if exit_code is None else f"exit code {exit_code}"
        self._store.record_state(model, "crashed", reason)


class LogKeeper(logging.Handler):
    """Keeps lines of level warn and above, of any thread. A context manager: attached while it lasts.

    To be made in Trio's thread, inside `trio.run`.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(logging.WARNING)
        self._store = store
        self._thread = threading.get_ident()
        self._token = trio.lowlevel.current_trio_token()

    def __enter__(self) -> LogKeeper:
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = record.getMessage()
        except Exception as error:  # a line with wrong arguments must not break what it reports on
            line = f"{record.msg!s} (log line with wrong arguments: {error})"
        if record.exc_info and record.exc_info[1] is not None:
            line = f"{line}: {record.exc_info[1]!r}"
        level = level_name(record.levelno).lower()
        if threading.get_ident() == self._thread:
            self._store.record_log(level, line[:LINE_CHARS])
            return
        try:
            self._token.run_sync_soon(self._store.record_log, level, line[:LINE_CHARS])
        except trio.RunFinishedError:
            pass  # the store is closed
