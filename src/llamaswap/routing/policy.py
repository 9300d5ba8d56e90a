"""Which models must go so that another can be loaded: pure functions over records.

A policy is asked speculatively and often, so it keeps nothing between questions and never logs; the
decision is logged once, by whoever carries it out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from llamaswap.config.settings import Config, Group
from llamaswap.routing.lifecycle import State

DEFAULT_GROUP = Group(id="(default)")
"""Holds every model that no group lists; it swaps and is exclusive."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that has a place: starting, ready, stopping, or about to start."""

    id: str
    state: State
    in_flight: int = 0
    idle_since: float | None = None
    """Seconds on the scheduler's clock; None while it is busy or not ready."""
    memory_mib: int | None = None
    """None: not known."""


class EvictionPolicy(Protocol):
    def victims(self, target: str, loaded: Collection[LoadedModel]) -> frozenset[str]:
        """Which of `loaded` must be stopped before `target` may start.

        A subset of the ids in `loaded`, never `target` itself. The same arguments give the same
        answer. Whether the victims are busy is the scheduler's business.
        """
        ...


class GroupPolicy:
    """Groups as llama-swap has them.

    Members of a `swap` group replace each other. A target in an `exclusive` group unloads the models
    of all other groups but the `persistent` ones; a target in a group that is not exclusive never
    unloads another group's model.
    """

    def __init__(self, config: Config) -> None:
        self._default = config.groups.get(DEFAULT_GROUP.id, DEFAULT_GROUP)
        self._group_of = {member: group for group in config.groups.values() for member in group.members}

    def victims(self, target: str, loaded: Collection[LoadedModel]) -> frozenset[str]:
        mine = self._group_of.get(target, self._default)
        return frozenset(model.id for model in loaded if model.id != target and self._replaces(mine, model.id))

    def _replaces(self, mine: Group, other: str) -> bool:
        theirs = self._group_of.get(other, self._default)
        if theirs.id == mine.id:
            return mine.swap
        return mine.exclusive and not theirs.persistent
