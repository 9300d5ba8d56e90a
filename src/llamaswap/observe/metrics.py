"""Counts of what models have done since the server began: plain numbers, added to as things happen.

A request costs about a microsecond here, all of it when its answer is read; there is nothing to lock, since all
of it happens in Trio's thread. `prometheus.py` shows them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import get_args

from llamaswap.errors import NotStarted
from llamaswap.observe.answer import Finished, Outcome
from llamaswap.observe.modellog import ModelObserver
from llamaswap.observe.rows import Tokens

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
EVICTIONS = ("swap", "ttl", "unload", "reload", "shutdown")
TOKENS = ("in", "out", "cached")

# Seconds. A token takes tens of milliseconds, a prompt seconds, a load up to minutes.
WAIT_S = (0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
REQUEST_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LOAD_S = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Durations:
    """How often something took how long."""

    __slots__ = ("bounds", "counts", "total_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Of each bucket alone, the last for what took longer than any bound."""
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        self.total_s += seconds
        self.counts[bisect_left(self.bounds, seconds)] += 1

    def copy(self) -> Durations:
        other = Durations(self.bounds)
        other.counts, other.total_s = self.counts[:], self.total_s
        return other


class ModelCounts:
    """One model's."""

    __slots__ = ("crashes", "evictions", "failed_loads", "first_byte", "load", "outcomes", "queue", "request", "tokens")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.queue = Durations(WAIT_S)
        self.first_byte = Durations(REQUEST_S)
        self.request = Durations(REQUEST_S)
        self.load = Durations(LOAD_S)
        self.failed_loads = 0
        self.evictions = dict.fromkeys(EVICTIONS, 0)
        self.crashes = 0
        self.tokens = dict.fromkeys(TOKENS, 0)

    def copy(self) -> ModelCounts:
        other = ModelCounts()
        for name in ModelCounts.__slots__:
            value = getattr(self, name)
            setattr(other, name, value if isinstance(value, int) else value.copy())
        return other


class Metrics(ModelObserver):
    """Of all models of the configuration; what happens to any other is not counted, so that no client can
    make it grow. Attach it to `fleet.observers`, and `count` to whoever reads the answers."""

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._models: dict[str, ModelCounts] = {}
        self.configure(models)

    def configure(self, models: Iterable[str]) -> None:
        """These are the ids of the models now; those that stay keep their counts."""
        self._models = {id: self._models.get(id) or ModelCounts() for id in models}

    def snapshot(self) -> dict[str, ModelCounts]:
        """A copy, for another thread to read."""
        return {id: counts.copy() for id, counts in self._models.items()}

    # -- requests

    def count(self, request: Finished, tokens: Tokens, error: str) -> None:
        """A request is over, and its answer read: what it cost and what it says went wrong. For `Recorder.on_read`."""
        counts = self._models.get(request.model)
        if counts is None:
            return
        outcome = request.outcome
        if error and outcome == "ok":
            outcome = "upstream_error"  # within a stream whose status had been told
        counts.outcomes[outcome] += 1
        totals = counts.tokens
        asked, made, cached = tokens.input_tokens, tokens.output_tokens, tokens.cache_tokens
        if asked > 0:
            totals["in"] += asked
        if made > 0:
            totals["out"] += made
        if cached > 0:
            totals["cached"] += cached
        if outcome == "rejected":
            return  # it did not wait for the model to take so long
        # Written out, not `Durations.add`: three calls are half of what this costs.
        spent_s, first_s, queue_s = request.spent_s, request.first_byte_s, request.queue_s
        durations = counts.request
        durations.total_s += spent_s
        durations.counts[bisect_left(REQUEST_S, spent_s)] += 1
        if first_s is not None:
            durations = counts.first_byte
            durations.total_s += first_s
            durations.counts[bisect_left(REQUEST_S, first_s)] += 1
        durations = counts.queue
        durations.total_s += queue_s
        durations.counts[bisect_left(WAIT_S, queue_s)] += 1

    # -- processes

    def ready(self, model: str, load_s: float) -> None:
        if model in self._models:
            self._models[model].load.add(load_s)

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        if model in self._models and reason in EVICTIONS:
            self._models[model].evictions[reason] += 1

    def failed(self, model: str, error: NotStarted) -> None:
        if model in self._models:
            self._models[model].failed_loads += 1

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        if model in self._models:
            self._models[model].crashes += 1
