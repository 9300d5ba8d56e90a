"""What goes into the scheduler and what comes out: tickets, effects and views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llamaswap.errors import SwapError
from llamaswap.routing.lifecycle import State

TicketState = Literal["queued", "granted", "rejected", "released"]
StopReason = Literal["swap", "ttl", "unload", "reload", "shutdown"]


class Ticket:
    """One request's claim on a model. Submitted once, released once (releasing again is harmless).

    `exempt`: never rejected because the model's concurrencyLimit is reached.
    `priority` None takes the model's from the configuration. `since` is the time at which the request
    was first submitted, if this is not its first ticket: it keeps its place among those who wait.
    All times are seconds on the caller's monotonic clock.
    """

    __slots__ = ("error", "exempt", "model", "on_settled", "priority", "seq", "since", "state", "submitted_at")

    def __init__(
        self, model: str, priority: int | None = None, since: float | None = None, *, exempt: bool = False
    ) -> None:
        self.model = model
        self.exempt = exempt
        self.priority = priority
        self.since = since
        self.submitted_at: float = 0.0 if since is None else since
        """Set by `Scheduler.submit`: its `now`, or `since` if that is earlier."""
        self.state: TicketState = "queued"
        self.error: SwapError | None = None
        """Why it was rejected."""
        self.on_settled: Callable[[Ticket], None] | None = None
        """For the fleet, which calls it when it carries out a Grant or a Reject; the core never does."""
        self.seq = 0
        """Order of arrival, from 1, once it had to wait; the scheduler's."""

    def __repr__(self) -> str:
        return f"<Ticket {self.model} {self.state} at {self.submitted_at:g}>"


@dataclass(frozen=True, slots=True)
class Grant:
    """The request may go to its model now."""

    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Reject:
    """The request is to be answered with `error`."""

    ticket: Ticket
    error: SwapError


@dataclass(frozen=True, slots=True)
class Start:
    """Run the model's process; READY or EXITED is owed for it."""

    model: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the model's process, ready or not; EXITED is owed for it."""

    model: str
    reason: StopReason
    for_model: str | None = None
    """With "swap": the model that takes its place."""


Effect = Grant | Reject | Start | Stop


@dataclass(frozen=True, slots=True)
class ModelView:
    """A snapshot of one model. Times in seconds on the scheduler's clock."""

    id: str
    state: State
    in_flight: int
    """Granted and not yet released, requests of a process that is gone included."""
    queued: int
    ready_at: float | None
    """When it last became ready; None unless it is ready."""
    idle_since: float | None
    """None unless it is ready and nothing is in flight."""
    ttl_deadline: float | None
    """When its ttl will unload it, if nothing comes in between."""
