"""HTTP/2 connections live on from request to request, and end in order."""

from __future__ import annotations

import h2.connection
import h2.events
import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from hyperframe.frame import GoAwayFrame
from upstreams import H2Client, Incomplete, chat

DOOR = "front-h2"


async def is_well(client: H2Client) -> None:
    await client.request("GET", "/health")
    assert (await client.response()).body == b"OK"


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
async def test_a_body_that_comes_after_the_answer(size: int) -> None:
    """Of a page that reads none. The windows stay open for what comes next."""
    async with a_world(DOOR) as world:
        client = await world.h2()
        await client.open("DELETE", "/v1/models")
        assert (await client.response()).status == 405
        await client.send_body(b"x" * size, end=True)
        await is_well(client)


async def test_more_requests_than_hypercorn_would_have() -> None:
    async with a_world(DOOR, limit_s=60) as world:
        client = await world.h2()
        for _ in range(1010):
            await client.request("POST", "/v1/embeddings", body=b"{}")
            assert (await client.response()).status == 400
        await is_well(client)


@pytest.mark.parametrize("field", [":path", ":method"])
async def test_a_request_line_that_is_no_ascii_ends_its_stream_only(field: str) -> None:
    async with a_world(DOOR) as world:
        client = await world.h2()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        streaming = client._id
        await client.request("G\u00cbT" if field == ":method" else "GET", "/\u00fc" if field == ":path" else "/")
        with pytest.raises(Incomplete, match="RST_STREAM"):
            await client.head()
        client._id = streaming
        await up.chunk(b"still")
        assert await client.data() == b"still"


def goodbyes(client: H2Client) -> list[h2.events.ConnectionTerminated]:
    """The GOAWAYs from now on. This client ignores them otherwise, and h2 would refuse to go on."""
    seen: list[h2.events.ConnectionTerminated] = []
    receive = client._h2._receive_goaway_frame

    def note(frame: object) -> object:
        frames, events = receive(frame)
        seen.extend(events)
        client._h2.state_machine.state = h2.connection.ConnectionState.CLIENT_OPEN
        return frames, events

    client._h2._frame_dispatch_table[GoAwayFrame] = note
    return seen


async def ended(client: H2Client) -> None:
    with pytest.raises(Incomplete, match="ended"):
        while True:
            await client._receive()


def stop(world: World) -> None:
    world.front.close()
    world.stopping.set()


async def test_an_idle_connection_is_told_and_ends() -> None:
    async with a_world(DOOR) as world:
        client = await world.h2()
        await is_well(client)
        told = goodbyes(client)
        stop(world)
        await ended(client)
        assert [(event.error_code, event.last_stream_id) for event in told] == [(0, 1)]
        await world.front.quiet()


async def test_what_is_under_way_is_finished_and_new_streams_are_refused() -> None:
    async with a_world(DOOR) as world:
        client = await world.h2()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        told = goodbyes(client)
        streaming = client._id
        stop(world)
        await trio.testing.wait_all_tasks_blocked()
        await client.request("GET", "/health")
        with pytest.raises(Incomplete, match=r"RST_STREAM.*7"):  # REFUSED_STREAM: safe to send again, elsewhere
            await client.head()
        client._id = streaming
        await up.chunk(b"x" * 50000)
        await up.send(b"0\r\n\r\n")
        assert await client.body() == b"x" * 50000 and not told, "h2 would take it for the end of all streams"
        await ended(client)
        assert len(told) == 1
        await world.front.quiet()


async def test_idle_connections_end_by_goaway(monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world(DOOR) as world:
        monkeypatch.setattr(world.front._http2._config, "keep_alive_timeout", 0.05)
        client = await world.h2()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        told = goodbyes(client)
        await client.leave()  # a stream that was reset is no reason to stay
        await up.gone()
        await ended(client)
        assert len(told) == 1
