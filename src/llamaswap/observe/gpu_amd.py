"""AMD GPUs through amd-smi or rocm-smi, for where the kernel's own files (`gpu_sysfs`) are out of sight.

Both tools are Python programs that cost about a second of CPU, so a reading of theirs is used for a while.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from llamaswap.observe.gpu import Gpu, Reading, at, measure, number, size
from llamaswap.observe.tools import run_tool

SMI_REST_S = 15.0


# -- amd-smi


def parse_amd_smi(metric: str, static: str = "", listed: str = "") -> list[Gpu]:
    """`amd-smi metric --json`, with names from `amd-smi static --asic --json` and ids from
    `amd-smi list --json`, where they can be had.

    ROCm 6 prints a list, ROCm 7 an object with `gpu_data`; every value may be the text "N/A".
    """
    names = {entry["gpu"]: at(entry, "asic", "market_name") for entry in _entries(static)}
    uuids = {entry["gpu"]: entry.get("uuid") for entry in _entries(listed)}
    gpus = []
    for entry in _entries(metric):
        index: int = entry["gpu"]
        memory, temperature, power = entry.get("mem_usage"), entry.get("temperature"), entry.get("power")
        hot = measure(at(temperature, "hotspot"))
        edge = measure(at(temperature, "edge"))
        gpus.append(
            Gpu(
                index=index,
                vendor="amd",
                name=_known(names.get(index)) or f"AMD GPU {index}",
                uuid=_known(uuids.get(index)),
                temp_c=hot if edge is None else edge,
                vram_temp_c=measure(at(temperature, "mem")),
                util_percent=measure(at(entry, "usage", "gfx_activity")),
                mem_util_percent=measure(at(entry, "usage", "umc_activity")),
                mem_used_bytes=size(at(memory, "used_vram")),
                mem_total_bytes=size(at(memory, "total_vram")),
                fan_percent=measure(at(entry, "fan", "usage")),
                power_w=measure(at(power, "socket_power")) or measure(at(power, "current_socket_power")),
            )
        )
    return gpus


def parse_amd_smi_processes(text: str) -> dict[int, int]:
    """Process id -> bytes of VRAM over all GPUs, from `amd-smi process --json`."""
    found: dict[int, int] = {}
    for entry in _entries(text):
        listed = entry.get("process_list")
        for item in listed if isinstance(listed, list) else ():
            info = at(item, "process_info")
            pid, used = at(info, "pid"), size(at(info, "memory_usage", "vram_mem"), "B")
            if isinstance(pid, int) and used is not None:
                found[pid] = found.get(pid, 0) + used
    return found


def _entries(text: str) -> list[dict[str, Any]]:
    parsed = _json(text)
    if isinstance(parsed, dict):
        parsed = parsed.get("gpu_data", [parsed] if "gpu" in parsed else None)
    if not isinstance(parsed, list):
        return []
    return [entry for entry in parsed if isinstance(entry, dict) and isinstance(entry.get("gpu"), int)]


class AmdSmi:
    """amd-smi of ROCm 6 and later."""

    name = "amd-smi"
    rest_s = SMI_REST_S

    def __init__(self) -> None:
        self._static: str | None = None
        self._listed = ""

    async def read(self, pids: Collection[int]) -> Reading | None:
        """See `Source.read`."""
        metric = await run_tool("amd-smi", "metric", "--json")
        if not metric or not parse_amd_smi(metric):
            return None
        if self._static is None:
            self._static = await run_tool("amd-smi", "static", "--asic", "--json") or ""
            self._listed = await run_tool("amd-smi", "list", "--json") or ""
        told = await run_tool("amd-smi", "process", "--json") if pids else None
        return Reading(
            tuple(parse_amd_smi(metric, self._static, self._listed)),
            parse_amd_smi_processes(told or ""),
        )


# -- rocm-smi

_POWER = (
    "Current Socket Graphics Package Power (W)",
    "Average Graphics Package Power (W)",
    "Average Socket Graphics Package Power (W)",
)
_TEMPERATURE = ("Temperature (Sensor edge) (C)", "Temperature (Sensor junction) (C)")
_NAME = ("Card Series", "Card series", "Device Name", "Card Model", "Card model")


def parse_rocm_smi(text: str) -> Reading | None:
    """`rocm-smi --json` with the options that `RocmSmi` gives; numbers are texts, what is missing is absent
    or "N/A". With --showpids the processes are under `system`: "name, GPUs, VRAM bytes, …".

    None if it is no such output: without cards it prints a line of text, with or without JSON after it.
    """
    parsed = _json(text[text.find("{") :])
    if not isinstance(parsed, dict):
        return None
    gpus = []
    for key, card in parsed.items():
        if not (key.startswith("card") and key[4:].isdigit() and isinstance(card, dict)):
            continue
        used, total = (number(card.get(f"VRAM Total {what}Memory (B)")) for what in ("Used ", ""))
        gpus.append(
            Gpu(
                index=int(key[4:]),
                vendor="amd",
                name=_first_text(card, _NAME) or f"AMD GPU {key[4:]}",
                uuid=_known(card.get("Unique ID")),
                temp_c=_first_number(card, _TEMPERATURE),
                vram_temp_c=number(card.get("Temperature (Sensor memory) (C)")),
                util_percent=number(card.get("GPU use (%)")),
                mem_util_percent=number(card.get("GPU Memory Read/Write Activity (%)")),
                mem_used_bytes=None if used is None else int(used),
                mem_total_bytes=None if total is None else int(total),
                fan_percent=number(card.get("Fan speed (%)")),
                power_w=_first_number(card, _POWER),
            )
        )
    by_pid: dict[int, int] = {}
    system = parsed.get("system")
    for key, told in system.items() if isinstance(system, dict) else ():
        if key.startswith("PID") and key[3:].isdigit() and isinstance(told, str):
            cells = [cell.strip() for cell in told.rsplit(",", 4)]  # a name may hold commas
            held = number(cells[2]) if len(cells) == 5 else None
            if held is not None:
                by_pid[int(key[3:])] = int(held)
    return Reading(tuple(gpus), by_pid) if gpus else None


class RocmSmi:
    """rocm-smi, which older ROCm has."""

    name = "rocm-smi"
    rest_s = SMI_REST_S
    _OPTIONS = (
        *("--showproductname", "--showuniqueid", "--showtemp", "--showuse", "--showmemuse", "--showfan", "--showpower"),
        *("--showmeminfo", "vram", "--showpids", "--json"),
    )

    async def read(self, pids: Collection[int]) -> Reading | None:
        """See `Source.read`."""
        text = await run_tool("rocm-smi", *self._OPTIONS)
        return parse_rocm_smi(text) if text else None


# -- both


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _known(value: object) -> str:
    return value if isinstance(value, str) and value not in ("N/A", "") else ""


def _first_text(card: dict[str, Any], keys: Collection[str]) -> str:
    return next((text for key in keys if (text := _known(card.get(key))) and not text.startswith("0x")), "")


def _first_number(card: dict[str, Any], keys: Collection[str]) -> float | None:
    return next((value for key in keys if (value := number(card.get(key))) is not None), None)
