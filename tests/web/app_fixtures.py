"""The app over a fake fleet, for the tests of the control routes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio
from quart_trio import QuartTrio

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import SwapError
from llamaswap.observe.logs import Logs
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.routing.scheduler import ModelView
from llamaswap.web.app import create_app
from llamaswap.web.state import AppState


class FakeFleet:
    """Holds states; `unload` orders at once and returns when `stopped` is set, as the real one does."""

    def __init__(self, config: Config, states: Mapping[str, State]) -> None:
        self.states = {model_id: State.STOPPED for model_id in config.models} | dict(states)
        self.stopped = trio.Event()
        self.stopped.set()
        self.unloaded: list[Collection[str] | None] = []
        self.waiting = 0
        self.config = config
        self.details: dict[str, dict[str, Any]] = {}
        """Model id -> fields of its view that differ from a stopped model's, and `pid`, `loading_s`, `waiting_for`."""
        self.load_error: SwapError | None = None
        self.begun: list[str] = []
        self.listeners: list[Callable[[str], None]] = []
        self.gone: dict[str, ModelConfig] = {}
        """Removed models that still drain; their states are in `states`."""

    def views(self) -> list[ModelView]:
        return [
            replace(ModelView(model_id, state, 0, 0, None, None, None), **self._details(model_id, view=True))
            for model_id, state in reversed(self.states.items())
        ]

    def removed(self) -> dict[str, ModelConfig]:
        return self.gone

    def _details(self, model_id: str, *, view: bool) -> dict[str, Any]:
        own = {"pid", "loading_s", "waiting_for"}
        return {key: value for key, value in self.details.get(model_id, {}).items() if (key in own) is not view}

    def pid(self, model_id: str) -> int | None:
        return self._details(model_id, view=False).get("pid")

    def loading_s(self, model_id: str) -> float | None:
        return self._details(model_id, view=False).get("loading_s")

    def waiting_for(self, model_id: str) -> list[str]:
        return self._details(model_id, view=False).get("waiting_for", [])

    def on_change(self, fn: Callable[[str], None]) -> None:
        self.listeners.append(fn)

    def becomes(self, model_id: str, state: State, **details: Any) -> None:
        self.states[model_id] = state
        self.details[model_id] = details
        for fn in self.listeners:
            fn(model_id)

    async def preload(self, model_id: str) -> float:
        self.begin_load(model_id)
        await trio.lowlevel.checkpoint()
        self.becomes(model_id, State.READY)
        return 1.5

    def begin_load(self, model_id: str) -> None:
        assert model_id in self.config.models, "not an id"
        if self.load_error is not None:
            raise self.load_error
        self.begun.append(model_id)
        self.becomes(model_id, State.STARTING)

    async def unload(self, model_ids: Collection[str] | None) -> None:
        self.unloaded.append(model_ids)
        self.waiting += 1
        try:
            await self.stopped.wait()
        finally:
            self.waiting -= 1
        for model_id in self.states if model_ids is None else model_ids:
            self.states[model_id] = State.STOPPED


def make_config(*models: ModelConfig, **settings: Any) -> Config:
    return Config(models={model.id: model for model in sorted(models, key=lambda m: m.id)}, **settings)


CONFIG = make_config(
    ModelConfig(id="b", cmd="server --port 5801", proxy="http://localhost:5801", ttl_s=60.0, aliases=("bee",)),
    ModelConfig(id="a", cmd="server\n  --x", proxy="http://localhost:5800", name="Model A", description=" first "),
    ModelConfig(id="org/c:q4", proxy="http://localhost:5802", aliases=("org/sea",)),
    ModelConfig(id="hidden", unlisted=True, aliases=("ghost",)),
)


def make_state(config: Config = CONFIG, states: Mapping[str, State] | None = None) -> AppState:
    return AppState(
        config=config,
        catalogue=Catalogue(config),
        fleet=FakeFleet(config, states or {}),
        logs=Logs(to_stdout="none"),
        stopping=trio.Event(),
        version="1.2.3",
        commit="abc",
        build_date="2026-01-02T03:04:05Z",
    )


def make_app(config: Config = CONFIG, states: Mapping[str, State] | None = None, **changes: Any) -> QuartTrio:
    return create_app(replace(make_state(config, states), **changes))


class Call:
    """One request in progress. Quart's own test client cannot leave before the response has ended."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self._to_client, self._from_app = trio.open_memory_channel[bytes](100)
        self._to_app, self._from_client = trio.open_memory_channel[dict[str, Any]](2)

    async def receive(self) -> bytes:
        """The next piece of body; b"" at its end."""
        with trio.fail_after(5):
            while True:
                try:
                    data = await self._from_app.receive()
                except trio.EndOfChannel:
                    return b""
                if data:
                    return data

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {k.decode().lower(): v.decode() for k, v in message["headers"]}
        else:
            await self._to_client.send(message["body"])
            if not message.get("more_body"):
                self._to_client.close()


@asynccontextmanager
async def calling(app: QuartTrio, target: str, method: str = "GET") -> AsyncIterator[Call]:
    """Call the app as a server would; the client leaves with the block, and the app is done after it."""
    call = Call()
    path, _, query = target.partition("?")
    scope: Any = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "state": {},
        "extensions": {},
    }
    call._to_app.send_nowait({"type": "http.request", "body": b"", "more_body": False})
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, scope, call._from_client.receive, call._send)
            try:
                yield call
            finally:
                call._to_app.send_nowait({"type": "http.disconnect"})
