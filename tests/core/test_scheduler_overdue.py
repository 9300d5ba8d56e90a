"""Nobody starves, and nobody waits for somebody who waits for him."""

from __future__ import annotations

from scheduling import MAX_WAIT_S, Desk, apart, config, together

from llamaswap.config.settings import Group
from llamaswap.errors import StartFailed


def desk(models: str = "a b", *groups: Group, **settings: object) -> Desk:
    return Desk(config(models, *groups, **settings))  # type: ignore[arg-type]


def test_a_model_in_constant_use_gives_way_after_max_wait() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(10)
    assert d.ask("a") == ["grant a2"]
    d.end("a1")
    assert d.core.next_deadline() == MAX_WAIT_S
    d.at(MAX_WAIT_S)
    assert d.ask("a") == [], "fenced"
    assert d.places() == ["b1", "a3"]
    assert d.end("a2") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]
    assert d.ready("a") == ["grant a3"]


def test_the_fence_is_up_on_time_even_if_the_tick_is_late() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.now = MAX_WAIT_S
    assert d.ask("a") == []


def test_a_new_deadline_is_told_when_the_fence_is_up() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a", "b")
    d.at(5)
    d.ask("c")
    assert d.core.next_deadline() == MAX_WAIT_S
    d.at(MAX_WAIT_S)
    assert d.core.next_deadline() == MAX_WAIT_S + 5
    d.at(MAX_WAIT_S + 5)
    assert d.core.next_deadline() is None


def test_the_fence_falls_when_the_client_leaves() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    assert d.ask("a", "a") == []
    assert d.end("b1") == ["grant a2", "grant a3"]
    assert d.ask("a") == ["grant a4"]


def test_the_fence_falls_when_the_overdue_model_is_unloaded() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    assert d.unload("b") == ["reject b1 model_unloaded", "grant a2"]


def test_the_oldest_goes_first_whatever_the_priorities() -> None:
    d = desk("a b c", priorities={"a": 9, "c": 9})
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("c")
    assert d.places() == ["b1", "c1"]
    assert d.end("a1") == ["stop a swap for b"]


def test_no_start_that_conflicts_with_the_overdue_one_happens() -> None:
    d = desk("a b big", together("pair", "a b"), Group("big", members=("big",)))
    d.load("a")
    d.ask("a", "big")
    d.at(MAX_WAIT_S)
    assert d.ask("b") == [], "big would have to wait for it"
    assert d.end("a1") == ["stop a swap for big"]
    assert d.exited("a") == ["start big"]
    assert d.ready("big") == ["grant big1", "start b"], "b itself unloads nobody"


def test_what_does_not_conflict_goes_on() -> None:
    d = desk("a1 a2 b1 b2", apart("a", "a1 a2"), apart("b", "b1 b2"))
    d.load("a1", "b1")
    d.ask("a1", "a2")
    d.at(MAX_WAIT_S)
    assert d.ask("b1") == ["grant b11"]
    d.end("b11")
    assert d.ask("b2") == ["stop b1 swap for b2"]


def test_overdue_requests_that_do_not_meet_are_helped_at_the_same_time() -> None:
    d = desk("a1 a2 b1 b2", apart("a", "a1 a2"), apart("b", "b1 b2"))
    d.load("a1", "b1")
    d.ask("a1", "b1", "a2", "b2")
    d.at(MAX_WAIT_S)
    assert d.ask("a1", "b1") == []
    assert d.end("b11") == ["stop b1 swap for b2"]
    assert d.end("a11") == ["stop a1 swap for a2"]


def test_those_who_wait_for_a_start_still_go_when_the_fence_comes_after_them() -> None:
    # Loading takes longer than max_wait. Stopping a before it has served anybody would waste the load.
    d = desk()
    d.ask("a")
    d.at(1)
    d.ask("b")
    d.at(2)
    d.ask("a", "b")
    d.at(40)
    assert d.ask("a") == [], "too late: b1 is overdue since 31"
    d.at(60)
    assert d.ready("a") == ["grant a1", "grant a2"]
    assert d.state() == "a:ready+2/1 b:stopped/2"
    assert d.end("a1", "a2") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1", "grant b2"]


def test_a_start_that_only_latecomers_wait_for_is_aborted_for_the_overdue() -> None:
    d = desk()
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    assert d.end("a1") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]


def test_a_place_that_only_latecomers_want_is_given_to_the_overdue() -> None:
    d = desk("a b c")
    d.load("a")
    d.ask("a", "c")
    d.at(MAX_WAIT_S - 1)
    d.ask("b", priority=1)
    assert d.end("a1") == ["stop a swap for b"]
    d.at(MAX_WAIT_S)
    assert d.ask("b") == []
    assert d.end("b1") == []
    assert d.exited("a") == ["start c"]
    assert d.state() == "a:stopped b:stopped/1 c:starting/1"


def test_an_overdue_request_for_the_very_model_that_is_being_stopped() -> None:
    d = desk()
    d.load("a")
    assert d.ask("b") == ["stop a swap for b"]
    assert d.ask("a") == []
    d.at(MAX_WAIT_S)
    assert d.exited("a") == ["start b"]
    d.at(2 * MAX_WAIT_S)
    assert d.ask("b") == [], "fenced for a1"
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]


def test_two_overdue_requests_that_block_each_other_go_by_age() -> None:
    d = desk("a b c")
    d.load("c")
    d.ask("c")
    d.at(1)
    d.ask("b")
    d.at(2)
    d.ask("a", "b", "a")
    d.at(100)
    assert d.end("c1") == ["stop c swap for b"]
    assert d.exited("c") == ["start b"]
    assert d.ask("b") == [], "a1 is the next"
    assert d.ready("b") == ["grant b1", "grant b2"]
    assert d.end("b1", "b2") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]
    assert d.ready("a") == ["grant a1", "grant a2"]


def test_requests_that_wait_behind_a_fence_become_overdue_themselves() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    assert d.ask("a") == []
    d.at(3 * MAX_WAIT_S)
    assert d.state() == "a:ready+1/1 b:stopped/1"
    assert d.end("a1") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ask("b") == [], "a2 is overdue now and needs the place"
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]
    assert d.ready("a") == ["grant a2"]
    assert d.end("a2") == ["stop a swap for b"]


def test_a_fenced_model_that_crashes_serves_its_queue_in_turn() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("a1") == []
    assert d.end("b1") == ["stop b swap for a"]


def test_a_resubmitted_request_passes_the_fence_of_a_younger_one() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "a")
    d.at(1)
    d.ask("b")
    d.at(MAX_WAIT_S + 1)
    d.end("a1")
    assert d.ask("a", since=0.0) == ["grant a3"]


def test_a_victim_that_crashes_while_it_is_being_stopped() -> None:
    d = desk()
    d.load("a")
    d.ask("b")
    assert d.exited("a", StartFailed("died first")) == ["start b"]


def test_unload_of_a_fenced_model_lets_the_overdue_in() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    assert d.unload("a") == ["reject a2 model_unloaded", "stop a unload"]
    assert d.end("a1") == []
    assert d.exited("a") == ["start b"]


def test_unload_of_everything_while_somebody_is_overdue() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    assert d.unload("a", "b") == ["reject b1 model_unloaded", "stop a unload"]
    assert d.ask("a") == []
    assert d.exited("a") == ["start a"]


def test_shutdown_while_somebody_is_overdue() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    assert d.shutdown() == ["reject a2 shutting_down", "reject b1 shutting_down"]
    assert d.core.next_deadline() is None
    assert d.end("a1") == []


def test_the_overdue_ones_start_fails_and_the_fence_falls() -> None:
    d = desk()
    d.load("a")
    d.ask("a", "b")
    d.at(MAX_WAIT_S)
    d.ask("a")
    d.end("a1")
    d.exited("a")
    assert d.exited("b", StartFailed("no such file")) == ["reject b1 start_failed", "start a"]
    assert d.ready("a") == ["grant a2"]


def test_two_overdue_for_whom_the_same_model_must_go_and_the_older_ones_fence_counts() -> None:
    d = desk("a b v", Group("pair", swap=False, members=("a", "b")))
    d.load("v")
    d.ask("v", "a")
    d.at(5)
    d.ask("b")
    d.at(32)
    assert d.ask("v") == []
    d.at(40)
    assert d.end("v1") == ["stop v swap for a"]
    assert d.exited("v") == ["start a", "start b"]


def test_without_any_patience_all_go_by_age() -> None:
    d = desk("a b", max_wait_s=0)
    d.ask("a", "b", "a")
    assert d.ready("a") == ["grant a1"]
    assert d.ask("a") == []
    assert d.end("a1") == ["stop a swap for b"]
    assert d.exited("a") == ["start b"]
    assert d.ready("b") == ["grant b1"]
    assert d.end("b1") == ["stop b swap for a"]
    assert d.exited("b") == ["start a"]
    assert d.ready("a") == ["grant a2", "grant a3"]


def test_an_idle_fenced_model_whose_ttl_ends_just_goes() -> None:
    d = desk("a b c", together("pair", "a b"), Group("big", members=("c",)), ttl_s=20)
    d.load("a", "b")
    d.at(5)
    d.ask("a", "c")
    assert d.at(20) == ["stop b ttl"]
    d.exited("b")
    assert d.at(35) == []
    assert d.end("a1") == ["stop a swap for c"]


def test_two_models_in_constant_use_take_turns() -> None:
    """A hundred clients that never stop: each model gets its turn, at most max_wait apart."""
    d = desk(limit=1000)
    d.ask("a")
    d.ready("a")
    running = ["a1"]
    waited: dict[str, float] = {}
    for second in range(1, 400):
        said = d.at(second) + d.ask("a", "b")
        for name in [name for name in running if d.tickets[name].state == "granted"]:
            said += d.end(name)
        running = []
        while said:
            word = said.pop(0).split()
            match word[0]:
                case "grant":
                    running.append(word[1])
                    waited[word[1]] = d.now - d.tickets[word[1]].submitted_at
                case "stop":
                    said += d.exited(word[1])
                case "start":
                    said += d.ready(word[1])
    assert max(waited.values()) <= MAX_WAIT_S + 1
    assert all(ticket.submitted_at > 360 for ticket in d.tickets.values() if ticket.state == "queued")
