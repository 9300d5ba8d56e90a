"""A reload as transcripts: who keeps running, who drains, who is told that its model is gone."""

from __future__ import annotations

from dataclasses import replace

from scheduling import Desk, apart, config, together

from llamaswap.config.settings import Config, Group
from llamaswap.errors import StartFailed
from llamaswap.routing.policy import GroupPolicy

ALL = together("all", "a b c")


def version(now: Config, *models: str) -> Config:
    """The same configuration, but processes of these models cannot serve it."""
    return replace(now, models={**now.models, **{id: replace(now.models[id], argv=("new",)) for id in models}})


def without(now: Config, *models: str) -> Config:
    return replace(now, models={id: model for id, model in now.models.items() if id not in models})


class ReloadDesk(Desk):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def reload(self, config: Config) -> list[str]:
        self.config = config
        return self._say(self.core.reconfigure(config, GroupPolicy(config), self.now))


def desk(models: str = "a b c", *groups: Group, ttl_s: float = 0) -> ReloadDesk:
    return ReloadDesk(config(models, *groups, ttl_s=ttl_s))


def test_unchanged_models_notice_nothing() -> None:
    d = desk("a b c", ALL)
    d.load("a", "b")
    d.ask("a", "c")
    assert d.reload(version(replace(d.config, max_wait_s=5), "b")) == ["stop b reload"]
    assert d.state() == "a:ready+1 b:stopping c:starting/1"
    assert d.ask("a") == ["grant a2"]
    assert d.ready("c") == ["grant c1"]


def test_a_changed_model_drains_and_starts_anew_for_those_who_wait() -> None:
    d = desk("a b", ALL)
    d.load("a")
    assert d.ask("a", "a") == ["grant a1", "grant a2"]
    assert d.reload(version(d.config, "a")) == []
    assert d.ask("a") == []
    assert d.state() == "a:ready+2/1 b:stopped" and d.places() == ["a3"]
    assert d.end("a1") == []
    assert d.end("a2") == ["stop a reload"]
    assert d.exited("a") == ["start a"]
    assert d.ready("a") == ["grant a3"]
    assert d.ask("a") == ["grant a4"]


def test_a_changed_model_nobody_uses_stops_and_stays_stopped() -> None:
    d = desk()
    d.load("a")
    assert d.reload(version(d.config, "a")) == ["stop a reload"]
    assert d.exited("a") == []
    assert d.ask("a") == ["start a"]


def test_a_start_of_the_older_configuration_is_not_waited_for() -> None:
    d = desk()
    assert d.ask("a", "a") == ["start a"]
    assert d.reload(version(d.config, "a")) == ["stop a reload"]
    assert d.ready("a") == []  # it came too late
    assert d.exited("a", StartFailed("x")) == ["start a"]
    assert d.ready("a") == ["grant a1", "grant a2"]


def test_changed_back_before_it_has_drained_it_goes_on_serving() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    first = d.config
    assert d.reload(version(first, "a")) == []
    assert d.ask("a") == []
    assert d.reload(first) == ["grant a2"]
    assert d.ask("a") == ["grant a3"]
    assert d.end("a1", "a2", "a3") == []


def test_removed_its_requests_end_and_those_that_wait_are_told() -> None:
    d = desk("a b", ALL)
    d.load("a")
    d.ask("a", "b", "b")
    with_all = d.config
    assert d.reload(without(with_all, "a", "b")) == [
        "reject b1 model_not_found",
        "reject b2 model_not_found",
        "stop b reload",
    ]
    assert "'b' is not in the configuration any more" in str(d.tickets["b1"].error)
    assert d.ask("a") == ["reject a2 model_not_found"]
    assert d.view("a").in_flight == 1
    assert d.end("a1") == ["stop a reload"]
    assert d.reload(without(with_all, "a", "b")) == []
    assert d.exited("a") == d.exited("b") == []
    assert d.reload(with_all) == []
    assert d.ask("b") == ["start b"]


def test_removed_and_back_again_before_it_has_drained() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    whole = d.config
    assert d.reload(without(whole, "a")) == []
    assert d.reload(whole) == []
    assert d.ask("a") == ["grant a2"]
    assert d.end("a1", "a2") == []


def test_what_nobody_needs_any_more_is_forgotten_and_its_requests_may_still_end() -> None:
    d = desk("a b")
    d.ask("a", "b", "a")
    whole = d.config
    rejected = ["reject a1 model_not_found", "reject a2 model_not_found"]
    assert d.reload(without(whole, "a")) == [*rejected, "stop a reload"]
    assert d.exited("a") == ["start b"]
    d.reload(d.config)
    assert [view.id for view in d.views()] == ["b"]
    assert d.end("a1", "a2") == []
    assert d.places() == ["b1"]


def test_a_crash_while_it_drains() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    d.reload(version(d.config, "a"))
    d.ask("a")
    assert d.exited("a") == ["start a"]
    assert d.ready("a") == ["grant a2"]


def test_a_draining_model_is_as_busy_as_any() -> None:
    d = desk("a b")
    d.load("a")
    d.ask("a")
    d.reload(version(d.config, "a"))
    assert d.ask("b") == []
    assert d.end("a1") == ["stop a reload"]
    assert d.exited("a") == ["start b"]


def test_who_waits_for_a_draining_model_has_waited_all_that_time() -> None:
    """Only when it has drained is the next in its way held back, and then at once."""
    d = desk("a b", Group("one", members=("a",)), together("two", "b"))
    d.load("a", "b")
    d.ask("a", "b")
    d.reload(version(d.config, "a"))
    d.ask("a")
    d.at(31)
    assert d.ask("b") == ["grant b2"]
    assert d.end("a1") == ["stop a reload"]
    assert d.ask("b") == []
    d.exited("a")
    d.end("b1")
    assert d.end("b2") == ["stop b swap for a"]


def test_what_runs_together_may_stay_although_the_rules_are_others_now() -> None:
    d = desk("a b c", ALL)
    d.load("a", "b")
    assert d.reload(replace(d.config, groups={})) == []
    assert d.ask("a", "b") == ["grant a1", "grant b1"]
    d.end("a1", "b1")
    assert sorted(d.ask("c")) == ["stop a swap for c", "stop b swap for c"]


def test_a_swap_under_way_is_decided_anew() -> None:
    d = desk("a b c", apart("x", "a b"), together("y", "c"))
    d.load("a", "c")
    d.ask("c")
    assert d.ask("b") == ["stop a swap for b"]
    now = replace(d.config, groups={"all": apart("all", "a b c")})
    assert d.reload(now) == []
    assert d.exited("a") == []  # c is in its way now, and busy
    assert d.ask("c") == ["grant c2"]
    d.at(30)
    assert d.ask("c") == []
    assert d.end("c1", "c2") == ["stop c swap for b"]
    assert d.exited("c") == ["start b"]


def test_limits_times_and_priorities_are_the_new_ones_at_once() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a")
    d.ask("b", "c")
    assert d.places() == ["b1", "c1"]
    models = {id: replace(m, concurrency_limit=1, ttl_s=4.0) for id, m in d.config.models.items()}
    d.reload(replace(d.config, models=models, priorities={"c": 1}))
    assert d.places() == ["c1", "b1"]
    assert d.ask("a") == ["reject a2 concurrency_limit"]
    d.end("b1", "c1")
    d.end("a1")
    assert d.at(10) == ["stop a ttl"]


def test_the_longest_wait_is_the_new_one_at_once() -> None:
    d = desk("a b")
    d.load("a")
    d.ask("a", "b")
    d.at(5)
    assert d.reload(replace(d.config, max_wait_s=3)) == []
    assert d.ask("a") == []
    assert d.end("a1") == ["stop a swap for b"]


def test_after_shutdown_nothing_starts_whatever_is_added() -> None:
    d = desk("a")
    d.load("a")
    d.ask("a")
    d.shutdown()
    assert d.reload(config("a b")) == []
    assert d.ask("b") == ["reject b1 shutting_down"]
    assert d.state() == "a:ready+1 b:shutdown"
