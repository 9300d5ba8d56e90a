"""/api/performance, /api/hardware and /metrics."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import trio
import trio.testing
from app_fixtures import CONFIG, make_app
from prometheus_client.parser import text_string_to_metric_families

from llamaswap.config.settings import Performance
from llamaswap.observe.metrics import Metrics
from llamaswap.observe.sample import MachineReader, Sample
from llamaswap.observe.system import Monitor
from llamaswap.routing.lifecycle import State
from llamaswap.web.openapi_shapes import SHAPES

NOON = 1_785_585_600.0  # 2026-08-01T12:00:00Z


def a_monitor(*at: float) -> Monitor:
    """One that has seen a model load at these seconds after noon."""
    clock = iter(NOON + seconds for seconds in at)
    monitor = Monitor(Performance(), clock=lambda: next(clock))
    for _ in at:
        monitor.ready("a", 1.0)
    return monitor


async def get(monitor: Monitor, path: str, **changes: Any) -> tuple[int, Any]:
    response = await make_app(monitor=monitor, **changes).test_client().get(path)
    return response.status_code, await response.get_json()


async def test_performance() -> None:
    status, body = await get(a_monitor(1.5), "/api/performance")
    assert status == 200
    assert body == {
        "enabled": True,
        "every_s": 5.0,
        "sys_stats": [],
        "gpu_stats": [],
        "models": [],
        "marks": [{"timestamp": "2026-08-01T12:00:01.500Z", "model": "a", "event": "loaded"}],
    }


@pytest.mark.parametrize(
    ("after", "marks"),
    [
        ("", 3),
        ("2026-08-01T12:00:01Z", 2),
        ("2026-08-01t12:00:01.000000000z", 2),
        ("2026-08-01T14:00:02%2B02:00", 1),
        ("2026-08-01T14:00:02+02:00", 1),  # the plus arrives as a blank
        ("2026-08-01T10:00:02.999-02:00", 1),
        ("2026-08-01 12:00:03Z", 0),
        ("0001-01-01T00:00:00Z", 3),
        ("0001-01-01T00:00:00%2B23:59", 3),
        ("9999-12-31T23:59:59Z", 0),
        ("9999-12-31T23:59:59-23:59", 0),
    ],
)
async def test_what_came_after(after: str, marks: int) -> None:
    status, body = await get(a_monitor(1, 2, 3), f"/api/performance?after={after}")
    assert (status, len(body["marks"])) == (200, marks)


@pytest.mark.parametrize(
    "after",
    [
        *(
            "yesterday",
            "1785585600",
            "2026-08-01",
            "2026-08-01T12:00:00",
            "2026-13-01T12:00:00Z",
            "2026-02-30T12:00:00Z",
        ),
        *("2026-08-01T25:00:00Z", "2026-08-01T12:00:60Z", "2026-08-01T12:00:00+99:00", "2026-W01-1T12:00:00Z"),
        *("%D9%A2026-08-01T12:00:00Z", "2026-08-01T12:00:00Z\n", "%00"),
    ],
)
async def test_what_is_no_time_is_refused_by_name(after: str) -> None:
    status, body = await get(a_monitor(), f"/api/performance?after={after}")
    assert status == 400
    assert body["error"]["message"].startswith("after must be a time such as 2026-08-01T12:00:00Z")
    assert body["error"]["code"] == "bad_request"


async def test_a_bad_time_is_refused_also_while_switched_off() -> None:
    status, _ = await get(Monitor(), "/api/performance?after=x")
    assert status == 400


async def test_switched_off() -> None:
    app = make_app()
    response = await app.test_client().get("/api/performance")
    assert (response.status_code, await response.get_json()) == (503, {"enabled": False})
    response = await app.test_client().get("/api/hardware")
    assert response.status_code == 503
    assert (await response.get_json())["error"]["message"] == "hardware detection unavailable"
    response = await app.test_client().get("/metrics")
    assert response.status_code == 503
    assert (await response.get_data()).strip() == b"# performance monitor not available"
    assert response.content_type.startswith("text/plain")


async def test_hardware() -> None:
    monitor = Monitor(Performance())
    monitor.hardware = {"schema_version": 1}
    monitor._known.set()
    assert await get(monitor, "/api/hardware") == (200, {"schema_version": 1})


async def test_hardware_that_is_not_known_in_time(autojump_clock: trio.testing.MockClock) -> None:
    status, body = await get(Monitor(Performance()), "/api/hardware")
    assert (status, body["error"]["code"]) == (503, "service_unavailable")


async def test_metrics() -> None:
    monitor, metrics = Monitor(Performance()), Metrics(CONFIG.models)
    monitor.latest = Sample()
    metrics.crashed("a", 1, "")
    app = make_app(states={"a": State.READY}, monitor=monitor, metrics=metrics)
    response = await app.test_client().get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = (await response.get_data()).decode()
    values = {
        (line.name, line.labels["model"], line.labels.get("state")): line.value
        for family in text_string_to_metric_families(text)
        for line in family.samples
    }
    assert values["llamaswap_model_crashes_total", "a", None] == 1
    assert values["llamaswap_model_state", "a", "ready"] == 1
    assert values["llamaswap_model_state", "org/c:q4", "stopped"] == 1
    assert {key[1] for key in values} == set(CONFIG.models)


async def test_metrics_in_the_newer_format() -> None:
    app = make_app(monitor=Monitor(Performance()))
    response = await app.test_client().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert (await response.get_data()).endswith(b"# EOF\n")


async def test_the_answers_are_those_that_the_openapi_page_promises() -> None:
    monitor = Monitor(Performance(), pid={"a": os.getpid()}.get)
    monitor.configure(CONFIG)
    monitor._reader = MachineReader()
    with trio.fail_after(30):
        for _ in range(2):
            await monitor._look(keep=True)
    client = make_app(monitor=monitor).test_client()
    hardware = await (await client.get("/api/hardware")).get_json()
    performance = await (await client.get("/api/performance")).get_json()
    assert [record["model"] for record in performance["models"]] == ["a", "a"]
    for name, answer in (("Hardware", hardware), ("Performance", performance)):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": SHAPES}}
        jsonschema.Draft202012Validator(schema).validate(answer)


@pytest.mark.parametrize("path", ["/api/performance", "/api/hardware", "/metrics"])
async def test_a_key_is_needed_where_there_are_keys(path: str) -> None:
    config = replace(CONFIG, api_keys=("secret",))
    client = make_app(config, monitor=a_monitor()).test_client()
    assert (await client.get(path)).status_code == 401
