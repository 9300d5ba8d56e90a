"""/api/events over HTTP, and cancelling what it shows."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import trio
from app_fixtures import calling, make_app, make_state
from test_feed import ORDER, opened
from trio.testing import MockClock, wait_all_tasks_blocked

from llamaswap.web.app import create_app
from llamaswap.web.events import HEARTBEAT_S, EventStream
from llamaswap.web.feed import Feed


def types(data: bytes) -> list[str]:
    return [json.loads(part.split("data:", 1)[1])["type"] for part in data.decode().split("\n\n") if part]


async def test_a_stream_of_events(nursery: trio.Nursery) -> None:
    state = make_state()
    await nursery.start(Feed(state).run)
    async with calling(create_app(state), "/api/events") as call:
        assert types(await call.receive()) == ORDER
        assert call.status == 200
        assert call.headers["content-type"].startswith("text/event-stream")
        assert (call.headers["x-accel-buffering"], call.headers["cache-control"]) == ("no", "no-cache")
        state.hub.publish("activity", {"id": 1})
        assert types(await call.receive()) == ["activity"]
        assert state.hub.followed
    assert not state.hub.followed


async def test_the_stream_ends_when_the_server_stops(nursery: trio.Nursery) -> None:
    state = make_state()
    await nursery.start(Feed(state).run)
    async with calling(create_app(state), "/api/events") as call:
        await call.receive()
        await wait_all_tasks_blocked()
        state.stopping.set()
        assert await call.receive() == b""
    async with calling(create_app(state), "/api/events") as late:
        assert await late.receive() == b""
        assert late.status == 200


async def test_the_stream_ends_when_other_keys_count(nursery: trio.Nursery) -> None:
    state = make_state()
    await nursery.start(Feed(state).run)
    app = create_app(state)
    async with calling(app, "/api/events") as call:
        await call.receive()
        state.apply(replace(state.config, metrics_max_in_memory=7), state.catalogue)
        state.hub.publish("activity", {"id": 1})
        assert types(await call.receive()) == ["activity"]
        await wait_all_tasks_blocked()
        state.apply(replace(state.config, api_keys=("k",)), state.catalogue)
        assert await call.receive() == b""
    assert (await app.test_client().get("/api/events")).status_code == 401


async def test_a_heartbeat_in_silence(autojump_clock: MockClock) -> None:
    state = make_state()
    Feed(state)
    stream = EventStream(state.hub)
    assert types(await stream.__anext__()) == ORDER
    for beat in range(1, 4):
        assert await stream.__anext__() == b":\n\n"
        assert trio.current_time() == pytest.approx(beat * HEARTBEAT_S)
    state.hub.publish("activity", {"id": 1})
    assert types(await stream.__anext__()) == ["activity"]
    await stream.aclose()
    await stream.aclose()
    assert not state.hub.followed


async def test_head_follows_nothing() -> None:
    state = make_state()
    response = await create_app(state).test_client().head("/api/events")
    assert response.status_code == 200 and response.headers["X-Accel-Buffering"] == "no"
    assert not state.hub.followed


async def test_nothing_is_held_by_a_stream_that_was_never_read() -> None:
    state = make_state()
    app = create_app(state)
    async with app.test_request_context("/api/events"):
        await app.dispatch_request()
    assert not state.hub.followed


async def test_cancel() -> None:
    state = make_state()
    flight = opened(state.flights)
    ended: list[bool] = []
    flight.end = lambda: ended.append(True)
    client = create_app(state).test_client()
    response = await client.post(f"/api/inflight/{flight.id}/cancel")
    assert (response.status_code, await response.get_json()) == (200, {"msg": "ok"})
    assert ended == [True] and flight.cancelled
    state.flights.close(flight)
    response = await client.post(f"/api/inflight/{flight.id}/cancel")
    assert response.status_code == 404


@pytest.mark.parametrize(
    ("id", "status", "message"),
    [
        ("7", 404, "inflight request not found"),
        ("-1", 404, "inflight request not found"),
        ("0", 404, "inflight request not found"),
        ("x", 400, "id: must be the number of a request, as the inflight events tell it"),
        ("1.5", 400, "id: must be the number of a request, as the inflight events tell it"),
        ("1_0", 400, "id: must be the number of a request, as the inflight events tell it"),
        ("%D9%A1", 400, "id: must be the number of a request, as the inflight events tell it"),
        ("9" * 5000, 400, "id: must be the number of a request, as the inflight events tell it"),
    ],
)
async def test_cancelling_what_is_not_there(id: str, status: int, message: str) -> None:
    response = await make_app().test_client().post(f"/api/inflight/{id}/cancel")
    assert response.status_code == status
    assert (await response.get_json())["error"]["message"] == message


async def test_cancelling_takes_a_post() -> None:
    response = await make_app().test_client().get("/api/inflight/1/cancel")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
