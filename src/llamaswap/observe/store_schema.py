"""The store's tables and how older files become what this version reads.

`PRAGMA user_version` counts the migrations that a file has had; they only ever grow at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x6C73_7770  # "lswp", in the file's head: whose database it is

_V1 = (
    """CREATE TABLE activity (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        timestamp_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        requested TEXT NOT NULL,
        client TEXT NOT NULL,
        req_path TEXT NOT NULL,
        resp_content_type TEXT NOT NULL,
        resp_status_code INTEGER NOT NULL,
        cache_tokens INTEGER NOT NULL,
        draft_tokens INTEGER NOT NULL,
        draft_acc_tokens INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        prompt_per_second REAL NOT NULL,
        tokens_per_second REAL NOT NULL,
        duration_ms INTEGER NOT NULL,
        ttfb_ms REAL,
        queue_ms REAL NOT NULL,
        load_ms REAL NOT NULL,
        error_msg TEXT NOT NULL,
        metadata TEXT NOT NULL
    )""",
    "CREATE INDEX activity_by_time ON activity (timestamp_ms)",
    "CREATE INDEX activity_by_model ON activity (model)",
    """CREATE TABLE loads (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        timestamp_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        seconds REAL NOT NULL
    )""",
    "CREATE INDEX loads_by_model ON loads (model)",
    """CREATE TABLE states (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        timestamp_ms INTEGER NOT NULL,
        model TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL
    )""",
    """CREATE TABLE log_lines (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        timestamp_ms INTEGER NOT NULL,
        level TEXT NOT NULL,
        line TEXT NOT NULL
    )""",
)

MIGRATIONS: tuple[Sequence[str], ...] = (_V1,)
"""The statements that lead from each version to the next."""

TABLES = ("activity", "loads", "states", "log_lines")


class Unfit(Exception):
    """A database that this version must not touch; the message says why and what to do."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring a database to the newest version, all or nothing. `connection` is in autocommit mode.

    Raises Unfit for one that is newer, or another program's; sqlite3.Error as it comes.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        has = version(connection, migrations)
        for number, statements in enumerate(migrations[has:], has + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def version(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> int:
    """How many of the migrations it has had. Raises Unfit as `migrate` does."""
    has = _number(connection, "user_version")
    owner = _number(connection, "application_id")
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if owner != APPLICATION_ID and not (owner == 0 and has == 0 and empty):
        raise Unfit("is the database of another program; name a file of its own")
    if has > len(migrations):
        raise Unfit(
            f"was written by a newer version of llamaswap (its format is {has}, this one reads up to"
            f" {len(migrations)}); use that version, or name another file"
        )
    return has


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
