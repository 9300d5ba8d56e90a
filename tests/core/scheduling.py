"""A desk to play the scheduler's surroundings at: tests read as transcripts.

Every call returns what the scheduler decided, one phrase per effect, e.g. `start a`, `grant a1`,
`stop a swap for b`, `reject b2 model_unloaded`. Tickets are called by model and number, `a1` being the
first for model a.
"""

from __future__ import annotations

from collections.abc import Collection

from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.errors import SwapError
from llamaswap.routing.lifecycle import Event
from llamaswap.routing.policy import EvictionPolicy, GroupPolicy
from llamaswap.routing.scheduler import Effect, Grant, ModelView, Reject, Scheduler, Start, Stop, Ticket

MAX_WAIT_S = 30.0


def config(
    models: str,
    *groups: Group,
    ttl_s: float = 0,
    limit: int = 10,
    priorities: dict[str, int] | None = None,
    max_wait_s: float = MAX_WAIT_S,
) -> Config:
    return Config(
        models={id: ModelConfig(id, ttl_s=ttl_s, concurrency_limit=limit) for id in sorted(models.split())},
        groups={group.id: group for group in groups},
        priorities=priorities or {},
        max_wait_s=max_wait_s,
    )


def together(id: str, members: str) -> Group:
    """A group whose members run side by side and leave the others alone."""
    return Group(id, swap=False, exclusive=False, members=tuple(members.split()))


def apart(id: str, members: str) -> Group:
    """A group whose members replace each other and leave the others alone."""
    return Group(id, swap=True, exclusive=False, members=tuple(members.split()))


class Desk:
    def __init__(self, config: Config, policy: EvictionPolicy | None = None) -> None:
        self.core = Scheduler(config, policy or GroupPolicy(config))
        self.now = 0.0
        self.tickets: dict[str, Ticket] = {}

    def at(self, now: float) -> list[str]:
        """Let time go on, acting on every deadline on the way."""
        said: list[str] = []
        while (due := self.core.next_deadline()) is not None and due <= now:
            assert due >= self.now
            self.now = due
            said += self._say(self.core.tick(due))
            assert self.core.next_deadline() != due, "tick has left its own deadline standing"
        self.now = now
        assert self.core.tick(now) == []
        return said

    def ask(self, *models: str, priority: int | None = None, since: float | None = None) -> list[str]:
        said: list[str] = []
        for model in models:
            ticket = Ticket(model, priority=priority, since=since)
            number = sum(other.model == model for other in self.tickets.values()) + 1
            self.tickets[f"{model}{number}"] = ticket
            said += self._say(self.core.submit(ticket, self.now))
        return said

    def end(self, *names: str) -> list[str]:
        """These requests are over, or their clients leave."""
        return [word for name in names for word in self._say(self.core.release(self.tickets[name], self.now))]

    def ready(self, *models: str) -> list[str]:
        return [w for m in models for w in self._say(self.core.process_changed(m, Event.READY, self.now))]

    def exited(self, model: str, error: SwapError | None = None) -> list[str]:
        return self._say(self.core.process_changed(model, Event.EXITED, self.now, error))

    def unload(self, *models: str) -> list[str]:
        return self._say(self.core.unload(models, self.now))

    def shutdown(self) -> list[str]:
        return self._say(self.core.shutdown(self.now))

    def load(self, *models: str) -> None:
        """Have these ready and idle, whatever the way there."""
        for model in models:
            self.ask(model)
            name = self._name_of_last(model)
            while self.tickets[name].state == "queued":
                for other in self.views():
                    if other.state == "stopping":
                        self.exited(other.id)
                if self.view(model).state == "starting":
                    self.ready(model)
            self.end(name)
        self.tickets.clear()

    def view(self, model: str) -> ModelView:
        return self.core.view(model)

    def views(self, models: Collection[str] = ()) -> list[ModelView]:
        return [self.core.view(id) for id in models or self.core._models]

    def state(self) -> str:
        """`a:ready+1 b:stopped/2`: in flight after +, waiting after /."""
        return " ".join(
            f"{v.id}:{v.state}{f'+{v.in_flight}' if v.in_flight else ''}{f'/{v.queued}' if v.queued else ''}"
            for v in self.views()
        )

    def places(self) -> list[str]:
        """Those who wait, in the order of their positions."""
        placed = {self.core.position(ticket): name for name, ticket in self.tickets.items()}
        placed.pop(0, None)
        assert sorted(placed) == list(range(1, len(placed) + 1))
        return [placed[position] for position in sorted(placed)]

    def _name_of_last(self, model: str) -> str:
        return [name for name, ticket in self.tickets.items() if ticket.model == model][-1]

    def _say(self, effects: list[Effect]) -> list[str]:
        names = {id(ticket): name for name, ticket in self.tickets.items()}
        said = []
        for effect in effects:
            match effect:
                case Grant(ticket):
                    said.append(f"grant {names[id(ticket)]}")
                case Reject(ticket, error):
                    assert ticket.error is error
                    said.append(f"reject {names[id(ticket)]} {error.code}")
                case Start(model):
                    said.append(f"start {model}")
                case Stop(model, reason, for_model):
                    said.append(f"stop {model} {reason}{f' for {for_model}' if for_model else ''}")
        return said
