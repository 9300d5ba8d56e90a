"""Loading and unloading by request, and `/api/models`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from app_fixtures import CONFIG, FakeFleet, make_config, make_state
from quart.typing import TestClientProtocol as Client
from trio.testing import MockClock

from llamaswap.config.settings import Group, ModelConfig
from llamaswap.errors import ShuttingDown, StartFailed
from llamaswap.routing.lifecycle import State
from llamaswap.web.app import create_app
from llamaswap.web.state import AppState


def clients(state: AppState) -> tuple[Client, FakeFleet]:
    return create_app(state).test_client(), state.fleet  # type: ignore[return-value]


# -- loading


@pytest.mark.parametrize("name", ["org/c:q4", "org/sea", "org%2Fsea"])
@pytest.mark.parametrize("wait", ["", "?wait=1", "?wait=true"])
async def test_load_waits(name: str, wait: str) -> None:
    client, fleet = clients(make_state())
    response = await client.post(f"/api/models/load/{name}{wait}")
    assert response.status_code == 200
    assert await response.get_json() == {"model": "org/c:q4", "state": "ready", "load_s": 1.5}
    assert fleet.begun == ["org/c:q4"]


@pytest.mark.parametrize("wait", ["0", "false", "False"])
async def test_load_returns_at_once(wait: str) -> None:
    client, fleet = clients(make_state())
    response = await client.post(f"/api/models/load/bee?wait={wait}")
    assert (response.status_code, await response.get_json()) == (202, {"model": "b", "state": "starting"})
    assert fleet.begun == ["b"] and fleet.states["b"] is State.STARTING


@pytest.mark.parametrize("wait", ["2", "", "no thanks", "-1"])
async def test_wait_says_yes_or_no(wait: str) -> None:
    client, fleet = clients(make_state())
    response = await client.post(f"/api/models/load/a?wait={wait}")
    assert response.status_code == 400
    assert (await response.get_json())["error"]["message"].startswith("wait: ")
    assert fleet.begun == []


@pytest.mark.parametrize("path", ["/api/models/load/a", "/api/models/load/a?wait=0", "/models/load"])
async def test_a_load_that_fails_is_reported(path: str) -> None:
    state = make_state()
    client, fleet = clients(state)
    for error in (StartFailed("model 'a': exited", exit_code=7, output="no room"), ShuttingDown()):
        fleet.load_error = error
        response = await client.post(path, data='{"model": "a"}')
        assert (response.status_code, (await response.get_json())["error"]["code"]) == (error.status, error.code)
        assert (await response.get_json())["error"]["message"] == str(error)


@pytest.mark.parametrize("path", ["/api/models/load/nobody", "/api/models/load/a/", "/api/models/load/nobody?wait=0"])
async def test_load_of_an_unknown_model(path: str) -> None:
    client, fleet = clients(make_state())
    response = await client.post(path)
    assert (response.status_code, (await response.get_json())["error"]["code"]) == (404, "model_not_found")
    assert fleet.begun == []


async def test_as_llama_server_does_it() -> None:
    client, fleet = clients(make_state())
    for wait in ("", "?wait=0"):
        response = await client.post(f"/models/load{wait}", data='{"model": "org/sea", "more": 1}')
        assert (response.status_code, await response.get_json()) == (200, {"success": True})
    assert fleet.begun == ["org/c:q4"] * 2
    response = await client.post("/models/unload", data='{"model": "org/sea"}')
    assert (response.status_code, await response.get_json()) == (200, {"success": True})
    assert fleet.unloaded == [["org/c:q4"]] and fleet.states["org/c:q4"] is State.STOPPED


@pytest.mark.parametrize("path", ["/models/load", "/models/unload"])
@pytest.mark.parametrize(
    ("body", "status", "phrase"),
    [
        (b"", 400, "JSON object"),
        (b"\xff", 400, "JSON object"),
        (b"[" * 100_000, 400, "JSON object"),
        (b"[]", 400, "model: "),
        (b"{}", 400, "model: "),
        (b'{"model": null}', 400, "model: "),
        (b'{"model": ""}', 400, "model: "),
        (b'{"model": ["a"]}', 400, "model: "),
        (b'{"model": "nobody"}', 404, "nobody"),
        (b'{"model": "\\ud800"}', 404, "not found"),
    ],
)
async def test_what_names_no_model(path: str, body: bytes, status: int, phrase: str) -> None:
    client, fleet = clients(make_state())
    response = await client.post(path, data=body)
    assert response.status_code == status
    assert phrase in (await response.get_json())["error"]["message"]
    assert fleet.begun == [] and fleet.unloaded == []


@pytest.mark.parametrize("path", ["/models/load", "/models/unload", "/api/models/load/a", "/api/inflight/1/cancel"])
async def test_other_pages_may_not(path: str) -> None:
    """`/models` may be asked by any page; these may not, and neither without a key."""
    client, fleet = clients(make_state(replace(CONFIG, api_keys=("k",))))
    key, body = {"Authorization": "Bearer k"}, '{"model": "a"}'
    assert (await client.post(path, data=body)).status_code == 401
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert (await client.post(path, data=body, headers=key | foreign)).status_code == 403
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = await client.options(path, headers=asked)
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert (await client.get(path, headers=key)).status_code == 405
    assert fleet.begun == [] and fleet.unloaded == []


# -- what is known of them


async def listed(state: AppState, path: str = "/api/models") -> dict[str, Any]:
    client, _ = clients(state)
    response = await client.get(path)
    assert response.status_code == 200
    return {record["id"]: record for record in (await response.get_json())["models" if path[1] == "a" else "data"]}


async def test_all_models_are_told(autojump_clock: MockClock) -> None:
    state = make_state()
    records = await listed(state)
    assert list(records) == ["a", "b", "hidden", "org/c:q4"]
    assert records["hidden"] == {
        "id": "hidden", "name": "", "description": "", "aliases": ["ghost"], "unlisted": True, "state": "stopped",
        "ttl_s": 0.0, "ttl_left_s": None, "in_flight": 0, "queued": 0, "pid": None, "cmd": "", "proxy": "",
        "ready_since": None, "memory": {"rss_bytes": None, "gpu_bytes": None},
        "load": {"elapsed_s": None, "typical_s": None}, "waiting_for": [], "last_error": None, "group": "(default)",
    }  # fmt: skip


async def test_a_model_at_work(autojump_clock: MockClock) -> None:
    config = make_config(
        ModelConfig(id="a", name=" A ", ttl_s=60.0, cmd="run", proxy="http://localhost:1"),
        groups={"g": Group("g", members=("a",))},
    )
    state = make_state(config, {"a": State.READY})
    state.fleet.details["a"] = {  # type: ignore[attr-defined]
        "in_flight": 2, "queued": 1, "pid": 123, "ready_at": trio.current_time(), "waiting_for": ["b"],
        "ttl_deadline": trio.current_time() + 60,
    }  # fmt: skip
    state.model_log.remember("a", [1.0, 9.0, 2.0])
    await trio.sleep(15)
    record = (await listed(state))["a"]
    assert (record["name"], record["state"], record["in_flight"], record["queued"]) == ("A", "ready", 2, 1)
    assert (record["pid"], record["ttl_s"], record["ttl_left_s"], record["group"]) == (123, 60, 45, "g")
    assert (record["load"], record["waiting_for"]) == ({"elapsed_s": None, "typical_s": 2.0}, ["b"])
    assert record["ready_since"].endswith("Z") and "T" in record["ready_since"]


async def test_a_model_that_failed() -> None:
    state = make_state()
    state.model_log.failed("a", StartFailed("model 'a': exited", exit_code=7, output="no room"))
    state.model_log.crashed("b", -9, "")
    records = await listed(state)
    error = records["a"]["last_error"]
    assert error.pop("at").endswith("Z")
    assert error == {"message": "model 'a': exited", "exit_code": 7, "output": "no room"}
    assert records["b"]["last_error"]["exit_code"] == -9 and records["b"]["last_error"]["output"] is None


@pytest.mark.parametrize("path", ["/models", "/v1/models"])
async def test_the_status_of_a_model(path: str) -> None:
    states = {"a": State.STARTING, "b": State.READY, "org/c:q4": State.STOPPING}
    state = make_state(states=states)
    for id in ("a", "b", "org/c:q4"):
        state.model_log.failed(id, StartFailed("long ago", exit_code=1))
    records = await listed(state, path)
    assert {id: record["status"] for id, record in records.items()} == {
        "a": {"value": "loading"}, "b": {"value": "loaded"}, "org/c:q4": {"value": "loaded"},
    }  # fmt: skip


async def test_the_status_of_a_model_that_failed() -> None:
    state = make_state()
    state.model_log.failed("a", StartFailed("exited", exit_code=7))
    state.model_log.failed("b", StartFailed("could not be started"))
    records = await listed(state, "/models")
    assert records["a"]["status"] == {"value": "unloaded", "failed": True, "exit_code": 7}
    assert records["b"]["status"] == {"value": "unloaded", "failed": True}
    assert records["org/c:q4"]["status"] == {"value": "unloaded"}
