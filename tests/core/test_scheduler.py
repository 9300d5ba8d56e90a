"""Requests and processes of one model, its limit, its ttl, unloading and shutdown, as transcripts."""

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
        d.core.view("nobody")
    with pytest.raises(KeyError):
        d.unload("nobody")


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
