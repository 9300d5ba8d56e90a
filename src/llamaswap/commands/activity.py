"""`activity`: the requests that were served, with their tokens and times."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timedelta
from typing import Any

from llamaswap.commands.client import OK, Server
from llamaswap.commands.terminal import Cell, Colour, Column, clock, duration, screen, table

_COLUMNS = (
    Column("TIME"),
    Column("MODEL", gives_way=True),
    Column("PATH", gives_way=True),
    Column("STATUS", right=True),
    Column("CACHED", right=True),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("TOKENS/S", right=True),
    Column("WAITED", right=True),
    Column("FIRST BYTE", right=True),
    Column("TOOK", right=True),
    Column("ERROR", gives_way=True),
)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def since(text: str) -> str:
    """The kind of --since: an age such as 90s, 10m, 2h, 1d, or a time in ISO 8601; gives RFC 3339 with an offset."""
    if re.fullmatch(r"[0-9]{1,6}[smhdw]", text):
        ago = timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
        try:
            return (datetime.now().astimezone() - ago).isoformat()
        except OverflowError:
            raise argparse.ArgumentTypeError(f"{text!r} is too long ago") from None
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        wanted = "an age such as 10m, 2h, 1d, nor a time such as 2026-08-01T14:30"
        raise argparse.ArgumentTypeError(f"{text!r} is neither {wanted}") from None


def activity(options: argparse.Namespace) -> int:
    """The latest requests, the last one at the bottom."""
    query = [("limit", str(options.lines)), ("sort", "id"), ("order", "desc")]
    query += [("model", name) for name in options.model or ()]
    if options.since:
        query.append(("start", options.since))
    with Server(options) as server:
        body = server.get("/api/metrics/activity", query)
        answer = server.parse(body)
        with server.understanding():
            if options.json:
                rows = answer["data"]
                print(body.decode("utf-8", "replace").rstrip("\n"))
                return OK
            rows, total = answer["data"][::-1], int(answer["total"])
            now = datetime.now().astimezone()
            shown = table(_COLUMNS, [_row(row, now) for row in rows], screen())
    if not rows:
        print("no requests were recorded" + (" that match" if options.model or options.since else ""), file=sys.stderr)
        return OK
    sys.stdout.write(shown)
    if total > len(rows):
        print(f"({len(rows)} of {total}; -n shows more)", file=sys.stderr)
    return OK


def _row(row: dict[str, Any], now: datetime) -> list[Cell | str | int | None]:
    tokens = row.get("tokens") or {}
    speed = tokens.get("tokens_per_second")
    status = int(row["resp_status_code"])
    colour: Colour = "" if status < 400 else "yellow" if status < 500 else "red"
    return [
        clock(row.get("timestamp"), now),
        row.get("model"),
        row.get("req_path"),
        Cell(str(status), colour),
        _known(tokens.get("cache_tokens")),
        _known(tokens.get("input_tokens")),
        _known(tokens.get("output_tokens")),
        f"{speed:.1f}" if speed is not None and speed > 0 else None,
        _time(row, "queue_ms", "load_ms"),
        _time(row, "ttfb_ms"),
        _time(row, "duration_ms"),
        row.get("error_msg"),
    ]


def _known(count: int | None) -> int | None:
    """-1 stands for unknown."""
    return None if count is None or count < 0 else count


def _time(row: dict[str, Any], *names: str) -> str:
    found = [row[name] for name in names if row.get(name) is not None]
    return duration(sum(found) / 1000) if found else ""
