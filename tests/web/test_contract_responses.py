"""What a client receives: heads, bodies, their framing and their timing, whichever way it came in."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import Client, Connection, H1Client, Incomplete, chat

from llamaswap.relay.pump import END_NOTICE_S


async def asked(world: World, client: Client, method: str = "POST", path: str = "/v1/chat/completions") -> Connection:
    """`client` has asked, the upstream has read it all."""
    await client.request(method, path, body=chat(stream=True) if method == "POST" else None)
    up = await world.up().accept()
    await up.request()
    return up


async def test_events_arrive_as_they_are_made(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.start_chunked()
        head = await client.head()  # before there is a body
        assert head.status == 200
        assert head.get("x-accel-buffering") == "no"
        assert head.get("content-type") == "text/event-stream"
        assert head.get("content-length") is None
        for number in range(5):
            event = b"data: %d\n\n" % number
            await up.chunk(event)
            assert await client.data() == event
        await up.send(b"0\r\n\r\n")
        assert await client.data() == b""


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "Text/Event-Stream", " text/event-stream"])
async def test_event_streams_are_not_buffered_by_proxies(door: str, kind: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.answer(b"", headers=[("Content-Type", kind), ("X-Accel-Buffering", "yes")])
        assert (await client.response()).all("x-accel-buffering") == ["no"]


async def test_other_answers_get_no_such_header(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.answer(headers=[("Content-Type", "application/json"), ("X-Accel-Buffering", "yes")])
        assert (await client.response()).all("x-accel-buffering") == ["yes"]


async def test_a_head_with_half_a_chunk_goes_out(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n")
        assert (await client.head()).status == 200
        await up.send(b"12345\r\n0\r\n\r\n")
        assert await client.data() == b"12345"
        assert await client.data() == b""


async def test_content_length_is_kept(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(b"HTTP/1.1 201 Made\r\nContent-Length: 10\r\nX-A: 1\r\nX-A: 2\r\n\r\n")
        head = await client.head()
        assert (head.status, head.get("content-length"), head.all("x-a")) == (201, "10", ["1", "2"])
        await up.send(b"12345")
        assert await client.data() == b"12345"
        await up.send(b"67890")
        assert await client.data() == b"67890"
        assert await client.data() == b""


async def test_the_reason_and_names_are_kept() -> None:
    async with a_world("front") as world:
        client = await world.h1()
        up = await asked(world, client)
        await up.answer(status="299 All Is Well", headers=[("x-CASE", "1")])
        head = await client.head()
        assert (head.status, head.reason, head.version) == (299, "All Is Well", "1.1")
        assert ("x-CASE", "1") in head.headers


async def test_a_body_that_ends_with_the_connection(any_door: str) -> None:
    async with a_world(any_door) as world:
        for version in ("1.0", "1.1"):
            client = await world.client()
            up = await asked(world, client)
            await up.send(f"HTTP/{version} 200 OK\r\nContent-Type: text/plain\r\n\r\n".encode())
            assert (await client.head()).status == 200
            await up.send(b"until")
            assert await client.data() == b"until"
            await up.send(b" the end")
            assert await client.data() == b" the end"
            up.close()
            assert await client.data() == b""
            await client.request("GET", "/health")  # the connection is still good
            assert (await client.response()).body == b"OK"


async def test_http10_with_a_length(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert (await client.response()).body == b"hi"
        await up.gone()  # such a connection is not kept


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("204 No Content", ""),
        ("304 Not Modified", ""),
        ("304 Not Modified", "Content-Length: 0\r\n"),
        ("200 OK", "Content-Length: 0\r\n"),
    ],
)
async def test_no_body(any_door: str, status: str, headers: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        for _ in range(2):
            await client.request("POST", "/v1/embeddings", body=chat())
            up, _ = await world.up().request()
            await up.send(f"HTTP/1.1 {status}\r\nETag: x\r\n{headers}\r\n".encode())
            response = await client.response()
            assert (response.status, response.body) == (int(status[:3]), b"")
            assert response.get("etag") == "x"
            if status.startswith("204"):
                assert response.get("content-length") is None
            assert response.get("transfer-encoding") is None
        assert world.up().accepted == 1 or any_door != "front"


@pytest.mark.parametrize("framing", ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", ""])
async def test_head(any_door: str, framing: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        for _ in range(2):
            await client.request("HEAD", "/props?model=a")
            up, request = await world.up().request()
            assert request.method == "HEAD"
            await up.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode())
            response = await client.response()
            assert (response.status, response.body) == (200, b"")
            if "Length" in framing:
                assert response.get("content-length") == "5"
        assert world.up().accepted == 1 or any_door != "front"


async def test_interim_responses_are_swallowed(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 20")
        await up.send(b"0 OK\r\nContent-Length: 2\r\n\r\nhi")
        response = await client.response()
        assert (response.status, response.body, response.get("link")) == (200, b"hi", None)
        if isinstance(client, H1Client):
            assert client.interim == []


async def test_trailers_do_no_harm(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.start_chunked()
        await up.send(b"2;ext=1\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.response()).body == b"hi"
        await client.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await up.answer(b"second")
        assert (await client.response()).body == b"second"
        assert world.up().accepted == 1 or any_door != "front"


async def test_hop_by_hop_headers_are_dropped(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        dropped = [
            ("Connection", "keep-alive, X-Hop, content-length"),
            ("Keep-Alive", "timeout=5"),
            ("X-Hop", "1"),
            ("Trailer", "X"),
            ("Upgrade", "h2c"),
            ("Proxy-Authenticate", "Basic"),
        ]
        await up.answer(
            b"body", headers=[*dropped, ("X-Kept", "1"), ("Server", "up"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
        )
        response = await client.response()
        assert response.body == b"body"
        for name, value in dropped:
            assert value not in response.all(name), name
        assert response.get("x-kept") == "1"
        assert response.all("set-cookie") == ["a", "b"]
        assert "up" in response.all("server")
        assert response.get("content-length") == "4"


async def test_a_response_split_at_every_byte(door: str) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n3\r\nabc\r\n5\r\n\r\n\r\nx\r\n0\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-A: 1\r\n\r\nabc\r\n\r\nx"
    async with a_world(door) as world:
        client = await world.client()
        for raw in (chunked, plain):
            await client.request("POST", "/v1/embeddings", body=chat())
            up, _ = await world.up().request()
            for index in range(len(raw)):
                await up.send(raw[index : index + 1])
                await trio.lowlevel.checkpoint()
            response = await client.response()
            assert (response.body, response.get("x-a")) == (b"abc\r\n\r\nx", "1")
        assert world.up().accepted == 1 or door != "front"


# -- what a client must never see


@pytest.mark.parametrize("junk", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"evil", b"\r\n", b"\0"])
@pytest.mark.parametrize("framing", ["length", "chunked", "empty", "no body"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_nothing_after_the_end_reaches_anybody(door: str, junk: bytes, framing: str, at_once: bool) -> None:
    answers = {
        "length": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood",
        "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\n\r\n",
        "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "no body": b"HTTP/1.1 204 OK\r\n\r\n",
    }
    async with a_world(door) as world:
        client = await world.client()
        up = await asked(world, client)
        if at_once:
            await up.send(answers[framing] + junk)
        else:
            await up.send(answers[framing])
        try:
            response = await client.response()
            assert response.body in (b"good", b"") or (at_once and response.code == "bad_gateway")
        except Incomplete:
            assert at_once
            client = await world.client()
        if not at_once:
            await up.send(junk)
            await trio.testing.wait_all_tasks_blocked(0.005)
        await client.request("POST", "/v1/embeddings", body=chat())
        second, _ = await world.up().request()
        assert second is not up
        await second.answer(b"second")
        assert (await client.response()).body == b"second"


BROKEN = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", b"some"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n", b"some"),
    "within a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nsome", b"some"),
    "before the last line": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n0\r\n", b"some"),
    "no body yet": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b""),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_response_that_breaks_off_looks_broken(any_door: str, case: str, how: str) -> None:
    raw, body = BROKEN[case]
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(raw)
        assert (await client.head()).status == 200
        getattr(up, how)()
        received = b""
        with pytest.raises(Incomplete):
            while True:
                received += (piece := await client.data())
                assert piece, "a clean end"
        assert body.startswith(received)
        await world.idle()
        if any_door.endswith("h2"):  # only the stream was broken
            await client.request("GET", "/health")
            assert (await client.response()).body == b"OK"


async def test_malformed_chunks_break_the_response(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.start_chunked()
        await client.head()
        await up.send(b"zz\r\n")
        with pytest.raises(Incomplete):
            await client.data()
        await up.gone()


BAD = {
    "bad first chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "both framings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
    "gzip transfer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
    "no colon": b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nhi",
    "status 101": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "bare 101": b"HTTP/1.1 101 Switching\r\n\r\n",
    "status 20": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 000": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nhi",
    "banner": b"SSH-2.0-OpenSSH_9\r\n",
    "a page without a head": b"<html>",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
    "huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70000,
    "HTTP/2": b"\0\0\0\4\0\0\0\0\0",
    "TLS alert": b"\x15\x03\x01\0\x02\x02\x46",
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_http_is_a_bad_gateway(door: str, case: str) -> None:
    """The upstream stays open: nobody waits for its end."""
    async with a_world(door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(BAD[case])
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        await up.gone()
        await client.request("GET", "/health")
        assert (await client.response()).status == 200


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\nContent-Le", b"H", b"HTTP/1.1 103 Early\r\n\r\nHTTP"])
async def test_a_head_that_breaks_off_is_a_bad_gateway(any_door: str, raw: bytes) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(raw)
        up.close()
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        assert world.launcher.started == ["a"]


@pytest.mark.parametrize("framing", ["", "Transfer-Encoding: chunked\r\n", "Content-Length: 100\r\n"])
async def test_broken_for_http10_clients_too(framing: str) -> None:
    async with a_world("front") as world:
        client = await world.h1()
        client.expect()
        await client.send(b"GET /props?model=a HTTP/1.0\r\n\r\n")
        up = await world.up().accept()
        await up.request()
        await up.send(
            f"HTTP/1.1 200 OK\r\n{framing}\r\n".encode() + (b"4\r\nsome\r\n" if "chunked" in framing else b"some")
        )
        head = await client.head()
        assert head.get("transfer-encoding") is None
        assert await client.data() == b"some"
        if framing:
            up.close()
        else:
            world.launcher.processes["a"].crashed.set()
            up.close()
        with pytest.raises(Incomplete):
            await client.data()


async def test_a_crash_ends_no_body_in_order(any_door: str) -> None:
    """A body that ends with its connection is not whole if the process ended with it."""
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.head()
        assert await client.data() == b"some"
        up.close()
        await trio.sleep(END_NOTICE_S / 4)  # the exit is seen a moment later
        world.launcher.processes["a"].crashed.set()
        with pytest.raises(Incomplete):
            await client.data()


async def test_broken_after_the_watcher_is_there(any_door: str) -> None:
    """A stream that has gone on for a while is watched by another task, which must not mind."""
    async with a_world(any_door) as world:
        client = await world.client()
        up = await asked(world, client)
        await up.start_chunked()
        await client.head()
        if world.door == "front":
            await world.until(lambda: any(c.guarded for c in world.front._connections))
        up.reset()
        with pytest.raises(Incomplete):
            await client.data()
        again = await world.client()
        await again.request("GET", "/health")
        assert (await again.response()).status == 200
