"""Where the events come from: logs, models, requests under way, activity; first as they stand, then as they change.

While nobody follows, nothing here listens to anything. What changes is gathered for a moment and told in
one event; the first change after a quiet time is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from llamaswap.observe.flights import Flight
from llamaswap.observe.hub import Event, message
from llamaswap.observe.logs import HISTORY_BYTES, LogMonitor
from llamaswap.observe.redact import shown_headers
from llamaswap.observe.ring import ByteRing
from llamaswap.routing.lifecycle import State
from llamaswap.web.overview import Record, model_progress, model_status, rfc3339
from llamaswap.web.state import AppState

LOG_PAUSE_S = 0.1  # between two events of one log
MODEL_PAUSE_S = 0.02  # between two events about models
REQUEST_PAUSE_S = 0.05  # between two looks at what came and went: shorter requests are not told
BYTES_PAUSE_S = 0.25  # between two events about one request's bytes, as llama-swap
BYTES_COST_S = 0.002  # added to that pause per request under way: a thousand streams are told less often
PROGRESS_PAUSE_S = 1.0


class _Bell:
    """Rung by whoever has something to tell, waited for by the one task that tells it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = trio.Event()


class _Log:
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

    __slots__ = ("at", "fixed", "flight", "response_headers", "told")

    def __init__(self, flight: Flight) -> None:
        exchange = flight.exchange
        self.flight = flight
        self.fixed: Record = {
            "id": flight.id,
            "timestamp": rfc3339(flight.timestamp),
            "model": flight.model,
            "requested": flight.requested,
            "req_path": exchange.path,
            "method": exchange.method,
            "req_headers": shown_headers(exchange.headers),
            "remote_ip": exchange.client,
        }
        self.response_headers: dict[str, str] = {}
        self.at = 0.0
        self.told: object = None


class _Requests:
    """The requests under way as a source of events."""

    def __init__(self, state: AppState, ring: Callable[[], None]) -> None:
        self._state = state
        self._ring = ring
        self._came: dict[int, Flight] = {}
        self._went: list[int] = []
        self._shown: dict[int, _Shown] = {}

    def attach(self) -> None:
        flights = self._state.flights
        self._shown = {flight.id: _Shown(flight) for flight in flights}
        flights.on_open.append(self._opened)
        flights.on_close.append(self._closed)

    def detach(self) -> None:
        flights = self._state.flights
        flights.on_open.remove(self._opened)
        flights.on_close.remove(self._closed)
        self._came.clear()
        self._went.clear()
        self._shown.clear()

    def _opened(self, flight: Flight) -> None:
        self._came[flight.id] = flight
        self._ring()

    def _closed(self, flight: Flight) -> None:
        if self._came.pop(flight.id, None) is None:
            self._went.append(flight.id)
            self._ring()

    @property
    def pause_s(self) -> float | None:
        """Until their bytes are to be looked at again; None if there are no requests."""
        return BYTES_PAUSE_S + BYTES_COST_S * len(self._shown) if self._shown else None

    def news(self) -> Event | None:
        """Who came and went, and how far the others have come, if that is due."""
        parts = [message("inflight", {"operation": "remove", "id": id}) for id in self._went if self._shown.pop(id, 0)]
        self._went.clear()
        for id, flight in self._came.items():
            self._shown[id] = _Shown(flight)
        self._came.clear()
        now = trio.current_time()
        pause_s = self.pause_s or 0.0
        for shown in self._shown.values():
            flight = shown.flight
            how = (flight.received, flight.granted_at, self._loading(flight))
            if how != shown.told and (shown.told is None or now >= shown.at + pause_s):
                shown.told, shown.at = how, now
                parts.append(message("inflight", {"operation": "upsert", "request": self._entry(shown)}))
        return Event(b"".join(parts)) if parts else None

    def snapshot(self) -> Event:
        entries = [self._entry(shown) for shown in self._shown.values()]
        data = {"operation": "snapshot", "requests": entries} if entries else {"operation": "snapshot"}
        return Event(message("inflight", data))

    def _loading(self, flight: Flight) -> bool:
        return flight.granted_at is None and self._state.fleet.loading_s(flight.model) is not None

    def _entry(self, shown: _Shown) -> Record:
        flight = shown.flight
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
            "resp_headers": shown.response_headers,
            "resp_bytes": flight.received,
            "elapsed_ms": round(flight.elapsed_s * 1e3),
            "state": stage,
            "queue_ms": round(queue_s * 1e3),
            "load_ms": round(load_s * 1e3),
            "ttfb_ms": None if first is None else round((first - flight.begun) * 1e3),
        }


class Feed:
    """Fills `state.hub`. Make one for the app's life, and run it."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._hub = hub = state.hub
        self._log_bell, self._model_bell, self._request_bell = _Bell(), _Bell(), _Bell()
        self._logs = [
            _Log("proxy", state.logs.proxy, self._log_bell.ring),
            _Log("upstream", state.logs.upstream, self._log_bell.ring),
        ]
        self._requests = _Requests(state, self._request_bell.ring)
        self._models_changed = False
        self._told_progress: object = None
        self._followed = trio.Event()
        hub.snapshot, hub.on_first, hub.on_last = self._snapshot, self._attach, self._detach
        hub.on_reload = self._reloaded
        state.fleet.on_change(self._model_changed)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what changes until cancelled; ends all streams when the server stops."""
        async with trio.open_nursery() as nursery:
            for task in (self._tell_logs, self._tell_models, self._tell_requests, self._tell_progress):
                nursery.start_soon(task)
            task_status.started()
            await self._state.stopping.wait()
            self._hub.close()
            nursery.cancel_scope.cancel()

    # -- as it stands

    def _snapshot(self, seen: Mapping[str, int]) -> Sequence[Event]:
        self._flush()  # so that nobody hears of it again
        state = self._state
        logs = [log.since(seen.get(log.source)) for log in self._logs]
        return [
            *(event for event in logs if event is not None),
            Event(message("modelStatus", model_status(state))),
            *self._settings(),
            self._requests.snapshot(),
            self._progress(),
        ]

    def _settings(self) -> list[Event]:
        session_ids = list(self._state.config.session_id_headers)
        return [
            Event(message("uiConfig", {"activity": {"session_id": session_ids}})),
            Event(message("profileChanged", {"active": None})),
        ]

    def _progress(self) -> Event:
        self._told_progress = self._progress_key()
        return Event(message("modelProgress", model_progress(self._state)))

    def _progress_key(self) -> object:
        """What of it followers cannot work out for themselves as time passes."""
        return [(view.id, view.state, view.queued, view.ttl_deadline) for view in self._state.fleet.views()]

    # -- as it changes

    def _attach(self) -> None:
        for log in self._logs:
            log.attach()
        self._requests.attach()
        self._models_changed = False
        self._request_bell.ring()  # there may be some already
        self._followed.set()

    def _detach(self) -> None:
        self._followed = trio.Event()
        for log in self._logs:
            log.detach()
        self._requests.detach()

    def _model_changed(self, model_id: str) -> None:
        if self._hub.followed:
            self._models_changed = True
            self._model_bell.ring()

    def _reloaded(self) -> None:
        if self._hub.followed:
            for event in self._settings():
                self._hub.send(event)
            self._model_changed("")

    def _flush(self) -> None:
        self._flush_logs()
        self._flush_models()
        self._flush_requests()

    def _flush_logs(self) -> None:
        for log in self._logs:
            event = log.news()
            if event is not None:
                self._hub.send(event)

    def _flush_models(self) -> None:
        if self._models_changed:
            self._models_changed = False
            self._hub.publish("modelStatus", model_status(self._state))
            self._hub.send(self._progress())

    def _flush_requests(self) -> None:
        event = self._requests.news()
        if event is not None:
            self._hub.send(event)

    async def _tell_logs(self) -> None:
        while True:
            await self._log_bell.wait()
            self._flush_logs()
            await trio.sleep(LOG_PAUSE_S)

    async def _tell_models(self) -> None:
        while True:
            await self._model_bell.wait()
            self._flush_models()
            await trio.sleep(MODEL_PAUSE_S)

    async def _tell_requests(self) -> None:
        while True:
            with trio.move_on_after(self._requests.pause_s or float("inf")):
                await self._request_bell.wait()
            self._flush_requests()
            await trio.sleep(REQUEST_PAUSE_S)

    async def _tell_progress(self) -> None:
        """Loads, queues and ttls go on without a change of state."""
        while True:
            await self._followed.wait()
            await trio.sleep(PROGRESS_PAUSE_S)
            if not self._hub.followed:
                continue
            moving = any(view.queued or view.state is State.STARTING for view in self._state.fleet.views())
            if moving or self._progress_key() != self._told_progress:
                self._hub.send(self._progress())
