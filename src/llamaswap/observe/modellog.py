"""What happens to models: the interface by which anybody may listen, and a memory of load times and failures."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from llamaswap.errors import NotStarted

LOADS_KEPT = 9  # odd, so that the median is a load that happened; few, so that a faster disk shows soon


class ModelObserver:
    """Hears what happens to the processes of models; override what you need, the rest does nothing.

    Attach with `fleet.observers.append(it)`. Called synchronously in Trio's thread: be quick, do not raise, do
    not change the fleet, and look at states in `fleet.on_change` (here they may be those of a moment ago).
    Each process goes through `started`, then `ready` if it got so far, then exactly one of `stopped`,
    `failed` (never ready) and `crashed` (had been ready). A crash is told once its last output has been
    read: the model may have been started again by then.
    """

    def started(self, model: str) -> None:
        """A process is about to be spawned; it has no pid yet."""

    def ready(self, model: str, load_s: float) -> None:
        """It serves; `load_s` since `started`."""

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        """It is gone because it was told to: "swap" (an eviction, for `for_model`), "ttl", "unload",
        "shutdown" or "reload". That may have been while it was still loading."""

    def failed(self, model: str, error: NotStarted) -> None:
        """It did not become ready: it exited, took too long, or could not be spawned. `error` has the exit code
        and the last lines of output."""

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        """It had been ready and ended by itself; or (None) no longer accepted connections and was ended."""


class Observers(ModelObserver):
    """All that listen, as one."""

    def __init__(self) -> None:
        self._all: list[ModelObserver] = []

    def append(self, observer: ModelObserver) -> None:
        self._all.append(observer)

    def started(self, model: str) -> None:
        for it in self._all:
            it.started(model)

    def ready(self, model: str, load_s: float) -> None:
        for it in self._all:
            it.ready(model, load_s)

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        for it in self._all:
            it.stopped(model, reason, for_model)

    def failed(self, model: str, error: NotStarted) -> None:
        for it in self._all:
            it.failed(model, error)

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        for it in self._all:
            it.crashed(model, exit_code, output)


@dataclass(frozen=True, slots=True)
class LastError:
    """Why a model is not running although nobody stopped it."""

    message: str
    """One line; the output is not repeated in it."""
    exit_code: int | None
    output: str
    at: float
    """Seconds since the epoch."""
    failed_start: bool
    """Whether it never became ready."""


class ModelLog(ModelObserver):
    """How long each model's last loads took, and what went wrong last. Bounded; memory only.

    A store that remembers more calls `remember` at start, oldest first.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._loads: dict[str, deque[float]] = {}
        self._errors: dict[str, LastError] = {}

    def remember(self, model: str, loads_s: Iterable[float]) -> None:
        """Loads of the past, oldest first."""
        self._loads.setdefault(model, deque(maxlen=LOADS_KEPT)).extend(loads_s)

    def typical_load_s(self, model: str) -> float | None:
        """The median of its last loads; None before the first."""
        loads = self._loads.get(model)
        return median(loads) if loads else None

    def last_error(self, model: str) -> LastError | None:
        """What went wrong last; forgotten when the model is ready again."""
        return self._errors.get(model)

    def ready(self, model: str, load_s: float) -> None:
        self.remember(model, (load_s,))
        self._errors.pop(model, None)

    def failed(self, model: str, error: NotStarted) -> None:
        self._errors[model] = LastError(error.summary, error.exit_code, error.output, self._clock(), failed_start=True)

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        how = "no longer accepted connections" if exit_code is None else f"ended by itself with {_how(exit_code)}"
        self._errors[model] = LastError(f"model '{model}' {how}", exit_code, output, self._clock(), failed_start=False)


def _how(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
