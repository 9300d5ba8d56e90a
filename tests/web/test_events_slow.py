"""A client of /api/events that does not read, over real sockets: nothing piles up, and later it reads on."""

from __future__ import annotations

import json

import pytest
import trio
from fakefleet import a_world
from upstreams import Client

from llamaswap.observe.hub import BUFFER_BYTES
from llamaswap.web.feed import Feed

EVENT_BYTES = 64 << 10
EVENTS = 600  # many times what all buffers on the way may hold


class Messages:
    """The stream, message by message."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._data = b""

    async def next(self) -> str:
        """The type of the next one."""
        while b"\n\n" not in self._data:
            self._data += await self._client.data()
        message, _, self._data = self._data.partition(b"\n\n")
        first, second = message.decode().split("\n")
        assert first == "event:message"
        return str(json.loads(second.removeprefix("data:"))["type"])


@pytest.mark.parametrize("door", ["front", "asgi", "h2"])
async def test_a_follower_that_does_not_read(door: str) -> None:
    async with a_world(door, allowed_hosts=("example.test",)) as world:
        await world.nursery.start(Feed(world.state).run)
        hub = world.state.hub
        client = await world.client()
        await client.request("GET", "/api/events")
        assert (await client.head()).status == 200
        messages = Messages(client)
        while await messages.next() != "modelProgress":
            pass
        (subscription,) = hub._subscribers
        padding = "x" * EVENT_BYTES
        for number in range(EVENTS):
            hub.publish("activity", {"id": number, "padding": padding})
            assert subscription.held_bytes <= BUFFER_BYTES
            await trio.lowlevel.checkpoint()
        old = 0
        while (type := await messages.next()) == "activity":
            old += 1
        assert old < EVENTS and type == "modelStatus", "a snapshot comes next, without old log lines"
        while type != "configReload":
            if type == "modelProgress":  # the end of a snapshot; there may be several on the way
                hub.publish("configReload", {})
            type = await messages.next()
