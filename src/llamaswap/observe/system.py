"""The monitor: one task that looks at the machine and at the models on it, and remembers an hour of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import trio

from llamaswap.config.settings import Config, ModelConfig, Performance
from llamaswap.errors import NotStarted
from llamaswap.observe.hardware import describe
from llamaswap.observe.history import History
from llamaswap.observe.modellog import ModelObserver
from llamaswap.observe.sample import MachineReader, Reader, Sample, gpu_record, model_record, system_record

log = logging.getLogger("llamaswap.observe")

FIRST_S = 1.0  # until the first sample with rates: somebody may be looking already


class Monitor(ModelObserver):
    """What the machine does. Everything but `run` is synchronous and for Trio's thread.

    Attach it to `fleet.observers` for the marks.
    """

    def __init__(
        self,
        settings: Performance = Performance(disabled=True),  # noqa: B008 - frozen
        *,
        pid: Callable[[str], int | None] = lambda model: None,
        reader: Reader | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`pid` tells a model's process id at the moment, if it has one; `reader` and `clock` (seconds since
        the epoch) stand in for the machine's."""
        self._settings = settings
        self._pid = pid
        self._reader = reader
        self._clock = clock
        self._models: tuple[ModelConfig, ...] = ()
        self._pace = trio.CancelScope()
        self._history = History("sys_stats", "gpu_stats", "models")
        self._loaded: set[str] = set()
        self._known = trio.Event()
        self.latest: Sample | None = None
        """The last sample; None before the first, and while the monitor is switched off."""
        self.hardware: dict[str, Any] | None = None
        """What the machine consists of, as /api/hardware tells it; None until it is known."""

    @property
    def enabled(self) -> bool:
        return not self._settings.disabled

    @property
    def every_s(self) -> float:
        return self._settings.every_s

    def configure(self, config: Config) -> None:
        """Follow these settings from now on; switched off, it forgets what it knew."""
        self._models = tuple(config.models.values())
        if self._reader is not None:
            self._reader.configure(self._models)
        if config.performance == self._settings:
            return
        self._settings = config.performance
        if not self.enabled:
            self.latest = self.hardware = None
            self._history.clear()
            self._known = trio.Event()
        self._pace.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take samples until cancelled."""
        task_status.started()
        while True:
            with trio.CancelScope() as self._pace:
                await self._sample()

    async def _sample(self) -> None:
        if not self.enabled:
            await trio.sleep_forever()
        if self._reader is None:
            self._reader = MachineReader()
            self._reader.configure(self._models)
        await self._look(keep=False)  # rates need a moment before
        due = trio.current_time() + min(FIRST_S, self.every_s)
        while True:
            await trio.sleep_until(due)
            await self._look(keep=True)
            # A moment missed (a tool that hung, a machine that slept) is left out, not made up for.
            due = max(due + self.every_s, trio.current_time())

    async def _look(self, *, keep: bool) -> None:
        assert self._reader is not None
        processes = {model.id: pid for model in self._models if (pid := self._pid(model.id)) is not None}
        try:
            sample = await self._reader.read(processes)
            if self.hardware is None:
                self.hardware = describe(await self._reader.facts(), sample.gpus, self._clock())
                self._known.set()
        except Exception:  # a task boundary: without a sample everything else goes on
            log.exception("looking at the machine failed")
            return
        self.latest = sample
        if keep:
            system = sample.system
            self._history.add(
                self._clock(),
                [] if system is None else [system_record(system, sample.disks)],
                map(gpu_record, sample.gpus),
                (model_record(id, use) for id, use in sorted(sample.models.items())),
            )

    # -- asking

    def answer(self, after: float | None = None) -> bytes:
        """The body of /api/performance: what came later than `after` (seconds since the epoch)."""
        return self._history.answer(after, {"enabled": True, "every_s": self.every_s})

    async def hardware_known(self, patience_s: float) -> dict[str, Any] | None:
        """`hardware`, waiting for the first look at the machine if that is under way; None if it takes longer."""
        if self.enabled:
            with trio.move_on_after(patience_s):
                await self._known.wait()
        return self.hardware

    def model_memory(self, model_id: str) -> tuple[int | None, int | None]:
        """(resident, GPU) bytes of the model's process tree; None for what is not known."""
        use = self.latest.models.get(model_id) if self.latest is not None else None
        if use is None or self._pid(model_id) != use.pid:
            return None, None  # another process than the one that was looked at
        return use.rss_bytes, use.gpu_bytes

    # -- what happens to models

    def ready(self, model: str, load_s: float) -> None:
        self._loaded.add(model)
        self._mark(model, "loaded")

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        if model in self._loaded:  # else it was stopped while it loaded
            self._loaded.discard(model)
            self._mark(model, "unloaded")

    def failed(self, model: str, error: NotStarted) -> None:
        self._mark(model, "crashed")

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        self._loaded.discard(model)
        self._mark(model, "crashed")

    def _mark(self, model: str, event: str) -> None:
        if self.enabled:
            self._history.mark(self._clock(), {"model": model, "event": event})
