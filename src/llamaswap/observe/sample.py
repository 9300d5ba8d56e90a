"""One sample of the machine and of the models on it: what it holds, and who takes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil
import trio

from llamaswap.config.settings import ModelConfig
from llamaswap.observe.gpu import MIB, Gpu
from llamaswap.observe.gpus import Gpus, default_sources
from llamaswap.observe.hardware import Facts, read_facts
from llamaswap.observe.machine import (
    Disk,
    ProcessReader,
    System,
    SystemReader,
    Tree,
    model_paths,
    read_disks,
)
from llamaswap.observe.worker import THREADS, Worker


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What a model's process tree uses."""

    pid: int
    """The tree's root."""
    cpu_percent: float | None
    """100: one core."""
    rss_bytes: int
    gpu_bytes: int | None
    """None: nobody tells of GPU memory of these processes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything at one moment. A part that could not be had in time is empty or None."""

    system: System | None = None
    disks: tuple[Disk, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    models: Mapping[str, ModelUse] = field(default_factory=dict)


class Reader(Protocol):
    """Takes samples."""

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """These are the models now."""
        ...

    async def read(self, processes: Mapping[str, int]) -> Sample:
        """Take one; `processes` are the models' process ids. Cancel-safe, one task at a time."""
        ...

    async def facts(self) -> Facts:
        """What the machine consists of. Cancel-safe."""
        ...


class MachineReader:
    """The real one: psutil and files in worker threads, tools as processes. Bounded in time, never raises."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        self._gpus = Gpus(default_sources(psutil.virtual_memory().total)) if gpus is None else gpus
        self._system = Worker(SystemReader().read)
        self._processes = Worker(ProcessReader().read)
        self._disks = Worker(read_disks)
        self._paths: tuple[str, ...] = model_paths(())

    def configure(self, models: Iterable[ModelConfig]) -> None:
        """See `Reader`."""
        self._paths = model_paths(models)

    async def read(self, processes: Mapping[str, int]) -> Sample:
        """See `Reader`."""
        system: System | None = None
        disks: tuple[Disk, ...] | None = None

        async def read_system() -> None:
            nonlocal system
            system = await self._system.run()

        async def read_mounts() -> None:
            nonlocal disks
            disks = await self._disks.run(self._paths)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_system)
            nursery.start_soon(read_mounts)
            trees = await self._processes.run(dict(processes)) or {}
            reading = await self._gpus.read([pid for tree in trees.values() for pid in tree.pids])
        models = {id: _use(processes[id], tree, reading.by_pid) for id, tree in trees.items()}
        return Sample(system, disks or (), reading.gpus, models)

    async def facts(self) -> Facts:
        """See `Reader`."""
        return await trio.to_thread.run_sync(read_facts, abandon_on_cancel=True, limiter=THREADS)


def _use(pid: int, tree: Tree, by_pid: Mapping[int, int]) -> ModelUse:
    held = [by_pid[member] for member in tree.pids if member in by_pid]
    return ModelUse(pid, tree.cpu_percent, tree.rss_bytes, sum(held) if held else None)


# -- as the API shows it


def system_record(system: System, disks: Iterable[Disk]) -> dict[str, Any]:
    """llama-swap's names and units; `disk_io` and `disks` are ours."""
    load = system.load or (None, None, None)
    io = None
    if system.read_bytes_per_s is not None and system.write_bytes_per_s is not None:
        io = {
            "read_bytes_per_s": round(system.read_bytes_per_s),
            "write_bytes_per_s": round(system.write_bytes_per_s),
        }
    return {
        "cpu_util_per_core": list(system.cores),
        "mem_total_mb": system.mem_total_bytes // MIB,
        "mem_used_mb": (system.mem_total_bytes - system.mem_available_bytes) // MIB,
        "mem_free_mb": system.mem_available_bytes // MIB,
        "swap_total_mb": system.swap_total_bytes // MIB,
        "swap_used_mb": system.swap_used_bytes // MIB,
        "load_avg_1": _rounded(load[0]),
        "load_avg_5": _rounded(load[1]),
        "load_avg_15": _rounded(load[2]),
        "net_io": [
            {"name": it.name, "bytes_recv": it.bytes_recv, "bytes_sent": it.bytes_sent} for it in system.interfaces
        ],
        "disk_io": io,
        "disks": [
            {"path": it.path, "total_bytes": it.total_bytes, "used_bytes": it.used_bytes, "free_bytes": it.free_bytes}
            for it in disks
        ],
    }


def gpu_record(gpu: Gpu) -> dict[str, Any]:
    """llama-swap's names and units, null for what is not known; `vendor` and `unified` are ours."""
    return {
        "id": gpu.index,
        "name": gpu.name,
        "uuid": gpu.uuid,
        "vendor": gpu.vendor,
        "temp_c": gpu.temp_c,
        "vram_temp_c": gpu.vram_temp_c,
        "gpu_util_pct": gpu.util_percent,
        "mem_util_pct": gpu.mem_util_percent,
        "mem_used_mb": None if gpu.mem_used_bytes is None else gpu.mem_used_bytes // MIB,
        "mem_total_mb": None if gpu.mem_total_bytes is None else gpu.mem_total_bytes // MIB,
        "fan_speed_pct": gpu.fan_percent,
        "power_draw_w": gpu.power_w,
        "unified": gpu.unified,
    }


def model_record(model: str, use: ModelUse) -> dict[str, Any]:
    return {
        "model": model,
        "cpu_percent": use.cpu_percent,
        "rss_bytes": use.rss_bytes,
        "gpu_bytes": use.gpu_bytes,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
