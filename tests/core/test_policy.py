"""Groups decide who must go, over all four kinds of group on either side."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.routing.lifecycle import State
from llamaswap.routing.policy import GroupPolicy, LoadedModel


def config(*groups: Group, models: str = "a1 a2 b1 b2 lone1 lone2") -> Config:
    return Config(
        models={id: ModelConfig(id) for id in sorted(models.split())},
        groups={group.id: group for group in groups},
    )


def victims(policy: GroupPolicy, target: str, loaded: str) -> set[str]:
    return set(policy.victims(target, [LoadedModel(id, State.READY) for id in loaded.split()]))


def test_models_of_no_group_replace_each_other() -> None:
    policy = GroupPolicy(config())
    assert victims(policy, "lone1", "lone2") == {"lone2"}
    assert victims(policy, "lone1", "") == set()


def test_a_loaded_target_is_no_victim_of_itself() -> None:
    assert victims(GroupPolicy(config()), "lone1", "lone1") == set()


def test_a_group_that_does_not_swap_keeps_its_members() -> None:
    policy = GroupPolicy(config(Group("a", swap=False, members=("a1", "a2"))))
    assert victims(policy, "a1", "a2") == set()


def test_a_target_that_is_not_exclusive_unloads_nobody_elses_models() -> None:
    policy = GroupPolicy(
        config(
            Group("a", exclusive=False, members=("a1", "a2")),
            Group("b", exclusive=True, members=("b1", "b2")),
        )
    )
    assert victims(policy, "a1", "b1 lone1") == set()
    assert victims(policy, "a1", "a2 b1 lone1") == {"a2"}


def test_an_exclusive_target_unloads_other_groups_exclusive_or_not() -> None:
    policy = GroupPolicy(
        config(
            Group("a", exclusive=False, swap=False, members=("a1", "a2")),
            Group("b", exclusive=True, swap=False, members=("b1", "b2")),
        )
    )
    assert victims(policy, "b1", "a1 a2 b2 lone1") == {"a1", "a2", "lone1"}
    assert victims(policy, "lone1", "a1 b1") == {"a1", "b1"}


def test_persistent_members_go_only_for_their_own_group() -> None:
    policy = GroupPolicy(config(Group("a", persistent=True, members=("a1", "a2"))))
    assert victims(policy, "b1", "a1") == set()
    assert victims(policy, "a2", "a1 b1") == {"a1", "b1"}


def test_the_default_group_may_be_written_out() -> None:
    policy = GroupPolicy(config(Group("(default)", swap=False, members=("lone1",))))
    assert victims(policy, "lone1", "lone2") == set()


@pytest.mark.parametrize("state", [State.STARTING, State.READY, State.STOPPING])
def test_whoever_has_a_place_counts_whatever_his_state(state: State) -> None:
    policy = GroupPolicy(config())
    assert policy.victims("a1", [LoadedModel("a2", state, in_flight=3)]) == {"a2"}


flags = st.booleans()


@given(flags, flags, flags, flags, flags, st.sets(st.sampled_from(["a1", "a2", "b1", "b2", "lone1", "lone2"])))
def test_the_rule_stated_once_more(
    swap_a: bool, exclusive_a: bool, persistent_b: bool, swap_b: bool, exclusive_b: bool, loaded: set[str]
) -> None:
    policy = GroupPolicy(
        config(
            Group("a", swap=swap_a, exclusive=exclusive_a, members=("a1", "a2")),
            Group("b", swap=swap_b, exclusive=exclusive_b, persistent=persistent_b, members=("b1", "b2")),
        )
    )
    expected = set()
    if swap_a:
        expected |= {"a2"}
    if exclusive_a:
        expected |= {"lone1", "lone2"} | (set() if persistent_b else {"b1", "b2"})
    assert victims(policy, "a1", " ".join(loaded)) == expected & loaded
