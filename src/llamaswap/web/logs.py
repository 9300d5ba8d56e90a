"""`/logs`: what was said lately, and what is being said."""

from __future__ import annotations

from typing import Self

import trio
from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest
from llamaswap.observe.logs import LogMonitor, Subscription
from llamaswap.web.state import AppState, redirect, text_response, wants_html


class LogStream:
    """A log as a response body: an async iterator that ends when the server stops.

    It subscribes with the first chunk asked for, so that a response that is never sent (Quart sends the
    head before it enters the body) holds nothing.
    """

    def __init__(self, monitor: LogMonitor, history: bool, stopping: trio.Event) -> None:
        self._monitor = monitor
        self._history = history
        self._stopping = stopping
        self._subscription: Subscription | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._subscription is None:
            self._subscription = self._monitor.subscribe(history=self._history)
        chunk = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_on_stop, nursery.cancel_scope)
            chunk = await self._subscription.receive()
            nursery.cancel_scope.cancel()
        if chunk is None:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Idempotent; no checkpoint."""
        if self._subscription is not None:
            self._subscription.close()

    async def _cancel_on_stop(self, scope: trio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("logs", __name__)

    def find(name: str) -> LogMonitor:
        if name == "":
            return state.logs.combined
        if name == "proxy":
            return state.logs.proxy
        if name == "upstream":
            return state.logs.upstream
        model = state.catalogue.get(name)
        if model is None:
            raise BadRequest("invalid logger. Use 'proxy', 'upstream' or a model's ID")
        return state.logs.model(model.id)

    @bp.get("/logs")
    async def history() -> Response:
        if wants_html():
            return redirect("/ui/")
        return text_response(state.logs.combined.history())

    @bp.get("/logs/stream", defaults={"name": ""})
    @bp.get("/logs/stream/<path:name>")
    async def stream(name: str) -> Response:
        monitor = find(name)
        if request.method == "HEAD":
            response = text_response("")
        else:
            body = LogStream(monitor, "no-history" not in request.args, state.stopping)
            response = Response(body, content_type="text/plain; charset=utf-8")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return bp
