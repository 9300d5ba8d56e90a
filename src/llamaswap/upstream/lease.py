"""What a request holds: a lease on a model, and the upstream that it leads to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from llamaswap.config.settings import ModelConfig
from llamaswap.routing.scheduler import Ticket

if TYPE_CHECKING:
    from llamaswap.upstream.fleet import Fleet


@dataclass(eq=False, slots=True)
class Upstream:
    """One process of a model, as its requests see it."""

    model: ModelConfig
    """As configured now, as long as the process can serve that; then as it was last."""
    base_url: str
    generation: int
    """Unique for every process start."""
    begun: float = 0.0
    """When its start was ordered, on Trio's clock."""
    load_s: float | None = None
    """From there until it was ready; None before."""
    alive: bool = True
    """False once the process has exited."""
    exited: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    """Set a moment after `exited`, when nothing of it is left and `fate` is known."""
    fate: str = ""
    """How it ended by itself: exit code or signal, and its last lines of output."""
    stopped_by: str | None = None
    """Why it was ordered to stop ("swap", "ttl", "unload", "reload" or "shutdown"), if it was."""

    def end(self) -> None:
        """The fleet's: the process has exited."""
        self.alive = False
        self.exited.set()


class Lease(Ticket):
    """One request's hold on a model: wait for it, use it, release it in a `finally`."""

    __slots__ = ("_fleet", "_settled", "_upstream")

    def __init__(self, fleet: Fleet, model: str, since: float | None, exempt: bool) -> None:
        super().__init__(model, None, since, exempt=exempt)
        self._fleet = fleet
        self._upstream: Upstream | None = None
        self._settled: trio.Event | None = None

    @property
    def granted(self) -> bool:
        """Whether the request may go now; True at once if the model was ready and had room."""
        return self.state == "granted"

    @property
    def rejected(self) -> bool:
        """Whether `wait` would raise at once."""
        return self.state == "rejected"

    @property
    def upstream(self) -> Upstream:
        """Where to send the request; only once granted."""
        assert self._upstream is not None, "the lease is not granted"
        return self._upstream

    @property
    def queue_position(self) -> int:
        """Its place, from 1, among all that wait; 0 if it does not wait, or only for its model to load."""
        return self._fleet.position(self)

    async def wait(self) -> Upstream:
        """Return at the grant; raise the SwapError of a rejection. Cancel-safe, may be called again."""
        while self.state == "queued":
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()
        if self.error is not None:
            raise self.error
        return self.upstream

    def settle(self, upstream: Upstream | None) -> None:
        """The fleet's: the scheduler has granted (`upstream`) or rejected this lease."""
        self._upstream = upstream
        if self._settled is not None:
            self._settled.set()
        if self.on_settled is not None:
            self.on_settled(self)

    def release(self) -> None:
        """The request is over, or no longer wanted. Synchronous; again is harmless."""
        self._fleet.release(self)
