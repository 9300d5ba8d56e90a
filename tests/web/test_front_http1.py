"""Our own HTTP/1.1 listener as a citizen: keep-alive, pipelining, framing of requests, limits, refusals."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import GONE, H1Client, Incomplete, Response, chat

from llamaswap.web import connection as front_connection
from llamaswap.web.http1 import HEAD_LIMIT


def post(body: bytes, *headers: str, path: str = "/v1/embeddings", version: str = "1.1") -> bytes:
    lines = [f"POST {path} HTTP/{version}", "Host: h", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


async def health(client: H1Client) -> None:
    """The connection is still good."""
    client.expect()
    await client.send(HEALTH)
    response = await client.response()
    assert (response.status, response.body) == (200, b"OK")


async def refused(world: World, raw: bytes, status: int, *, method: str = "GET") -> Response:
    """`raw` is answered with `status` and the end of the connection; nothing of it gets anywhere."""
    client = await world.h1()
    client.expect(method)
    await client.send(raw)
    response = await client.response()
    assert response.status == status
    assert response.get("connection") == "close"
    assert await client.closed()
    assert world.up().accepted == 0
    return response


# -- many requests on a connection


async def test_keep_alive() -> None:
    async with a_world() as world:
        client = await world.h1()
        for number in range(20):
            await health(client)
            await client.request("POST", "/v1/embeddings", body=chat(n=number))
            up, request = await world.up().request()
            assert request.json["n"] == number
            await up.answer(b"%d" % number)
            response = await client.response()
            assert response.body == b"%d" % number
            assert response.get("connection") is None
            await client.request("GET", "/no/such")
            assert (await client.response()).status == 403  # not under this name
        assert world.up().accepted == 1


@pytest.mark.parametrize("headers", ["Connection: close", "Connection: x, Close"])
async def test_connection_close(headers: str) -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(post(chat(), headers))
        up, _ = await world.up().request()
        await up.answer()
        response = await client.response()
        assert response.get("connection") == "close" and await client.closed()
        client = await world.h1()
        client.expect()
        await client.send(HEALTH.replace(b"\r\n\r\n", b"\r\n" + headers.encode() + b"\r\n\r\n"))
        response = await client.response()
        assert response.get("connection") == "close" and await client.closed()


async def test_pipelining() -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        chunked = (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(chat(n=2)), chat(n=2))
        )
        await client.send(post(chat(n=1)) + HEALTH + chunked + b"\r\n" + post(b"{}") + post(chat(n=3)))
        for number in (1, 2, 3):
            up, request = await world.up().request()
            assert request.json["n"] == number
            if number == 1:
                await trio.testing.wait_all_tasks_blocked(0.05)  # the watcher has read ahead
                assert world.busy() == 1
            await up.answer(b"%d" % number)
            assert (await client.response()).body == b"%d" % number
            client.expect()
            if number == 1:
                assert (await client.response()).body == b"OK"
                client.expect("POST")
            if number == 2:
                assert (await client.response()).status == 400
                client.expect("POST")
        assert world.up().accepted == 1


async def test_requests_split_at_every_byte() -> None:
    raw = post(chat(n=1)) + (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\n" + chat()[:3] + b"\r\n%x;e=1\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(chat()) - 3, chat()[3:])
    )
    async with a_world() as world:
        client = await world.h1()

        async def dribble() -> None:
            for index in range(len(raw)):
                await client.send(raw[index : index + 1])
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dribble)
            for body in (chat(n=1), chat()):
                up, request = await world.up().request()
                assert request.body == body
                await up.answer()
                client.expect("POST")
                assert (await client.response()).status == 200


async def test_two_pieces_at_every_place() -> None:
    """Head, body and the next request's head cut in two, wherever the cut falls."""
    raw = (
        post(b"[]")
        + (b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n")
        + HEALTH
    )
    async with a_world() as world:
        client = await world.h1()
        for at in range(len(raw)):
            await client.send(raw[:at])
            for _ in range(4):
                await trio.lowlevel.checkpoint()
            await client.send(raw[at:])
            for status in (400, 400, 200):
                client.expect("POST")
                assert (await client.response()).status == status


# -- Expect: 100-continue


@pytest.mark.parametrize("framing", ["Content-Length: 2", "Transfer-Encoding: chunked"])
async def test_continue_is_sent_when_the_body_is_read(framing: str) -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(b"%bExpect: 100-continue\r\n%b\r\n\r\n" % (HEAD, framing.encode()))
        assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"[]" if "Length" in framing else b"2\r\n[]\r\n0\r\n\r\n")
        assert (await client.response()).status == 400  # no object
        await health(client)


async def test_no_continue_for_what_is_refused() -> None:
    async with a_world(api_keys=("k",), max_request_body_bytes=1000) as world:
        for head, status in (
            ("POST /v1/embeddings HTTP/1.1\r\nContent-Length: 2", 401),
            ("POST /v1/embeddings HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 2000", 413),
            ("PUT /v1/embeddings HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 2", 405),
            ("POST /upstream/zzz/x HTTP/1.1\r\nX-Api-Key: k\r\nContent-Length: 2", 404),
        ):
            client = await world.h1()
            client.expect("POST")
            await client.send(f"{head}\r\nHost: h\r\nExpect: 100-continue\r\n\r\n".encode())
            response = await client.response()
            assert (response.status, client.interim) == (status, [])
            # It may or may not send the body now, so nothing after it can be understood.
            assert response.get("connection") == "close"
            assert await client.closed()


async def test_no_continue_when_the_body_is_there() -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(post(b"[]", "Expect: 100-continue"))
        assert (await client.response()).status == 400
        assert client.interim == []
        await health(client)


# -- HTTP/1.0 and HEAD


async def test_http10() -> None:
    async with a_world() as world:
        for extra in (b"", b"Connection: keep-alive\r\n"):
            client = await world.h1()
            client.expect("POST")
            await client.send(
                b"POST /v1/embeddings HTTP/1.0\r\n" + extra + b"Content-Length: %d\r\n\r\n" % len(chat()) + chat()
            )
            up, request = await world.up().request()
            assert request.version == "HTTP/1.1" and request.body == chat()
            await up.start_chunked()
            head = await client.head()
            assert head.get("transfer-encoding") is None
            await up.chunk(b"one")
            assert await client.data() == b"one"
            await up.chunk(b"two")
            assert await client.data() == b"two"
            await up.send(b"0\r\n\r\n")
            assert await client.data() == b""
            assert client.ended
        client = await world.h1()
        client.expect()
        await client.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await client.response()).body == b"OK"


async def test_head_of_everything() -> None:
    async with a_world() as world:
        client = await world.h1()
        for path in ("/health", "/no/such", "/v1/models", "/v1/chat/completions", "/upstream/zzz/"):
            await client.request("HEAD", path)
            response = await client.response()
            assert response.body == b""
        await client.request("HEAD", "/props?model=zzz")
        assert (await client.response()).status == 404
        await health(client)


# -- refusals


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (post(b"{}", "Transfer-Encoding: chunked"), 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: h\r\nExpect: a-pony\r\n\r\n", 417),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/1.7\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * HEAD_LIMIT + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * (HEAD_LIMIT + 10), 431),
        (b"GET http://h/health HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),
        (HEALTH[:-2] + b" folded: x\r\n\r\n", 400),
    ],
)
async def test_refused(raw: bytes, status: int) -> None:
    async with a_world() as world:
        response = await refused(world, raw, status)
        assert response.json["src"] == "llama-swap"


async def test_nothing_behind_a_refusal_is_served() -> None:
    """What follows a request that two parties could read differently is not read at all."""
    async with a_world() as world:
        for bad in (
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        ):
            response = await refused(world, bad + post(chat()) + HEALTH, 400, method="POST")
            assert response.code == "bad_request"


async def test_upgrades_that_are_ignored() -> None:
    async with a_world() as world:
        client = await world.h1()
        for framing in (
            b"Content-Length: %d\r\n\r\n%b" % (len(chat()), chat()),
            b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(chat()), chat()),
        ):
            client.expect("POST")
            await client.send(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n" + framing
            )
            up, request = await world.up().request()
            assert request.body == chat()
            assert request.get("upgrade") is None and request.get("http2-settings") is None
            await up.answer()
            assert (await client.response()).status == 200
            await health(client)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("split", [0, 1, 2, 3, 5, 100])
async def test_an_unread_body_is_read_past(framing: str, split: int) -> None:
    """An error before the body was read does not cost the connection, if the body is small."""
    async with a_world(max_request_body_bytes=10) as world:
        client = await world.h1()
        body = b"x" * 2000
        for _ in range(2):
            client.expect("POST")
            if framing == "length":
                raw = post(body)
            else:
                raw = (
                    b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n"
                    + body
                    + b"\r\n0\r\n\r\n"
                )
            raw += HEALTH
            cut = len(raw) - len(HEALTH) - split
            await client.send(raw[:cut])
            assert (await client.response()).status == 413
            await client.send(raw[cut:])
            client.expect()
            assert (await client.response()).body == b"OK"


async def test_a_large_unread_body_costs_the_connection() -> None:
    async with a_world(max_request_body_bytes=10) as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nx")
        response = await client.response()
        assert response.status == 413 and response.get("connection") == "close"
        assert await client.closed()


async def test_who_keeps_sending_gets_the_answer() -> None:
    """Not a reset, although it has a few megabytes to go."""
    async with a_world(max_request_body_bytes=10) as world:
        client = await world.h1()
        client.expect("POST")
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await client.send(post(b"x" * (3 << 20)))
                except GONE:
                    raise AssertionError("reset while sending") from None

            nursery.start_soon(send)
            response = await client.response()
            assert response.status == 413


# -- time


async def ticks(world: World, count: int) -> None:
    """What the sweeper does, `count` seconds of it."""
    front = world.front
    for _ in range(count):
        front.tick += 1
        for connection in list(front._connections):
            if connection.overdue():
                connection.scope.cancel()


async def test_a_slow_head() -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect()
        await client.send(b"GET / HT")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.HEAD_S)
        await client.send(b"TP/1.")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, 1)
        response = await client.response()
        assert (response.status, response.code) == (408, "invalid_request")
        assert await client.closed()


async def test_a_slow_second_head() -> None:
    async with a_world() as world:
        client = await world.h1()
        await health(client)
        await ticks(world, front_connection.HEAD_S * 3)
        client.expect()
        await client.send(HEALTH[:10])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.HEAD_S)
        await client.send(HEALTH[10:])
        assert (await client.response()).status == 200


async def test_an_idle_connection_is_closed() -> None:
    async with a_world() as world:
        fresh, used = await world.h1(), await world.h1()
        await health(used)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.IDLE_S)
        await health(used)
        await ticks(world, 1)
        assert await fresh.closed()  # without a word: it asked nothing
        await ticks(world, front_connection.IDLE_S + 1)
        assert await used.closed()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come(framing: str) -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(f"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\n".encode())
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.BODY_STALL_S)
        await client.send(b"1")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.BODY_STALL_S)
        await client.send(b"2")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.BODY_STALL_S + 1)
        response = await client.response()
        assert (response.status, response.code) == (408, "invalid_request")
        assert await client.closed()


async def test_a_long_answer_is_not_idle() -> None:
    async with a_world() as world:
        client = await world.h1()
        await client.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await ticks(world, 1000)
        await up.start_chunked()
        await client.head()
        await ticks(world, 1000)
        await up.chunk(b"x")
        assert await client.data() == b"x"
        await up.send(b"0\r\n\r\n")
        assert await client.data() == b""
        await health(client)


async def test_an_answer_after_a_refusal_is_only_one() -> None:
    """A head that took its time and was malformed is answered once."""
    async with a_world() as world:
        client = await world.h1()
        client.expect()
        await client.send(b"GET / HTTP/1.1\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, front_connection.HEAD_S - 1)
        await client.send(b"\r\nmore")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await ticks(world, 5)
        assert (await client.response()).status == 400
        assert await client.closed()


async def test_half_a_request_and_gone() -> None:
    async with a_world() as world:
        for raw in (b"", b"G", HEALTH[:-1], post(chat())[:-1], post(chat())[: -len(chat())]):
            client = await world.h1()
            await client.send(raw)
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            with pytest.raises(Incomplete):
                client.expect()
                await client.response()
            assert world.up().accepted == 0
        assert socket.has_ipv6 is not None
        await health(await world.h1())
