"""The server's answers have the keys and types of tests/fixtures/api, which the UI's own tests read as well.

The examples of a fixture say together what may come: a key that all of them have must be there, one that some of them
have may be, any other is news that nobody told the UI; a value is of one of the types the examples show.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from app_fixtures import FakeFleet, make_config, make_state
from test_feed import Rig, following, opened
from trio.testing import MockClock

from llamaswap.config import Place, load_sources
from llamaswap.config.settings import Capabilities, ModelConfig, Performance
from llamaswap.errors import StartFailed
from llamaswap.observe.activity import Recorder
from llamaswap.observe.captures import Captures
from llamaswap.observe.flights import Flights
from llamaswap.observe.gpu import Gpu
from llamaswap.observe.hardware import Facts
from llamaswap.observe.logs import Logs
from llamaswap.observe.machine import Disk, Interface, System
from llamaswap.observe.sample import ModelUse, Sample
from llamaswap.observe.store import Store
from llamaswap.observe.system import Monitor
from llamaswap.relay.response import Answer
from llamaswap.relay.usage import read
from llamaswap.reload import Origin, Reloader
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet
from llamaswap.web.app import create_app
from llamaswap.web.state import AppState

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "api"
DICTIONARIES = {"req_headers", "resp_headers", "metadata", "effective"}
"""Keys of objects whose own keys may be any."""

CONFIG = make_config(
    ModelConfig(
        id="a", cmd="server", name="Model A", aliases=("first",), ttl_s=60.0,
        capabilities=Capabilities(("text", "image"), ("text",), tools=True, context=4096),
    ),
    ModelConfig(id="b", unlisted=True),
    ModelConfig(id="c"),
)  # fmt: skip


def examples(name: str) -> list[Any]:
    found: list[Any] = json.loads((FIXTURES / f"{name}.json").read_text())["examples"]
    return found


def kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", dict: "object", list: "list", type(None): "null"}[type(value)]


def differences(value: Any, known: list[Any], path: str) -> list[str]:
    """Where `value` is not like any of the `known` examples."""
    if kind(value) not in {kind(example) for example in known}:
        return [f"{path}: {kind(value)} instead of {' or '.join(sorted({kind(example) for example in known}))}"]
    if isinstance(value, list):
        items = [item for example in known if isinstance(example, list) for item in example]
        if value and not items:
            return [f"{path}: no example of an item"]
        return [problem for i, item in enumerate(value) for problem in differences(item, items, f"{path}[{i}]")]
    if not isinstance(value, dict) or path.rpartition(".")[2] in DICTIONARIES:
        return []
    objects = [example for example in known if isinstance(example, dict)]
    if "operation" in value:  # events that are told apart by it
        objects = [example for example in objects if example["operation"] == value["operation"]]
    may = {key for example in objects for key in example}
    must = {key for key in may if all(key in example for example in objects)}
    problems = [f"{path}.{key}: not in the examples" for key in value.keys() - may]
    problems += [f"{path}.{key}: missing" for key in must - value.keys()]
    for key in sorted(value.keys() & may):
        problems += differences(value[key], [example[key] for example in objects if key in example], f"{path}.{key}")
    return problems


class Machine:
    """A reader of the machine that knows everything."""

    def configure(self, models: Iterable[ModelConfig]) -> None:
        return

    async def read(self, processes: Mapping[str, int]) -> Sample:
        load, interfaces = (1.5, 1.0, 0.5), (Interface("eth0", 1, 2),)
        system = System((50.0,), 8 << 30, 2 << 30, 0, 0, load, interfaces, 10.4, 20.6)
        gpu = Gpu(0, "nvidia", "RTX", "GPU-1", "550.54", 60, mem_used_bytes=5 << 20, mem_total_bytes=9 << 20)
        uses = {id: ModelUse(pid, 100.0, 1 << 20, 1 << 20) for id, pid in processes.items()}
        return Sample(system, (Disk("/", 100, 60, 40),), (gpu,), uses)

    async def facts(self) -> Facts:
        return Facts("x86_64", "linux", "Debian", "6.1", "", False, "AMD EPYC", 8, 16, 64 << 30)


def a_state() -> AppState:
    """A model that is ready, one that could not be started, one that is starting and waited for."""
    state = make_state(CONFIG, {"a": State.READY, "c": State.STARTING})
    assert isinstance(state.fleet, FakeFleet)
    state.fleet.details = {
        "a": {"pid": 4711, "ready_at": 0.0, "idle_since": 0.0, "ttl_deadline": 60.0},
        "b": {"queued": 1, "waiting_for": ["a"]},
        "c": {"loading_s": 1.5},
    }
    state.model_log.ready("a", 2.5)
    state.model_log.failed("b", StartFailed("model 'b' did not start", exit_code=1, output="out of memory"))
    state.model_log.crashed("c", None, "")
    return state


async def answered(state: AppState, path: str, method: str = "GET") -> Any:
    response = await create_app(state).test_client().open(path, method=method)
    assert response.status_code in (200, 202), await response.get_data()
    return await response.get_json()


@pytest.mark.parametrize(
    ("name", "path", "method"),
    [
        ("models", "/api/models", "GET"),
        ("version", "/api/version", "GET"),
        ("load", "/api/models/load/first", "POST"),
        ("load", "/api/models/load/b?wait=0", "POST"),
        ("stats", "/api/metrics/stats", "GET"),
    ],
)
async def test_an_answer(name: str, path: str, method: str) -> None:
    assert differences(await answered(a_state(), path, method), examples(name), name) == []


async def test_the_answers_of_one_who_remembers(autojump_clock: MockClock) -> None:
    state = a_state()
    state.flights = Flights()
    state.recorder = Recorder(state.flights, Store(), read, Captures(1 << 20))
    for status, error in ((200, ""), (502, "model 'a' did not start")):
        flight = opened(state.flights)
        flight.body = b'{"model":"a"}'
        flight.granted_at = flight.begun
        flight.exchange.status = status
        flight.answer = Answer(200, b"OK", [(b"content-type", b"application/json")], -1, False)
        if status == 200:
            flight.add(b'{"usage":{"prompt_tokens":3,"completion_tokens":5},"timings":{"predicted_per_second":9.5}}')
        flight.error = error
        state.flights.close(flight)
    await state.recorder.flush()
    activity = await answered(state, "/api/metrics/activity")
    assert differences(activity, examples("activity"), "activity") == []
    assert [row["resp_status_code"] for row in activity["data"]] == [502, 200]
    assert differences(await answered(state, "/api/metrics/stats?model=a"), examples("stats"), "stats") == []
    assert differences(await answered(state, "/api/captures/1"), examples("capture"), "capture") == []


async def test_the_configuration_and_its_reloads(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("models: {a: {proxy: &p http://x, no: 1}, b: {proxy: *p}, c: {proxy: *p}}\n")
    place = Place(file)
    sources = tuple(place.read())
    config = load_sources(sources)
    fleet = Fleet(config, Catalogue(config), Logs(to_stdout="none"))
    reloader = Reloader(Origin(place, sources), config, fleet)
    state = replace(a_state(), reloader=reloader)
    known = json.loads((FIXTURES / "events.json").read_text())["configReload"]

    async def check() -> Any:
        shown = await answered(state, "/api/config")
        assert differences(shown, examples("config"), "config") == []
        return shown

    async with trio.open_nursery() as nursery:
        await nursery.start(fleet.run)
        assert (await check())["warnings"][0]["line"] == 1
        file.write_text(
            "startPort: 6000\nmodels: {a: {proxy: &p http://y}, b: {proxy: http://x, ttl: 9}, d: {proxy: *p}}\n"
        )
        assert differences(await answered(state, "/api/config/reload", "POST"), known, "reload") == []
        assert (await check())["last_reload"]["added"] == ["d"]
        file.write_text("models: {a: {proxy: http://x, ttl: ten}}\n")
        refused = await reloader.reload("a test")
        assert refused is not None and differences(refused.record(), known, "reload") == []
        assert (await check())["errors"][0]["key"] == "models.a.ttl"
        nursery.cancel_scope.cancel()


async def test_the_error() -> None:
    response = await create_app(a_state()).test_client().get("/api/nothing")
    assert differences(await response.get_json(), examples("error"), "error") == []


async def test_performance(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    config = replace(CONFIG, performance=Performance(every_s=5.0))
    monitor = Monitor(config.performance, pid={"a": 4711}.get, reader=Machine())
    monitor.configure(config)
    await nursery.start(monitor.run)
    await trio.sleep(10)
    monitor.ready("a", 1.0)
    state = replace(a_state(), monitor=monitor)
    performance = await answered(state, "/api/performance")
    assert differences(performance, examples("performance"), "performance") == []
    assert all(performance[kind] for kind in ("sys_stats", "gpu_stats", "models", "marks"))
    assert differences(await answered(state, "/api/hardware"), examples("hardware"), "hardware") == []


async def test_events(autojump_clock: MockClock) -> None:
    known = json.loads((FIXTURES / "events.json").read_text())
    rig = Rig(a_state())
    with rig.state.hub.subscribe() as follower:
        told = await rig.told(follower)
    async with following(a_state()) as rig:
        flight = opened(rig.flights)
        told.append(("inflight", await rig.until("inflight")))
        flight.granted_at = flight.begun
        flight.answer = Answer(200, b"OK", [(b"content-type", b"text/event-stream")], -1, False)
        flight.add(b"data")
        told.append(("inflight", await rig.until("inflight")))
        rig.flights.close(flight)
        told.append(("inflight", await rig.until("inflight")))
        rig.fleet.becomes("b", State.STARTING, loading_s=0.5)
        told.append(("modelStatus", await rig.until("modelStatus")))
        told.append(("modelProgress", await rig.until("modelProgress")))
    assert {type for type, _ in told} >= {"logData", "modelStatus", "modelProgress", "inflight", "uiConfig"}
    assert [data["operation"] for type, data in told if type == "inflight"] == [
        "snapshot",
        "upsert",
        "upsert",
        "remove",
    ]
    assert [problem for type, data in told for problem in differences(data, known[type], type)] == []


def test_differences_are_noticed() -> None:
    known = [{"a": 1, "b": [{"x": "s"}], "c": None}, {"a": 2, "b": [], "c": "s", "d": True}]
    assert differences({"a": 1.5, "b": [{"x": "t"}], "c": "u", "d": False}, known, "it") == []
    assert sorted(differences({"a": True, "b": [{"x": None, "y": 1}], "e": 1}, known, "it")) == [
        "it.a: boolean instead of number",
        "it.b[0].x: null instead of string",
        "it.b[0].y: not in the examples",
        "it.c: missing",
        "it.e: not in the examples",
    ]
