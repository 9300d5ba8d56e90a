"""Requests under way, as those who watch see them, and ended from outside."""

from __future__ import annotations

import gc

import pytest
from fakefleet import World, a_world
from upstreams import Incomplete, chat

from llamaswap.observe.answer import finished
from llamaswap.observe.flights import Flight
from llamaswap.relay.pump import Attempt
from llamaswap.relay.ride import Ride
from llamaswap.web.http_exchange import HttpExchange

DOORS = pytest.mark.parametrize("door", ["front", "asgi", "h2", "front-h2"])


def watched(world: World) -> list[Flight]:
    closed: list[Flight] = []
    world.flights.on_close.append(closed.append)
    return closed


def the_only(world: World) -> Flight:
    (flight,) = world.flights
    return flight


@DOORS
async def test_a_stream_from_queue_to_end(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat(stream=True))
        await world.until(lambda: "a" in world.launcher.processes)
        flight = the_only(world)
        assert (flight.model, flight.requested, flight.stage, finished(flight).status) == ("a", "a", "queued", 0)
        assert flight.body == chat(stream=True)
        assert flight.metered
        world.launcher.processes["a"].ready.set()
        up, _ = await world.up().request()
        assert flight.stage == "waiting"
        assert 0 < flight.load_s <= flight.elapsed_s
        await up.start_chunked()
        await up.chunk(b"data: 1\n\n")
        await client.head()
        assert await client.data() == b"data: 1\n\n"
        assert flight.stage == "streaming"
        assert (b"text/event-stream") in dict((k.lower(), v) for k, v in flight.response_headers)[b"content-type"]
        await up.chunk(b"data: 2\n\n")
        await up.send(b"0\r\n\r\n")
        await client.body()
        await world.until(lambda: bool(closed))
        assert closed == [flight]
        assert not len(world.flights)
        assert (finished(flight).status, flight.gone, flight.error) == (200, False, "")
        body = b"".join([*flight.head, *(flight.tail or ())])
        expected = b"data: 1\n\ndata: 2\n\n"
        assert body == (b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n" if flight.chunked else expected)
        assert flight.whole
        assert flight.first_byte_at is not None


@DOORS
async def test_a_plain_answer(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await up.answer(b'{"usage": {"prompt_tokens": 3}}')
        assert (await client.response()).status == 200
        await world.until(lambda: bool(closed))
        assert b"".join(closed[0].head) == b'{"usage": {"prompt_tokens": 3}}'
        assert not closed[0].chunked


@DOORS
async def test_an_error_of_ours_is_told(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        await world.until(lambda: "a" in world.launcher.processes)
        world.launcher.processes["a"].failed.set()
        assert (await client.response()).status == 502
        await world.until(lambda: bool(closed))
        assert finished(closed[0]).status == 502
        assert closed[0].load_s > 0, "it waited for its model, not in the queue"
        assert "exited with code 7" in closed[0].error


@DOORS
async def test_cancelled_before_its_answer(door: str) -> None:
    """The client gets to know who ended it, and the upstream stops working."""
    async with a_world(door) as world:
        closed = watched(world)
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        the_only(world).cancel()
        response = await client.response()
        assert (response.status, response.code) == (410, "request_cancelled")
        await up.gone()
        assert (finished(closed[0]).status, closed[0].cancelled, closed[0].gone) == (410, True, False)


@DOORS
async def test_cancelled_in_mid_stream(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat(stream=True))
        up, _ = await world.up().request()
        await up.start_chunked()
        await up.chunk(b"data: 1\n\n")
        await client.head()
        assert await client.data() == b"data: 1\n\n"
        the_only(world).cancel()
        with pytest.raises(Incomplete):
            await client.body()
        await up.gone()
        assert (finished(closed[0]).status, closed[0].cancelled) == (200, True)


@DOORS
async def test_a_client_that_left(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        await world.up().request()
        client.close()
        await world.until(lambda: bool(closed))
        assert (finished(closed[0]).status, closed[0].gone) == (499, True)


@DOORS
async def test_a_client_that_left_while_its_model_loaded(door: str) -> None:
    async with a_world(door) as world:
        closed = watched(world)
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        await world.until(lambda: "a" in world.launcher.processes)
        [flight] = world.flights
        await world.until(lambda: (world.fleet.loading_s("a") or 0.0) > 0.75 * flight.elapsed_s)
        client.close()
        await world.until(lambda: bool(closed))
        assert closed[0].load_s > 0
        assert closed[0].queue_s < closed[0].load_s


async def test_only_inference_is_metered() -> None:
    async with a_world() as world:
        closed = watched(world)
        client = await world.h1()
        asked = [("GET", "/upstream/a/slots"), ("POST", "/upstream/a/v1/embeddings"), ("GET", "/props?model=a")]
        for method, path in asked:
            await client.request(method, path, body=b"{}" if method == "POST" else None)
            up, _ = await world.up().request()
            await up.answer()
            assert (await client.response()).status == 200
        assert [flight.metered for flight in closed] == [False, True, False]


async def test_a_long_answer_keeps_its_ends() -> None:
    async with a_world() as world:
        closed = watched(world)
        client = await world.h1()
        await client.request("POST", "/v1/chat/completions", body=chat(stream=True))
        up, _ = await world.up().request()
        await up.start_chunked()
        for number in range(400):
            await up.chunk(b"data: %d %s\n\n" % (number, b"x" * 1000))
        await up.send(b"0\r\n\r\n")
        await client.response()
        flight = closed[0]
        assert b"data: 0 " in flight.head[0]
        assert b"data: 399 " in b"".join(flight.tail)
        assert not flight.whole
        assert sum(map(len, flight.tail)) < 140_000


def held() -> list[object]:
    return [it for it in gc.get_objects() if isinstance(it, Flight | HttpExchange | Ride | Attempt)]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_over_needs_no_collector(stream: bool) -> None:
    """Bodies may be large, and the collector comes rarely: nothing that holds one may be part of a cycle."""
    async with a_world() as world:
        client = await world.h1()
        gc.collect()
        before = held()  # by other tests
        gc.disable()
        try:
            for _ in range(10):
                await client.request("POST", "/v1/chat/completions", body=chat(stream=stream))
                up, _ = await world.up().request()
                if stream:
                    await up.start_chunked()
                    await up.chunk(b"data: 1\n\n")
                    await up.send(b"0\r\n\r\n")
                else:
                    await up.answer()
                assert (await client.response()).status == 200
            await world.idle()
            world.rides.clear()
            left = [it for it in held() if not any(it is other for other in before)]
            assert len(left) <= 2, left
        finally:
            gc.enable()
