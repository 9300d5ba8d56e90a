"""Response heads are remembered: no answer may get anything of another's."""

from __future__ import annotations

import pytest
import trio.testing
from fakefleet import a_world
from test_lane import ask, boarded

DATES = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT", "Mon, 07 Nov 1994 00:00:00 GMT"]


@pytest.mark.parametrize("spelling", ["Date", "date"])
async def test_a_remembered_head_tells_its_own_date_and_length(spelling: str) -> None:
    """Also where other headers change, or have the very same date."""
    async with a_world() as world:
        client, up = await boarded(world)
        for date in DATES:
            for modified in DATES:
                for x in ("1", "2"):
                    await ask(world, client)
                    body = (date + modified + x).encode()[: 10 + len(x + modified)] * int(x)
                    await up.answer(body, headers=[("Last-Modified", modified), (spelling, date), ("X", x)])
                    response = await client.response()
                    assert (response.get("last-modified"), response.get("x")) == (modified, x)
                    assert (response.get("date"), response.body) == (date, body)
                    assert response.get("content-length") == str(len(body))
        assert len(world.rides) == 18


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([("Connection", "keep-alive, date"), ("Date", DATES[0])], []),
        ([("Date", DATES[0]), ("date", DATES[1])], [("Date", DATES[0]), ("date", DATES[1])]),
        ([("Date", "today")], [("Date", "today")]),
        ([("DATE", DATES[0])], [("DATE", DATES[0])]),
        ([("Date", "\r\nX-Hidden: aaaaaaaaaaaaaaaaa")], [("Date", ""), ("X-Hidden", "a" * 17)]),
    ],
)
async def test_heads_with_strange_dates(lines: list[tuple[str, str]], shown: list[tuple[str, str]]) -> None:
    """They come as they are, each time, also after a head that is the same without its date."""
    usual = [("Date", DATES[2])]
    async with a_world() as world:
        client, up = await boarded(world)
        for fields, expected in ((usual, usual), (lines, shown), (lines, shown), (usual, usual)):
            await ask(world, client)
            await up.answer(b"hi", headers=fields)
            response = await client.response()
            assert response.body == b"hi"
            assert [field for field in response.headers if field[0] != "Content-Length"] == expected
        assert len(world.rides) == 4


async def test_a_date_hides_no_framing() -> None:
    """29 bytes where a date was, and they are a header of the hop."""
    hidden = b"\r\nTransfer-Encoding:  chunked"
    assert len(hidden) == 29
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.send(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: 2\r\n\r\nhi" % DATES[0].encode())
        assert (await client.response()).body == b"hi"
        await ask(world, client)
        await up.send(b"HTTP/1.1 200 OK\r\nDate: %b\r\nContent-Length: 2\r\n\r\nhi" % hidden)
        assert (await client.response()).code == "bad_gateway"
        await up.gone()


PIECES = [
    b"HTTP/1.1 2",
    b"01 Made\r\nContent-Type: a/b\r",
    b"\n",
    b"X: y\r\nContent-Length: 5\r\n\r",
    b"\nhe",
    b"ll",
    b"o",
]


async def test_a_head_and_a_body_in_pieces() -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        for _ in range(2):
            await ask(world, client)
            for piece in PIECES:
                await up.send(piece)
                await trio.testing.wait_all_tasks_blocked(0.005)
            response = await client.response()
            assert (response.status, response.reason, response.body) == (201, "Made", b"hello")
            assert (response.get("content-type"), response.get("x")) == ("a/b", "y")
        assert await ask(world, client) is up
        await up.answer()
        assert (await client.response()).status == 200
        assert len(world.rides) == 3


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"]
)
@pytest.mark.parametrize("together", [True, False])
async def test_an_interim_head(interim: bytes, together: bool) -> None:
    async with a_world() as world:
        client, up = await boarded(world)
        for _ in range(2):
            await ask(world, client)
            if together:
                await up.send(interim + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal")
            else:
                await up.send(interim)
                await trio.testing.wait_all_tasks_blocked(0.005)
                await up.answer(b"final")
            assert (await client.response()).body == b"final"
        assert client.interim == []
        assert await ask(world, client) is up
        await up.answer()
        assert (await client.response()).status == 200


NO_BODY = [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"]


@pytest.mark.parametrize("raw", [*NO_BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_no_body(raw: bytes) -> None:
    """Also where the same head had one before: it is the status that says so."""
    async with a_world() as world:
        client, up = await boarded(world)
        for size in (0, 3, 0):
            await ask(world, client)
            with_body = size and b"200 OK" in raw
            await up.send(raw.replace(b"Length: 0", b"Length: %d" % size) + b"x" * size if with_body else raw)
            response = await client.response()
            assert response.status == int(raw[9:12])
            assert response.body == (b"x" * size if with_body else b"")
        assert await ask(world, client) is up
        await up.answer()
        assert (await client.response()).status == 200


LAST = {
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "HTTP/1.0 until its end": b"HTTP/1.0 200 OK\r\n\r\nhi",
    "Connection: close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    "Connection: close, chunked": (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    ),
    "until its end": b"HTTP/1.1 200 OK\r\n\r\nhi",
    "bytes behind a length": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    ),
    "newlines behind the last chunk": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n" + b"\r\n" * 3
    ),
}


@pytest.mark.parametrize("raw", LAST.values(), ids=LAST)
async def test_the_last_answer_of_a_connection(raw: bytes) -> None:
    """Whole, but the upstream's connection is not used again; the client's is."""
    async with a_world() as world:
        for _ in range(2):
            client, up = await boarded(world)
            rides = len(world.rides)
            await ask(world, client)
            assert len(world.rides) == rides + 1
            await up.send(raw)
            if b"Length" not in raw and b"Encoding" not in raw:
                up.close()
            response = await client.response()
            assert (response.status, response.body) == (200, b"hi")
            await up.gone()
            again = await ask(world, client)
            assert again is not up
            await again.answer(b"fresh")
            assert (await client.response()).body == b"fresh"
            again.close()


@pytest.mark.parametrize("chunked", [True, False])
async def test_bytes_that_come_behind_an_answer(chunked: bool) -> None:
    """A moment later, when the connection rests: nobody ever sees them."""
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        if chunked:
            await up.start_chunked()
            await up.chunk(b"hi")
            await up.send(b"0\r\n\r\n")
        else:
            await up.answer(b"hi")
        assert (await client.response()).body == b"hi"
        await up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        other = await world.h1()
        fresh = await ask(world, other)
        assert fresh is not up
        await fresh.answer(b"good")
        assert (await other.response()).body == b"good"
        await up.gone()


@pytest.mark.parametrize("cut", range(1, 9))
@pytest.mark.parametrize("stray", [b"\r\n", b"\n", b"\r\n\r\n\r\n"])
async def test_newlines_behind_the_last_chunk(cut: int, stray: bytes) -> None:
    """The client gets the end and nothing behind it, wherever the end is cut in two."""
    end = b"2\r\nhi\r\n0\r\n\r\n"
    async with a_world() as world:
        client, up = await boarded(world)
        await ask(world, client)
        await up.start_chunked()
        head = await client.stream.receive_some(65536)
        assert head.endswith(b"\r\n\r\n")
        await up.send(end[:-cut])
        got = b""
        while len(got) < len(end) - cut:
            got += await client.stream.receive_some(65536)
        await up.send(end[-cut:] + stray)
        await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b"OK" not in got[len(end) :][15:]:
            got += await client.stream.receive_some(65536)
        assert got[: len(end) + 9] == end + b"HTTP/1.1 "
        await up.gone()
