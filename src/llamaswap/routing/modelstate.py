"""What the scheduler remembers about one model."""

from __future__ import annotations

from llamaswap.config.settings import ModelConfig
from llamaswap.routing.lifecycle import State
from llamaswap.routing.policy import LoadedModel
from llamaswap.routing.tickets import Ticket


def age(ticket: Ticket) -> tuple[float, int]:
    """Sorts the oldest first."""
    return ticket.submitted_at, ticket.seq


def turn(ticket: Ticket) -> tuple[int, float, int]:
    """Sorts those of one model in the order in which they are served."""
    return -(ticket.priority or 0), ticket.submitted_at, ticket.seq


class ModelState:
    """One model's part of the state."""

    __slots__ = (
        "fence",
        "id",
        "idle_since",
        "in_flight",
        "limit",
        "open",
        "priority",
        "queue",
        "ready_at",
        "state",
        "ttl_s",
        "waits_for",
    )

    def __init__(self, config: ModelConfig, priority: int) -> None:
        self.id = config.id
        self.limit = config.concurrency_limit
        self.ttl_s = config.ttl_s
        self.priority = priority
        self.state = State.STOPPED
        self.queue: list[Ticket] = []
        """Oldest first."""
        self.in_flight = 0
        self.ready_at: float | None = None
        self.idle_since: float | None = None
        self.waits_for: frozenset[str] | None = None
        """Set while its start is decided but its victims still stop: it has its place already."""
        self.fence: Ticket | None = None
        """The overdue ticket for which this model must go."""
        self.open = False
        """Ready, not fenced, nobody waits: a request may go at once. Kept by `_reconcile`."""

    def loaded(self) -> bool:
        return self.state in (State.STARTING, State.READY, State.STOPPING)

    def placed(self) -> bool:
        """Loaded, or about to be: it counts for everybody who wants a place."""
        return self.waits_for is not None or self.loaded()

    def needs_place(self) -> bool:
        """Somebody waits, and no process is there or on its way to serve him."""
        return bool(self.queue) and self.waits_for is None and self.state in (State.STOPPED, State.STOPPING)

    def ttl_deadline(self) -> float | None:
        if self.ttl_s <= 0 or self.state is not State.READY or self.idle_since is None or self.queue:
            return None
        return self.idle_since + self.ttl_s

    def record(self) -> LoadedModel:
        if self.loaded():
            return LoadedModel(self.id, self.state, self.in_flight, self.idle_since)
        return LoadedModel(self.id, State.STARTING, max(1, self.in_flight))
