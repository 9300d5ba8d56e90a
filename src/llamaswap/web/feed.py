"""Where the events come from: logs, models, requests under way, activity; first as they stand, then as they change.

While nobody follows, nothing here listens to anything. What changes is gathered for a moment and told in
one event; the first change after a quiet time is told at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from llamaswap.observe.hub import Event, message
from llamaswap.observe.store import Recorded
from llamaswap.routing.lifecycle import State
from llamaswap.web.overview import model_progress, model_status
from llamaswap.web.sources import ActivitySource, LogSource, RequestSource
from llamaswap.web.state import AppState

LOG_PAUSE_S = 0.1  # between two events of one log
LOG_BYTES_PER_S = 128 << 10  # and longer after much text: a thousand lines a second are for nobody to read
MODEL_PAUSE_S = 0.02  # between two events about models
REQUEST_PAUSE_S = 0.05  # between two looks at what came and went
MORE_PAUSE_S = 0.01  # if that was not all
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


class Feed:
    """Fills `state.hub`. Make one for the app's life, and run it."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._hub = hub = state.hub
        self._log_bell, self._model_bell, self._request_bell = _Bell(), _Bell(), _Bell()
        self._logs = [
            LogSource("proxy", state.logs.proxy, self._log_bell.ring),
            LogSource("upstream", state.logs.upstream, self._log_bell.ring),
        ]
        self._requests = RequestSource(state, self._request_bell.ring)
        self._activity = ActivitySource()
        self._models_changed = False
        self._told_progress: object = None
        self._followed = trio.Event()
        hub.snapshot, hub.on_first, hub.on_last = self._snapshot, self._attach, self._detach
        hub.on_reload = self._reloaded
        state.fleet.on_change(self._model_changed)
        state.recorder.store.on_stored.append(self._stored)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what changes until cancelled; ends all streams when the server stops."""
        async with trio.open_nursery() as nursery:
            for task in (self._tell_logs, self._tell_models, self._tell_requests, self._tell_progress):
                nursery.start_soon(task)
            await self._activity.remember(self._state.recorder.store)
            task_status.started()
            await self._state.stopping.wait()
            self._hub.close()
            nursery.cancel_scope.cancel()

    # -- as it stands

    def _snapshot(self, seen: Mapping[str, int]) -> Sequence[Event]:
        self._flush()  # so that nobody hears of it again
        state = self._state
        logs = [log.since(seen.get(log.source)) for log in self._logs]
        activity = self._activity.since(seen.get(ActivitySource.SOURCE), state.recorder.listed)
        return [
            *(event for event in logs if event is not None),
            Event(message("modelStatus", model_status(state))),
            *self._settings(),
            self._requests.snapshot(),
            self._progress(),
            *([activity] if activity is not None else []),
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

    def _stored(self, first: int, rows: Sequence[Recorded]) -> None:
        self._activity.add(first, rows)
        if self._hub.followed:
            self._hub.send(self._activity.news(first))

    def _reloaded(self) -> None:
        if self._hub.followed:
            for event in self._settings():
                self._hub.send(event)
            self._model_changed("")

    def _flush(self) -> None:
        self._flush_logs()
        self._flush_models()
        self._flush_requests()

    def _flush_logs(self) -> int:
        """How many bytes were told."""
        events = [event for log in self._logs if (event := log.news()) is not None]
        for event in events:
            self._hub.send(event)
        return sum(len(event.payload) for event in events)

    def _flush_models(self) -> None:
        if self._models_changed:
            self._models_changed = False
            self._hub.publish("modelStatus", model_status(self._state))
            self._hub.send(self._progress())

    def _flush_requests(self) -> None:
        event = self._requests.news() if self._hub.followed else None
        if event is not None:
            self._hub.send(event)

    async def _tell_logs(self) -> None:
        while True:
            await self._log_bell.wait()
            told_bytes = self._flush_logs()
            await trio.sleep(max(LOG_PAUSE_S, told_bytes / LOG_BYTES_PER_S))

    async def _tell_models(self) -> None:
        while True:
            await self._model_bell.wait()
            self._flush_models()
            await trio.sleep(MODEL_PAUSE_S)

    async def _tell_requests(self) -> None:
        while True:
            with trio.move_on_after(self._requests.pause_s):
                await self._request_bell.wait()
            self._flush_requests()
            await trio.sleep(MORE_PAUSE_S if self._requests.more else REQUEST_PAUSE_S)

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
