"""Rides that do not arrive: clients that leave, upstreams that fail, and ends ordered from outside."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from test_contract_leaving import H1_WAYS, leave, promptly
from test_lane import ask, boarded
from upstreams import Connection, Incomplete, chat

from llamaswap.observe.answer import finished
from llamaswap.observe.flights import Flight
from llamaswap.web import front


def watched(world: World) -> list[Flight]:
    closed: list[Flight] = []
    world.flights.on_close.append(closed.append)
    return closed


async def settled(world: World) -> None:
    """Nothing is held and nothing is watched but the connections that rest."""
    await world.idle()
    await world.until(lambda: not len(world.flights) and world.watched() <= 0)


# -- clients that leave


@pytest.mark.parametrize("phase", ["waiting", "streaming", "bulk", "half a head"])
@pytest.mark.parametrize("way", H1_WAYS)
async def test_clients_that_leave(way: str, phase: str) -> None:
    async with a_world() as world:
        closed = watched(world)

        async def attempt() -> float:
            client, up = await boarded(world)
            rides = len(world.rides)
            await ask(world, client)
            assert len(world.rides) == rides + 1
            if phase == "half a head":
                await up.send(b"HTTP/1.1 200 OK\r\nX: ")
                await trio.testing.wait_all_tasks_blocked(0.005)
            elif phase != "waiting":
                await up.start_chunked()
                await client.head()
                data = b"data: x\n\n" if phase == "streaming" else b"x" * 5000
                await up.chunk(data)
                assert await client.data() in (data, data[:1000])
            await leave(client, way)
            left = trio.current_time()
            await up.gone()
            await settled(world)
            took = trio.current_time() - left
            assert (finished(closed[-1]).status, closed[-1].gone, closed[-1].cancelled) == (499, True, False)
            return took

        await promptly(attempt)


async def test_a_client_that_leaves_behind_very_much() -> None:
    """What was read ahead is as much as is kept: the end behind it shows when the answer cannot be sent."""
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        await client.send(b"x" * 65536)
        (connection,) = world.front._connections
        await world.until(lambda: len(connection.buffer) >= 65536)
        client.reset()
        await up.start_chunked()
        with trio.move_on_after(5):
            while await _still_open(up):
                await up.chunk(b"data: x\n\n")
        await settled(world)
        assert closed[-1].gone


async def _still_open(up: Connection) -> bool:
    with trio.move_on_after(0.001):
        return await up.readable()
    return True


# -- upstreams that fail


async def test_a_connection_that_was_stale() -> None:
    """The request is sent again, once, on a fresh one; the client notices nothing."""
    async with a_world() as world:
        closed = watched(world)
        for how in ("close", "reset"):
            client, up = await boarded(world)
            await ask(world, client)
            getattr(up, how)()
            fresh, request = await world.up().request()
            assert fresh is not up
            assert request.body == chat()
            await fresh.answer(b"again")
            assert (await client.response()).body == b"again"
            assert (finished(closed[-1]).status, closed[-1].error) == (200, "")
            assert await ask(world, client) is fresh
            await fresh.answer()
            assert (await client.response()).status == 200
            fresh.close()
        assert len(world.rides) == 4
        assert world.launcher.started == ["a"]


@pytest.mark.parametrize("how", ["close", "reset", "stray bytes"])
@pytest.mark.parametrize("ridden", [True, False])
async def test_an_idle_connection_that_ends_is_let_go_at_once(ridden: bool, how: str) -> None:
    """Whichever way its last request went; bytes that nobody asked for are its end too, never an answer."""
    async with a_world() as world:
        client, up = await boarded(world)
        if ridden:
            await ask(world, client)
            await up.answer()
            assert (await client.response()).status == 200
        assert (len(world.pool), len(world.rides)) == (1, int(ridden))
        if how == "stray bytes":
            await up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        else:
            getattr(up, how)()
        await world.until(lambda: len(world.pool) == 0)
        assert world.watched() == 0
        fresh = await ask(world, client)
        await fresh.answer(b"right")
        assert (await client.response()).body == b"right"
        assert (len(world.pool), fresh is up) == (1, False)


async def test_a_task_and_the_lane_take_turns_on_a_connection() -> None:
    """A connection is watched by one of the two only: neither wakes for what is the other's, none hangs."""
    async with a_world() as world:
        client, up = await boarded(world)
        other = await world.client()
        for turn in range(6):
            if turn % 2:
                await ask(world, client)
                await up.answer(b"by the lane")
                assert (await client.response()).body == b"by the lane"
            else:
                await other.request("GET", "/upstream/a/page")
                taken, _ = await world.up().request()
                assert taken is up
                await up.answer(b"by a task")
                assert (await other.response()).body == b"by a task"
            assert (len(world.pool), world.watched()) == (1, 0)
        assert len(world.rides) == 3
        assert world.up().accepted == 1


async def test_a_fresh_connection_that_ends_as_well() -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        up.close()
        fresh, _ = await world.up().request()
        fresh.close()
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        await settled(world)
        assert world.up().accepted == 2
        assert world.launcher.started == ["a"]


@pytest.mark.parametrize(
    "rest", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"]
)
async def test_only_an_interim_head_and_the_end(rest: bytes) -> None:
    """That is no answer yet."""
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        if rest:
            await up.send(rest)
            await trio.testing.wait_all_tasks_blocked(0.005)
        up.close()
        fresh, request = await world.up().request()
        assert request.body == chat()
        await fresh.answer(b"again")
        assert (await client.response()).body == b"again"
        await settled(world)


async def test_a_process_that_crashes() -> None:
    """It is started again, and the request sent once more."""
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        world.up().refuse()
        world.launcher.held.add("a")
        world.launcher.processes["a"].crashed.set()
        up.close()
        await world.until(lambda: len(world.launcher.started) == 2)
        await world.nursery.start(world.up().run)
        world.launcher.processes["a"].ready.set()
        fresh, request = await world.up().request()
        assert request.body == chat()
        await fresh.answer(b"again")
        assert (await client.response()).body == b"again"
        await settled(world)
        assert world.launcher.started == ["a", "a"]
        assert len(closed) == 2


async def test_a_model_that_is_unloaded(door: str) -> None:
    """Sending the request again would load it again."""
    async with a_world(door) as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        await world.fleet.unload(None)
        up.close()
        response = await client.response()
        assert (response.status, response.code) == (503, "model_unloaded")
        await settled(world)
        assert world.up().accepted == 1
        assert world.launcher.started == ["a"]
        assert finished(closed[-1]).status == 503


BREAKS = {
    "no chunk size": b"what?\r\n",
    "a chunk too long": b"1\r\nabc\r\n",
    "another answer": b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    "junk behind the end": b"0\r\n\r\nX",
}


@pytest.mark.parametrize("junk", BREAKS.values(), ids=BREAKS)
async def test_junk_in_mid_stream(junk: bytes) -> None:
    """No clean end, nothing of it for anybody, and the connection is not used again."""
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.start_chunked()
        await up.chunk(b"data: 1\n\n")
        await client.head()
        assert await client.data() == b"data: 1\n\n"
        await up.send(junk)
        with pytest.raises(Incomplete):
            await client.data()
        await up.gone()
        await settled(world)
        other = await world.h1()
        fresh = await ask(world, other)
        assert fresh is not up
        await fresh.answer(b"good")
        assert (await other.response()).body == b"good"


@pytest.mark.parametrize("junk", [*BREAKS.values()], ids=BREAKS)
async def test_junk_from_the_start(junk: bytes) -> None:
    """Head and junk in one packet: nothing has reached the client, so it gets an error."""
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + junk)
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        await up.gone()
        fresh = await ask(world, client)
        await fresh.answer(b"good")
        assert (await client.response()).body == b"good"


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("crash", [True, False])
async def test_a_stream_that_breaks(how: str, crash: bool) -> None:
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        await up.start_chunked()
        await up.chunk(b"data: 1\n\n")
        await client.head()
        assert await client.data() == b"data: 1\n\n"
        if crash:
            world.launcher.processes["a"].crashed.set()
        getattr(up, how)()
        with pytest.raises(Incomplete):
            await client.data()
        await settled(world)
        assert closed[-1].exchange.broken
        assert world.launcher.started == ["a"]


@pytest.mark.parametrize("raw", [b"<html>", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", b"HTTP/1.1 200 OK\r\nX"])
async def test_an_answer_that_is_none(raw: bytes) -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.send(raw)
        up.close()
        if b"hi" in raw:
            with pytest.raises(Incomplete):
                await client.response()
        else:
            response = await client.response()
            assert (response.status, response.code) == (502, "bad_gateway")
        await settled(world)
        assert world.up().accepted == 1


# -- ends from outside


async def test_cancelled_before_its_answer() -> None:
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        (flight,) = world.flights
        flight.cancel()
        flight.cancel()
        response = await client.response()
        assert (response.status, response.code) == (410, "request_cancelled")
        await up.gone()
        await settled(world)
        assert (finished(closed[-1]).status, closed[-1].cancelled, closed[-1].gone) == (410, True, False)


async def test_cancelled_in_mid_stream() -> None:
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        await up.start_chunked()
        await up.chunk(b"data: 1\n\n")
        await client.head()
        assert await client.data() == b"data: 1\n\n"
        (flight,) = world.flights
        flight.cancel()
        with pytest.raises(Incomplete):
            await client.data()
        await up.gone()
        await settled(world)
        assert (finished(closed[-1]).status, closed[-1].cancelled, closed[-1].gone) == (200, True, False)


async def test_cancelled_when_it_is_over() -> None:
    """Does nothing to the request behind it."""
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await ask(world, client)
        await up.answer()
        assert (await client.response()).status == 200
        await ask(world, client)
        closed[-1].cancel()
        await up.answer(b"unharmed")
        assert (await client.response()).body == b"unharmed"


@pytest.mark.parametrize("stream", [True, False])
async def test_closing_while_it_rides(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes, then the end, in order and without the help of the sweeper."""
    monkeypatch.setattr(front, "SWEEP_S", 1000)
    async with a_world() as world:
        client, up = await boarded(world)
        idle = await world.h1()
        await ask(world, client)
        world.front.close()
        assert await idle.closed()
        if stream:
            await up.start_chunked()
            await up.chunk(b"data: 1\n\n")
            await up.send(b"0\r\n\r\n")
        else:
            await up.answer(b"last")
        assert (await client.response()).body in (b"last", b"data: 1\n\n")
        assert await client.closed()
        await world.front.quiet()
        assert world.watched() == 0


async def test_closing_with_requests_behind_it() -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.005)
        world.front.close()
        await up.answer(b"one")
        assert (await client.response()).body == b"one"
        client.expect()
        response = await client.response()
        assert (response.body, response.get("connection")) == (b"OK", "close")
        await world.front.quiet()


@pytest.mark.parametrize("stream", [True, False])
async def test_all_is_cancelled(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The front's end breaks what is under way; both sides see it, nothing is held and nothing logged as a failure."""
    async with a_world() as world:
        closed = watched(world)
        client, up = await boarded(world)
        await boarded(world)
        await ask(world, client)
        if stream:
            await up.start_chunked()
            await up.chunk(b"data: 1\n\n")
            await client.head()
            assert await client.data() == b"data: 1\n\n"
        world.front_scope.cancel()
        with pytest.raises(Incomplete):
            await client.response()
        await up.gone()
        await settled(world)
        assert len(world.pool.engine) == 0
        assert len(closed) == 3
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_listener_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is its request's, not everybody's."""
    async with a_world() as world:
        other = await world.h1()
        client, _ = await boarded(world)

        def fail(_: Flight) -> None:
            world.flights.on_close.remove(fail)
            raise ValueError("a bug")

        world.flights.on_close.append(fail)
        await ask(world, client)
        client.close()
        await settled(world)
        assert "a connection's task failed" in caplog.text
        await other.request("GET", "/health", [("Connection", "close")])
        assert (await other.response()).body == b"OK"
