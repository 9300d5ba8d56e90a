"""WebSockets through `/upstream/...`: the `websockets` library at both ends, and ends that misbehave."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import Connection, H1Client, chat
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request as WsRequest
from websockets.http11 import Response as WsResponse
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Server, ServerConnection, serve

from llamaswap.relay import websocket as relay_websocket

T = TypeVar("T")
LARGE = 5 << 20


@contextmanager
def ws_server(handler: Callable[[ServerConnection], None], **settings: Any) -> Iterator[Server]:
    """A WebSocket server in a thread."""
    with serve(handler, "127.0.0.1", 0, max_size=None, **settings) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def tunnel(handler: Callable[[ServerConnection], None], **settings: Any) -> AsyncIterator[World]:
    with ws_server(handler, **settings) as server:
        port = server.socket.getsockname()[1]
        async with a_world("front", {"a": {"proxy": f"http://127.0.0.1:{port}"}}) as world:
            yield world


async def in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def dial(world: World, path: str = "/upstream/a/ws", **settings: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{world.port}{path}", max_size=None, **settings)


def echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_echo(compression: str | None) -> None:
    async with tunnel(echo) as world:

        def talk() -> None:
            with dial(world, compression=compression) as client:
                for message in ("text é", b"bytes", "", "x" * LARGE, bytes(range(256)) * 4096 * 5):
                    client.send(message)
                    assert client.recv() == message
                assert world.busy() == 1
            assert client.close_code == 1000

        await in_thread(talk)
        await world.idle()


async def test_the_upgrade_request() -> None:
    seen: list[WsRequest] = []

    def look(connection: ServerConnection, request: WsRequest) -> None:
        seen.append(request)

    async with tunnel(echo, process_request=look, subprotocols=["two"]) as world:

        def talk() -> None:
            with dial(
                world, "/upstream/a/a%20b?c=%2F", subprotocols=["one", "two"], additional_headers={"Cookie": "c=1"}
            ) as client:
                assert client.subprotocol == "two"

        await in_thread(talk)
        (request,) = seen
        assert request.path == "/a%20b?c=%2F"
        assert request.headers["Cookie"] == "c=1"
        assert request.headers["X-Forwarded-For"] == "127.0.0.1"
        assert request.headers["Host"] == f"127.0.0.1:{world.port}"


@pytest.mark.parametrize("by", ["client", "server"])
async def test_close_codes(by: str) -> None:
    codes: list[int | None] = []

    def handler(connection: ServerConnection) -> None:
        if by == "server":
            connection.close(4001, "enough")
        else:
            with pytest.raises(ConnectionClosed):
                connection.recv()
        codes.append(connection.close_code)

    async with tunnel(handler) as world:

        def talk() -> int | None:
            with dial(world) as client:
                if by == "client":
                    client.close(4001, "bye")
                else:
                    with pytest.raises(ConnectionClosed):
                        client.recv()
                return client.close_code

        assert await in_thread(talk) == 4001
        await world.idle()
    assert codes == [4001]


async def test_a_refusal_is_passed_through() -> None:
    def refuse(connection: ServerConnection, request: WsRequest) -> WsResponse:
        return connection.respond(403, "not you\n")

    async with tunnel(echo, process_request=refuse) as world:

        def talk() -> InvalidStatus:
            with pytest.raises(InvalidStatus) as caught:
                dial(world)
            return caught.value

        response = (await in_thread(talk)).response
        assert (response.status_code, response.body) == (403, b"not you\n")
        await world.idle()


# -- ends that a test plays itself

UPGRADE = (
    b"GET /upstream/a/ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\n\r\n"
)
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Up: 1\r\n\r\n"


async def opened(world: World, early: bytes = b"", late: bytes = b"") -> tuple[H1Client, Connection]:
    client = await world.h1()
    await client.send(UPGRADE + early)
    up, request = await world.up().request()
    assert request.get("upgrade") == "websocket" and request.get("connection") == "Upgrade"
    assert request.get("content-length") is None
    await up.send(ACCEPT + late)
    received = b""
    while len(received) < len(ACCEPT + late):
        received += await client.stream.receive_some()
    assert received == ACCEPT + late
    return client, up


async def test_early_frames() -> None:
    """From both ends, in the packet of the head and while nobody has answered yet."""
    async with a_world() as world:
        client, up = await opened(world, b"early", b"late")
        received = bytes(up.buffer)
        while len(received) < 5:
            received += await up.stream.receive_some()
        assert received == b"early"
        await client.send(b"more")
        assert await up.stream.receive_some() == b"more"
        client.close()
        await up.gone()
        up.close()


async def test_early_frames_while_the_model_loads() -> None:
    async with a_world() as world:
        world.launcher.held.add("a")
        client = await world.h1()
        await client.send(UPGRADE)
        await world.until(lambda: "a" in world.launcher.processes)
        await world.until(lambda: any(c.guarded for c in world.front._connections))
        await client.send(b"early")
        world.launcher.processes["a"].ready.set()
        up, _ = await world.up().request()
        await up.send(ACCEPT)
        received = bytes(up.buffer)
        while len(received) < 5:
            received += await up.stream.receive_some()
        assert received == b"early"
        client.close()
        await up.gone()
        up.close()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("who", ["client", "upstream"])
async def test_one_end_vanishes(who: str, how: str) -> None:
    async with a_world() as world:
        client, up = await opened(world)
        if who == "client":
            getattr(client, how)()
            await up.gone()
            up.close()
        else:
            getattr(up, how)()
            await client.closed()
            client.close()
        await world.idle()


async def test_an_end_that_does_not_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_websocket, "CLOSING_S", 0.05)
    async with a_world() as world:
        client, up = await opened(world)
        client.close()
        await up.gone()
        await world.idle()  # although the upstream keeps its end open


async def test_the_last_frames_arrive() -> None:
    """One side may say its last word after the other has ended."""
    async with a_world() as world:
        client, up = await opened(world)
        await up.send(b"x" * 100000)
        up.close()
        received = b""
        while data := await client.stream.receive_some():
            received += data
        assert len(received) == 100000


@pytest.mark.parametrize("phase", ["loading", "asked"])
async def test_a_client_that_leaves_before(phase: str) -> None:
    async with a_world() as world:
        world.launcher.held.add("a")
        client = await world.h1()
        await client.send(UPGRADE)
        await world.until(lambda: "a" in world.launcher.processes)
        if phase == "asked":
            world.launcher.processes["a"].ready.set()
            up, _ = await world.up().request()
            client.close()
            await up.gone()
        else:
            client.close()
        await world.idle()


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"HTTP/1.1 20", b"SSH-2.0\r\n", b"HTTP/1.1 101 \n\n"],
)
async def test_upstreams_that_do_not_upgrade(answer: bytes) -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect()
        await client.send(UPGRADE)
        up, _ = await world.up().request()
        await up.send(answer)
        up.close()
        response = await client.response()
        if answer.endswith(b"hi"):
            assert (response.status, response.body) == (200, b"hi")
        else:
            assert (response.status, response.code) == (502, "bad_gateway")
        await client.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await up.answer()
        assert (await client.response()).status == 200


async def test_who_refuses_connections() -> None:
    async with a_world() as world:
        world.up().refuse()
        client = await world.h1()
        client.expect()
        await client.send(UPGRADE)
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")


async def test_keys_and_names() -> None:
    async with a_world(api_keys=("k",)) as world:
        client = await world.h1()
        client.expect()
        await client.send(UPGRADE)
        assert (await client.response()).status == 401
        client.expect()
        await client.send(UPGRADE.replace(b"/a/ws", b"/b/ws").replace(b"Host", b"X-Api-Key: k\r\nHost"))
        assert (await client.response()).status == 404
        assert world.launcher.started == []


async def test_over_the_limit() -> None:
    async with a_world(models={"a": {"concurrency_limit": 1}}) as world:
        first, up = await opened(world)
        second = await world.h1()
        second.expect()
        await second.send(UPGRADE)
        response = await second.response()
        assert (response.status, response.get("retry-after")) == (429, "1")
        first.close()
        await up.gone()
        up.close()


async def test_a_model_that_ignores_websockets() -> None:
    """They neither start it nor hold it."""
    async with a_world(models={"a": {"ignore_websockets": True}}) as world:
        client = await world.h1()
        client.expect()
        await client.send(UPGRADE)
        response = await client.response()
        assert (response.status, response.code) == (409, "conflict")
        assert world.launcher.started == []
        await client.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        await up.answer()
        await client.response()
        socket, end = await opened(world)
        assert world.busy() == 0
        await world.fleet.unload(None)
        socket.close()
        await end.gone()


async def test_a_swap_waits_for_a_tunnel() -> None:
    async with a_world(models={"a": {}, "b": {}}) as world:
        client, up = await opened(world)
        other = await world.h1()
        await other.request("POST", "/v1/embeddings", body=chat("b"))
        await world.until(lambda: world.busy() == 2)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert world.launcher.started == ["a"]
        client.close()
        await up.gone()
        up.close()
        end, _ = await world.up("b").request()
        await end.answer()
        assert (await other.response()).status == 200


async def test_over_asgi_there_are_none() -> None:
    async with a_world("asgi") as world:

        def talk() -> InvalidStatus:
            with pytest.raises(InvalidStatus) as caught:
                dial(world)
            return caught.value

        assert (await in_thread(talk)).response.status_code == 501


async def test_control_routes_have_none() -> None:
    async with a_world() as world:
        client = await world.h1()
        client.expect()
        await client.send(UPGRADE.replace(b"/upstream/a/ws", b"/health"))
        assert (await client.response()).body == b"OK"


async def test_closing_the_front_under_a_tunnel() -> None:
    async with a_world() as world:
        client, up = await opened(world)
        world.front.close()
        await client.send(b"still")
        assert await up.stream.receive_some() == b"still"
        client.close()
        await up.gone()
        up.close()
