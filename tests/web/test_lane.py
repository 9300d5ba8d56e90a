"""Requests that go by the express lane, no task woken: they must look like all others."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import Connection, H1Client, chat

from llamaswap.config.settings import Group
from llamaswap.observe.answer import finished
from llamaswap.observe.flights import Flight
from llamaswap.web.connection import BODY_STALL_S

TOGETHER = {"g": Group("g", swap=False, members=("a", "b"))}
PATH = "/v1/chat/completions"


async def boarded(world: World, model: str = "a", path: str = PATH, **more: Any) -> tuple[H1Client, Connection]:
    """A client whose next request of this kind rides, and the upstream connection that waits for it."""
    client = await world.h1()
    up = await ask(world, client, model, path, **more)
    await up.answer(b"warm")
    assert (await client.response()).body == b"warm"
    return client, up


async def ask(world: World, client: H1Client, model: str = "a", path: str = PATH, **more: Any) -> Connection:
    await client.request("POST", path, body=chat(model), **more)
    up, request = await world.up(model).request()
    assert request.json["model"] == model
    return up


async def test_plain_answers_in_a_row() -> None:
    async with a_world() as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client, up = await boarded(world)
        for number in range(20):
            body = b"x" * number * 1000
            assert await ask(world, client) is up
            assert (world.busy(), len(world.flights)) == (1, 1)
            await up.answer(body, headers=[("X-N", str(number))])
            response = await client.response()
            assert (response.status, response.body, response.get("x-n")) == (200, body, str(number))
            assert (world.busy(), len(world.flights)) == (0, 0)
            flight = closed[-1]
            assert (finished(flight).status, flight.gone, flight.error, flight.model) == (200, False, "", "a")
            assert b"".join([*flight.head, *(flight.tail or ())]) == body
            assert flight.exchange.bytes_sent == len(body)
            assert flight.body == chat()
            headers = {name.lower(): value for name, value in flight.response_headers}
            assert headers == {b"x-n": b"%d" % number, b"content-length": b"%d" % len(body)}
        assert len(closed) == 21
        assert len(world.rides) == 20
        assert world.up().accepted == 1


async def test_what_the_upstream_gets() -> None:
    """The same head and body as by the ordinary way."""
    async with a_world() as world:
        client = await world.h1()
        seen = []
        for _ in range(3):
            await client.request("POST", PATH + "?q=%20x", [("X-A", "1"), ("Accept-Encoding", "gzip")], chat(n=1))
            up, request = await world.up().request()
            seen.append(request)
            await up.answer()
            await client.response()
        assert len(world.rides) == 2
        assert seen[0] == seen[1] == seen[2]
        assert seen[0].target == PATH + "?q=%20x"
        assert seen[0].all("accept-encoding") == ["identity"]
        assert seen[0].body == chat(n=1)


async def test_bodies_of_other_lengths_by_the_same_head() -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        for size in (0, 1, 9, 1000, 20000):
            body = chat(prompt="p" * size)
            await client.request("POST", PATH, body=body)
            _, request = await world.up().request()
            assert request.body == body
            assert request.get("content-length") == str(len(body))
            await up.answer()
            await client.response()
        assert len(world.rides) == 5


async def test_streams() -> None:
    """Chunk boundaries stay, each chunk goes at once, and the connections stay usable."""
    async with a_world() as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client, up = await boarded(world)
        for _ in range(3):
            await ask(world, client)
            await up.start_chunked()
            head = await client.head()
            assert (head.status, head.get("transfer-encoding"), head.get("x-accel-buffering")) == (200, "chunked", "no")
            expected = b""
            for number in range(5):
                event = b"data: %d\n\n" % number
                expected += b"%x\r\n%b\r\n" % (len(event), event)
                await up.chunk(event)
                assert await client.data() == event
            assert world.busy() == 1
            assert len(world.pool.engine) == 2  # both sides, so it rides all the way
            await up.send(b"0\r\n\r\n")
            assert await client.data() == b""
            assert world.busy() == 0
            flight = closed[-1]
            assert b"".join(flight.head) == expected + b"0\r\n\r\n"
            assert (finished(flight).status, flight.chunked, flight.whole) == (200, True, True)
            assert flight.exchange.bytes_sent == flight.received
        assert await ask(world, client) is up
        await up.answer(b"plain")
        assert (await client.response()).body == b"plain"
        assert len(world.rides) == 4
        assert world.up().accepted == 1


@pytest.mark.parametrize(
    "trailers",
    [
        b"",
        b"X: y\r\n",
        b"Connection: close\r\n",
        b"Proxy-Connection: close\r\n",
        b"Upgrade: x\r\n",
    ],
)
async def test_what_stands_behind_a_stream_is_nothing_to_the_next(trailers: bytes) -> None:
    """Streams of one client share a parser, which must not take a trailer for news of its own; empty answers between
    them ride as well."""
    async with a_world() as world:
        client, up = await boarded(world)
        for number in range(3):
            await ask(world, client)
            await up.start_chunked()
            await up.chunk(b"data: %d\n\n" % number)
            await up.send(b"0\r\n" + trailers + b"\r\n")
            assert (await client.response()).body == b"data: %d\n\n" % number
            await ask(world, client)
            await up.answer(b"")
            response = await client.response()
            assert (response.status, response.body, response.get("content-length")) == (200, b"", "0")
        assert len(world.rides) == 6
        assert world.up().accepted == 1
        assert not len(world.flights)


async def test_a_stream_goes_out_byte_for_byte() -> None:
    """Framing too, wherever it is cut."""
    framed = (
        b"5;x=y\r\nhello\r\n" + b"".join(b"%x\r\n%b\r\n" % (n, b"z" * n) for n in (1, 17, 300)) + b"0\r\nT: 1\r\n\r\n"
    )
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with a_world() as world:
        client, up = await boarded(world)
        for cut in range(0, len(framed), 7):
            await ask(world, client)
            await up.send(head + framed[:cut])
            got = b""
            while len(got) < len(head) + cut:
                got += await client.stream.receive_some(65536)
            await up.send(framed[cut:])
            while len(got) < len(head + framed):
                got += await client.stream.receive_some(65536)
            assert got == head + framed
        assert world.busy() == 0
        assert world.up().accepted == 1


async def test_bulk_streams() -> None:
    """More than tokens make, in order and whole, while others get their turn."""
    data = bytes(range(256)) * 4096 * 4
    async with a_world(models={"a": {}, "b": {}}, groups=TOGETHER) as world:
        client, up = await boarded(world)
        other, quick = await boarded(world, "b")
        await ask(world, client)

        async def pour() -> None:
            await up.start_chunked("application/octet-stream")
            for at in range(0, len(data), 3000):
                await up.chunk(data[at : at + 3000])
            await up.send(b"0\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            await client.head()
            first = await client.data()
            await ask(world, other, "b")
            await quick.answer(b"between")
            assert (await other.response()).body == b"between"
            assert first + await client.body() == data
        assert await ask(world, client) is up
        await up.answer()
        await client.response()
        assert len(world.rides) == 3


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_client_that_reads_slowly(chunked: bool) -> None:
    """Gets every byte, once, and may ask again."""
    data = bytes(range(256)) * 4096 * 12
    async with a_world() as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client, up = await boarded(world)
        await ask(world, client)

        async def pour() -> None:
            if not chunked:
                await up.answer(data)
                return
            await up.start_chunked("application/octet-stream")
            for at in range(0, len(data), 50000):
                await up.chunk(data[at : at + 50000])
            await up.send(b"0\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            # Everything between is full when nothing moves any more.
            await world.until(lambda: any(c.transport.unsent() for c in world.front._connections))
            assert (await client.response()).body == data
        await world.until(lambda: len(closed) == 2)
        assert closed[-1].exchange.bytes_sent == closed[-1].received
        assert await ask(world, client) is up
        await up.answer()
        await client.response()


async def test_a_small_answer_for_a_client_that_is_full() -> None:
    """It is taken a piece at a time; the bytes are counted once."""
    async with a_world() as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client, up = await boarded(world)
        body = b"y" * 60000
        (connection,) = world.front._connections
        connection.transport.sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4096)  # type: ignore[attr-defined]
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        await ask(world, client)
        await up.answer(body)
        assert (await client.response()).body == body
        await world.until(lambda: len(closed) == 2)
        assert len(world.rides) == 1
        assert closed[-1].exchange.bytes_sent == len(body)


async def test_requests_behind_one_that_rides() -> None:
    """Answered in order, the first of them at once by the task that is woken."""
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await client.send(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" * 2)
        await client.send(raw_request(chat(n=3)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await up.answer(b"one")
        assert (await client.response()).body == b"one"
        for _ in range(2):
            client.expect()
            assert (await client.response()).body == b"OK"
        client.expect("POST")
        _, request = await world.up().request()
        assert request.json["n"] == 3
        await up.answer(b"two")
        assert (await client.response()).body == b"two"
        await ask(world, client)
        await up.answer(b"three")
        assert (await client.response()).body == b"three"
        assert len(world.rides) == 2


async def test_very_many_requests_behind_one_that_rides() -> None:
    """More than is read ahead; in mid-stream, so that they come while chunks go."""
    one = b"GET /health?%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"x" * 960)
    count = 400  # many times what is kept
    async with a_world(limit_s=30) as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.start_chunked()
        await client.head()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, one * count)
            (connection,) = world.front._connections
            await world.until(lambda: len(connection.buffer) >= 65536)
            for _ in range(3):
                await up.chunk(b"data: x\n\n")
                assert await client.data() == b"data: x\n\n"
            assert len(connection.buffer) < 3 * 65536
            await up.send(b"0\r\n\r\n")
            assert await client.data() == b""
            for _ in range(count):
                client.expect()
                assert (await client.response()).body == b"OK"
        assert len(world.rides) == 1


def raw_request(body: bytes, path: str = PATH) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: example.test\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


async def test_a_request_in_pieces() -> None:
    """Wherever it is cut, it arrives whole, and the next one rides again."""
    async with a_world() as world:
        client, up = await boarded(world)
        raw = raw_request(chat(n=7))
        for cut in (1, 5, len(raw) // 2, raw.index(b"\r\n\r\n") + 2, raw.index(b"{"), len(raw) - 1):
            await client.send(raw[:cut])
            await trio.testing.wait_all_tasks_blocked(0.01)
            client.expect("POST")
            await client.send(raw[cut:])
            _, request = await world.up().request()
            assert request.json["n"] == 7
            await up.answer()
            assert (await client.response()).status == 200
            await ask(world, client)
            await up.answer()
            assert (await client.response()).status == 200
        # The six in between, and the one whose head came whole and its body apart.
        assert len(world.rides) == 7


async def cut_behind_its_head(world: World) -> tuple[H1Client, bytes]:
    """A client that has sent the head of a request that could ride; the body."""
    client, _ = await boarded(world)
    head, _, body = raw_request(chat(n=7)).partition(b"{")
    await client.send(head + b"{" + body)  # which teaches the head
    client.expect("POST")
    up, _ = await world.up().request()
    await up.answer()
    assert (await client.response()).status == 200
    await client.send(head)
    await trio.testing.wait_all_tasks_blocked(0.01)
    return client, b"{" + body


async def test_a_body_that_never_comes_is_waited_for_so_long() -> None:
    async with a_world() as world:
        client, _ = await cut_behind_its_head(world)
        client.expect("POST")
        for _ in range(BODY_STALL_S + 2):
            world.front.sweep()
        response = await client.response()
        assert (response.status, response.get("connection")) == (408, "close")
        assert await client.closed()


async def test_leaving_before_the_body() -> None:
    async with a_world() as world:
        client, body = await cut_behind_its_head(world)
        await client.send(body[:3])
        client.close()
        await world.until(lambda: not world.front._connections)
        assert world.up().accepted == 1


async def test_many_at_once() -> None:
    async with a_world(models={"a": {"concurrency_limit": 100}}, limit_s=30) as world, trio.open_nursery() as nursery:

        async def serve(up: Connection) -> None:
            while await up.readable():
                request = await up.request()
                await up.answer(str(request.json["n"]).encode())

        async def accept() -> None:
            while True:
                nursery.start_soon(serve, await world.up().accept())

        async def talk(number: int) -> None:
            client = await world.h1()
            for turn in range(20):
                await client.request("POST", PATH, body=chat(n=(number, turn)))
                assert (await client.response()).body == str([number, turn]).encode()

        nursery.start_soon(accept)
        async with trio.open_nursery() as talkers:
            for number in range(30):
                talkers.start_soon(talk, number)
        assert len(world.rides) > 300
        nursery.cancel_scope.cancel()
