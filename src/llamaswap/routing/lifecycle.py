"""The life of one model's process, as a table.

    STOPPED --start--> STARTING --ready--> READY --stop--> STOPPING --exited--> STOPPED
                          |  `--stop--------------------->'            (a stop aborts a start)
                          |                   `--exited--------------> STOPPED  (a crash)
                          `--exited----------------------------------> STOPPED  (a failed start)
    STOPPED --shutdown--> SHUTDOWN                                              (for good)

What is not in the table is a mistake of the caller: it raises and changes nothing. There is no
"failed" state: a model that could not be started is stopped, and the next request tries again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """The names that /running, /v1/models and the events show."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    SHUTDOWN = "shutdown"


class Event(StrEnum):
    START = "start"
    """The process is to be run."""
    READY = "ready"
    """The process answered its probe."""
    STOP = "stop"
    """The process was told to end."""
    EXITED = "exited"
    """No process of the model is left, for whatever reason."""
    SHUTDOWN = "shutdown"
    """It shall never run again."""


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.STOPPED, Event.START): State.STARTING,
        (State.STARTING, Event.READY): State.READY,
        (State.STARTING, Event.STOP): State.STOPPING,
        (State.STARTING, Event.EXITED): State.STOPPED,
        (State.READY, Event.STOP): State.STOPPING,
        (State.READY, Event.EXITED): State.STOPPED,
        (State.STOPPING, Event.EXITED): State.STOPPED,
        (State.STOPPED, Event.SHUTDOWN): State.SHUTDOWN,
    }
)


class IllegalTransition(RuntimeError):
    """An event that cannot happen in this state: a bug, never a client's error."""

    def __init__(self, state: State, event: Event) -> None:
        self.state = state
        self.event = event
        super().__init__(f"a {state} model cannot take the event {event!r}")


def advance(state: State, event: Event) -> State:
    """The state after `event`; `IllegalTransition` if the table has none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None
