"""What models have done, counted, and shown as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample as Line

from llamaswap.errors import NotStarted
from llamaswap.observe.answer import finished
from llamaswap.observe.flights import Flight, Headers
from llamaswap.observe.gpu import Gpu
from llamaswap.observe.machine import Disk, Interface, System
from llamaswap.observe.metrics import REQUEST_S, Metrics
from llamaswap.observe.prometheus import render
from llamaswap.observe.rows import NO_TOKENS, Tokens
from llamaswap.observe.sample import ModelUse, Sample

GIB = 1 << 30


@dataclass
class Exchange:
    """What a flight reads of it."""

    status: int = 200
    broken: bool = False
    begun: float = 100.0
    method: str = "POST"
    path: str = "/v1/chat/completions"
    query: str = ""
    headers: Headers = ()
    client: str = "127.0.0.1"
    bytes_sent: int = 0


def a_flight(model: str = "m", *, status: int = 200, broken: bool = False, **times: float | bool | None) -> Flight:
    flight = Flight(1, Exchange(status, broken), model, model, True, 0, 0.0, 100.0)
    settings: dict[str, float | bool | None] = {"granted_at": 102.5, "first_byte_at": 103.0, "ended_at": 107.0}
    for name, value in (settings | times).items():
        setattr(flight, name, value)
    return flight


@pytest.mark.parametrize(
    ("flight", "outcome"),
    [
        (a_flight(), "ok"),
        (a_flight(status=302), "ok"),
        (a_flight(status=400), "client_error"),
        (a_flight(status=429), "client_error"),
        (a_flight(status=503), "upstream_error"),
        (a_flight(status=500), "upstream_error"),
        (a_flight(status=502, granted_at=None), "upstream_error"),
        (a_flight(status=0), "upstream_error"),
        (a_flight(broken=True), "upstream_error"),
        (a_flight(status=429, granted_at=None), "rejected"),
        (a_flight(status=503, granted_at=None), "rejected"),
        (a_flight(gone=True), "client_gone"),
        (a_flight(status=0, gone=True, granted_at=None), "client_gone"),
        (a_flight(cancelled=True, broken=True), "cancelled"),
        (a_flight(cancelled=True, gone=True), "cancelled"),
    ],
)
def test_outcomes(flight: Flight, outcome: str) -> None:
    metrics = Metrics(["m"])
    metrics.count(finished(flight), NO_TOKENS, "")
    outcomes = metrics.snapshot()["m"].outcomes
    assert {name: count for name, count in outcomes.items() if count} == {outcome: 1}


def test_a_stream_that_tells_an_error_is_no_success() -> None:
    metrics = Metrics(["m"])
    metrics.count(finished(a_flight()), NO_TOKENS, "out of memory")
    metrics.count(finished(a_flight(gone=True)), NO_TOKENS, "out of memory")
    outcomes = metrics.snapshot()["m"].outcomes
    assert {name: count for name, count in outcomes.items() if count} == {"upstream_error": 1, "client_gone": 1}


def test_times_of_a_request() -> None:
    metrics = Metrics(["m"])
    metrics.count(finished(a_flight(load_s=2.0)), NO_TOKENS, "")
    counts = metrics.snapshot()["m"]
    assert (counts.queue.total_s, counts.first_byte.total_s, counts.request.total_s) == (0.5, 3.0, 7.0)
    assert [bound for bound, count in zip(REQUEST_S, counts.request.counts, strict=False) if count] == [10.0]


def test_who_left_while_waiting_has_waited_and_who_was_rejected_has_not() -> None:
    metrics = Metrics(["m"])
    metrics.count(finished(a_flight(granted_at=None, first_byte_at=None, gone=True)), NO_TOKENS, "")
    metrics.count(finished(a_flight(granted_at=None, first_byte_at=None, status=429)), NO_TOKENS, "")
    counts = metrics.snapshot()["m"]
    assert (counts.queue.total_s, sum(counts.queue.counts)) == (7.0, 1)
    assert sum(counts.first_byte.counts) == 0


def test_nobody_can_make_it_grow() -> None:
    metrics = Metrics(["m"])
    metrics.count(finished(a_flight("other")), Tokens(input_tokens=1, output_tokens=1, cache_tokens=1), "")
    metrics.ready("other", 1.0)
    metrics.stopped("other", "ttl", None)
    metrics.stopped("m", "a new reason", None)
    metrics.failed("other", NotStarted("x"))
    metrics.crashed("other", 1, "")
    counts = metrics.snapshot()
    assert counts.keys() == {"m"}
    assert not any([*counts["m"].outcomes.values(), *counts["m"].evictions.values()])


def test_a_reload_keeps_the_counts_of_the_models_that_stay() -> None:
    metrics = Metrics(["m", "old"])
    metrics.crashed("m", 1, "")
    metrics.configure(["m", "new"])
    counts = metrics.snapshot()
    assert counts.keys() == {"m", "new"}
    assert counts["m"].crashes == 1


def test_a_snapshot_does_not_change() -> None:
    metrics = Metrics(["m"])
    before = metrics.snapshot()["m"]
    metrics.count(finished(a_flight()), NO_TOKENS, "")
    metrics.ready("m", 1.0)
    metrics.crashed("m", 1, "")
    assert (sum(before.request.counts), before.outcomes["ok"], sum(before.load.counts), before.crashes) == (0, 0, 0, 0)


# -- the exposition


@dataclass
class Model:
    id: str
    state: str = "stopped"
    in_flight: int = 0
    queued: int = 0


SAMPLE = Sample(
    system=System(
        cores=(10.5, 20.0),
        mem_total_bytes=8 * GIB,
        mem_available_bytes=3 * GIB,
        swap_total_bytes=2 * GIB,
        swap_used_bytes=GIB,
        load=(1.5, 1.25, 0.5),
        interfaces=(Interface("eth0", 1000, 2000),),
        read_bytes_per_s=100.0,
        write_bytes_per_s=None,
    ),
    disks=(Disk("/models", 100, 60, 40),),
    gpus=(
        Gpu(0, "nvidia", 'A "4090"', "GPU-1", "550", 75, None, 85.5, 60, 8 * GIB, 24 * GIB, 55, 300.5),
        Gpu(1, "amd", "B", vram_temp_c=85),
    ),
    models={"m": ModelUse(7, 150.0, 5 * GIB, 4 * GIB), "n": ModelUse(8, None, GIB, None)},
)


def exposed(metrics: Metrics, sample: Sample | None = SAMPLE, models: Iterable[Model] = ()) -> dict[str, float]:
    """`name{labels}` -> value, as a scraper reads it."""
    body, content_type = render("", sample, list(models), metrics.snapshot())
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    return {
        series(line): line.value for family in text_string_to_metric_families(body.decode()) for line in family.samples
    }


def series(line: Line) -> str:
    labels = ",".join(f"{name}={value}" for name, value in line.labels.items() if value)
    return f"{line.name}{{{labels}}}" if labels else line.name


def test_the_machines_gauges_have_llama_swaps_names() -> None:
    found = exposed(Metrics())
    gpu = 'id=0,name=A "4090",uuid=GPU-1'
    expected = {
        "llamaswap_cpu_util_percent{core=0}": 10.5,
        "llamaswap_cpu_util_percent{core=1}": 20,
        "llamaswap_memory_total_bytes": 8 * GIB,
        "llamaswap_memory_used_bytes": 5 * GIB,
        "llamaswap_memory_free_bytes": 3 * GIB,
        "llamaswap_swap_total_bytes": 2 * GIB,
        "llamaswap_swap_used_bytes": GIB,
        "llamaswap_load_average{interval=1m}": 1.5,
        "llamaswap_load_average{interval=5m}": 1.25,
        "llamaswap_load_average{interval=15m}": 0.5,
        "llamaswap_network_bytes_total{direction=recv,interface=eth0}": 1000,
        "llamaswap_network_bytes_total{direction=sent,interface=eth0}": 2000,
        f"llamaswap_gpu_temperature_celsius{{{gpu}}}": 75,
        f"llamaswap_gpu_util_percent{{{gpu}}}": 85.5,
        f"llamaswap_gpu_memory_util_percent{{{gpu}}}": 60,
        f"llamaswap_gpu_memory_used_bytes{{{gpu}}}": 8 * GIB,
        f"llamaswap_gpu_memory_total_bytes{{{gpu}}}": 24 * GIB,
        f"llamaswap_gpu_fan_speed_percent{{{gpu}}}": 55,
        f"llamaswap_gpu_power_draw_watts{{{gpu}}}": 300.5,
        "llamaswap_gpu_vram_temperature_celsius{id=1,name=B}": 85,
        "llamaswap_disk_bytes_per_second{direction=read}": 100,
        "llamaswap_disk_total_bytes{path=/models}": 100,
        "llamaswap_disk_used_bytes{path=/models}": 60,
        "llamaswap_disk_free_bytes{path=/models}": 40,
        "llamaswap_model_cpu_percent{model=m}": 150,
        "llamaswap_model_memory_bytes{model=m}": 5 * GIB,
        "llamaswap_model_memory_bytes{model=n}": GIB,
        "llamaswap_model_gpu_memory_bytes{model=m}": 4 * GIB,
    }
    assert {name: value for name, value in found.items() if not name.startswith("llamaswap_model_requests")} == expected


def test_models_at_the_moment() -> None:
    found = exposed(Metrics(), None, [Model("m", "ready", 3, 2), Model("n")])
    assert found["llamaswap_model_in_flight{model=m}"] == 3
    assert found["llamaswap_model_queued{model=m}"] == 2
    states = {name: value for name, value in found.items() if "model_state" in name and value}
    assert states == {
        "llamaswap_model_state{model=m,state=ready}": 1,
        "llamaswap_model_state{model=n,state=stopped}": 1,
    }
    assert sum("model_state{model=m" in name for name in found) == 5


def busy() -> Metrics:
    metrics = Metrics(["m", 'org/n "x"\\'])
    metrics.count(finished(a_flight()), Tokens(input_tokens=12, output_tokens=34), "")
    metrics.count(finished(a_flight(ended_at=100.2, status=404)), Tokens(input_tokens=1, cache_tokens=5), "")
    metrics.count(finished(a_flight(ended_at=5000.0)), NO_TOKENS, "")
    metrics.ready("m", 3.0)
    for reason in ("swap", "ttl", "unload", "shutdown", "reload", "swap"):
        metrics.stopped("m", reason, None)
    metrics.failed("m", NotStarted("x"))
    metrics.crashed("m", -9, "")
    return metrics


def test_what_models_have_done() -> None:
    found = exposed(busy(), None)
    assert {name: value for name, value in found.items() if "model=m" in name and "bucket" not in name and value} == {
        "llamaswap_model_requests_total{model=m,outcome=ok}": 2,
        "llamaswap_model_requests_total{model=m,outcome=client_error}": 1,
        "llamaswap_model_tokens_total{direction=in,model=m}": 13,
        "llamaswap_model_tokens_total{direction=out,model=m}": 34,
        "llamaswap_model_tokens_total{direction=cached,model=m}": 5,
        "llamaswap_model_evictions_total{model=m,reason=swap}": 2,
        **{
            f"llamaswap_model_evictions_total{{model=m,reason={why}}}": 1
            for why in ("ttl", "unload", "shutdown", "reload")
        },
        "llamaswap_model_loads_total{model=m,outcome=ok}": 1,
        "llamaswap_model_loads_total{model=m,outcome=failed}": 1,
        "llamaswap_model_crashes_total{model=m}": 1,
        "llamaswap_model_queue_wait_seconds_count{model=m}": 3,
        "llamaswap_model_queue_wait_seconds_sum{model=m}": 7.5,
        "llamaswap_model_time_to_first_byte_seconds_count{model=m}": 3,
        "llamaswap_model_time_to_first_byte_seconds_sum{model=m}": 9,
        "llamaswap_model_request_duration_seconds_count{model=m}": 3,
        "llamaswap_model_request_duration_seconds_sum{model=m}": pytest.approx(4907.2),
        "llamaswap_model_load_seconds_count{model=m}": 1,
        "llamaswap_model_load_seconds_sum{model=m}": 3,
    }


def test_buckets_add_up() -> None:
    found = exposed(busy(), None)
    prefix = "llamaswap_model_request_duration_seconds_bucket{"
    buckets = [value for name, value in found.items() if name.startswith(prefix) and "model=m" in name]
    assert len(buckets) == len(REQUEST_S) + 1
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[4], buckets[-2], buckets[-1]) == (0, 1, 2, 3)


def test_a_model_that_was_never_used_is_there_with_zeros_but_without_histograms() -> None:
    odd = [name for name in exposed(busy(), None) if 'org/n "x"\\' in name]
    assert 'llamaswap_model_requests_total{model=org/n "x"\\,outcome=ok}' in odd
    assert not [name for name in odd if "bucket" in name]


def test_openmetrics_for_those_who_ask() -> None:
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    body, content_type = render(accept, SAMPLE, [Model("m")], busy().snapshot())
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    names = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    assert {"llamaswap_model_requests", "llamaswap_network_bytes", "llamaswap_model_load_seconds"} <= names


def test_every_metric_says_what_it_is() -> None:
    body, _ = render("", SAMPLE, [Model("m")], busy().snapshot())
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation.endswith("."), family.name
        assert family.type != "unknown", family.name
