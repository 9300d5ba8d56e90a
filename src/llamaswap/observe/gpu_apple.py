"""Apple's GPUs, as far as they can be read without root: ioreg tells how busy they are and what they hold.

Temperature, fan and power are only for powermetrics, which wants root. Memory is the machine's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection

from llamaswap.observe.gpu import Gpu, Reading
from llamaswap.observe.tools import run_tool

_STATISTICS = re.compile(r'"PerformanceStatistics"\s*=\s*\{([^}]*)\}')
_MODEL = re.compile(r'"model"\s*=\s*<?"([^"]+)"')


def parse_ioreg(text: str, machine_bytes: int) -> list[Gpu]:
    """`ioreg -r -d 1 -w 0 -c IOAccelerator`: one block for each accelerator, headed by `+-o <class>`.

    An Intel Mac has one for each of its cards; what those hold is system memory too, as far as it is told.
    """
    gpus: list[Gpu] = []
    for block in re.split(r"^\+-o ", text, flags=re.MULTILINE)[1:]:
        statistics = _STATISTICS.search(block)
        if statistics is None:
            continue
        model = _MODEL.search(block)
        kind = block.split(None, 1)[0]
        util = _value(statistics[1], "Device Utilization %")
        gpus.append(
            Gpu(
                index=len(gpus),
                vendor="apple" if kind.startswith("AGX") else "",
                name=model[1].rstrip("\0") if model else "Apple GPU" if kind.startswith("AGX") else kind,
                util_percent=_value(statistics[1], "Renderer Utilization %") if util is None else util,
                mem_used_bytes=_value(statistics[1], "In use system memory"),
                mem_total_bytes=machine_bytes or None,
                unified=True,
            )
        )
    return gpus


def _value(statistics: str, key: str) -> int | None:
    found = re.search(rf'"{re.escape(key)}"\s*=\s*([0-9]+)', statistics)
    return int(found[1]) if found else None


class Ioreg:
    """macOS only."""

    name = "ioreg"
    rest_s = 0.0

    def __init__(self, machine_bytes: int) -> None:
        self._machine_bytes = machine_bytes

    async def read(self, pids: Collection[int]) -> Reading | None:
        """See `Source.read`."""
        if sys.platform != "darwin":
            return None
        text = await run_tool("ioreg", "-r", "-d", "1", "-w", "0", "-c", "IOAccelerator")
        gpus = parse_ioreg(text or "", self._machine_bytes)
        return Reading(tuple(gpus)) if gpus else None
