"""What holds for the scheduler after any sequence of events.

The machine keeps its own account of processes and requests from the effects alone, and checks each
effect against it at the moment at which it is given.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scheduling import apart, config, together

from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.errors import ModelNotFound, ModelUnloaded, ShuttingDown, StartFailed, TooManyRequests
from llamaswap.routing.lifecycle import Event, State
from llamaswap.routing.policy import EvictionPolicy, GroupPolicy, LoadedModel
from llamaswap.routing.scheduler import Effect, Grant, Reject, Scheduler, Start, Stop, Ticket

MODELS = "abcde"
TTL_S = 7.0
LIMIT = 3

LAYOUTS: list[tuple[Group, ...]] = [
    (),
    (together("t", "a b c d e"),),
    (apart("x", "a b"), apart("y", "c d")),
    (Group("x", members=("a", "b")), together("t", "c d")),
    (together("t", "a b c"), Group("x", swap=False, members=("d", "e"))),
    (Group("keep", persistent=True, exclusive=False, members=("a", "b")), apart("y", "c d")),
    (Group("x", members=("a",)), Group("y", members=("b", "c"), swap=False, persistent=True)),
]


class BudgetPolicy:
    """Room for so many models; the idle go first. Its answer depends on all who are loaded."""

    def __init__(self, room: int) -> None:
        self.room = room

    def victims(self, target: str, loaded: Collection[LoadedModel]) -> frozenset[str]:
        others = [model for model in loaded if model.id != target]
        others.sort(key=lambda m: (m.state is not State.STOPPING, m.in_flight > 0, m.idle_since or 0, m.id))
        return frozenset(model.id for model in others[: max(0, len(others) + 1 - self.room)])


class SchedulerMachine(RuleBasedStateMachine):
    config: Config
    policy: EvictionPolicy

    @initialize(
        layout=st.sampled_from(LAYOUTS),
        ttls=st.sets(st.sampled_from(MODELS)),
        preferred=st.sets(st.sampled_from(MODELS)),
        room=st.sampled_from([0, 0, 0, 1, 2]),
        max_wait_s=st.sampled_from([10.0, 10.0, 0.0]),
    )
    def set_up(
        self, layout: tuple[Group, ...], ttls: set[str], preferred: set[str], room: int, max_wait_s: float
    ) -> None:
        self.by_group = room == 0
        self.configure(dict.fromkeys(MODELS, 0), layout, ttls, preferred, room, max_wait_s)
        self.core = Scheduler(self.config, self.policy)
        self.now = 100.0
        self.process = dict.fromkeys(MODELS, "none")
        self.runs: dict[str, ModelConfig] = {}
        self.together: set[frozenset[str]] = set()
        """Pairs that ran when the rules changed: nobody is stopped for that."""
        self.idle_from = dict.fromkeys(MODELS, self.now)
        self.tickets: list[Ticket] = []
        self.arrived: dict[Ticket, int] = {}
        self.closing = False

    def configure(
        self,
        versions: dict[str, int],
        layout: tuple[Group, ...],
        ttls: set[str],
        preferred: set[str],
        room: int,
        max_wait_s: float,
    ) -> None:
        """`versions`: the models there are; a process of one version cannot serve another."""
        plain = config(
            " ".join(versions),
            *layout,
            limit=LIMIT,
            priorities=dict.fromkeys(preferred & versions.keys(), 1),
            max_wait_s=max_wait_s,
        )
        models = {
            id: replace(model, ttl_s=TTL_S if id in ttls else 0.0, argv=("server", str(versions[id])))
            for id, model in plain.models.items()
        }
        self.config = replace(plain, models=models)
        self.policy = GroupPolicy(self.config) if self.by_group else BudgetPolicy(room)

    # -- the account

    def outdated(self, model: str) -> bool:
        """It has a process, and that is not of the model as configured now."""
        runs, now = self.runs.get(model), self.config.models.get(model)
        return runs is not None and (now is None or now.argv != runs.argv)

    def loaded(self) -> list[LoadedModel]:
        states = {"starting": State.STARTING, "ready": State.READY, "stopping": State.STOPPING}
        return [
            LoadedModel(m, states[p], self.in_flight(m), self.core.view(m).idle_since)
            for m, p in self.process.items()
            if p in states
        ]

    def in_flight(self, model: str) -> int:
        return sum(t.model == model and t.state == "granted" for t in self.running)

    @property
    def running(self) -> list[Ticket]:
        return [t for t in self.tickets if t.state == "granted"]

    def queue(self, model: str | None = None) -> list[Ticket]:
        return [t for t in self.tickets if t.state == "queued" and model in (None, t.model)]

    def age(self, ticket: Ticket) -> tuple[float, int]:
        return ticket.submitted_at, self.arrived[ticket]

    def overdue(self, ticket: Ticket) -> bool:
        return self.now >= ticket.submitted_at + self.config.max_wait_s

    def apply(self, effects: list[Effect], why: str, error: type[Exception] | None = None) -> None:
        granted = {effect.ticket for effect in effects if isinstance(effect, Grant)}
        rejected = {effect.ticket for effect in effects if isinstance(effect, Reject)}
        assert len(granted) + len(rejected) == sum(isinstance(e, Grant | Reject) for e in effects)
        # Counted up as the grants are read: the tickets themselves are settled already.
        busy = {m: self.in_flight(m) - sum(t.model == m for t in granted) for m in MODELS}
        for effect in effects:
            match effect:
                case Grant(ticket):
                    assert ticket in self.tickets
                    assert ticket.state == "granted"
                    assert self.process[ticket.model] == "ready"
                    assert not self.outdated(ticket.model)
                    assert not self.closing
                    self.check_fence(ticket)
                    busy[ticket.model] += 1
                case Reject(ticket, cause):
                    assert ticket.state == "rejected"
                    assert ticket.error is cause
                    assert error is not None, f"{why} rejects nobody"
                    assert isinstance(cause, error)
                case Start(model):
                    assert self.process[model] == "none"
                    assert not self.closing
                    assert self.queue(model), "nobody wants it"
                    self.check_room(model)
                    self.process[model] = "starting"
                    self.runs[model] = self.config.models[model]
                case Stop(model, reason, for_model):
                    assert self.process[model] in ("starting", "ready")
                    self.check_stop(model, reason, for_model, busy[model])
                    self.process[model] = "stopping"

    def check_room(self, model: str) -> None:
        assert not self.policy.victims(model, self.loaded()), "started beside one it must replace"

    def check_fence(self, ticket: Ticket) -> None:
        """No grant to one that arrived when another, whom its model keeps waiting, was overdue."""
        waiting = [t for t in self.queue() if self.process[t.model] in ("none", "stopping")]
        if not waiting or not self.by_group:
            return
        oldest = min(waiting, key=self.age)
        if not self.overdue(oldest) or self.age(ticket) < self.age(oldest):
            return
        if ticket.submitted_at >= oldest.submitted_at + self.config.max_wait_s:
            assert ticket.model not in self.policy.victims(oldest.model, self.loaded())

    def check_stop(self, model: str, reason: str, for_model: str | None, busy: int) -> None:
        match reason:
            case "swap":
                assert for_model is not None
                assert self.queue(for_model), "evicted for nobody"
                assert busy == 0, "a busy model was evicted"
                assert model in self.policy.victims(for_model, self.loaded()) or not self.by_group
                if self.process[model] == "starting":
                    # Only those who came when somebody was overdue already may lose their start.
                    overdue = [t for t in self.queue() if t.model != model and self.overdue(t)]
                    for waiter in self.queue(model):
                        assert any(
                            waiter.submitted_at >= t.submitted_at + self.config.max_wait_s
                            and self.age(t) < self.age(waiter)
                            for t in overdue
                        )
            case "ttl":
                assert for_model is None
                assert self.process[model] == "ready"
                assert busy == 0
                assert not self.queue(model)
                assert self.config.models[model].ttl_s
                assert self.now >= self.idle_from[model] + TTL_S
            case "reload":
                assert for_model is None
                assert self.outdated(model)
                assert self.process[model] == "starting" or busy == 0
            case _:
                assert reason == ("shutdown" if self.closing else "unload")

    # -- what may happen

    @rule(model=st.sampled_from(MODELS), earlier=st.sampled_from([None, None, 0.0, 3.0, 15.0]))
    def submit(self, model: str, earlier: float | None) -> None:
        ticket = Ticket(model, since=None if earlier is None else self.now - earlier)
        before = self.in_flight(model) + len(self.queue(model))
        self.arrived[ticket] = len(self.tickets)
        self.tickets.append(ticket)
        effects = self.core.submit(ticket, self.now)
        full = before >= LIMIT
        unknown = model not in self.config.models
        self.apply(effects, "submit", ModelNotFound if unknown else ShuttingDown if self.closing else TooManyRequests)
        assert (ticket.state == "rejected") == (full or self.closing or unknown)
        assert all(e.ticket is ticket for e in effects if isinstance(e, Reject))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.running or self.tickets))
        self.let_go(ticket)

    @precondition(lambda self: self.queue())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.let_go(data.draw(st.sampled_from(self.queue())))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def release_again(self, data: st.DataObject) -> None:
        self.let_go(data.draw(st.sampled_from(self.tickets)))

    def let_go(self, ticket: Ticket) -> None:
        was = ticket.state
        effects = self.core.release(ticket, self.now)
        if was == "granted" and self.in_flight(ticket.model) == 0:
            self.idle_from[ticket.model] = self.now
        assert was in ("queued", "granted") or effects == []
        self.apply(effects, "release")

    def models_in(self, *processes: str) -> list[str]:
        return [m for m, p in self.process.items() if p in processes]

    @precondition(lambda self: self.models_in("starting"))
    @rule(data=st.data())
    def becomes_ready(self, data: st.DataObject) -> None:
        self.ready(data.draw(st.sampled_from(self.models_in("starting"))))

    def ready(self, model: str) -> None:
        self.process[model] = "ready"
        self.idle_from[model] = self.now
        self.apply(self.core.process_changed(model, Event.READY, self.now), "readiness")

    @precondition(lambda self: self.models_in("starting", "stopping"))
    @rule()
    def processes_do_as_they_are_told(self) -> None:
        for model in self.models_in("stopping"):
            self.exit(model)
        for model in self.models_in("starting"):
            if self.process[model] == "starting":  # still, whatever came of the others
                self.ready(model)

    @precondition(lambda self: self.models_in("starting", "ready", "stopping"))
    @rule(data=st.data(), with_error=st.booleans())
    def exits(self, data: st.DataObject, with_error: bool) -> None:
        # Those that were told to go are the likelier to go.
        model = data.draw(st.sampled_from(self.models_in("stopping") * 3 + self.models_in("starting", "ready")))
        self.exit(model, with_error)

    def exit(self, model: str, with_error: bool = False) -> None:
        failed = self.process[model] == "starting"
        doomed = self.queue(model) if failed else []
        self.process[model] = "none"
        del self.runs[model]
        self.together = {pair for pair in self.together if model not in pair}
        error = StartFailed("exit code 1") if with_error else None
        effects = self.core.process_changed(model, Event.EXITED, self.now, error)
        self.apply(effects, "exit", StartFailed if failed else None)
        assert all(ticket.state == "rejected" for ticket in doomed)
        assert not failed or Start(model) not in effects, "a failed start waits for the next request"

    @rule(model=st.sampled_from(MODELS))
    def late_readiness(self, model: str) -> None:
        if self.process[model] == "stopping":
            assert self.core.process_changed(model, Event.READY, self.now) == []

    @rule(models=st.sets(st.sampled_from(MODELS), min_size=1), sure=st.booleans())
    def unload(self, models: set[str], sure: bool) -> None:
        if not sure:
            return
        models &= self.config.models.keys()
        waiting = [t for m in models for t in self.queue(m)]
        others = [t for t in self.queue() if t.model not in models]
        self.apply(self.core.unload(models, self.now), "unload", ModelUnloaded)
        assert all(ticket.state == "rejected" for ticket in waiting)
        assert all(ticket.state in ("queued", "granted") for ticket in others)
        assert all(self.process[m] in ("none", "stopping") for m in models)

    @rule(
        sure=st.booleans(),
        switched=st.sets(st.sampled_from(MODELS), max_size=2),
        renewed=st.sets(st.sampled_from(MODELS), max_size=2),
        layout=st.sampled_from(LAYOUTS),
        ttls=st.sets(st.sampled_from(MODELS)),
        preferred=st.sets(st.sampled_from(MODELS)),
        room=st.sampled_from([1, 2]),
        max_wait_s=st.sampled_from([10.0, 10.0, 0.0]),
    )
    def reload(
        self,
        sure: bool,
        switched: set[str],
        renewed: set[str],
        layout: tuple[Group, ...],
        ttls: set[str],
        preferred: set[str],
        room: int,
        max_wait_s: float,
    ) -> None:
        """Models come and go (`switched`), or get another version of two."""
        if not sure:
            return
        versions = {m: int(self.config.models[m].argv[1]) for m in MODELS if m in self.config.models}
        for m in switched:
            if versions.pop(m, None) is None:
                versions[m] = 0
        for m in renewed & versions.keys():
            versions[m] = 1 - versions[m]
        doomed = [t for t in self.queue() if t.model not in versions]
        others = [t for t in self.queue() if t.model in versions]
        self.configure(versions, layout, ttls, preferred, room, max_wait_s)
        loaded = self.models_in("starting", "ready", "stopping")
        self.together |= {frozenset((one, other)) for one in loaded for other in loaded}
        self.apply(self.core.reconfigure(self.config, self.policy, self.now), "reload", ModelNotFound)
        assert all(ticket.state == "rejected" for ticket in doomed)
        assert all(ticket.state in ("queued", "granted") for ticket in others)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 8.0, 40.0]))
    def time_goes_on(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.apply(self.core.tick(self.now), "tick")
            left = self.core.next_deadline()
            assert left is None or left > self.now, "tick leaves its own deadline standing"
        self.now = until

    @rule(seconds=st.sampled_from([0.5, 11.0]))
    def time_goes_on_unnoticed(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.closing and len(self.tickets) > 12)
    @rule(sure=st.sampled_from([False] * 7 + [True]))
    def shutdown(self, sure: bool) -> None:
        if not sure:
            return
        self.closing = True
        self.apply(self.core.shutdown(self.now), "shutdown", ShuttingDown)
        assert self.queue() == []

    # -- what must always hold

    @invariant()
    def the_views_tell_the_truth(self) -> None:
        for model in MODELS:
            try:
                view = self.core.view(model)
            except KeyError:
                assert model not in self.config.models and model not in self.runs and not self.in_flight(model)
                continue
            assert view.in_flight == self.in_flight(model) >= 0
            assert view.queued == len(self.queue(model))
            process = self.process[model]
            gone = "shutdown" if self.closing else "stopped"
            assert view.state == (gone if process == "none" else process)
            assert (view.ready_at is not None) == (process == "ready")
            idle = process == "ready" and view.in_flight == 0
            assert view.idle_since == (self.idle_from[model] if idle else None)
            if view.ttl_deadline is not None:
                assert idle
                assert not view.queued
                assert view.ttl_deadline == self.idle_from[model] + TTL_S

    @invariant()
    def the_places_are_counted_without_a_gap(self) -> None:
        waiting = self.queue()
        assert sorted(map(self.core.position, waiting)) == list(range(1, len(waiting) + 1))
        assert all(self.core.position(t) == 0 for t in self.tickets if t.state != "queued")

    @invariant()
    def two_that_replace_each_other_are_never_both_loaded(self) -> None:
        if not self.by_group:
            return
        loaded = self.loaded()
        for one in loaded:
            for other in loaded:
                both = self.policy.victims(one.id, [other]) and self.policy.victims(other.id, [one])
                assert not both or frozenset((one.id, other.id)) in self.together, (one, other)

    @invariant()
    def a_process_of_an_older_configuration_is_there_only_for_those_it_has(self) -> None:
        for model in filter(self.outdated, self.models_in("starting", "ready")):
            assert self.process[model] == "ready"
            assert self.in_flight(model)

    @invariant()
    def whoever_waits_waits_for_something_that_will_happen(self) -> None:
        if self.queue():
            assert self.models_in("starting", "stopping") or self.running, "nobody will ever move again"

    @invariant()
    def nothing_is_left_undone(self) -> None:
        due = self.core.next_deadline()
        if due is None or due > self.now:
            assert self.core.unload([], self.now) == []

    def teardown(self) -> None:
        """Once models behave and requests end, everybody gets his answer, in a bounded number of steps."""
        if not hasattr(self, "core"):
            return
        for _ in range(20 * (len(self.tickets) + len(MODELS))):
            if not self.queue():
                break
            for model in MODELS:
                if self.process[model] == "stopping":
                    self.exit(model)
                elif self.process[model] == "starting":
                    self.ready(model)
            for ticket in self.running:
                self.let_go(ticket)
            self.nothing_is_left_undone()
            self.whoever_waits_waits_for_something_that_will_happen()
        assert self.queue() == []


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
