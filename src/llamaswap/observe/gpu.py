"""What is known of a GPU at one moment, whoever tells it, and the reading of numbers that may be missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

MIB = 1 << 20

_UNITS = {"": 1, "B": 1, "KB": 1 << 10, "KIB": 1 << 10, "MB": MIB, "MIB": MIB, "GB": 1 << 30, "GIB": 1 << 30}
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment. None: not told, by this card, this driver, or to us."""

    index: int
    """The vendor's number; from 0."""
    vendor: str
    """nvidia, amd or apple."""
    name: str
    uuid: str = ""
    """Stays the same over restarts; empty if the card has none."""
    driver: str = ""
    temp_c: float | None = None
    vram_temp_c: float | None = None
    util_percent: float | None = None
    mem_util_percent: float | None = None
    """How busy the memory's controller is; not how full the memory is."""
    mem_used_bytes: int | None = None
    mem_total_bytes: int | None = None
    fan_percent: float | None = None
    power_w: float | None = None
    unified: bool = False
    """Its memory is the machine's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source told."""

    gpus: tuple[Gpu, ...] = ()
    by_pid: Mapping[int, int] = field(default_factory=dict)
    """Process id -> bytes of GPU memory, where that is told."""


class Source(Protocol):
    """Somewhere GPUs can be read."""

    name: str
    rest_s: float
    """A reading is used for so long before the next is made: some tools cost a second of CPU."""

    async def read(self, pids: Collection[int]) -> Reading | None:
        """What there is now, `pids` being the processes whose memory is asked for; None: nothing to be had.

        Never raises for what a tool or a file does; bounded in time; cancel-safe.
        """
        ...


def number(text: object) -> float | None:
    """A number as these tools write it; None for `[N/A]`, `[Not Supported]`, an error, or nothing."""
    if isinstance(text, bool) or text is None:
        return None
    if isinstance(text, int | float):
        return float(text)
    if not isinstance(text, str):
        return None
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def measure(value: object) -> float | None:
    """amd-smi's `{"value": 42, "unit": "%"}`, or the bare number of its older versions."""
    return number(value.get("value")) if isinstance(value, dict) else number(value)


def size(value: object, unit: str = "MB") -> int | None:
    """Bytes of amd-smi's `{"value": 16368, "unit": "MB"}` (it means MiB), or of a bare number of `unit`."""
    if isinstance(value, dict):
        unit = str(value.get("unit") or unit)
    amount = measure(value)
    factor = _UNITS.get(unit.strip().upper())
    return None if amount is None or factor is None else int(amount * factor)


def at(value: Any, *path: str) -> Any:
    """What lies at `path` in nested mappings; None as soon as there is none (`"usage": "N/A"`)."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value
