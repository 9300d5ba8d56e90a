"""Who goes for whom, and in which order, as transcripts."""

from __future__ import annotations

from scheduling import Desk, apart, config, together

from llamaswap.config.settings import Group
from llamaswap.errors import StartFailed
from llamaswap.routing.scheduler import Ticket


def desk(models: str = "a b", *groups: Group, **settings: object) -> Desk:
    return Desk(config(models, *groups, **settings))  # type: ignore[arg-type]


def test_a_swap_stops_the_idle_one_first() -> None:
    d = desk()
    d.load("a")
    assert d.ask("b") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]


def test_a_busy_model_drains_first() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "a", "b")
    assert d.end("a1") == []
    assert d.end("a2") == ["stop a swap for b"]


def test_requests_are_collated() -> None:
    d = desk()
    assert d.ask("a", "b", "a", "b") == ["start a"]
    assert d.places() == ["a1", "a2", "b1", "b2"]
    assert d.ready("a") == ["grant a1", "grant a2"]
    assert d.end("a1", "a2") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1", "grant b2"]


def test_three_models_are_collated_too() -> None:
    d = desk("a b c")
    d.ask(*"abcabc")
    served = []
    for model in "abc":
        assert d.ready(model) == [f"grant {model}1", f"grant {model}2"]
        served += d.end(f"{model}1", f"{model}2") + d.exited(model)
    assert served == ["stop a swap for b", "start b", "stop b swap for c", "start c"]


def test_a_model_that_is_being_stopped_serves_nobody_new() -> None:
    d = desk()
    d.load("a")
    d.ask("b")
    assert d.ask("a") == []
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]


def test_disjoint_swaps_run_side_by_side() -> None:
    d = desk("a1 a2 b1 b2", apart("a", "a1 a2"), apart("b", "b1 b2"))
    d.load("a1", "b1")
    assert d.ask("a2") == ["stop a1 swap for a2"]
    assert d.ask("b2") == ["stop b1 swap for b2"]
    assert d.exited("b1") == ["start b2"]
    assert d.exited("a1") == ["start a2"]


def test_a_blocked_model_is_passed_over() -> None:
    d = desk("a1 a2 b1", apart("a", "a1 a2"), apart("b", "b1"))
    d.load("a1")
    d.ask("a1", "a2")
    assert d.ask("b1") == ["start b1"]


def test_one_busy_victim_saves_the_others() -> None:
    d = desk("a b c", together("pair", "a b"), Group("big", members=("c",)))
    d.load("a", "b")
    d.ask("b")
    assert d.ask("c") == []
    assert d.state() == "a:ready b:ready+1 c:stopped/1"
    assert d.end("b1") == ["stop a swap for c", "stop b swap for c"]
    assert d.exited("b") == []
    assert d.exited("a") == ["start c"]


def test_a_target_whose_victims_still_stop_has_its_place_already() -> None:
    d = desk("a b c")
    d.load("a")
    assert d.ask("b") == ["stop a swap for b"]
    assert d.ask("c", priority=9) == []
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for c"]


def test_a_target_loses_its_place_when_its_last_client_leaves() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("b", "b", "c")
    assert d.end("b1") == []
    assert d.end("b2") == [], "c waits for a's end too, so it takes b's place"
    assert d.exited("a") == ["start c"]


def test_nothing_starts_when_all_have_left() -> None:
    d = desk()
    d.load("a")
    d.ask("b")
    d.end("b1")
    assert d.exited("a") == []
    assert d.state() == "a:stopped b:stopped"


def test_a_start_that_nobody_waits_for_makes_room() -> None:
    d = desk()
    d.ask("a")
    d.end("a1")
    assert d.ask("b") == ["stop a swap for b"]
    assert d.exited("a", StartFailed("aborted")) == ["start b"]


def test_a_start_that_somebody_waits_for_is_not_aborted() -> None:
    d = desk(priorities={"b": 5})
    d.ask("a")
    assert d.ask("b") == []
    assert d.ready("a") == ["grant a1"]


def test_a_victim_that_crashes_before_it_is_told_to_stop_makes_room() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    assert d.exited("a") == ["start b"]


def test_a_group_that_is_not_exclusive_waits_for_an_exclusive_swap_and_then_joins() -> None:
    d = desk("big small x", Group("big", members=("big",)), together("side", "small x"))
    d.load("small")
    assert d.ask("big") == ["stop small swap for big"]
    assert d.ask("x") == [], "big would have to stop it again"
    assert d.exited("small") == ["start big"]
    assert d.ready("big") == ["grant big1", "start x"], "x unloads nobody"


def test_a_loaded_model_is_served_at_once_whoever_has_come_beside_it() -> None:
    d = desk("big small", Group("big", members=("big",)), together("side", "small"))
    d.load("big", "small")
    assert d.ask("big", "small") == ["grant big1", "grant small1"]


def test_persistent_models_stay() -> None:
    d = desk("keep b c", Group("p", persistent=True, exclusive=False, members=("keep",)))
    d.load("keep", "b")
    assert d.ask("c") == ["stop b swap for c"]


# -- order


def test_priority_goes_before_age_and_age_decides_within() -> None:
    d = desk("a b c d", priorities={"c": 1, "d": 1})
    d.load("a")
    d.ask(*"abcd")
    assert d.places() == ["c1", "d1", "b1"]
    assert d.end("a1") == ["stop a swap for c"]


def test_a_tickets_own_priority_counts() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a", "b")
    d.ask("c", priority=3)
    assert d.places() == ["c1", "b1"]
    d.ask("b", priority=4)
    assert d.places() == ["b2", "b1", "c1"], "b1 rides along with b2"


def test_a_resubmitted_request_keeps_its_place() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a")
    d.at(5)
    d.ask("b")
    d.ask("c", since=2.0)
    assert d.places() == ["c1", "b1"]
    assert d.tickets["c1"].submitted_at == 2.0
    d.ask("c", since=99.0)
    assert d.tickets["c2"].submitted_at == 5.0, "nobody comes from the future"


def test_positions_follow_the_order_and_close_up() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a", "b", "c", "b")
    assert d.places() == ["b1", "b2", "c1"]
    d.end("b1")
    assert d.places() == ["c1", "b2"]
    assert d.core.position(d.tickets["a1"]) == 0
    assert d.core.position(d.tickets["b1"]) == 0
    assert d.core.position(Ticket("a")) == 0
