"""Counts of what models have done since the server began: plain numbers, added to as things happen.

A request costs well under a microsecond here, all of it when it ends; there is nothing to lock, since all of
it happens in Trio's thread. `prometheus.py` shows them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from llamaswap.errors import NotStarted
from llamaswap.observe.flights import Flight
from llamaswap.observe.modellog import ModelObserver
from llamaswap.observe.rows import Tokens

OUTCOMES = ("ok", "client_error", "upstream_error", "client_gone", "cancelled", "rejected")
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
    make it grow. Attach it to `fleet.observers`, `finished` to `flights.on_close` and `count_tokens` to
    whoever reads them from the answers."""

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

    def finished(self, flight: Flight) -> None:
        """A listener for `Flights.on_close`."""
        counts = self._models.get(flight.model)
        if counts is None or not flight.metered:
            return
        status = flight.exchange.status
        begun, granted, first = flight.begun, flight.granted_at, flight.first_byte_at
        if flight.cancelled:
            outcome = "cancelled"
        elif flight.gone:
            outcome = "client_gone"
        elif flight.exchange.broken or status < 200:
            outcome = "upstream_error"
        elif status < 400:
            outcome = "ok"
        elif granted is None and status in (429, 503):
            outcome = "rejected"
        else:
            outcome = "client_error" if status < 500 else "upstream_error"
        counts.outcomes[outcome] += 1
        if outcome == "rejected":
            return  # it did not wait for the model to take so long
        # Written out, not `Durations.add`: three calls are half of what this costs.
        ended = flight.ended_at or begun
        spent_s = ended - begun
        durations = counts.request
        durations.total_s += spent_s
        durations.counts[bisect_left(REQUEST_S, spent_s)] += 1
        if first is not None:
            spent_s = first - begun
            durations = counts.first_byte
            durations.total_s += spent_s
            durations.counts[bisect_left(REQUEST_S, spent_s)] += 1
        spent_s = (ended if granted is None else granted) - begun - flight.load_s
        if spent_s < 0:
            spent_s = 0.0  # two clocks were read
        durations = counts.queue
        durations.total_s += spent_s
        durations.counts[bisect_left(WAIT_S, spent_s)] += 1

    def count_tokens(self, model: str, tokens: Tokens) -> None:
        """What one answer said."""
        counts = self._models.get(model)
        if counts is None:
            return
        totals = counts.tokens
        if tokens.input_tokens > 0:
            totals["in"] += tokens.input_tokens
        if tokens.output_tokens > 0:
            totals["out"] += tokens.output_tokens
        if tokens.cache_tokens > 0:
            totals["cached"] += tokens.cache_tokens

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
