"""Opening the store's database, and writing one batch into it: everything blocking, for a worker thread."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamaswap.config.settings import StoreLimits
from llamaswap.errors import ConfigError, Problem
from llamaswap.observe.entry import Entry, as_row
from llamaswap.observe.rows import Row
from llamaswap.observe.store_schema import MIGRATIONS, TABLES, Unfit, migrate, version

BUSY_S = 5.0  # for somebody who looks into the file with a tool of their own
AT_ONCE = 256  # rows of one statement: it runs without Python's lock, and each time that is taken back the loop waits
PRUNED_AT_ONCE = 5000  # rows; a lowered limit is met over a few batches, none of which takes long
DAY_MS = 86_400_000

_COLUMNS = ("id", *Row._fields)
_ONE = f"({', '.join('?' * len(_COLUMNS))})"
_INSERT = f"INSERT INTO activity ({', '.join(_COLUMNS)}) VALUES "


@dataclass(slots=True)
class Batch:
    """What waits to be written. Times in milliseconds since the epoch."""

    rows: list[tuple[Row | Entry, object]] = field(default_factory=list)
    """Each with what its recorder wants back once it has an id."""
    loads: list[tuple[int, str, float]] = field(default_factory=list)
    states: list[tuple[int, str, str, str]] = field(default_factory=list)
    log_lines: list[tuple[int, str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.rows or self.loads or self.states or self.log_lines)


class Database:
    """One SQLite database, in a file or in memory. Its methods block; any one thread at a time may call each."""

    def __init__(self, path: str, limits: StoreLimits) -> None:
        """Empty `path`: in memory. Raises ConfigError, with one problem at store.path, if the file cannot be used."""
        self.limits = limits
        self._writer = _opened(path) if path else _connected(":memory:")
        self._write_lock = threading.Lock()
        self.in_memory = not path
        variables = self._writer.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._at_once = min(AT_ONCE, 1 << (variables // len(_COLUMNS)).bit_length() - 1)
        if path:
            # A reader of its own, so that a long query holds no writer up.
            self._reader = _connected(path)
            self._reader.execute("PRAGMA query_only = ON")
            self._read_lock = threading.Lock()
        else:
            migrate(self._writer)
            self._reader, self._read_lock = self._writer, self._write_lock

    def read(self, query: Any, *args: Any) -> Any:
        """`query(connection, *args)`, one at a time. Raises sqlite3.Error."""
        with self._read_lock:
            return query(self._reader, *args)

    def fill(self, first: int, rows: Sequence[Row | Entry]) -> None:
        """Rows that have their ids already, `first` and on; what is there before a gap is forgotten.

        Raises sqlite3.Error, nothing written then.
        """
        with self._write_lock, _transaction(self._writer) as connection:
            if first > _last_id(connection) + 1:
                connection.execute("DELETE FROM activity")
            self._add_rows(connection, first, [(row, None) for row in rows])

    def write(self, batch: Batch) -> int:
        """Commit a batch and keep the limits; the id of its first row. Raises sqlite3.Error, nothing written then."""
        with self._write_lock:
            return self._commit(batch)

    def _commit(self, batch: Batch) -> int:
        with _transaction(self._writer) as connection:
            first = _last_id(connection) + 1
            self._add_rows(connection, first, batch.rows)
            self._add_others(connection, batch)
        return first

    def forget_old(self, now_ms: int) -> bool:
        """Remove some of what is older than keepDays; whether there may be more. Raises sqlite3.Error."""
        if self.limits.keep_days <= 0:
            return False
        before = now_ms - int(self.limits.keep_days * DAY_MS)
        more = False
        for table in TABLES:
            statement = f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE timestamp_ms < ? LIMIT ?)"
            with self._write_lock:
                more |= self._writer.execute(statement, (before, PRUNED_AT_ONCE)).rowcount == PRUNED_AT_ONCE
        return more

    def close(self) -> None:
        """Close both connections; the last one folds the write-ahead log into the file."""
        with self._read_lock:
            if self._reader is not self._writer:
                self._reader.close()
        with self._write_lock:
            self._writer.close()

    def _add_rows(self, connection: sqlite3.Connection, first: int, rows: Sequence[tuple[Row | Entry, object]]) -> None:
        if not rows:
            return
        keep, last = self.limits.keep_activity, first + len(rows) - 1
        skipped = max(0, len(rows) - keep) if keep > 0 else 0  # they would be removed at once
        at, size = skipped, self._at_once
        while at < len(rows):
            # By powers of two, so that there are few statements: prepared ones are kept, and take room.
            while size > len(rows) - at:
                size //= 2
            values: list[Any] = []
            for id, (row, _) in enumerate(rows[at : at + size], first + at):
                values.append(id)
                values += as_row(row)
            connection.execute(_INSERT + ", ".join([_ONE] * size), values)
            at += size
        _prune(connection, "activity", last, keep)

    def _add_others(self, connection: sqlite3.Connection, batch: Batch) -> None:
        limits = self.limits
        if batch.loads:
            connection.executemany("INSERT INTO loads (timestamp_ms, model, seconds) VALUES (?, ?, ?)", batch.loads)
            for model in {model for _, model, _ in batch.loads} if limits.keep_loads > 0 else ():
                oldest = "SELECT id FROM loads WHERE model = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
                connection.execute(
                    f"DELETE FROM loads WHERE model = ? AND id <= ({oldest})", (model, model, limits.keep_loads)
                )
        for table, columns, entries, keep in (
            ("states", "timestamp_ms, model, state, reason", batch.states, limits.keep_states),
            ("log_lines", "timestamp_ms, level, line", batch.log_lines, limits.keep_log_lines),
        ):
            if entries:
                marks = ", ".join("?" * len(entries[0]))
                connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", entries)
                last = connection.execute(f"SELECT max(id) FROM {table}").fetchone()[0]
                _prune(connection, table, last, keep)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _last_id(connection: sqlite3.Connection) -> int:
    """The highest id that any activity ever had: what a retention limit removed counts too."""
    found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'activity'").fetchone()
    return found[0] if found else 0


def _prune(connection: sqlite3.Connection, table: str, last: int, keep: int) -> None:
    """Remove the oldest beyond `keep` rows (0: no limit), some at a time. Ids have no gaps but at the old end."""
    if keep <= 0:
        return
    oldest = connection.execute(f"SELECT min(id) FROM {table}").fetchone()[0]
    if oldest is not None and oldest <= last - keep:
        connection.execute(f"DELETE FROM {table} WHERE id <= ?", (min(last - keep, oldest + PRUNED_AT_ONCE),))


def _connected(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def examine(path: str) -> None:
    """Raises ConfigError if the file could not be opened, as far as that shows without touching it. Blocks."""
    if not _look_at_place(path):
        return
    connection: sqlite3.Connection | None = None
    try:
        # Immutable: else SQLite would put its own files beside it.
        uri = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
        connection = sqlite3.connect(uri, uri=True)
        if version(connection, MIGRATIONS):
            _look_for_tables(connection)
    except (sqlite3.Error, Unfit) as error:
        raise _unusable(f"{_shown(path)} {_told(error)}") from error
    finally:
        if connection is not None:
            connection.close()


def _look_at_place(path: str) -> bool:
    """Whether there is a file. Raises ConfigError if none can be kept there."""
    shown = _shown(path)
    try:
        there = _mode(path)
        real = Path(os.path.realpath(path))
        holds = _mode(real.parent)
    except (OSError, ValueError) as error:
        raise _unusable(f"{shown} cannot be used: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(there):
        raise _unusable(f"{shown} is a directory, not a file; name the file in it")
    if there and not stat.S_ISREG(there):
        raise _unusable(f"{shown} is no regular file; name one that is, or that is not there yet")
    if not stat.S_ISDIR(holds):
        raise _unusable(f"{shown} is not writable: there is no directory {str(real.parent)!r}; create it")
    for place in (real.parent, real) if there else (real.parent,):  # SQLite keeps files of its own beside it
        if not os.access(place, os.W_OK):
            raise _unusable(f"{shown} is not writable: no permission to write to {str(place)!r}")
    return there != 0


def _mode(path: str | Path) -> int:
    """What kind of thing is there; 0 if nothing is. Raises OSError and ValueError."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _shown(path: str) -> str:
    return f"store.path {path!r}"


def _opened(path: str) -> sqlite3.Connection:
    """The file at store.path, made if there is none, in today's format."""
    _look_at_place(path)
    connection: sqlite3.Connection | None = None
    try:
        connection = _connected(path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        migrate(connection)
        _look_for_tables(connection)
        for table in TABLES:
            connection.execute(f"SELECT * FROM {table} ORDER BY id DESC LIMIT 1").fetchone()  # readable at all
        return connection
    except (sqlite3.Error, Unfit) as error:
        if connection is not None:
            connection.close()
        raise _unusable(f"{_shown(path)} {_told(error)}") from error


def _look_for_tables(connection: sqlite3.Connection) -> None:
    """Raises Unfit if one is missing."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in TABLES:
        if table not in there:
            raise Unfit(f"is damaged: it has no table {table!r}; move it away to begin a new one")


def _told(error: Exception) -> str:
    text = str(error)
    if isinstance(error, Unfit):
        return text
    if "locked" in text:
        return f"is in use by another program ({text})"
    if isinstance(error, sqlite3.OperationalError) and ("readonly" in text or "unable to open" in text):
        return f"is not writable: {text}"
    if isinstance(error, sqlite3.OperationalError):
        return f"cannot be used: {text}"
    return f"is damaged or no database ({text}); move it away to begin a new one"


def _unusable(message: str) -> ConfigError:
    return ConfigError([Problem(message, key="store.path")])
