"""NVIDIA GPUs, as nvidia-smi tells of them.

The columns are those of `nvidia-smi --help-query-gpu`. What a card does not have is `[N/A]`, on older drivers
`[Not Supported]`; what we may not see (MIG in a container) is `[Insufficient Permissions]`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import trio

from llamaswap.observe.gpu import MIB, Gpu, Reading, number
from llamaswap.observe.tools import run_tool

COLUMNS: tuple[str, ...] = (
    *("index", "name", "uuid", "driver_version", "temperature.gpu", "temperature.memory"),
    *("utilization.gpu", "utilization.memory", "memory.used", "memory.total", "fan.speed", "power.draw"),
)
_LATE_COLUMNS = frozenset({"temperature.memory"})  # drivers before 2019 refuse the whole query for it
_NO_OWN_MEMORY = frozenset({"[N/A]", "N/A", "[Not Supported]"})
_CSV = "--format=csv,noheader,nounits"


def parse_gpus(text: str, columns: tuple[str, ...] = COLUMNS) -> list[Gpu]:
    """The rows of `--query-gpu=<columns> --format=csv,noheader,nounits`; lines that are no rows (errors about
    one card among several, warnings) are passed over."""
    gpus = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != len(columns) or not cells[0].isdigit():
            continue
        row = dict(zip(columns, cells, strict=True))
        used, total = number(row["memory.used"]), number(row["memory.total"])
        gpus.append(
            Gpu(
                index=int(row["index"]),
                vendor="nvidia",
                name=row["name"],
                uuid=_text(row["uuid"]),
                driver=_text(row["driver_version"]),
                temp_c=number(row["temperature.gpu"]),
                vram_temp_c=number(row.get("temperature.memory")),
                util_percent=number(row["utilization.gpu"]),
                mem_util_percent=number(row["utilization.memory"]),
                mem_used_bytes=None if used is None else int(used * MIB),
                mem_total_bytes=None if total is None else int(total * MIB),
                fan_percent=number(row["fan.speed"]),
                power_w=number(row["power.draw"]),
                unified=row["memory.total"] in _NO_OWN_MEMORY,
            )
        )
    return gpus


def parse_processes(text: str) -> dict[tuple[str, int], int]:
    """(GPU uuid, pid) -> bytes, from `--query-compute-apps=gpu_uuid,pid,used_memory`, nounits.

    Rows without a number (WSL, a process of somebody else's) are left out. With MIG a process has one row
    for each of its instances, which are added up.
    """
    found: dict[tuple[str, int], int] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 3 or not cells[1].isdigit():
            continue
        used = number(cells[2])
        if used is not None:
            key = cells[0], int(cells[1])
            found[key] = found.get(key, 0) + int(used * MIB)
    return found


def with_machine_memory(gpus: list[Gpu], processes: Mapping[tuple[str, int], int], machine_bytes: int) -> list[Gpu]:
    """GPUs without memory of their own (GB10, Jetson) use the machine's: what their processes hold of it."""
    told = []
    for gpu in gpus:
        if gpu.unified and machine_bytes:
            used = sum(size for (uuid, _), size in processes.items() if uuid == gpu.uuid)
            gpu = replace(gpu, mem_used_bytes=used, mem_total_bytes=machine_bytes)
        told.append(gpu)
    return told


def _text(cell: str) -> str:
    return "" if cell.startswith("[") else cell


class NvidiaSmi:
    """nvidia-smi, asked once a sample: a process that loops would keep a laptop's card from ever sleeping."""

    name = "nvidia-smi"
    rest_s = 0.0

    def __init__(self, machine_bytes: int) -> None:
        """`machine_bytes`: the machine's memory, for GPUs that share it."""
        self._machine_bytes = machine_bytes
        self._columns = COLUMNS

    async def read(self, pids: Collection[int]) -> Reading | None:
        """See `Source.read`."""
        gpus: list[Gpu] = []
        processes: dict[tuple[str, int], int] = {}

        async def ask_gpus() -> None:
            text = await run_tool("nvidia-smi", f"--query-gpu={','.join(self._columns)}", _CSV)
            if text is not None and "not a valid field" in text and self._columns == COLUMNS:
                self._columns = tuple(name for name in COLUMNS if name not in _LATE_COLUMNS)
                text = await run_tool("nvidia-smi", f"--query-gpu={','.join(self._columns)}", _CSV)
            gpus.extend(parse_gpus(text or "", self._columns))

        async def ask_processes() -> None:
            text = await run_tool("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,used_memory", _CSV)
            processes.update(parse_processes(text or ""))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_gpus)
            if pids:
                nursery.start_soon(ask_processes)
        if not gpus:
            return None
        by_pid: dict[int, int] = {}
        for (_, pid), used in processes.items():
            by_pid[pid] = by_pid.get(pid, 0) + used
        return Reading(tuple(with_machine_memory(gpus, processes, self._machine_bytes)), by_pid)
