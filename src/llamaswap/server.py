"""The composition root: everything the running program consists of, and the tree its tasks live in.

serve
├ recorder     finished requests into the store, which is opened first and closed last
├ fleet        processes, one task each; the idle reaper
├ app          Hypercorn's connections to the Quart-Trio app
├ front        listeners; a connection is a task, its lease and pump live in its scope
├ monitor      a look at the machine every few seconds
├ watch        --watch-config: reloads when the files change
└ signals      HUP reloads; TERM and INT begin the shutdown, a second one ends it at once
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import signal
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from llamaswap.config.settings import Config
from llamaswap.observe.activity import Recorder
from llamaswap.observe.captures import Captures
from llamaswap.observe.keeper import Keeper, LogKeeper
from llamaswap.observe.logs import Logs, setup_logging
from llamaswap.observe.metrics import Metrics
from llamaswap.observe.modellog import ModelLog
from llamaswap.observe.store import Store
from llamaswap.relay.exchange import Exchange
from llamaswap.relay.pool import Pool
from llamaswap.relay.relay import Relay
from llamaswap.relay.transport import Transport
from llamaswap.relay.usage import read
from llamaswap.reload import NOWHERE, Origin, Reloader, preload
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet
from llamaswap.web.dispatch import Dispatcher
from llamaswap.web.front import Front

if TYPE_CHECKING:
    from llamaswap.observe.system import Monitor

log = logging.getLogger("llamaswap")

GRACE_S = 10.0  # for requests in flight when the first signal comes
HARD_EXIT_MARGIN_S = 15.0  # beyond the grace and the longest unloadTimeout, something hangs: leave anyway
LAST_BYTES_S = 1.0  # for answers that hold no model, once all models have stopped
GC_YOUNG = 100_000  # allocations between collections; requests make next to no cycles to look for


@dataclass(frozen=True)
class Listener:
    """Where the front listens, bound and ready."""

    sockets: Sequence[socket.socket]
    tls: ssl.SSLContext | None
    url: str
    public: bool
    """Whether other machines can reach it."""


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server context for HTTP/1.1 and HTTP/2. Raises OSError (ssl.SSLError included)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def serve(config: Config, logs: Logs, listener: Listener, origin: Origin = NOWHERE) -> int:
    """Run until a signal ends it; the process's exit status (0 after an orderly end).

    `origin` is what a reload reads. Raises ConfigError if the store cannot be opened.
    """
    store = Store(config.store_path, config.store_limits(in_memory=not config.store_path))
    try:
        with LogKeeper(store):
            return await _serve(config, logs, listener, store, origin)
    finally:
        store.close()


async def _serve(config: Config, logs: Logs, listener: Listener, store: Store, origin: Origin) -> int:
    catalogue = Catalogue(config)
    fleet = Fleet(config, catalogue, logs)
    pool = Pool()
    stopping = trio.Event()

    def forget_connections(model_id: str) -> None:
        if fleet.view(model_id).state is not State.READY:
            pool.forget(model_id)

    fleet.on_change(forget_connections)
    app = _App(stopping)
    relay = Relay(config, catalogue, fleet, pool)
    dispatcher = Dispatcher(config, relay, app.serve)
    metrics, model_log = Metrics(config.models), ModelLog()
    fleet.observers.append(metrics)
    fleet.observers.append(model_log)
    keeper = Keeper(store)
    keeper.recall(model_log)
    fleet.observers.append(keeper)
    recorder = _recorder(config, relay, store, metrics)
    reloader = Reloader(origin, config, fleet)
    reloader.on_apply(lambda config, _: setup_logging(config, logs))
    reloader.on_apply(relay.apply)
    reloader.on_apply(lambda config, _: dispatcher.apply(config))
    reloader.on_apply(lambda config, _: recorder.reconfigure(config))
    reloader.on_apply(lambda config, _: metrics.configure(config.models))
    reloader.on_apply(lambda config, _: _warn_if_open(config, listener))
    status = 0
    # Trio raises again what nobody has read when the receiver closes: a third signal must not decide the status.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as tree:
            await tree.start(recorder.run)
            await tree.start(fleet.run)
            front = Front(
                list(listener.sockets),
                dispatcher,
                app,
                pool,
                tls=listener.tls,
                room_wanted=lambda: any(view.queued for view in fleet.views()),
            )
            await tree.start(front.run)
            log.info("llamaswap listens on %s", listener.url)
            _warn_if_open(config, listener)
            monitor = _monitor(config, fleet)
            reloader.on_apply(lambda config, _: monitor.configure(config))
            tree.start_soon(monitor.run)
            for model_id in config.preload:
                preload(fleet, config, model_id)
            if origin.watched:
                tree.start_soon(reloader.watch)
            # Listening already: the first client need not wait for what only the app's pages need, nor need a signal.
            tree.start_soon(app.run, reloader, fleet, logs, dispatcher, monitor, metrics, model_log, recorder)
            stops = 0
            async for number in signals:
                if number == signal.SIGHUP:
                    tree.start_soon(reloader.reload, "SIGHUP")
                    continue
                stops += 1
                if stops > 1:
                    log.warning("second signal: ending at once")
                    status = 128 + number
                    break
                log.info("%s: shutting down", signal.Signals(number).name)
                front.close()
                stopping.set()
                _hard_deadline(reloader.config, logs)
                tree.start_soon(_wind_down, fleet, front, tree.cancel_scope)
            tree.cancel_scope.cancel()
    pool.close()
    recorder.close()
    return status


def _import_app() -> None:
    """What the app is made of: half of all that is imported."""
    importlib.import_module("llamaswap.web.app")
    importlib.import_module("llamaswap.web.feed")
    importlib.import_module("llamaswap.web.inprocess")


def _recorder(config: Config, relay: Relay, store: Store, metrics: Metrics) -> Recorder:
    """Who remembers finished requests."""
    recorder = Recorder(relay.flights, store, read, Captures(config.capture_buffer_bytes))
    recorder.reconfigure(config)
    recorder.on_read.append(metrics.count)
    return recorder


def _monitor(config: Config, fleet: Fleet) -> Monitor:
    """Who looks at the machine; imported late, since what it looks with takes a while to import."""
    from llamaswap.observe.system import Monitor

    monitor = Monitor(config.performance, pid=fleet.pid)
    monitor.configure(config)
    fleet.observers.append(monitor)
    return monitor


async def _wind_down(fleet: Fleet, front: Front, everything: trio.CancelScope) -> None:
    await fleet.shutdown(GRACE_S)
    # What holds no model is under way as well: log streams, which `stopping` ends, and last bytes of answers.
    with trio.move_on_after(LAST_BYTES_S):
        await front.quiet()
    everything.cancel()


def _warn_if_open(config: Config, listener: Listener) -> None:
    if listener.public and not config.api_keys:
        log.warning("other machines can reach %s and no apiKeys are set: anyone may use it", listener.url)


class _App:
    """The Quart-Trio app behind Hypercorn, imported after the front listens; requests for it wait."""

    def __init__(self, stopping: trio.Event) -> None:
        self._stopping = stopping
        self._ready = trio.Event()

    async def serve(self, ex: Exchange) -> None:
        if not self._ready.is_set():
            if ex.path in ("/health", "/wol-health") and ex.method in ("GET", "HEAD"):  # models are served already
                await ex.answer(200, [(b"Content-Type", b"text/plain; charset=utf-8")], b"OK")
                return
            await self._ready.wait()
        await self._inner.serve(ex)

    async def serve_http2(self, transport: Transport, client: str, received: bytes) -> None:
        await self._ready.wait()
        await self._inner.serve_http2(transport, client, received)

    async def run(
        self,
        reloader: Reloader,
        fleet: Fleet,
        logs: Logs,
        dispatcher: Dispatcher,
        monitor: Monitor,
        metrics: Metrics,
        model_log: ModelLog,
        recorder: Recorder,
    ) -> None:
        """Import it, then serve, until cancelled; cancelled, the import goes on in its thread."""
        await trio.to_thread.run_sync(_import_app, abandon_on_cancel=True)  # meanwhile models are served
        from llamaswap.web.app import create_app
        from llamaswap.web.asgi import RelayMiddleware
        from llamaswap.web.feed import Feed
        from llamaswap.web.inprocess import InProcess
        from llamaswap.web.state import AppState

        state = AppState(
            config=reloader.config,
            catalogue=reloader.catalogue,
            fleet=fleet,
            logs=logs,
            stopping=self._stopping,
            flights=dispatcher.flights,
            monitor=monitor,
            metrics=metrics,
            model_log=model_log,
            recorder=recorder,
            reloader=reloader,
        )
        reloader.on_apply(state.apply)
        reloader.on_reload.append(state.hub.publish_reload)
        feed = Feed(state)
        app = create_app(state)
        app.asgi_app = RelayMiddleware(app.asgi_app, dispatcher)  # type: ignore[assignment]
        await app.startup()
        self._inner = InProcess(app, self._stopping)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._inner.run)
            await nursery.start(feed.run)
            self._ready.set()
            _settle_memory()


def _settle_memory() -> None:
    """What is loaded now stays: keep the collector from walking it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, 20, 50)


def _hard_deadline(config: Config, logs: Logs) -> None:
    def leave() -> None:
        log.error("something did not end; leaving anyway")
        logs.flush()
        os._exit(1)

    longest = max((model.unload_timeout_s for model in config.models.values()), default=0.0)
    timer = threading.Timer(GRACE_S + longest + HARD_EXIT_MARGIN_S, leave)
    timer.daemon = True
    timer.start()
