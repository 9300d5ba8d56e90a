"""What events tell of: logs, requests under way, and those that have ended. `web/feed.py` says when.

A source gathers what is new until it is asked for it (`news`), and can say how things stand (`snapshot`, `since`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from math import inf

import trio

from llamaswap.observe.entry import Entry, as_row
from llamaswap.observe.flights import Flight
from llamaswap.observe.hub import Event, message
from llamaswap.observe.logs import HISTORY_BYTES, LogMonitor
from llamaswap.observe.redact import shown_headers
from llamaswap.observe.ring import ByteRing
from llamaswap.observe.rows import Row, metrics_record, rfc3339
from llamaswap.observe.store import Recorded, Store, StoreFailed
from llamaswap.observe.store_query import latest
from llamaswap.web.overview import Record
from llamaswap.web.state import AppState

log = logging.getLogger("llamaswap.web")

BYTES_PAUSE_S = 0.25  # between two events about one request's bytes, as llama-swap
BYTES_COST_S = 0.002  # added to that pause per request under way: a thousand streams are told less often
TOLD_PER_S = 1500  # of those events, to all followers together: many followers of many streams are told less often
TOLD_AT_ONCE = 16  # of them; every token waits meanwhile
SHORT_S = 0.05  # a request that is over this soon after it was seen first is not told: of thousands nobody sees any
LOOK_PAUSE_S = 0.05  # between two looks at requests, besides what `Feed` waits after each
ROWS_KEPT = 250  # finished requests in a snapshot; /api/metrics has the others
ROWS_TOLD = 20  # of those stored together; at such a rate nobody can follow each of them


class LogSource:
    """One log as a source of events."""

    def __init__(self, source: str, monitor: LogMonitor, ring: Callable[[], None]) -> None:
        self.source = source
        self._monitor = monitor
        self._ring = ring
        self._pending = ByteRing(HISTORY_BYTES)
        self._rest = b""

    def attach(self) -> None:
        self._monitor.listeners.append(self._hear)

    def detach(self) -> None:
        self._monitor.listeners.remove(self._hear)
        self._pending.take()
        self._rest = b""

    def _hear(self, data: bytes) -> None:
        self._pending.append(data)
        self._ring()

    def news(self) -> Event | None:
        """What was written since the last call."""
        data, dropped = self._pending.take()
        if not data:
            return None
        data = _skipped(dropped) + data if dropped else self._rest + data
        whole = _whole_characters(data)
        data, self._rest = data[:whole], data[whole:]
        return self._event(data) if data else None

    def since(self, seen: int | None) -> Event | None:
        """What is remembered, from `seen` (a mark) on; call `news` before. None if there is nothing new."""
        history = self._monitor.history()
        if self._rest:
            history = history[: -len(self._rest)]
        if seen is None:
            return self._event(history)
        missing = self._monitor.written - len(self._rest) - seen
        if missing <= 0:
            return None
        if missing <= len(history):
            return self._event(history[-missing:])
        return self._event(_skipped(missing - len(history)) + history)

    def _event(self, data: bytes) -> Event:
        text = data.decode("utf-8", "replace")
        mark = self._monitor.written - len(self._rest)
        return Event(message("logData", {"source": self.source, "data": text}), self.source, mark)


def _skipped(count: int) -> bytes:
    return b"[WARN] %d bytes of log skipped: they came too fast\n" % count


def _whole_characters(data: bytes) -> int:
    """Where `data` ends if a UTF-8 character that its end cuts in two is left for later."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue  # in the middle of a character
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return len(data) - back if length > back else len(data)
    return len(data)


class _Shown:
    """What followers know of one request."""

    __slots__ = ("at", "fixed", "flight", "known", "response_headers", "told")

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.fixed: Record = {}
        """What of it does not change; empty until it is wanted."""
        self.response_headers: dict[str, str] = {}
        self.at = 0.0
        self.told: object = None
        self.known = False
        """Whether anybody has been told, be it in a snapshot."""

    def describe(self) -> Record:
        """What of it does not change."""
        flight, exchange = self.flight, self.flight.exchange
        return {
            "id": flight.id,
            "timestamp": rfc3339(int(flight.timestamp * 1000)),
            "requested": flight.requested,
            "req_path": exchange.path,
            "method": exchange.method,
            "req_headers": shown_headers(exchange.headers),
            "remote_ip": exchange.client,
        }


class RequestSource:
    """The requests under way as a source of events.

    They are looked at by and by, so that thousands a second which nobody would see cost nothing on their way.
    """

    def __init__(self, state: AppState, ring: Callable[[], None]) -> None:
        self._state = state
        self._ring = ring
        self._seen: dict[int, float] = {}
        """Those that are not told yet, and since when they are known."""
        self._shown: dict[int, _Shown] = {}
        """By id; the longer ago one was told, the earlier."""
        self.more = False
        """Whether some were left for the next look."""
        self._idle = True
        """There is nothing to look at before somebody rings."""

    def attach(self) -> None:
        self._shown = {flight.id: _Shown(flight) for flight in self._state.flights}
        self._listen(True)

    def detach(self) -> None:
        self._listen(False)
        self._idle, self.more = True, False
        self._seen.clear()
        self._shown.clear()

    def _listen(self, wanted: bool) -> None:
        """For the first request after a quiet time."""
        listeners = self._state.flights.on_open
        if wanted != (self._opened in listeners):
            (listeners.append if wanted else listeners.remove)(self._opened)

    def _opened(self, flight: Flight) -> None:
        self._ring()

    @property
    def pause_s(self) -> float:
        """Until they are to be looked at again; infinite if there are no requests."""
        return inf if self._idle else 0.0 if self.more else LOOK_PAUSE_S

    def _bytes_pause_s(self) -> float:
        return BYTES_PAUSE_S + len(self._shown) * (BYTES_COST_S + self._state.hub.followers / TOLD_PER_S)

    def news(self) -> Event | None:
        """Who came and went, and how far the others have come if that is due, of TOLD_AT_ONCE; next time of more."""
        flights, now = self._state.flights, trio.current_time()
        gone = [(id, shown) for id, shown in self._shown.items() if flights.get(id) is None]
        for id, _ in gone:
            del self._shown[id]
        parts = [message("inflight", {"operation": "remove", "id": id}) for id, shown in gone if shown.known]
        seen, self._seen = self._seen, {}
        for flight in flights:
            if flight.id not in self._shown:
                since = seen.get(flight.id, now)
                if now >= since + SHORT_S:
                    self._shown[flight.id] = _Shown(flight)
                else:
                    self._seen[flight.id] = since
        self._idle = not self._seen and not self._shown
        self._listen(self._idle)
        pause_s = self._bytes_pause_s()
        fresh, moved = [], []
        for shown in self._shown.values():
            if shown.told is None:
                fresh.append(shown)
            elif now >= shown.at + pause_s and self._how(shown.flight) != shown.told:
                moved.append(shown)
        due = fresh + moved  # whoever is new goes first
        self.more = len(due) > TOLD_AT_ONCE
        for shown in due[:TOLD_AT_ONCE]:
            shown.told, shown.at, shown.known = self._how(shown.flight), now, True
            parts.append(message("inflight", {"operation": "upsert", "request": self._entry(shown)}))
            self._shown[shown.flight.id] = self._shown.pop(shown.flight.id)
        return Event(b"".join(parts)) if parts else None

    def _how(self, flight: Flight) -> object:
        """How far it has come."""
        return flight.received, flight.granted_at, self._loading(flight)

    def snapshot(self) -> Event:
        entries = [self._entry(shown) for _, shown in sorted(self._shown.items())]
        for shown in self._shown.values():
            shown.known = True
        data = {"operation": "snapshot", "requests": entries} if entries else {"operation": "snapshot"}
        return Event(message("inflight", data))

    def _loading(self, flight: Flight) -> bool:
        return flight.granted_at is None and self._state.fleet.loading_s(flight.model) is not None

    def _entry(self, shown: _Shown) -> Record:
        flight = shown.flight
        if not shown.fixed:
            shown.fixed = shown.describe()
        if flight.response_headers and not shown.response_headers:
            shown.response_headers = shown_headers(flight.response_headers)
        stage, queue_s, load_s = str(flight.stage), flight.queue_s, flight.load_s
        if self._loading(flight):
            stage = "loading"
            load_s = min(self._state.fleet.loading_s(flight.model) or 0.0, queue_s)
            queue_s -= load_s
        first = flight.first_byte_at
        return {
            **shown.fixed,
            "model": flight.model,  # another's, if a reload gave it the name
            "resp_headers": shown.response_headers,
            "resp_bytes": flight.received,
            "resp_events": flight.events,
            "elapsed_ms": round(flight.elapsed_s * 1e3),
            "state": stage,
            "queue_ms": round(queue_s * 1e3),
            "load_ms": round(load_s * 1e3),
            "ttfb_ms": None if first is None else round((first - flight.begun) * 1e3),
        }


class ActivitySource:
    """Finished requests as a source of events: `activity` with an id, and rows for older dashboards.

    The last rows are remembered, followed or not: they are there anyway, and a snapshot shows them.
    """

    SOURCE = "activity"

    def __init__(self) -> None:
        self._rows: deque[tuple[int, Row | Entry]] = deque(maxlen=ROWS_KEPT)

    async def remember(self, store: Store) -> None:
        """What an earlier run of the program recorded."""
        try:
            before = await store.read(latest, ROWS_KEPT)
        except StoreFailed as error:
            log.warning("%s", error)
            return
        newer = [(id, row) for id, row in self._rows if not before or id > before[-1][0]]
        self._rows.clear()
        self._rows.extend([*before, *newer])

    def add(self, first: int, rows: Sequence[Recorded]) -> None:
        skipped = max(0, len(rows) - ROWS_KEPT)
        self._rows.extend((id, row) for id, (row, _) in enumerate(rows[skipped:], first + skipped))

    def news(self, first: int) -> Event:
        """The rows from this id on. Of very many at once only the last are told."""
        rows = [(id, row) for id, row in islice(reversed(self._rows), ROWS_TOLD) if id >= first][::-1]
        parts = [message("activity", {"id": id}) for id, _ in rows]
        return Event(b"".join([*parts, self._metrics(rows)]), self.SOURCE, rows[-1][0])

    def since(self, seen: int | None, most: int) -> Event | None:
        """The rows after `seen` (a mark), or the last that are remembered, `most` of them; None if there are none."""
        rows = [(id, row) for id, row in self._rows if seen is None or id > seen][-most:]
        if not rows:
            return None
        last = rows[-1][0]
        told = self._metrics(rows)
        return Event(told if seen is None else message("activity", {"id": last}) + told, self.SOURCE, last)

    def _metrics(self, rows: Iterable[tuple[int, Row | Entry]]) -> bytes:
        return message("metrics", [metrics_record(id, as_row(row)) for id, row in rows])
