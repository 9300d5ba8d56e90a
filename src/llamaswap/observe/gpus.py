"""All GPUs of the machine: who is asked, in which order, and how often those who have nothing to tell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import trio

from llamaswap.observe.gpu import Gpu, Reading, Source
from llamaswap.observe.gpu_amd import AmdSmi, RocmSmi
from llamaswap.observe.gpu_apple import Ioreg
from llamaswap.observe.gpu_nvidia import NvidiaSmi
from llamaswap.observe.gpu_sysfs import Sysfs

log = logging.getLogger("llamaswap.observe")

FIRST_PAUSE_S = 30.0  # after a source had nothing to tell; doubled each time, since that rarely changes
LONGEST_PAUSE_S = 900.0  # a driver may be loaded, or repaired, while we run
READ_S = 15.0  # for all tools of a source together


def default_sources(machine_bytes: int) -> tuple[tuple[Source, ...], ...]:
    """Whom to ask on this system. Of each group the first that tells anything speaks for it."""
    if sys.platform == "darwin":
        return ((Ioreg(machine_bytes),),)
    return (NvidiaSmi(machine_bytes),), (Sysfs(), AmdSmi(), RocmSmi())


class Gpus:
    """Asks the sources. A source that is missing, fails or hangs is silence, and is asked less and less often."""

    def __init__(self, groups: Sequence[Sequence[Source]], *, clock: Callable[[], float] = trio.current_time) -> None:
        self._groups = [[_Asked(source, clock) for source in group] for group in groups]

    async def read(self, pids: Collection[int]) -> Reading:
        """Every GPU there is to be seen, numbered through, and what `pids` hold of their memory. Cancel-safe."""
        told: list[Reading | None] = [None] * len(self._groups)

        async def ask(place: int, group: list[_Asked]) -> None:
            for asked in group:
                told[place] = await asked.read(pids)
                if told[place] is not None:
                    return

        async with trio.open_nursery() as nursery:
            for place, group in enumerate(self._groups):
                nursery.start_soon(ask, place, group)
        gpus: list[Gpu] = []
        by_pid: dict[int, int] = {}
        for reading in told:
            if reading is None:
                continue
            first = gpus[-1].index + 1 if gpus else 0
            gpus.extend(replace(gpu, index=first + gpu.index) for gpu in reading.gpus)
            for pid, used in reading.by_pid.items():
                by_pid[pid] = by_pid.get(pid, 0) + used
        return Reading(tuple(gpus), by_pid)


class _Asked:
    """One source, and when it may be asked again."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._last: Reading | None = None
        self._next = float("-inf")
        self._pause_s = FIRST_PAUSE_S

    async def read(self, pids: Collection[int]) -> Reading | None:
        if self._clock() < self._next:
            return self._last
        reading: Reading | None = None
        try:
            with trio.move_on_after(READ_S):
                reading = await self._source.read(pids)
        except Exception:  # a task boundary: somebody else's files and output; the sampler goes on without them
            log.debug("%s failed", self._source.name, exc_info=True)
        told_before, self._last = self._last is not None, reading
        if reading is not None:
            self._pause_s = FIRST_PAUSE_S
            self._next = self._clock() + self._source.rest_s
        elif not told_before:  # else it may be a hiccup, and it is asked once more at once
            self._next = self._clock() + self._pause_s
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        return reading
