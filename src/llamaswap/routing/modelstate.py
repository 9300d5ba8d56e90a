"""What the scheduler remembers about one model."""

from __future__ import annotations

from llamaswap.config.diff import same_process
from llamaswap.config.settings import ModelConfig
from llamaswap.routing.lifecycle import State
from llamaswap.routing.policy import LoadedModel
from llamaswap.routing.tickets import ModelView, Ticket


def age(ticket: Ticket) -> tuple[float, int]:
    """Sorts the oldest first."""
    return ticket.submitted_at, ticket.seq


def turn(ticket: Ticket) -> tuple[int, float, int]:
    """Sorts those of one model in the order in which they are served."""
    return -(ticket.priority or 0), ticket.submitted_at, ticket.seq


class ModelState:
    """One model's part of the state."""

    __slots__ = (
        "config",
        "fence",
        "id",
        "idle_since",
        "in_flight",
        "limit",
        "open",
        "outdated",
        "priority",
        "queue",
        "ready_at",
        "runs",
        "state",
        "ttl_s",
        "waits_for",
    )

    def __init__(self, config: ModelConfig, priority: int) -> None:
        self.id = config.id
        self.config: ModelConfig | None = config
        """None: a reload has removed the model; what is left of it ends."""
        self.runs: ModelConfig | None = None
        """What the process was started with."""
        self.outdated = False
        """The process is not the configured one any more: nobody new is sent there, and it goes when it is idle."""
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

    def configure(self, config: ModelConfig | None, priority: int) -> None:
        """Go by another configuration from now on (None: the model is gone), those who wait included."""
        self.config = config
        if config is not None:
            self.limit = config.concurrency_limit
            self.ttl_s = config.ttl_s
            for ticket in self.queue:
                if ticket.priority == self.priority:
                    ticket.priority = priority
            self.priority = priority
        self.outdated = self.runs is not None and (config is None or not same_process(self.runs, config))

    def must_go(self) -> bool:
        """Outdated, and nobody is with it."""
        if not self.outdated:
            return False
        return self.state is State.STARTING or (self.state is State.READY and not self.in_flight)

    def is_ready(self, now: float) -> None:
        self.ready_at = now
        self.idle_since = None if self.in_flight else now

    def not_ready(self) -> None:
        self.open = False
        self.ready_at = self.idle_since = None

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

    def view(self) -> ModelView:
        queued, deadline = len(self.queue), self.ttl_deadline()
        return ModelView(self.id, self.state, self.in_flight, queued, self.ready_at, self.idle_since, deadline)
