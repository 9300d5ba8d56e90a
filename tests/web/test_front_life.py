"""The front over time: control routes beside model routes, its end, clients that take nothing, descriptors."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import GONE, H1Client, Incomplete, chat

from llamaswap.web import front as front_module


def control(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def get(client: H1Client, path: str) -> bytes:
    client.expect()
    await client.send(control(path))
    response = await client.response()
    assert response.status == 200
    return response.body


# -- the app behind the front


async def test_control_and_model_requests_on_one_connection() -> None:
    async with a_world() as world:
        client = await world.h1()
        for _ in range(3):
            assert b'"running"' in await get(client, "/running")
            await client.request("POST", "/v1/embeddings", body=chat())
            up, _ = await world.up().request()
            await up.answer(b"served")
            assert (await client.response()).body == b"served"
            assert b'"a"' in await get(client, "/v1/models")
        assert await get(client, "/unload") == b"OK"


async def test_the_app_sees_the_client() -> None:
    """Its own head, method, path and body; not that there is a pipe between."""
    async with a_world(api_keys=("k",)) as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(
            b"POST /api/models/unload/a%20b HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: k\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        )
        response = await client.response()
        assert (response.status, response.code) == (404, "model_not_found")
        client.expect()
        await client.send(control("/running"))
        assert (await client.response()).status == 401


async def test_a_log_stream_is_live() -> None:
    async with a_world() as world:
        client, other = await world.h1(), await world.h1()
        client.expect()
        await client.send(control("/logs/stream/a?no-history"))
        assert (await client.head()).get("x-accel-buffering") == "no"
        for number in range(3):
            line = b"line %d\n" % number
            world.logs.model("a").write(line)
            assert await client.data() == line
            assert await get(other, "/health") == b"OK"
        client.close()
        await world.until(lambda: len(world.front._connections) == 1)


async def test_a_log_stream_that_nobody_reads_stays_small() -> None:
    async with a_world() as world:
        client, other = await world.h1(), await world.h1()
        client.expect()
        await client.send(control("/logs/stream/a?no-history"))
        await client.head()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(1000):
            world.logs.model("a").write(b"x" * 65535 + b"\n")
            await trio.lowlevel.checkpoint()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10  # KiB, of 64 MiB written
        assert await get(other, "/health") == b"OK"
        assert await client.data()
        client.close()
        await world.until(lambda: len(world.front._connections) == 1)


async def test_a_large_control_body_is_refused() -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(b"POST /api/models/unload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n")
        response = await client.response()
        assert (response.status, response.get("connection")) == (413, "close")


async def test_a_control_request_whose_client_leaves() -> None:
    async with a_world() as world:
        fds = len(os.listdir("/dev/fd"))
        for _ in range(20):
            client = await world.h1()
            await client.send(control("/logs/stream"))
            client.expect()
            await client.head()
            client.close()
        await world.until(lambda: not world.front._connections)
        await world.until(lambda: len(os.listdir("/dev/fd")) <= fds)


# -- the end


async def test_closing() -> None:
    async with a_world() as world:
        idle, used, busy, half, queued = [await world.h1() for _ in range(5)]
        await get(used, "/health")
        await busy.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await half.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        await queued.send(b"GET /hea")
        await trio.testing.wait_all_tasks_blocked(0.01)
        world.front.close()
        assert await idle.closed() and await used.closed()
        with pytest.raises(Incomplete):
            queued.expect()
            await queued.response()
        with pytest.raises(OSError):
            await world.h1()
        await up.answer(b"in time")
        response = await busy.response()
        assert (response.body, response.get("connection")) == (b"in time", "close")
        assert await busy.closed()
        half.expect("POST")
        await half.send(b"x" * 100)
        response = await half.response()
        assert (response.status, response.get("connection")) == (400, "close")
        assert await half.closed()
        await world.until(lambda: not world.front._connections)


async def test_closing_under_a_stream() -> None:
    """Its head has left without Connection: close, and still the connection ends after it."""
    async with a_world() as world:
        client = await world.h1()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        assert (await client.head()).get("connection") is None
        world.front.close()
        await up.chunk(b"last")
        assert await client.data() == b"last"
        await up.send(b"0\r\n\r\n")
        assert await client.data() == b""
        assert await client.closed()


@pytest.mark.parametrize("http10", [False, True])
async def test_cut_off_at_last(http10: bool) -> None:
    """Who is still there when the grace is over sees that something is missing."""
    async with a_world() as world:
        client = await world.h1()
        client.expect()
        await client.send(b"GET /props?model=a HTTP/1.%d\r\nHost: h\r\n\r\n" % (not http10))
        up, _ = await world.up().request()
        await up.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.head()
        assert await client.data() == b"some"
        for connection in world.front._connections:
            connection.scope.cancel()
        with pytest.raises(Incomplete):
            await client.data()


# -- clients that take nothing


async def flooded(world: World, nursery: trio.Nursery) -> tuple[H1Client, list[int]]:
    """A client that reads nothing of an endless answer; the list grows while the upstream gets rid of it."""
    client = await world.h1()
    await client.request("POST", "/v1/chat/completions", body=chat())
    up, _ = await world.up().request()
    sent: list[int] = []

    async def flood() -> None:
        await up.start_chunked()
        try:
            for _ in range(1 << 12):
                await up.chunk(b"x" * 65536)
                sent.append(65536)
        except GONE:
            return

    nursery.start_soon(flood)
    previous = -1
    while len(sent) != previous:
        previous = len(sent)
        await trio.sleep(0.02)
    return client, sent


async def test_what_a_client_does_not_take_stays_with_the_upstream() -> None:
    async with a_world() as world, trio.open_nursery() as nursery:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client, sent = await flooded(world, nursery)
        assert sum(sent) < 64 << 20  # it is in the kernel's buffers
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
        for _ in range(1000):
            world.front.sweep()  # nobody waits for room
        await client.head()
        assert await client.data()
        assert world.busy() == 1
        client.close()


async def test_who_takes_nothing_makes_room_for_who_waits(caplog: pytest.LogCaptureFixture) -> None:
    async with a_world(room_wanted=True) as world, trio.open_nursery() as nursery:
        client, _ = await flooded(world, nursery)
        for _ in range(front_module.CLIENT_STALL_S):
            world.front.sweep()
        await trio.testing.wait_all_tasks_blocked()
        assert world.busy() == 1
        world.front.sweep()
        await world.idle()
        assert "takes no data" in caplog.text
        with pytest.raises(Incomplete):
            await client.head()
            while await client.data():
                pass


async def test_who_takes_a_little_is_left_alone() -> None:
    async with a_world(room_wanted=True) as world, trio.open_nursery() as nursery:
        client, sent = await flooded(world, nursery)
        await client.head()
        for _ in range(4):
            for _ in range(front_module.CLIENT_STALL_S - 1):
                world.front.sweep()
            taken, before = 0, len(sent)
            while len(sent) < before + 2:
                taken += len(await client.data())
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert world.busy() == 1
        client.close()


async def test_a_quiet_stream_is_not_a_client_that_takes_nothing() -> None:
    async with a_world(room_wanted=True) as world:
        client = await world.h1()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        for _ in range(10 * front_module.CLIENT_STALL_S):
            world.front.sweep()
        await up.chunk(b"at last")
        assert await client.data() == b"at last"
        client.close()


# -- descriptors


async def test_out_of_descriptors(caplog: pytest.LogCaptureFixture) -> None:
    """Who comes then is served later; nobody else notices."""
    async with a_world() as world:
        old = await world.h1()
        await get(old, "/health")
        waiting = socket.socket()
        waiting.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        os.close(spare)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
            with pytest.raises(BlockingIOError):
                waiting.connect(("127.0.0.1", world.port))
            await world.until(lambda: "cannot accept" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client = H1Client(trio.SocketStream(trio.socket.from_stdlib_socket(waiting)))
        world.clients.append(client)
        assert await get(client, "/health") == b"OK"
        assert await get(old, "/health") == b"OK"
        levels = [record.levelno for record in caplog.records if "cannot accept" in record.message]
        assert set(levels) == {logging.ERROR}


async def test_aborted_requests_leave_no_descriptors() -> None:
    async with a_world(models={"a": {"concurrency_limit": 1000}}) as world:
        raws = [
            b"GET /hea",
            b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
            b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(chat()), chat()),
            b"\x16\x03\x01",
            control("/logs/stream"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"",
        ]
        gc.collect()
        before = len(os.listdir("/dev/fd"))
        for number in range(200):
            client = await world.h1()
            await client.send(raws[number % len(raws)])
            if number % 3:
                await trio.testing.wait_all_tasks_blocked()
            if number % 2:
                client.reset()
            else:
                client.close()
        await world.idle()
        await world.until(lambda: not world.front._connections)
        world.up().drop()
        await world.until(lambda: len(os.listdir("/dev/fd")) <= before)
        assert await get(await world.h1(), "/health") == b"OK"
