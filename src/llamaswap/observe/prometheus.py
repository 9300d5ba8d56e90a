"""`/metrics`: the last sample of the machine and the counts of the models, as Prometheus reads them.

The machine's gauges have llama-swap's names and labels; the models' are ours. Label values come from the
configuration and from the hardware, never from clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from llamaswap.observe.gpu import Gpu
from llamaswap.observe.machine import Disk, System
from llamaswap.observe.metrics import Durations, ModelCounts
from llamaswap.observe.sample import ModelUse, Sample

STATES = ("stopped", "starting", "ready", "stopping", "shutdown")


class ModelNow(Protocol):
    """One model at the moment: what the fleet's views show."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def queued(self) -> int: ...


def render(
    accept: str, sample: Sample | None, models: Sequence[ModelNow], counts: Mapping[str, ModelCounts]
) -> tuple[bytes, str]:
    """(body, content type): OpenMetrics if `accept` asks for it, else the classic text format.

    Works on copies (`Metrics.snapshot`) and takes milliseconds for many models: for a worker thread.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Everything(sample, models, counts))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Everything(Collector):
    def __init__(self, sample: Sample | None, models: Sequence[ModelNow], counts: Mapping[str, ModelCounts]) -> None:
        self._sample = sample or Sample()
        self._models = models
        self._counts = counts

    def describe(self) -> Iterable[Metric]:
        return ()  # one collector: no name can be taken twice, and nothing need be collected to find out

    def collect(self) -> Iterator[Metric]:
        if self._sample.system is not None:
            yield from _machine(self._sample.system)
        yield from _disks(self._sample.disks)
        yield from _gpus(self._sample.gpus)
        yield from _now(self._models)
        yield from _use(self._sample.models)
        yield from _history(self._counts)


def _gauge(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
    gauge = GaugeMetricFamily(f"llamaswap_{name}", text, labels=labels)
    for label_values, value in values:
        if value is not None:
            gauge.add_metric(label_values, value)
    return gauge


def _counter(name: str, text: str, labels: Sequence[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    counter = CounterMetricFamily(f"llamaswap_{name}", text, labels=labels)
    for label_values, value in values:
        counter.add_metric(label_values, value)
    return counter


# -- the machine


def _machine(system: System) -> Iterator[Metric]:
    cores = [([str(n)], busy) for n, busy in enumerate(system.cores)]
    yield _gauge("cpu_util_percent", "How busy each core is.", ["core"], cores)
    used = system.mem_total_bytes - system.mem_available_bytes
    for name, text, value in (
        ("memory_total_bytes", "Memory of the machine.", system.mem_total_bytes),
        ("memory_used_bytes", "Memory that is not available.", used),
        ("memory_free_bytes", "Memory available without swapping.", system.mem_available_bytes),
        ("swap_total_bytes", "Swap space.", system.swap_total_bytes),
        ("swap_used_bytes", "Swap space in use.", system.swap_used_bytes),
    ):
        yield _gauge(name, text, [], [([], value)])
    loads = [] if system.load is None else list(zip((["1m"], ["5m"], ["15m"]), system.load, strict=True))
    yield _gauge("load_average", "Load average.", ["interval"], loads)
    traffic = [
        ([it.name, direction], float(count))
        for it in system.interfaces
        for direction, count in (("recv", it.bytes_recv), ("sent", it.bytes_sent))
    ]
    yield _counter("network_bytes", "Bytes over each network interface.", ["interface", "direction"], traffic)
    io = [(["read"], system.read_bytes_per_s), (["write"], system.write_bytes_per_s)]
    yield _gauge("disk_bytes_per_second", "Bytes from and to all disks.", ["direction"], io)


def _disks(disks: Sequence[Disk]) -> Iterator[Metric]:
    for name, text, values in (
        ("disk_total_bytes", "Size of the file systems with models.", [([it.path], it.total_bytes) for it in disks]),
        ("disk_used_bytes", "What is used of them.", [([it.path], it.used_bytes) for it in disks]),
        ("disk_free_bytes", "What is free on them.", [([it.path], it.free_bytes) for it in disks]),
    ):
        if values:
            yield _gauge(name, text, ["path"], values)


def _gpus(gpus: Sequence[Gpu]) -> Iterator[Metric]:
    labels = [[str(gpu.index), gpu.name, gpu.uuid] for gpu in gpus]
    for name, text, values in (
        ("temperature_celsius", "Temperature of the GPU.", [gpu.temp_c for gpu in gpus]),
        ("vram_temperature_celsius", "Temperature of its memory.", [gpu.vram_temp_c for gpu in gpus]),
        ("util_percent", "How busy it is.", [gpu.util_percent for gpu in gpus]),
        ("memory_util_percent", "How busy its memory is.", [gpu.mem_util_percent for gpu in gpus]),
        ("memory_used_bytes", "Memory in use.", [gpu.mem_used_bytes for gpu in gpus]),
        ("memory_total_bytes", "Its memory.", [gpu.mem_total_bytes for gpu in gpus]),
        ("fan_speed_percent", "Speed of its fan.", [gpu.fan_percent for gpu in gpus]),
        ("power_draw_watts", "Power it draws.", [gpu.power_w for gpu in gpus]),
    ):
        told = [(label, value) for label, value in zip(labels, values, strict=True) if value is not None]
        if told:
            yield _gauge(f"gpu_{name}", text, ["id", "name", "uuid"], told)


# -- models


def _now(models: Sequence[ModelNow]) -> Iterator[Metric]:
    flying, queued = [([it.id], it.in_flight) for it in models], [([it.id], it.queued) for it in models]
    yield _gauge("model_in_flight", "Requests that hold the model.", ["model"], flying)
    yield _gauge("model_queued", "Requests that wait for it.", ["model"], queued)
    states = [([it.id, state], float(it.state == state)) for it in models for state in STATES]
    yield _gauge("model_state", "1 for the state that it is in.", ["model", "state"], states)


def _use(models: Mapping[str, ModelUse]) -> Iterator[Metric]:
    each = sorted(models.items())
    for name, text, values in (
        ("cpu_percent", "CPU of its processes; 100: one core.", [([id], use.cpu_percent) for id, use in each]),
        ("memory_bytes", "Resident memory of its processes.", [([id], use.rss_bytes) for id, use in each]),
        ("gpu_memory_bytes", "GPU memory of its processes.", [([id], use.gpu_bytes) for id, use in each]),
    ):
        yield _gauge(f"model_{name}", text, ["model"], values)


def _history(counts: Mapping[str, ModelCounts]) -> Iterator[Metric]:
    each = sorted(counts.items())
    for name, text, label, values in (
        ("requests", "Requests that are over.", "outcome", [(id, it.outcomes) for id, it in each]),
        ("tokens", "Tokens, as far as answers tell.", "direction", [(id, it.tokens) for id, it in each]),
        ("evictions", "Times it was stopped.", "reason", [(id, it.evictions) for id, it in each]),
    ):
        told = [([id, value], float(count)) for id, of in values for value, count in of.items()]
        yield _counter(f"model_{name}", text, ["model", label], told)
    loads = [([id, "ok"], float(sum(it.load.counts))) for id, it in each]
    loads += [([id, "failed"], float(it.failed_loads)) for id, it in each]
    yield _counter("model_loads", "Times it was loaded.", ["model", "outcome"], loads)
    crashes = [([id], float(it.crashes)) for id, it in each]
    yield _counter("model_crashes", "Times it ended by itself after it had been ready.", ["model"], crashes)
    for name, text, durations in (
        ("queue_wait_seconds", "Waiting for a turn, loading aside.", [(id, it.queue) for id, it in each]),
        ("time_to_first_byte_seconds", "From the request to its answer.", [(id, it.first_byte) for id, it in each]),
        ("request_duration_seconds", "From the request to the answer's end.", [(id, it.request) for id, it in each]),
        ("load_seconds", "From the start of its process until it is ready.", [(id, it.load) for id, it in each]),
    ):
        yield _histogram(f"model_{name}", text, durations)


def _histogram(name: str, text: str, durations: Iterable[tuple[str, Durations]]) -> Metric:
    family = HistogramMetricFamily(f"llamaswap_{name}", text, labels=["model"])
    for model, it in durations:
        if any(it.counts):  # a model that was never used is a line in each counter, and enough
            bounds = [*map(str, it.bounds), "+Inf"]
            family.add_metric([model], list(zip(bounds, accumulate(it.counts), strict=True)), it.total_s)
    return family
