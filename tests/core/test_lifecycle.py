"""The lifecycle table, every state with every event."""

from __future__ import annotations

import pytest

from llamaswap.routing.lifecycle import TRANSITIONS, Event, IllegalTransition, State, advance

ALLOWED = {
    "stopped": {"start": "starting", "shutdown": "shutdown"},
    "starting": {"ready": "ready", "stop": "stopping", "exited": "stopped"},
    "ready": {"stop": "stopping", "exited": "stopped"},
    "stopping": {"exited": "stopped"},
    "shutdown": {},
}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_state_with_every_event(state: State, event: Event) -> None:
    after = ALLOWED[state.value].get(event.value)
    if after is None:
        with pytest.raises(IllegalTransition) as caught:
            advance(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)
        assert state.value in str(caught.value)
        assert event.value in str(caught.value)
    else:
        assert advance(state, event) is State(after)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.SHUTDOWN, Event.START] = State.STARTING  # type: ignore[index]


def test_the_names_are_those_that_clients_see() -> None:
    assert [state.value for state in State] == ["stopped", "starting", "ready", "stopping", "shutdown"]
    assert f"{State.READY}" == "ready"
