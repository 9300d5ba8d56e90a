"""The whole proxy around scripted upstreams: the real fleet with a launcher that runs nothing."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from upstreams import Client, H1Client, H2Client, Server, connect

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import StartFailed
from llamaswap.observe.flights import Flights
from llamaswap.observe.logs import LogMonitor, Logs
from llamaswap.relay.exchange import Exchange
from llamaswap.relay.pool import Pool
from llamaswap.relay.relay import Relay
from llamaswap.relay.ride import Ride
from llamaswap.routing.catalogue import Catalogue
from llamaswap.upstream.fleet import Fleet
from llamaswap.upstream.process import Control, Exit
from llamaswap.web.app import create_app
from llamaswap.web.asgi import RelayMiddleware
from llamaswap.web.dispatch import Dispatcher
from llamaswap.web.front import Front, bind
from llamaswap.web.inprocess import InProcess
from llamaswap.web.state import AppState

LIMIT_S = 10.0  # of one test; a busy machine is no reason to fail
SETTLE_S = 2.0  # for what a test left behind to end
POLL_S = 0.002

AnyClient = TypeVar("AnyClient", H1Client, H2Client)


class Process:
    """A process that a test holds in its hand."""

    def __init__(self) -> None:
        self.ready = trio.Event()
        self.crashed = trio.Event()
        self.failed = trio.Event()


class PuppetLauncher:
    """Models are ready as soon as they start, unless the test holds them."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.held: set[str] = set()
        """Ids whose next processes wait for `processes[id].ready`."""
        self.processes: dict[str, Process] = {}

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        yield

    async def run(self, model: ModelConfig, output: LogMonitor, control: Control) -> Exit:
        process = self.processes[model.id] = Process()
        self.started.append(model.id)
        if model.id not in self.held:
            process.ready.set()
        await self._first(process.ready, control.stop_asked, process.failed)
        if process.failed.is_set():
            raise StartFailed(f"model '{model.id}': exited with code 7; last output: no room")
        if not control.stop_asked.is_set():
            control.ready()
            await self._first(control.stop_asked, process.crashed)
            if process.crashed.is_set():
                control.ending(None)
        return Exit(0, "")

    @staticmethod
    async def _first(*events: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            for event in events:
                nursery.start_soon(wait, event)


@dataclass
class World:
    """A running proxy."""

    door: str
    port: int
    fleet: Fleet
    launcher: PuppetLauncher
    ups: Mapping[str, Server]
    pool: Pool
    front: Front
    nursery: trio.Nursery
    logs: Logs
    flights: Flights
    stopping: trio.Event
    state: AppState
    trust: ssl.SSLContext | None = None
    clients: list[H1Client | H2Client] = field(default_factory=list)
    """Closed at the end."""
    rides: list[Ride] = field(default_factory=list)
    """The requests that went by the express lane."""
    dispatcher: Dispatcher = field(kw_only=True)
    front_scope: trio.CancelScope = field(kw_only=True)
    """Cancelled, it ends the front at once."""

    async def client(self) -> Client:
        return await self.h2() if self.door.endswith("h2") else await self.h1()

    async def h1(self) -> H1Client:
        return self._kept(H1Client(await connect(self.port, tls=self.trust)))

    async def h2(self) -> H2Client:
        return self._kept(H2Client(await connect(self.port, tls=self.trust)))

    def _kept(self, client: AnyClient) -> AnyClient:
        self.clients.append(client)
        return client

    def up(self, model_id: str = "a") -> Server:
        return self.ups[model_id]

    def board(self, ex: Exchange, body: bytes) -> Ride | None:
        """The dispatcher's `depart`, noted down."""
        ride = Dispatcher.depart(self.dispatcher, ex, body)
        if ride is not None:
            self.rides.append(ride)
        return ride

    def watched(self) -> int:
        """Sockets of the express lane beyond one for each client connection and each idle one of the pool."""
        return len(self.pool.engine) - len(self.front._connections) - len(self.pool)

    def busy(self) -> int:
        return sum(view.in_flight + view.queued for view in self.fleet.views())

    async def until(self, what: Any) -> None:
        """Wait for a condition that nothing announces."""
        while not what():  # noqa: ASYNC110
            await trio.sleep(POLL_S)

    async def idle(self) -> None:
        await self.until(lambda: self.busy() == 0)


@asynccontextmanager
async def a_world(
    door: str = "front",
    models: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    trust: ssl.SSLContext | None = None,
    room_wanted: bool = False,
    limit_s: float = LIMIT_S,
    **settings: Any,
) -> AsyncIterator[World]:
    """The proxy behind a real socket. `door`: front, asgi (Hypercorn alone), h2 (the same), front-h2.

    At the end no lease may be held, no request may wait and no socket be watched.
    """
    pool = Pool()
    with trio.fail_after(limit_s), closing(pool):
        async with trio.open_nursery() as nursery:
            ups: dict[str, Server] = {}
            configs: dict[str, ModelConfig] = {}
            for model_id, changes in (models or {"a": {}}).items():
                server = ups[model_id] = Server()
                await nursery.start(server.run)
                known: dict[str, Any] = {
                    "cmd": "run",
                    "argv": ("run",),
                    "proxy": server.url,
                    "health_check_timeout_s": 30.0,
                }
                known |= changes
                known["proxy"] = str(known["proxy"]).replace("{port}", str(server.port))
                configs[model_id] = ModelConfig(id=model_id, **known)
            config = Config(models=configs, **settings)
            logs = Logs(to_stdout="none")
            catalogue = Catalogue(config)
            launcher = PuppetLauncher()
            fleet = Fleet(config, catalogue, logs, launcher=launcher)
            await nursery.start(fleet.run)
            inner: InProcess | None = None

            async def to_app(ex: Exchange) -> None:
                assert inner is not None
                await inner.serve(ex)

            relay = Relay(config, catalogue, fleet, pool)
            dispatcher = Dispatcher(config, relay, to_app)
            stopping = trio.Event()
            state = AppState(config=config, catalogue=catalogue, fleet=fleet, logs=logs, stopping=stopping)
            app = RelayMiddleware(_LateApp(state), dispatcher)
            inner = InProcess(app, stopping)
            await nursery.start(inner.run)
            sockets = bind("127.0.0.1", 0)
            port = sockets[0].getsockname()[1]
            front = Front(sockets, dispatcher, inner, pool, tls=tls, room_wanted=lambda: room_wanted)
            front_scope = trio.CancelScope()
            if door.startswith("front"):
                front_scope = await nursery.start(_scoped, front)
            else:
                front.close()
                port = await nursery.start(_hypercorn, app)
            flights = relay.flights
            world = World(
                door,
                port,
                fleet,
                launcher,
                ups,
                pool,
                front,
                nursery,
                logs,
                flights,
                stopping,
                state,
                trust,
                dispatcher=dispatcher,
                front_scope=front_scope,
            )
            dispatcher.depart = world.board  # type: ignore[method-assign]
            try:
                yield world
            finally:
                for client in world.clients:
                    client.close()
            with trio.move_on_after(SETTLE_S):
                await world.idle()
                await world.until(lambda: not len(relay.flights))
                await world.until(lambda: world.watched() <= 0)
            assert world.busy() == 0, "a lease is still held"
            assert not len(relay.flights), "a request is still listed as under way"
            assert world.watched() <= 0, "the express lane still watches for a request that is over"
            nursery.cancel_scope.cancel()


class _LateApp:
    """The Quart app, made when it is first asked: that takes longer than most tests, which need none."""

    def __init__(self, state: AppState) -> None:
        self._state = state
        self._app: Any = None

    async def __call__(self, *call: Any) -> None:
        if self._app is None:
            self._app = create_app(self._state)
            await self._app.startup()
        await self._app(*call)


async def _scoped(front: Front, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(front.run)
            task_status.started(scope)


async def _hypercorn(app: Any, *, task_status: trio.TaskStatus[int]) -> None:
    """The app under Hypercorn alone, as `hypercorn.trio.serve` has it."""
    config = HypercornConfig()
    config.errorlog = None
    config.h11_max_incomplete_size = 1 << 17
    context = WorkerContext(None)

    async def serve(stream: trio.SocketStream) -> None:
        await TCPServer(ASGIWrapper(app), config, context, {}, stream).run()  # type: ignore[arg-type]

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listeners[0].socket.getsockname()[1])
    await trio.serve_listeners(serve, listeners)
