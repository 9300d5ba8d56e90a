"""What the running program tells while models load, answer and go, and what can be done to them meanwhile."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Call, Stage, one_test, request_bytes, shared_stage, stage, until

MODELS = {"a": {"aliases": ["alpha"], "ttl": 300}, "b": {"name": "Model B"}}
ORDER = ["logData", "logData", "modelStatus", "uiConfig", "profileChanged", "inflight", "modelProgress"]


@pytest.fixture(scope="module")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, int]]:
    with shared_stage(pyz, tmp_path_factory.mktemp("events"), MODELS, unloadTimeout=3) as it:
        yield it


@pytest.fixture
def on(shared: tuple[Stage, int]) -> Iterator[Stage]:
    with one_test(shared) as it:
        yield it


class Follower:
    """A client of /api/events."""

    def __init__(self, on: Stage) -> None:
        self.call = Call(on.wire(), request_bytes("GET", "/api/events"), "GET")
        self.read = 0

    def all(self) -> list[tuple[str, Any]]:
        """(type, data) of everything that has come."""
        whole, _, _ = self.call.answer.body.rpartition(b"\n\n")
        found = []
        for part in whole.decode().split("\n\n"):
            if part and not part.startswith(":"):
                first, second = part.split("\n")
                assert first == "event:message", part
                envelope = json.loads(second.removeprefix("data:"))
                found.append((envelope["type"], json.loads(envelope["data"])))
        return found

    def sees(self, type: str, wanted: Callable[[Any], object] = lambda data: True) -> Any:
        """The data of the next such event that is as wanted; what came before is passed over."""

        def look() -> Any:
            for number, (kind, data) in enumerate(self.all()[self.read :], self.read):
                if kind == type and wanted(data):
                    self.read = number + 1
                    return [data]
            return None

        return until(look, lambda: f"a fitting {type}; there is:\n{self.all()[self.read :]}")[0]

    def logged(self, source: str) -> str:
        """All that came of one log."""
        return "".join(data["data"] for type, data in self.all() if type == "logData" and data["source"] == source)

    def sees_state(self, model: str, state: str) -> None:
        self.sees("modelStatus", lambda models: {"id": model, "state": state}.items() <= by_id(models)[model].items())


@contextlib.contextmanager
def following(on: Stage) -> Iterator[Follower]:
    follower = Follower(on)
    until(lambda: len(follower.all()) >= len(ORDER), "a snapshot")
    yield follower
    assert not follower.call.over, follower.call.answer
    follower.call.leave()


def by_id(models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in models}


def upsert(state: str) -> Callable[[Any], object]:
    return lambda data: data["operation"] == "upsert" and data["request"]["state"] == state


def test_the_way_of_a_model_and_a_request(on: Stage) -> None:
    with following(on) as follower:
        assert [type for type, _ in follower.all()][: len(ORDER)] == ORDER
        assert follower.call.answer.header("x-accel-buffering") == "no"
        on.script("a", say="loading tensors", health_gate="up")
        call = on.call("alpha", stream=True, chunks=3, chunk_gate="more", tag="t")
        follower.sees_state("a", "starting")
        (entry,) = follower.sees("modelProgress")
        assert entry["id"] == "a" and entry["state"] == "starting" and entry["elapsed_s"] >= 0
        request = follower.sees("inflight", upsert("loading"))["request"]
        assert (request["model"], request["requested"], request["method"]) == ("a", "alpha", "POST")
        # Before or after the request, which is told once it has lasted a moment.
        until(lambda: "loading tensors" in follower.logged("upstream"), "what the model said")
        on.open("up")
        follower.sees_state("a", "ready")
        entry = follower.sees("inflight", upsert("streaming"))["request"]
        assert entry["id"] == request["id"] and entry["resp_bytes"] > 0 and entry["load_ms"] > 0
        on.open("more")
        assert call.wait().complete
        assert follower.sees("inflight", lambda data: data["operation"] == "remove")["id"] == request["id"]
        id = follower.sees("activity")["id"]
        (row,) = follower.sees("metrics")
        assert (row["id"], row["model"]) == (id, "a")
        assert follower.sees("modelProgress")[0]["ttl_left_s"] > 290
        on.unload("alpha")
        follower.sees_state("a", "stopped")
        with following(on) as late:
            assert late.sees("metrics")[-1]["id"] == id


def test_a_request_that_is_cancelled(on: Stage) -> None:
    with following(on) as follower:
        call = on.hold("a", "for-ever")
        id = follower.sees("inflight", upsert("waiting"))["request"]["id"]
        answer = on.post(f"/api/inflight/{id}/cancel", b"")
        assert (answer.status, answer.json) == (200, {"msg": "ok"})
        assert call.wait().refusal == (410, "request_cancelled")
        follower.sees("inflight", lambda data: data == {"operation": "remove", "id": id})
        on.happens("gone", "a")
        assert on.post(f"/api/inflight/{id}/cancel", b"").status == 404


def test_loading(on: Stage) -> None:
    on.script("a", health_gate="up")
    waiting = Call(on.wire(), request_bytes("POST", "/api/models/load/alpha"))
    on.happens("listening", "a")
    answer = on.post("/api/models/load/a?wait=0", b"")
    assert (answer.status, answer.json) == (202, {"model": "a", "state": "starting"})
    assert by_id(on.get("/models").json["data"])["a"]["status"] == {"value": "loading"}
    record = by_id(on.get("/api/models").json["models"])["a"]
    assert record["state"] == "starting" and record["load"]["elapsed_s"] > 0 and record["pid"] == on.pid("a")
    assert not waiting.over
    on.open("up")
    answer = waiting.wait()
    assert answer.status == 200 and answer.json["state"] == "ready" and answer.json["load_s"] > 0
    record = by_id(on.get("/api/models").json["models"])["a"]
    assert record["state"] == "ready" and record["load"]["typical_s"] > 0 and record["ttl_left_s"] > 290
    assert on.post("/models/load", {"model": "b"}).json == {"success": True}
    assert on.running() == {"b": "ready"}
    assert on.post("/models/unload", {"model": "b"}).json == {"success": True}
    assert on.running() == {}


def test_a_load_without_anybody_who_waits_evicts_and_is_ready(on: Stage) -> None:
    on.ask("b")
    assert on.post("/api/models/load/a?wait=0", b"").status == 202
    on.until_running(a="ready")


def test_an_unload_aborts_a_load(on: Stage) -> None:
    with following(on) as follower:
        on.script("a", health_gate="never")
        load = Call(on.wire(), request_bytes("POST", "/api/models/load/a"))
        chat = on.call("a")
        follower.sees("modelProgress", lambda models: models and models[0]["queued"] == 2)
        on.unload("a")
        assert load.wait().refusal == chat.wait().refusal == (503, "model_unloaded")
        follower.sees_state("a", "stopped")
        assert on.running() == {}
        assert by_id(on.get("/models").json["data"])["a"]["status"] == {"value": "unloaded"}


def test_a_load_that_fails(on: Stage) -> None:
    on.script("a", say="no room", exit=7)
    assert on.post("/api/models/load/a", b"").refusal == (502, "start_failed")
    error = by_id(on.get("/api/models").json["models"])["a"]["last_error"]
    assert error["exit_code"] == 7 and "no room" in error["output"] and "exit code 7" in error["message"]
    status = by_id(on.get("/models").json["data"])["a"]["status"]
    assert status == {"value": "unloaded", "failed": True, "exit_code": 7}
    on.script("a")
    assert on.post("/api/models/load/a", b"").status == 200
    assert by_id(on.get("/api/models").json["models"])["a"]["last_error"] is None


def test_a_model_that_crashes(on: Stage) -> None:
    with following(on) as follower:
        on.ask("a")
        on.kill(on.pid("a"))
        follower.sees_state("a", "stopped")
        until(lambda: by_id(on.get("/api/models").json["models"])["a"]["last_error"], "the crash is known")
        error = by_id(on.get("/api/models").json["models"])["a"]["last_error"]
        assert error["exit_code"] == -9 and "SIGKILL" in error["message"]


def test_streams_end_with_the_server(pyz: Path, tmp_path: Path) -> None:
    with stage(pyz, tmp_path, {"a": {}}) as on:
        follower = Follower(on)
        until(lambda: len(follower.all()) >= len(ORDER), "a snapshot")
        on.signal(signal.SIGTERM)
        assert follower.call.wait().complete, "an orderly end, not a broken stream"
        on.ends(0)
