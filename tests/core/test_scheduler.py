"""What the scheduler promises, as transcripts."""

from __future__ import annotations

import pytest
from scheduling import MAX_WAIT_S, Desk, apart, config, together

from llamaswap.config.settings import Group
from llamaswap.errors import StartFailed, StartTimeout
from llamaswap.routing.lifecycle import Event, IllegalTransition
from llamaswap.routing.scheduler import Scheduler, Start, Ticket


def desk(models: str = "a b", *groups: Group, **settings: object) -> Desk:
    return Desk(config(models, *groups, **settings))  # type: ignore[arg-type]


# -- one model


def test_the_first_request_starts_the_model_and_goes_when_it_is_ready() -> None:
    d = desk()
    assert d.ask("a") == ["start a"]
    assert d.ready("a") == ["grant a1"]
    assert d.ask("a") == ["grant a2"]
    assert d.end("a1", "a2") == []
    assert d.state() == "a:ready b:stopped"


def test_several_waiters_share_one_start_and_go_together() -> None:
    d = desk()
    assert d.ask("a", "a", "a") == ["start a"]
    assert d.ready("a") == ["grant a1", "grant a2", "grant a3"]


def test_release_is_total() -> None:
    d = desk()
    d.ask("a", "a")
    never = Ticket("a")
    assert d.core.release(never, 0) == []
    assert d.end("a1", "a1") == []
    assert d.ready("a") == ["grant a2"]
    assert d.end("a1", "a2", "a2", "a1") == []
    assert d.view("a").in_flight == 0
    assert {d.tickets["a1"].state, never.state} == {"released"}


def test_a_start_whose_client_left_goes_on_and_serves_the_next() -> None:
    d = desk()
    d.ask("a")
    assert d.end("a1") == []
    assert d.ready("a") == []
    assert d.ask("a") == ["grant a2"]


def test_a_request_that_left_before_its_turn_starts_nothing() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    assert d.ask("b") == []
    assert d.end("b1") == []
    assert d.end("a1") == []
    assert d.state() == "a:ready b:stopped"


def test_a_failed_start_fails_every_waiter_and_the_next_request_tries_again() -> None:
    d = desk()
    d.ask("a", "a")
    error = StartFailed("exit code 3")
    assert d.exited("a", error) == ["reject a1 start_failed", "reject a2 start_failed"]
    assert d.tickets["a2"].error is error
    assert d.state() == "a:stopped b:stopped"
    assert d.ask("a") == ["start a"]


def test_a_failed_start_fails_no_other_models_waiters() -> None:
    d = desk()
    d.ask("a", "b")
    assert d.exited("a", StartTimeout("too slow")) == ["reject a1 start_timeout", "start b"]
    assert d.ready("b") == ["grant b1"]


def test_an_exit_without_a_cause_still_rejects_with_one() -> None:
    d = desk()
    d.ask("a")
    assert d.exited("a") == ["reject a1 start_failed"]


def test_after_a_crash_the_next_request_starts_it_again() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    assert d.exited("a") == []
    assert d.view("a").in_flight == 1, "counted until the relay lets go"
    assert d.ask("a") == ["start a"]
    assert d.end("a1") == []
    assert d.ready("a") == ["grant a2"]


def test_requests_of_a_process_that_is_gone_keep_its_successor_from_being_idle() -> None:
    d = desk(ttl_s=10)
    d.load("a")
    d.ask("a")
    d.exited("a")
    d.ask("a")
    d.end("a2")
    d.ready("a")
    assert d.view("a").idle_since is None
    assert d.core.next_deadline() is None
    d.at(3)
    d.end("a1")
    assert d.core.next_deadline() == 13


def test_a_crash_leaves_who_waits_in_the_queue() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    assert d.ask("a") == [], "a is fenced for b1"
    assert d.exited("a") == ["start b"]
    assert d.state() == "a:stopped+1/1 b:starting/1"


def test_what_no_process_can_do_is_refused_and_changes_nothing() -> None:
    d = desk()
    for event in Event:
        with pytest.raises(IllegalTransition):
            d.core.process_changed("a", event, 0)
    d.ask("a")
    for event in (Event.START, Event.STOP, Event.SHUTDOWN):
        with pytest.raises(IllegalTransition):
            d.core.process_changed("a", event, 0)
    assert d.state() == "a:starting/1 b:stopped"


def test_a_readiness_that_crosses_a_stop_is_ignored() -> None:
    d = desk()
    d.ask("a")
    d.unload("a")
    assert d.ready("a") == []
    assert d.state() == "a:stopping b:stopped"


def test_unknown_models_are_the_callers_mistake() -> None:
    d = desk()
    with pytest.raises(KeyError):
        d.core.submit(Ticket("nobody"), 0)


# -- the limit of a model


def test_more_than_the_limit_are_refused_waiting_and_running_together() -> None:
    d = desk(limit=2)
    assert d.ask("a", "a", "a") == ["start a", "reject a3 concurrency_limit"]
    d.ready("a")
    assert d.ask("a") == ["reject a4 concurrency_limit"]
    d.end("a1")
    assert d.ask("a") == ["grant a5"]
    assert d.ask("b") == [], "each model has its own"


def test_a_refused_request_gives_nothing_back_when_it_is_released() -> None:
    d = desk(limit=1)
    d.ask("a", "a")
    d.end("a2", "a2")
    assert d.ask("a") == ["reject a3 concurrency_limit"]


# -- swapping


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


# -- ttl


def test_ttl_counts_from_the_last_release() -> None:
    d = desk(ttl_s=10)
    d.ask("a")
    assert d.at(100) == []
    d.ready("a")
    assert d.core.next_deadline() is None
    d.at(150)
    d.end("a1")
    assert d.core.next_deadline() == d.view("a").ttl_deadline == 160
    assert d.at(159.9) == []
    assert d.at(160) == ["stop a ttl"]
    assert d.core.next_deadline() is None


def test_ttl_counts_from_readiness_for_one_that_was_never_asked() -> None:
    d = desk(ttl_s=10)
    d.ask("a")
    d.end("a1")
    d.at(5)
    d.ready("a")
    assert d.core.next_deadline() == 15
    assert d.view("a").idle_since == 5


def test_a_new_request_puts_the_ttl_off() -> None:
    d = desk(ttl_s=10)
    d.load("a")
    d.at(9)
    d.ask("a")
    assert d.at(50) == []
    d.end("a1")
    assert d.core.next_deadline() == 60


def test_a_request_that_comes_as_the_ttl_ends_is_served() -> None:
    d = desk(ttl_s=10)
    d.load("a")
    d.now = 10
    assert d.ask("a") == ["grant a1"]
    assert d.core.tick(10) == []


def test_ttl_zero_is_never() -> None:
    d = desk()
    d.load("a")
    assert d.core.next_deadline() is None


def test_requests_that_come_while_the_ttl_stops_a_model_start_it_again() -> None:
    d = desk(ttl_s=10)
    d.load("a")
    d.at(10)
    assert d.ask("a") == []
    assert d.exited("a") == ["start a"]


# -- unloading


def test_unload_stops_at_once_whatever_is_in_flight() -> None:
    d = desk()
    d.load("a")
    d.ask("a")
    assert d.unload("a") == ["stop a unload"]
    assert d.state() == "a:stopping+1 b:stopped"
    assert d.end("a1") == []
    assert d.exited("a") == []


def test_unload_of_a_start_rejects_its_waiters() -> None:
    d = desk()
    d.ask("a", "a")
    assert d.unload("a") == ["reject a1 model_unloaded", "reject a2 model_unloaded", "stop a unload"]
    assert d.exited("a", StartFailed("aborted")) == []
    assert d.state() == "a:stopped b:stopped"


def test_unload_of_one_that_waits_for_its_victims_forgets_its_start() -> None:
    d = desk()
    d.load("a")
    d.ask("b")
    assert d.unload("b") == ["reject b1 model_unloaded"]
    assert d.exited("a") == []


def test_unload_of_one_that_stops_already_rejects_only_who_waits() -> None:
    d = desk()
    d.load("a")
    d.ask("b", "a")
    assert d.unload("a") == ["reject a1 model_unloaded"]
    assert d.exited("a") == ["start b"]


def test_unload_of_what_is_not_loaded_does_nothing() -> None:
    d = desk()
    assert d.unload("a", "b") == []
    assert d.unload() == []


def test_unload_makes_room_for_others() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    assert d.unload("a") == ["stop a unload"]
    assert d.exited("a") == ["start b"], "a1 is still counted but its process is gone"


def test_the_place_of_an_unloaded_model_is_taken_before_its_requests_have_ended() -> None:
    d = desk("a b c", priorities={"c": 1})
    d.load("a")
    d.ask("a", "b")
    d.unload("a")
    assert d.ask("c") == []
    assert d.exited("a") == ["start b"], "it was b's when a was told to stop"


def test_requests_after_an_unload_start_the_model_again() -> None:
    d = desk()
    d.load("a")
    d.unload("a")
    assert d.ask("a") == []
    assert d.exited("a") == ["start a"]


# -- shutting down


def test_shutdown_rejects_who_waits_and_who_comes_and_lets_the_running_finish() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    assert d.shutdown() == ["reject b1 shutting_down"]
    assert d.ask("a", "b") == ["reject a2 shutting_down", "reject b2 shutting_down"]
    assert d.state() == "a:ready+1 b:shutdown"
    assert d.end("a1") == []
    assert d.unload("a", "b") == ["stop a shutdown"]
    assert d.exited("a") == []
    assert d.state() == "a:shutdown b:shutdown"
    assert d.shutdown() == []


def test_shutdown_starts_nothing_that_was_decided() -> None:
    d = desk("a b c", together("t", "a c"), apart("s", "b"))
    d.load("b")
    d.core.unload(["b"], 0)
    d.ask("b", "a")
    assert d.shutdown() == ["reject a1 shutting_down", "reject b1 shutting_down"]
    assert d.exited("b") == []
    assert d.exited("a", StartFailed("aborted")) == []
    assert d.state() == "a:shutdown b:shutdown c:shutdown"


# -- the way of most requests


def test_a_request_for_a_ready_model_looks_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    d = desk()
    d.load("a")
    monkeypatch.setattr(Scheduler, "_reconcile", lambda *_: pytest.fail("decided anew on the hot path"))
    assert d.ask("a", "a") == ["grant a1", "grant a2"]
    assert d.end("a1", "a2") == []


def test_effects_can_be_compared() -> None:
    d = desk()
    assert d.core.submit(Ticket("a"), 0) == [Start("a")]
