"""The store: what llamaswap remembers beyond the moment, in SQLite, in memory or in the file that store.path names.

Whatever is recorded only goes onto a list; one task writes the lists in batches, in a worker thread. A process
killed at any moment loses what it recorded in the last BATCH_S and what it took to write it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

import trio

from llamaswap.config.settings import StoreLimits
from llamaswap.errors import SwapError
from llamaswap.observe.entry import Entry, as_row
from llamaswap.observe.rows import Row
from llamaswap.observe.store_file import Batch, Database

log = logging.getLogger("llamaswap.store")

BATCH_S = 0.1  # beyond the recorder's own batch; both and the write fit into 250 ms
RETRY_S = 1.0  # between attempts while the disk refuses
TIDY_S = 3600.0  # between removals of what is older than keepDays
WAITING_ROWS = 20_000  # while the disk does not take them; then the oldest are lost
WAITING_OTHERS = 2_000
UNMADE_ROWS = 1000  # in memory, before anybody has asked

Recorded = tuple[Row | Entry, object]
"""A request, and what its recorder wants back once it has an id."""
Stored = Callable[[int, Sequence[Recorded]], None]


class StoreFailed(SwapError):
    """The database could not be read."""

    status, code = 503, "service_unavailable"


class Store:
    """Records from Trio's thread, synchronously and without waiting; `run` writes, everything async reads.

    Readers see all that was recorded before they were called, or all that could be written.
    """

    def __init__(self, path: str = "", limits: StoreLimits | None = None) -> None:
        """Open the file at `path`, or memory if that is empty. Raises ConfigError if the file cannot be used."""
        self._database = Database(path, limits or StoreLimits())
        self._batch = Batch()
        self._wake = trio.Event()
        self._flushing = trio.Lock()
        self._writers = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(1)
        self._failing = False
        self._damaged = False
        """Whether that was logged."""
        self._lost = 0
        self._closed = False
        self._next_id = 1
        """Of a row in memory."""
        self._unasked: list[Row | Entry] = []
        """The last requests, in memory, up to the one before `_next_id`."""
        self._made = 0
        """How many of them, at least, are rows: more than UNMADE_ROWS entries would hold too much of their requests."""
        self.on_stored: list[Stored] = []
        """Called with the first of consecutive ids and the rows, once they can be read."""

    def reconfigure(self, limits: StoreLimits) -> None:
        """Other limits, after a reload; they are met by and by."""
        self._database.limits = limits

    @property
    def in_memory(self) -> bool:
        """Whether rows are not needed before somebody asks."""
        return self._database.in_memory

    def add_row(self, row: Row | Entry, tag: object = None) -> None:
        """A finished request; `tag` comes back with it through `on_stored`."""
        self._batch.rows.append((row, tag))
        self._wake.set()

    def record_load(self, model: str, seconds: float) -> None:
        """`model` was ready after `seconds`."""
        self._batch.loads.append((_now_ms(), _text(model), seconds))
        self._wake.set()

    def past_loads(self, limit: int) -> dict[str, list[float]]:
        """The seconds of the last loads of each model, oldest first. Blocks: for the start."""
        loads: dict[str, list[float]] = {}
        for model, seconds in self._database.read(_all_loads):
            loads.setdefault(model, []).append(seconds)
        return {model: seconds[-limit:] for model, seconds in loads.items()}

    def record_state(self, model: str, state: str, reason: str = "") -> None:
        """`model` changed to `state`."""
        self._batch.states.append((_now_ms(), _text(model), _text(state), _text(reason)))
        self._wake.set()

    def record_log(self, level: str, line: str) -> None:
        """A line of the log that is worth keeping: of level warn and above."""
        self._batch.log_lines.append((_now_ms(), _text(level), _text(line)))
        self._wake.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write batches until cancelled."""
        task_status.started()
        tidied = -TIDY_S
        while True:
            if trio.current_time() - tidied >= TIDY_S:
                tidied = trio.current_time()
                await self._tidy()
            with trio.move_on_at(tidied + TIDY_S):
                if not self._failing:
                    await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(RETRY_S if self._failing else BATCH_S)
            await self.flush(again=True)

    async def flush(self, *, again: bool = False) -> None:
        """Write what waits. Cancelled, it loses nothing; a disk that refuses is logged once, not raised.

        Once it has refused, only with `again` is it tried again: nobody who only wants to read waits for that.
        """
        if self._failing and not again:
            return  # nor for the attempt that is being made
        async with self._flushing:
            if not self._batch or self._closed or (self._failing and not again):
                return
            batch, self._batch = self._batch, Batch()
            self._number(batch)
            if not batch:
                return
            first = None
            try:
                first = await trio.to_thread.run_sync(self._database.write, batch, limiter=self._writers)
            except sqlite3.Error as error:
                batch.rows = [(row, None) for row, _ in batch.rows]  # the rows may wait for hours; captures take room
                self._refused(error)
                return
            finally:
                if first is None:
                    self._put_back(batch)
            self._written(first, batch)

    def close(self) -> None:
        """Write what waits and close the file. Blocks; nothing is recorded any more."""
        if self._closed:
            return
        self._closed = True
        batch, self._batch = self._batch, Batch()
        self._number(batch)
        try:
            if batch:
                self._written(self._database.write(batch), batch)
            batch = Batch()
            self._database.close()
        except sqlite3.Error as error:
            self._refused(error)
            if batch.rows or self._lost:
                log.error("%d finished requests could not be saved", len(batch.rows) + self._lost)

    async def read(self, query: Callable[..., Any], *args: Any) -> Any:
        """`query(connection, *args)` in a worker thread, after all that was recorded so far.

        Raises StoreFailed. Cancelled, it still waits for a query that has begun.
        """
        await self.flush()
        try:
            await self._fill()
            return await trio.to_thread.run_sync(self._database.read, query, *args, limiter=self._readers)
        except sqlite3.Error as error:
            if not self._damaged and type(error) is sqlite3.DatabaseError:
                self._damaged = True
                log.error("the store's file is damaged (%s): move it away, and the next start begins a new one", error)
            raise StoreFailed(f"the store cannot be read: {error}") from error

    async def states(self, limit: int, model: str | None = None) -> list[tuple[int, str, str, str]]:
        """The last state changes, newest first: (milliseconds since the epoch, model, state, reason)."""
        columns = "timestamp_ms, model, state, reason"
        return list(await self.read(_latest, "states", columns, limit, "model" if model else "", model))

    async def log_lines(self, limit: int) -> list[tuple[int, str, str]]:
        """The last lines, newest first: (milliseconds since the epoch, level, line)."""
        return list(await self.read(_latest, "log_lines", "timestamp_ms, level, line", limit, "", None))

    async def loads(self, model: str, limit: int) -> list[tuple[int, float]]:
        """The last loads of a model, newest first: (milliseconds since the epoch, seconds)."""
        return list(await self.read(_latest, "loads", "timestamp_ms, seconds", limit, "model", model))

    def _number(self, batch: Batch) -> None:
        """In memory, rows have their ids at once and wait for somebody to ask: of thousands a second, most are
        forgotten before anybody does."""
        if not self._database.in_memory or not batch.rows:
            return
        rows, batch.rows = batch.rows, []
        first, self._next_id = self._next_id, self._next_id + len(rows)
        unasked = self._unasked
        unasked += [row for row, _ in rows]
        keep = self._database.limits.keep_activity
        if len(unasked) > keep > 0:
            self._made = max(0, self._made - (len(unasked) - keep))
            del unasked[:-keep]
        made = len(unasked) - UNMADE_ROWS
        if made > self._made:
            unasked[self._made : made] = [as_row(row) for row in unasked[self._made : made]]
            self._made = made
        for stored in self.on_stored:
            stored(first, rows)

    async def _fill(self) -> None:
        """Put the rows that wait for it into the database in memory. Raises sqlite3.Error."""
        if not self._database.in_memory:
            return  # nor does a reader of a file wait for its writer
        async with self._flushing:
            rows, self._unasked, self._made = self._unasked, [], 0
            try:
                if rows:
                    first = self._next_id - len(rows)
                    await trio.to_thread.run_sync(self._database.fill, first, rows, limiter=self._writers)
                    rows = []
            finally:
                self._unasked[:0] = rows

    async def _tidy(self) -> None:
        """Some rows at a time, so that batches get their turn."""
        try:
            await self._fill()
            while await trio.to_thread.run_sync(self._database.forget_old, _now_ms(), limiter=self._writers):
                pass
        except sqlite3.Error as error:
            self._refused(error)

    def _written(self, first: int, batch: Batch) -> None:
        if self._failing:
            self._failing = False
            lost = f"; {self._lost} requests are missing" if self._lost else ""
            log.warning("the store takes what happens again%s", lost)
            self._lost = 0
        if batch.rows:
            for stored in self.on_stored:
                stored(first, batch.rows)

    def _refused(self, error: sqlite3.Error) -> None:
        if not self._failing:
            self._failing = True
            log.error("the store cannot save what happens: %s; it goes on trying", error)

    def _put_back(self, batch: Batch) -> None:
        newer = self._batch
        self._lost += max(0, len(batch.rows) + len(newer.rows) - WAITING_ROWS)
        self._batch = Batch(
            (batch.rows + newer.rows)[-WAITING_ROWS:],
            (batch.loads + newer.loads)[-WAITING_OTHERS:],
            (batch.states + newer.states)[-WAITING_OTHERS:],
            (batch.log_lines + newer.log_lines)[-WAITING_OTHERS:],
        )


def _all_loads(connection: sqlite3.Connection) -> list[tuple[str, float]]:
    return connection.execute("SELECT model, seconds FROM loads ORDER BY id").fetchall()


def _latest(
    connection: sqlite3.Connection, table: str, columns: str, limit: int, where: str, value: str | None
) -> list[Any]:
    condition = f"WHERE {where} = ?" if where else ""
    values = (value, limit) if where else (limit,)
    return connection.execute(f"SELECT {columns} FROM {table} {condition} ORDER BY id DESC LIMIT ?", values).fetchall()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _text(text: str) -> str:
    """What SQLite can keep: no lone surrogates."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
