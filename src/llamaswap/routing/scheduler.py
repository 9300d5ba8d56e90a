"""Which request goes when, and which models are started and stopped for it.

Plain synchronous code: every method changes the state and returns the effects, in order, that the
fleet then carries out; nothing here waits, reads a clock or logs. `now` never runs backwards.

The rules (see also docs/architecture.md):

- A request for a ready model goes at once. All who wait for a model go together when it is ready.
- Models that wait are served by priority, then by age. One that cannot be loaded yet is passed over.
- No busy model is evicted: one with requests in flight, one that starts while somebody waits for it,
  one whose own victims are still stopping.
- Nobody starves. A request that has waited `max_wait_s` is *overdue*. In order of age, and unless it
  conflicts with an older overdue one, it reserves its place: no start that conflicts with it happens,
  and the models that must go for it are *fenced*, which means that requests that arrive from then on
  queue. Those who were already waiting for a fenced model's start still go when it is ready, since
  stopping it before it has served anybody would only waste the load.
- A reload (`reconfigure`) disturbs no process that can serve the new configuration. One that cannot is
  *outdated*: it gets nobody new, finishes what it has and goes; who waits for its model gets a new one.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection
from math import inf

from llamaswap.config.settings import Config
from llamaswap.errors import ModelNotFound, ModelUnloaded, ShuttingDown, StartFailed, SwapError, TooManyRequests
from llamaswap.routing.lifecycle import Event, IllegalTransition, State, advance
from llamaswap.routing.modelstate import ModelState, age, turn
from llamaswap.routing.policy import EvictionPolicy
from llamaswap.routing.tickets import (
    Effect,
    Grant,
    ModelView,
    Reject,
    Start,
    Stop,
    StopReason,
    Ticket,
)

__all__ = ["Effect", "Grant", "ModelView", "Reject", "Scheduler", "Start", "Stop", "Ticket"]


class Scheduler:
    """All models of one configuration. Model ids are ids, never aliases; an unknown one is a KeyError.

    What a reload removed can be looked at until the next one, or until its process and requests have ended.
    """

    def __init__(self, config: Config, policy: EvictionPolicy) -> None:
        self._policy = policy
        self._max_wait_s = config.max_wait_s
        self._models = {id: ModelState(model, config.priorities.get(id, 0)) for id, model in config.models.items()}
        self._queued = 0
        self._seq = 0
        self._now = -inf
        self._overdue_at = inf
        """When the next waiting request becomes overdue."""
        self._closing = False
        self._placed: list[ModelState] = []
        """Who is loaded or about to be; only `_reconcile` and what it calls may look at it."""

    # -- what happens to requests

    def submit(self, ticket: Ticket, now: float) -> list[Effect]:
        """A new request. The effects may settle this very ticket (Grant or Reject; unknown models reject it)."""
        model = self._models.get(ticket.model)
        ticket.submitted_at = now if ticket.since is None or ticket.since > now else ticket.since
        if model is None or model.config is None:  # while its client was still sending
            return [self._reject(ticket, _removed(ticket.model))]
        if ticket.priority is None:
            ticket.priority = model.priority
        if self._closing:
            return [self._reject(ticket, ShuttingDown())]
        if model.in_flight + len(model.queue) >= model.limit and not ticket.exempt:
            return [self._reject(ticket, TooManyRequests())]
        if self.claim(ticket, now):
            return [Grant(ticket)]
        self._seq += 1
        ticket.seq = self._seq
        insort(model.queue, ticket, key=age)
        self._queued += 1
        return self._reconcile(now, [])

    def claim(self, ticket: Ticket, now: float) -> bool:
        """Grant `ticket` if its request may go at once; else change nothing, and `submit` is the way."""
        model = self._models.get(ticket.model)
        if model is None or not model.open or now >= self._overdue_at or self._closing:
            return False
        if model.in_flight >= model.limit and not ticket.exempt:
            return False
        ticket.submitted_at = now if ticket.since is None or ticket.since > now else ticket.since
        model.in_flight += 1
        model.idle_since = None
        ticket.state = "granted"
        return True

    def release(self, ticket: Ticket, now: float) -> list[Effect]:
        """The request is over, or its client left while it waited. Total: any state, any number of times."""
        state, ticket.state = ticket.state, "released"
        if state not in ("granted", "queued"):
            return []
        model = self._models[ticket.model]
        if state == "granted":
            model.in_flight -= 1
            if model.in_flight:
                return []
            if model.state is State.READY:
                model.idle_since = now
        elif ticket.seq:
            model.queue.remove(ticket)
            self._queued -= 1
        else:
            return []
        return self._reconcile(now, []) if self._queued or state == "queued" or model.outdated else []

    # -- what happens to processes

    def process_changed(self, model: str, event: Event, now: float, error: SwapError | None = None) -> list[Effect]:
        """A process became READY or has EXITED.

        An exit while starting rejects all who wait for the model with `error`. A READY that was on its
        way when the model was told to stop is ignored; anything else that the lifecycle does not know
        raises `IllegalTransition` and changes nothing.
        """
        it = self._models[model]
        if event not in (Event.READY, Event.EXITED):
            raise IllegalTransition(it.state, event)
        if event is Event.READY and it.state is State.STOPPING:
            return []
        before, it.state = it.state, advance(it.state, event)
        effects: list[Effect] = []
        if it.state is State.READY:
            it.is_ready(now)
        else:
            it.not_ready()
            it.runs, it.outdated = None, False
            if before is State.STARTING:
                cause = error or StartFailed(f"model '{model}' exited before it was ready")
                self._reject_all(it, cause, effects)
            if self._closing:
                it.state = advance(it.state, Event.SHUTDOWN)
        return self._reconcile(now, effects)

    def unload(self, models: Collection[str], now: float) -> list[Effect]:
        """Stop these at once, whatever is in flight; who waits for them is rejected.

        After `shutdown` the reason of the Stops is "shutdown".
        """
        effects: list[Effect] = []
        chosen = [self._models[id] for id in models]
        for model in chosen:
            self._reject_all(model, ModelUnloaded(f"model '{model.id}' was unloaded"), effects)
        for model in chosen:
            if model.state in (State.STARTING, State.READY):
                self._stop(model, "shutdown" if self._closing else "unload", effects)
        return self._reconcile(now, effects)

    def shutdown(self, now: float) -> list[Effect]:
        """Reject everything that waits or still comes; start nothing more. Running requests go on."""
        self._closing = True
        effects: list[Effect] = []
        for model in self._models.values():
            self._reject_all(model, ShuttingDown(), effects)
            if model.state is State.STOPPED:
                model.state = advance(model.state, Event.SHUTDOWN)
        return self._reconcile(now, effects)

    def reconfigure(self, config: Config, policy: EvictionPolicy, now: float) -> list[Effect]:
        """From now on these models and these rules.

        Processes that can serve the new configuration keep running, with their requests, whatever else
        changes. Outdated ones drain and then get a Stop with the reason "reload"; who waits for a removed
        model is rejected. What runs may stay together even if the new rules would not have loaded it so.
        """
        self._policy = policy
        self._max_wait_s = config.max_wait_s
        effects: list[Effect] = []
        before, self._models = self._models, {}
        for id, settings in config.models.items():
            model = before.pop(id, None)
            if model is None:
                model = ModelState(settings, 0)
                model.state = State.SHUTDOWN if self._closing else State.STOPPED
            model.configure(settings, config.priorities.get(id, 0))
            self._models[id] = model
        for id, model in before.items():
            if model.config is not None or model.loaded() or model.in_flight:
                self._models[id] = model
            model.configure(None, 0)
            self._reject_all(model, _removed(id), effects)
        for model in self._models.values():
            model.waits_for = None  # the new policy says anew who must go
        return self._reconcile(now, effects)

    # -- time

    def tick(self, now: float) -> list[Effect]:
        """Do what is due: models past their ttl, requests past `max_wait_s`."""
        deadline = self.next_deadline()
        return self._reconcile(now, []) if deadline is not None and now >= deadline else []

    def next_deadline(self) -> float | None:
        """When `tick` next has something to do, if nothing else happens before."""
        due = self._overdue_at
        for model in self._models.values():
            ttl = model.ttl_deadline()
            if ttl is not None and ttl < due:
                due = ttl
        return None if due == inf else due

    # -- looking

    def view(self, model: str) -> ModelView:
        return self._models[model].view()

    def position(self, ticket: Ticket) -> int:
        """Its place, from 1, in the order in which those who wait will be served; 0 if it does not wait."""
        if ticket.state != "queued" or not ticket.seq:
            return 0
        mine = self._models[ticket.model]
        rank = self._rank(mine)
        ahead = sum(
            len(model.queue)
            for model in self._models.values()
            if model.queue and model is not mine and self._rank(model) < rank
        )
        return ahead + sorted(mine.queue, key=turn).index(ticket) + 1

    def blockers(self, model: str) -> list[str]:
        """Who must drain or stop before this model, for which somebody waits, can start; pure."""
        target = self._models[model]
        if not target.queue or target.state is not State.STOPPED:
            return []
        if target.waits_for is not None:
            return [id for id in target.waits_for if self._models[id].loaded()]
        placed = [other.record() for other in self._models.values() if other is not target and other.placed()]
        victims = self._policy.victims(model, placed)
        return [record.id for record in placed if record.id in victims]

    # -- deciding

    def _reconcile(self, now: float, effects: list[Effect]) -> list[Effect]:
        """Bring everything to where nothing more can be done now. The one place that decides."""
        self._now = now
        for model in self._models.values():
            due = model.ttl_deadline()
            if model.must_go():
                self._stop(model, "reload", effects)
            elif due is not None and now >= due:
                self._stop(model, "ttl", effects)
        while True:
            self._placed = [model for model in self._models.values() if model.placed()]
            reserved = self._fence()
            if self._forget_pointless_swaps():
                continue
            self._grant(effects)
            if not self._place(reserved, effects):
                break
        for model in self._models.values():
            free = model.fence is None and not model.queue and not model.outdated
            model.open = model.state is State.READY and free and not self._closing
        return effects

    def _fence(self) -> list[ModelState]:
        """Find who is overdue and fence what blocks him; returns the models that have a reservation."""
        self._overdue_at = inf
        for model in self._models.values():
            model.fence = None
        reserved: list[ModelState] = []
        waiting = [model for model in self._models.values() if model.needs_place()]
        for model in sorted(waiting, key=lambda model: age(model.queue[0])):
            if not self._is_overdue(model):
                self._overdue_at = min(self._overdue_at, model.queue[0].submitted_at + self._max_wait_s)
                continue
            if any(self._conflict(model, other) for other in reserved):
                continue
            reserved.append(model)
            for victim in self._victims(model):
                # The oldest comes first, and his fence lets the fewest through.
                if victim.fence is None:
                    victim.fence = model.queue[0]
        return reserved

    def _forget_pointless_swaps(self) -> bool:
        """Take the place from models that wait for their victims but would serve nobody."""
        pointless = [m for m in self._models.values() if m.waits_for is not None and not self._wanted(m)]
        for model in pointless:
            model.waits_for = None
        return bool(pointless)

    def _grant(self, effects: list[Effect]) -> None:
        for model in self._models.values():
            if model.state is not State.READY or not model.queue or model.outdated:
                continue
            going = sorted((t for t in model.queue if self._passes(t, model.fence)), key=turn)
            model.queue = [t for t in model.queue if not self._passes(t, model.fence)]
            self._queued -= len(going)
            for ticket in going:
                model.in_flight += 1
                model.idle_since = None
                ticket.state = "granted"
                effects.append(Grant(ticket))

    def _place(self, reserved: list[ModelState], effects: list[Effect]) -> bool:
        """Start one model, or stop the victims of one; False if none can have a place now."""
        candidates = [
            model
            for model in self._models.values()
            if model.queue and model.state is State.STOPPED and not self._victims_still_stop(model)
        ]
        ahead = reserved + [model for model in self._placed if self._is_swapping_in(model)]
        for model in sorted(candidates, key=self._rank):
            # One whose victims have gone had its place already, and asks nobody again.
            if model.waits_for is None and any(self._conflict(model, other) for other in ahead):
                continue
            victims = [other for other in self._victims(model) if other.loaded()]
            if any(self._busy(victim) for victim in victims):
                continue
            if victims:
                model.waits_for = frozenset(victim.id for victim in victims)
                for victim in victims:
                    if victim.state is not State.STOPPING:
                        self._stop(victim, "swap", effects, model.id)
            else:
                model.waits_for = None
                model.state, model.runs = advance(model.state, Event.START), model.config
                effects.append(Start(model.id))
            return True
        return False

    # -- questions

    def _victims(self, target: ModelState, also: ModelState | None = None) -> list[ModelState]:
        """Who must go for `target`, among those who have a place and `also`."""
        loaded = [model.record() for model in self._placed if model is not target]
        if also is not None and also is not target and also not in self._placed:
            loaded.append(also.record())
        victims = self._policy.victims(target.id, loaded)
        return [self._models[record.id] for record in loaded if record.id in victims]

    def _conflict(self, one: ModelState, other: ModelState) -> bool:
        """Would either have to go for the other? (A policy need not be symmetric.)"""
        return other in self._victims(one, other) or one in self._victims(other, one)

    def _is_swapping_in(self, model: ModelState) -> bool:
        """On its way, for somebody. Until it is ready not even one that it need not go for may join."""
        return model.waits_for is not None or (model.state is State.STARTING and self._wanted(model))

    def _busy(self, model: ModelState) -> bool:
        if model.state is State.STOPPING:
            return False
        return model.in_flight > 0 or (model.state is State.STARTING and self._wanted(model))

    def _wanted(self, model: ModelState) -> bool:
        """Does anybody wait for it who would be let through once it is ready?"""
        return any(self._passes(ticket, model.fence) for ticket in model.queue)

    def _passes(self, ticket: Ticket, fence: Ticket | None) -> bool:
        """Was it there before the fence went up (or is it older than the one for whom it did)?"""
        return fence is None or ticket.submitted_at < fence.submitted_at + self._max_wait_s or age(ticket) < age(fence)

    def _is_overdue(self, model: ModelState) -> bool:
        # The same sum as in `_overdue_at`: a difference could round to the other side of it for ever.
        return self._now >= model.queue[0].submitted_at + self._max_wait_s

    def _victims_still_stop(self, model: ModelState) -> bool:
        return model.waits_for is not None and any(self._models[id].loaded() for id in model.waits_for)

    def _rank(self, model: ModelState) -> tuple[float, ...]:
        """Whose turn is it? Those who have a place, then the overdue by age, then by priority and age."""
        if not model.needs_place() and self._wanted(model):
            return 0, *turn(min(model.queue, key=turn))
        if self._is_overdue(model):
            return 1, *age(model.queue[0])
        return 2, *turn(min(model.queue, key=turn))

    # -- small changes

    def _stop(self, model: ModelState, reason: StopReason, effects: list[Effect], for_model: str | None = None) -> None:
        model.state = advance(model.state, Event.STOP)
        model.not_ready()
        effects.append(Stop(model.id, reason, for_model))

    def _reject(self, ticket: Ticket, error: SwapError) -> Reject:
        ticket.state = "rejected"
        ticket.error = error
        return Reject(ticket, error)

    def _reject_all(self, model: ModelState, error: SwapError, effects: list[Effect]) -> None:
        for ticket in sorted(model.queue, key=turn):
            effects.append(self._reject(ticket, error))
        self._queued -= len(model.queue)
        model.queue.clear()


def _removed(model_id: str) -> ModelNotFound:
    return ModelNotFound(f"model '{model_id}' is not in the configuration any more")
