"""`/logs`: what was said lately, and what is being said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import trio
from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest
from llamaswap.observe.logs import LogMonitor, Subscription
from llamaswap.web.state import AppState, redirect, text_response, wants_html

MOST_LINES = 1_000_000  # more than a history holds


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log a reader wants."""

    lines: int | None = None
    """Of what is remembered, only the last so many lines; None: all of it."""
    follow: bool = True
    """Also what comes from now on."""

    def of(self, history: bytes) -> bytes:
        return history if self.lines is None else last_lines(history, self.lines)


def last_lines(text: bytes, count: int) -> bytes:
    """The last `count` lines; a last one without its line feed counts."""
    at = len(text) - text.endswith(b"\n")
    for _ in range(count):
        at = text.rfind(b"\n", 0, at)
        if at < 0:
            return text
    return text[at + 1 :] if count else b""


def _lines() -> int | None:
    """The parameter `lines`. Raises BadRequest."""
    given = request.args.get("lines")
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 8 and int(given) <= MOST_LINES):
        raise BadRequest(f"lines must be a whole number from 0 to {MOST_LINES}, got {given[:40]!r}")
    return int(given)


class LogStream:
    """A log as a response body: an async iterator that ends when the server stops, or at once when `rekeyed` is set.

    It subscribes with the first chunk asked for, so that a response that is never sent (Quart sends the
    head before it enters the body) holds nothing.
    """

    def __init__(self, monitor: LogMonitor, wanted: Wanted, stopping: trio.Event, rekeyed: trio.Event) -> None:
        self._monitor = monitor
        self._wanted = wanted
        self._stopping = stopping
        self._rekeyed = rekeyed
        self._begun = False
        self._subscription: Subscription | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            if self._wanted.follow:
                self._subscription = self._monitor.subscribe(history=False)
            remembered = self._wanted.of(self._monitor.history())
            if remembered:
                return remembered
        if self._subscription is None:
            raise StopAsyncIteration
        chunk = None
        async with trio.open_nursery() as nursery:
            for end in (self._stopping, self._rekeyed):
                nursery.start_soon(_cancel_at, end, nursery.cancel_scope)
            chunk = await self._subscription.receive()
            nursery.cancel_scope.cancel()
        if chunk is None or self._rekeyed.is_set():
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Idempotent; no checkpoint."""
        if self._subscription is not None:
            self._subscription.close()


async def _cancel_at(end: trio.Event, scope: trio.CancelScope) -> None:
    await end.wait()
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
        return text_response(Wanted(_lines()).of(state.logs.combined.history()))

    @bp.get("/logs/stream", defaults={"name": ""})
    @bp.get("/logs/stream/<path:name>")
    async def stream(name: str) -> Response:
        monitor = find(name)
        lines = _lines()
        if "no-history" in request.args:
            lines = 0
        if request.method == "HEAD":
            response = text_response("")
        else:
            wanted = Wanted(lines, follow="no-follow" not in request.args)
            body = LogStream(monitor, wanted, state.stopping, state.rekeyed)
            response = Response(body, content_type="text/plain; charset=utf-8")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return bp
