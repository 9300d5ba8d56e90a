"""What is asked of the activity table. Blocking, on a connection that only reads; no value is put into SQL."""

from __future__ import annotations

import math
import sqlite3
from typing import Any, NamedTuple

from llamaswap.observe.rows import Row

SORT_COLUMNS = {
    "id": "id",
    "time": "timestamp_ms",
    "model": "model",
    "req_path": "req_path",
    "resp_status_code": "resp_status_code",
    "resp_content_type": "resp_content_type",
    "cached": "cache_tokens",
    "prompt": "input_tokens",
    "generated": "output_tokens",
    "drafted": "draft_tokens",
    "prompt_speed": "prompt_per_second",
    "gen_speed": "tokens_per_second",
    "duration": "duration_ms",
}
"""What `sort` may be, and the column that it means."""

STATUS = r"ok|error|[1-5]xx|[1-5][0-9][0-9]"
"""What `status` may be, as a regular expression: `ok` is an answer that came whole and was none of an error's; `error`
every other; a class or a code is the answer's own."""
_OK = "(resp_status_code BETWEEN 100 AND 399 AND error_msg = '')"

FEWEST_BINS, MOST_BINS = 5, 20
_COLUMNS = f"id, {', '.join(Row._fields)}"


class PageQuery(NamedTuple):
    """One page of rows. Bounds include their ends; None is none."""

    limit: int = 25
    page: int = 1
    """From 1."""
    sort: str = "id"
    """A key of SORT_COLUMNS."""
    descending: bool = True
    models: tuple[str, ...] = ()
    """Any of these; empty: every model."""
    status: str = ""
    """As STATUS says; empty: every status."""
    start_ms: int | None = None
    end_ms: int | None = None
    """Milliseconds since the epoch."""
    min_id: int | None = None
    max_id: int | None = None


def page(connection: sqlite3.Connection, query: PageQuery) -> tuple[list[tuple[int, Row]], int]:
    """The rows of a page with their ids, and how many there are on all pages."""
    where, values = _where(query)
    total = connection.execute(f"SELECT count(*) FROM activity{where}", values).fetchone()[0]
    direction = "DESC" if query.descending else "ASC"
    order = f"{SORT_COLUMNS[query.sort]} {direction}, id {direction}"
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM activity{where} ORDER BY {order} LIMIT ? OFFSET ?",
        (*values, query.limit, (query.page - 1) * query.limit),
    )
    return [(id, Row._make(rest)) for id, *rest in rows], total


def latest(connection: sqlite3.Connection, limit: int) -> list[tuple[int, Row]]:
    """The last rows, oldest first."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM activity ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
    return [(id, Row._make(rest)) for id, *rest in reversed(rows)]


def stats(connection: sqlite3.Connection, model: str) -> dict[str, object]:
    """Totals and speeds, of one model or (empty) of all; unknown counts add nothing."""
    where, values = (" WHERE model = ?", [model]) if model else ("", [])
    sums = ", ".join(f"coalesce(sum(max({name}_tokens, 0)), 0)" for name in ("input", "output", "cache"))
    total = connection.execute(f"SELECT count(*), {sums} FROM activity{where}", values).fetchone()
    return {
        "total_requests": total[0],
        "total_input_tokens": total[1],
        "total_output_tokens": total[2],
        "total_cache_tokens": total[3],
        "prompt_histogram": _histogram(connection, "prompt_per_second", where, values),
        "gen_histogram": _histogram(connection, "tokens_per_second", where, values),
    }


def bin_count(values: int) -> int:
    """Sturges' rule, within bounds."""
    return min(MOST_BINS, max(FEWEST_BINS, math.ceil(math.log2(values)) + 1))


def _where(query: PageQuery) -> tuple[str, list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    if query.models:
        conditions.append(f"model IN ({', '.join('?' * len(query.models))})")
        values += query.models
    if query.status in ("ok", "error"):
        conditions.append(_OK if query.status == "ok" else f"NOT {_OK}")
    elif query.status:
        conditions.append("resp_status_code BETWEEN ? AND ?")
        values += [int(query.status.replace("x", "0")), int(query.status.replace("x", "9"))]
    for condition, value in (
        ("timestamp_ms >= ?", query.start_ms),
        ("timestamp_ms <= ?", query.end_ms),
        ("id >= ?", query.min_id),
        ("id <= ?", query.max_id),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    return (f" WHERE {' AND '.join(conditions)}" if conditions else ""), values


def _histogram(connection: sqlite3.Connection, column: str, where: str, values: list[Any]) -> dict[str, object] | None:
    """The distribution of the values above zero: bins of equal width, percentiles interpolated between neighbours.

    All in SQL: a million rows would hold Python's lock for a second.
    """
    known = f"FROM activity{where}{' AND' if where else ' WHERE'} {column} > 0"
    count, least, most = connection.execute(f"SELECT count(*), min({column}), max({column}) {known}", values).fetchone()
    if not count:
        return None
    ranks = {percent: percent / 100 * (count - 1) for percent in (50, 95, 99)}
    places = sorted({place for rank in ranks.values() for place in (math.floor(rank), math.ceil(rank))})
    ordered = f"SELECT {column} AS value, row_number() OVER (ORDER BY {column}) - 1 AS place {known}"
    at: dict[int, float] = dict(
        connection.execute(
            f"SELECT place, value FROM ({ordered}) WHERE place IN ({', '.join('?' * len(places))})",
            (*values, *places),
        ).fetchall()
    )
    percentiles = {}
    for percent, rank in ranks.items():
        low, high = at[math.floor(rank)], at[math.ceil(rank)]
        percentiles[f"p{percent}"] = low + (rank - math.floor(rank)) * (high - low)
    bins, size = [count], 0.0
    if most > least:
        number = bin_count(count)
        size = (most - least) / number
        bins = [0] * number
        which = f"min(CAST(({column} - ?) / ? AS INTEGER), ?)"
        for place, rows in connection.execute(
            f"SELECT {which}, count(*) {known} GROUP BY 1", (least, size, number - 1, *values)
        ):
            bins[place] = rows
    return {"bins": bins, "min": least, "max": most, "binSize": size, **percentiles}
