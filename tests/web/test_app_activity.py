"""The routes about what was: every parameter, and every way to get one wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from app_fixtures import make_app
from flying import land
from quart_trio import QuartTrio

from llamaswap.observe.activity import Recorder
from llamaswap.observe.captures import Captures
from llamaswap.observe.flights import Flights
from llamaswap.observe.store import Store
from llamaswap.observe.store_query import SORT_COLUMNS
from llamaswap.relay.usage import read


@pytest.fixture
def flights() -> Flights:
    return Flights()


@pytest.fixture
def recorder(flights: Flights) -> Iterator[Recorder]:
    recorder = Recorder(flights, Store(), read, Captures(1 << 20))
    yield recorder
    recorder.close()


@pytest.fixture
def app(recorder: Recorder) -> QuartTrio:
    return make_app(recorder=recorder)


async def get(app: QuartTrio, path: str) -> tuple[int, Any]:
    response = await app.test_client().get(path)
    return response.status_code, await response.get_json()


async def ids(app: QuartTrio, query: str = "") -> list[int]:
    status, answer = await get(app, f"/api/metrics/activity?{query}")
    assert status == 200
    return [record["id"] for record in answer["data"]]


async def test_nothing_yet(app: QuartTrio) -> None:
    empty = {"data": [], "page": 1, "limit": 25, "total": 0, "total_pages": 0}
    assert await get(app, "/api/metrics/activity") == (200, empty)
    assert await get(app, "/api/metrics") == (200, [])
    _, stats = await get(app, "/api/metrics/stats")
    assert (stats["total_requests"], stats["prompt_histogram"]) == (0, None)


async def test_pages(app: QuartTrio, flights: Flights) -> None:
    for _ in range(30):
        land(flights)
    _, first = await get(app, "/api/metrics/activity")
    assert [record["id"] for record in first.pop("data")] == list(range(30, 5, -1))
    assert first == {"page": 1, "limit": 25, "total": 30, "total_pages": 2}
    assert await ids(app, "page=2") == [5, 4, 3, 2, 1]
    assert await ids(app, "page=3") == []
    assert await ids(app, "limit=2&page=2&order=asc") == [3, 4]
    assert len(await ids(app, "limit=999")) == 30
    assert await ids(app, "min_id=4&max_id=6") == [6, 5, 4]


async def test_models(app: QuartTrio, flights: Flights) -> None:
    for model in ("a", "b", "org/c"):
        land(flights, model=model)
    assert await ids(app, "model=a&model=org/c") == [3, 1]
    assert await ids(app, "model=a&model=&model=%20b%20") == [2, 1]
    assert await ids(app, "model=") == [3, 2, 1]
    assert await ids(app, "model=nobody") == []
    _, stats = await get(app, "/api/metrics/stats?model=a")
    assert (stats["total_requests"], stats["total_output_tokens"]) == (1, 3)


async def test_statuses(app: QuartTrio, flights: Flights) -> None:
    land(flights)
    land(flights, status=503)
    land(flights, status=499)
    assert await ids(app, "status=ok") == [1]
    assert await ids(app, "status=error") == [3, 2]
    assert await ids(app, "status=4xx") == [3]
    assert await ids(app, "status=503") == [2]
    assert await ids(app, "status=") == [3, 2, 1]


async def test_times(app: QuartTrio, flights: Flights) -> None:
    land(flights)
    _, answer = await get(app, "/api/metrics/activity")
    at = answer["data"][0]["timestamp"]
    assert await ids(app, f"start={at}&end={at}") == [1], "both ends count"
    assert await ids(app, "start=2999-01-01T00:00:00Z") == []
    assert await ids(app, "end=2001-01-01T00:00:00%2B02:00") == []
    assert await ids(app, "start=2001-01-01T00:00:00.123456789-07:00") == [1]
    assert await ids(app, "start=2001-01-01T00:00:00+02:00") == [1], "as people type it"
    assert await ids(app, "start=2999-01-01T00:00:00Z&end=2001-01-01T00:00:00Z") == []


@pytest.mark.parametrize("key", tuple(SORT_COLUMNS))
async def test_every_sort_key(app: QuartTrio, flights: Flights, key: str) -> None:
    land(flights)
    land(flights, {"usage": {"completion_tokens": 1}}, model="z", path="/z", status=201, content_type="z")
    assert len(SORT_COLUMNS) == 13
    down, up = await ids(app, f"sort={key}"), await ids(app, f"sort={key}&order=asc")
    assert sorted(down) == [1, 2] and up == down[::-1]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        *[(f"limit={value}", "limit") for value in ("0", "1000", "-1", "x", "", "1.5", "٣", "9" * 30, " 1")],
        *[(f"page={value}", "page") for value in ("0", "-1", "x", "", "9" * 15)],
        ("sort=duration_ms", "sort"),
        ("sort=", "sort"),
        ("sort=id;drop", "sort"),
        ("order=up", "order"),
        ("order=DESC", "order"),
        *[(f"status={value}", "status") for value in ("OK", "6xx", "99", "4x", "200x", "٤٠٤", "ok ", "ok;drop")],
        ("min_id=-1", "min_id"),
        ("max_id=x", "max_id"),
        *[(f"start={value}", "start") for value in ("yesterday", "2026-01-01", "2026-13-01T00:00:00Z", "1700000000")],
        ("end=2026-01-01T00:00:00", "end"),
        ("&".join(f"model={n}" for n in range(501)), "model"),
    ],
)
async def test_wrong_parameters_are_named(app: QuartTrio, query: str, name: str) -> None:
    status, answer = await get(app, f"/api/metrics/activity?{quote(query, safe='=&')}")
    assert (status, answer["error"]["code"]) == (400, "bad_request")
    assert answer["error"]["message"].startswith(f"{name} must be ")


async def test_captures(app: QuartTrio, flights: Flights) -> None:
    land(flights)
    status, found = await get(app, "/api/captures/1")
    assert (status, found["id"], found["req_headers"]["X-Api-Key"]) == (200, 1, "[REDACTED]")
    for id, status, message in (
        ("2", 404, "capture not found"),
        ("0", 404, "capture not found"),
        ("x", 400, "invalid capture ID"),
        ("-1", 400, "invalid capture ID"),
        ("9" * 40, 400, "invalid capture ID"),
    ):
        found_status, answer = await get(app, f"/api/captures/{id}")
        assert (found_status, answer["error"]["message"]) == (status, message)


async def test_a_store_that_cannot_be_read(app: QuartTrio, recorder: Recorder) -> None:
    recorder.close()
    status, answer = await get(app, "/api/metrics/activity")
    assert (status, answer["error"]["code"]) == (503, "service_unavailable")
