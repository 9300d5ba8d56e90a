"""One hour of samples, kept as the JSON in which they are asked for: compact, and an answer is a join."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

KEPT_S = 3600.0
MARKS_KEPT = 1000  # a machine that swaps every few seconds for an hour has no use for more

Record = Mapping[str, Any]


class _Rows(NamedTuple):
    at: float
    parts: tuple[bytes, ...]


def to_ms(at: float) -> float:
    """A time cut to the milliseconds that `rfc3339` writes, so that it compares equal when it comes back."""
    return int(at * 1000) / 1000


def rfc3339(at: float) -> str:
    """Seconds since the epoch as `2026-08-01T12:00:00.250Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class History:
    """Samples of several kinds, oldest first. Times are seconds since the epoch."""

    def __init__(self, *kinds: str, keep_s: float = KEPT_S) -> None:
        """`kinds`: the names of the lists in the answer."""
        self._kinds = kinds
        self._keep_s = keep_s
        self._rows: deque[_Rows] = deque()
        self._marks: deque[tuple[float, bytes]] = deque(maxlen=MARKS_KEPT)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, at: float, *records: Iterable[Record]) -> None:
        """One moment: the records of each kind, in the order of the kinds, without their timestamp."""
        at = to_ms(at)
        if self._rows and at < self._rows[-1].at:
            self._rows.clear()  # the clock was set back: what seems to be still to come is of no use
        stamp = {"timestamp": rfc3339(at)}
        parts = tuple(b",".join(_encode({**stamp, **record}) for record in kind) for kind in records)
        self._rows.append(_Rows(at, parts))
        while self._rows[0].at < at - self._keep_s:
            self._rows.popleft()
        while self._marks and self._marks[0][0] < at - self._keep_s:
            self._marks.popleft()

    def mark(self, at: float, record: Record) -> None:
        """Something that happened between samples."""
        at = to_ms(at)
        self._marks.append((at, _encode({"timestamp": rfc3339(at), **record})))

    def clear(self) -> None:
        self._rows.clear()
        self._marks.clear()

    def answer(self, after: float | None, extra: Record) -> bytes:
        """A JSON object: `extra`, a list for each kind, and `marks`; only what came later than `after`."""
        rows = list(self._rows)
        if after is not None:
            rows = rows[bisect_right(rows, after, key=lambda row: row.at) :]
        fields = [_encode(extra)[1:-1]] if extra else []
        for place, kind in enumerate(self._kinds):
            parts = (row.parts[place] for row in rows)
            fields.append(b'"%b":[%b]' % (kind.encode(), b",".join(part for part in parts if part)))
        marks = (record for at, record in self._marks if after is None or at > after)
        fields.append(b'"marks":[%b]' % b",".join(marks))
        return b"{%b}" % b",".join(fields)


def _encode(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()
