"""`/api/events`, and what can be done to a request that they show."""

from __future__ import annotations

import re
from typing import Self

import trio
from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest, NotFound
from llamaswap.observe.hub import Hub, Subscription
from llamaswap.web.state import AppState, json_response

HEARTBEAT_S = 15.0  # proxies and browsers give a silent stream up after 30 s or more
HEARTBEAT = b":\n\n"

_NUMBER = re.compile(r"-?[0-9]{1,18}")


class EventStream:
    """The hub as a response body: an async iterator that ends when the server stops.

    It subscribes with the first chunk asked for, so that a response that is never sent (Quart sends the
    head before it enters the body) holds nothing.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._subscription: Subscription | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._subscription is None:
            self._subscription = self._hub.subscribe()
        data = b""
        with trio.move_on_after(HEARTBEAT_S):
            try:
                data = await self._subscription.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        return data or HEARTBEAT

    async def aclose(self) -> None:
        """Idempotent; no checkpoint."""
        if self._subscription is not None:
            self._subscription.close()


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("events", __name__)

    @bp.get("/api/events")
    async def events() -> Response:
        body = b"" if request.method == "HEAD" else EventStream(state.hub)
        response = Response(body, content_type="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"
        return response

    @bp.post("/api/inflight/<id>/cancel")
    async def cancel(id: str) -> Response:
        if not _NUMBER.fullmatch(id):
            raise BadRequest("id: must be the number of a request, as the inflight events tell it")
        flight = state.flights.get(int(id))
        if flight is None:
            raise NotFound("inflight request not found")
        flight.cancel()
        return json_response({"msg": "ok"})

    return bp
