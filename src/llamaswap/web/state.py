"""What the control routes work on, and the few response shapes they share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import trio
from quart import Response, request

from llamaswap import __version__
from llamaswap._build import BUILD_DATE, COMMIT
from llamaswap.config.settings import Config, ModelConfig
from llamaswap.observe.activity import Recorder
from llamaswap.observe.flights import Flights
from llamaswap.observe.hub import Hub
from llamaswap.observe.logs import Logs
from llamaswap.observe.metrics import Metrics
from llamaswap.observe.modellog import ModelLog
from llamaswap.observe.store import Store
from llamaswap.observe.system import Monitor
from llamaswap.relay.usage import read
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.routing.scheduler import ModelView


class FleetControl(Protocol):
    """What the control routes ask of `upstream.fleet.Fleet`."""

    def views(self) -> Sequence[ModelView]: ...

    def removed(self) -> Mapping[str, ModelConfig]:
        """Models that are no longer in the configuration but have a process still, by id."""
        ...

    def pid(self, model_id: str) -> int | None: ...

    def loading_s(self, model_id: str) -> float | None: ...

    def waiting_for(self, model_id: str) -> list[str]: ...

    def on_change(self, fn: Callable[[str], None]) -> None: ...

    async def preload(self, model_id: str) -> float: ...

    def begin_load(self, model_id: str) -> None: ...

    async def unload(self, model_ids: Collection[str] | None) -> None:
        """Stop these models (None: all); returns when they have stopped.

        Orders every stop before its first checkpoint, so that cancelling it only ends the wait.
        """
        ...


class ConfigControl(Protocol):
    """What the control routes ask of `reload.Reloader`."""

    async def show(self) -> dict[str, Any]:
        """The answer of /api/config."""
        ...

    async def reload_now(self) -> dict[str, object]:
        """Raises BadRequest that says what is wrong with the files."""
        ...


@dataclass(slots=True)
class AppState:
    """Shared by all control routes; `server.py` makes it. Replaced in place on a reload."""

    config: Config
    catalogue: Catalogue
    fleet: FleetControl
    logs: Logs
    stopping: trio.Event
    """Set when the server begins to shut down: streams end."""
    rekeyed: trio.Event = field(default_factory=trio.Event)
    """Set, and replaced, when other keys count: whoever follows has to show one of them."""
    flights: Flights = field(default_factory=Flights)
    hub: Hub = field(default_factory=Hub)
    model_log: ModelLog = field(default_factory=ModelLog)
    monitor: Monitor = field(default_factory=Monitor)
    metrics: Metrics = field(default_factory=Metrics)
    recorder: Recorder = field(default_factory=lambda: Recorder(Flights(), Store(), read))
    reloader: ConfigControl | None = None
    """None: nothing to reload from."""
    version: str = __version__
    commit: str = COMMIT
    build_date: str = BUILD_DATE

    def apply(self, config: Config, catalogue: Catalogue) -> None:
        """From now on these models, and these keys."""
        rekeyed = config.api_keys != self.config.api_keys
        self.config = config
        self.catalogue = catalogue
        if rekeyed:
            self.rekeyed.set()
            self.rekeyed = trio.Event()
            self.hub.send_away()

    def models(self) -> list[ModelConfig]:
        """Every model there is, sorted by id: those of the configuration, and removed ones that still drain."""
        return [model for _, model in sorted({**self.fleet.removed(), **self.config.models}.items())]

    def states(self) -> dict[str, State]:
        """The lifecycle state of each of `models`, by id; a model the fleet does not know is stopped."""
        known = {view.id: view.state for view in self.fleet.views()}
        return {model.id: known.get(model.id, State.STOPPED) for model in self.models()}


def is_running(state: State) -> bool:
    """Whether a process may exist: starting, ready or stopping."""
    return state not in (State.STOPPED, State.SHUTDOWN)


def plain(value: object) -> object:
    """`value` from the (frozen) configuration as json can write it; NaN and infinities become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_response(value: object) -> Response:
    return Response(json.dumps(value), content_type="application/json")


def text_response(text: str | bytes) -> Response:
    return Response(text, content_type="text/plain; charset=utf-8")


def redirect(location: str) -> Response:
    """A 302 to a path of ours."""
    response = text_response("")
    response.status_code = 302
    response.headers["Location"] = location
    return response


def wants_html() -> bool:
    """Whether this request comes from somebody who looks at it in a browser."""
    return "text/html" in request.headers.get("Accept", "").lower()
