"""The app behind the server that really carries it: Hypercorn, one connection over a memory stream."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from app_fixtures import make_state
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from llamaswap.web.app import create_app
from llamaswap.web.state import AppState


class Addresses:
    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return ("203.0.113.9", 4242)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 8080)


@asynccontextmanager
async def connected(state: AppState) -> AsyncIterator[trio.abc.Stream]:
    ours, theirs = memory_stream_pair()
    theirs.socket = Addresses()  # type: ignore[attr-defined]
    app = ASGIWrapper(create_app(state))  # type: ignore[arg-type]
    server = TCPServer(app, HypercornConfig(), WorkerContext(None), {}, theirs)  # type: ignore[arg-type]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            yield ours
            nursery.cancel_scope.cancel()


async def read(stream: trio.abc.Stream) -> bytes:
    """Everything sent so far."""
    got = await stream.receive_some()
    await wait_all_tasks_blocked()
    with trio.move_on_after(0):
        while data := await stream.receive_some():
            got += data
    return bytes(got)


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"/running", b"localhost:8080", 200),
        (b"/running", b"[::1]:8080", 200),
        (b"/running", b"localhost:99999", 200),
        (b"/running", b"[bad", 403),
        (b"/running", b"a b", 403),
        (b"/running", b"\xff\xfe", 403),
        (b"/v1/models", b"x:y:z", 200),
        (b"/health?x=%ff%00&", b"localhost", 200),
        (b"/%ff%fe", b"localhost", 404),
        (b"/logs/stream/%00", b"localhost", 400),
        (b"/logs/stream/org%2Fsea", b"localhost", 200),
        (b"/ui/%2e%2e/secret", b"localhost", 404),
    ],
)
async def test_odd_requests_get_plain_answers(target: bytes, host: bytes, status: int) -> None:
    async with connected(make_state()) as stream:
        await stream.send_all(b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, host))
        assert (await read(stream)).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("target", [b"/running", b"/logs", b"/logs/stream", b"/ui", b"/v1/models"])
async def test_head_has_no_body(target: bytes) -> None:
    async with connected(make_state()) as stream:
        await stream.send_all(b"HEAD %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
        answer = await read(stream)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_a_silent_stream_sends_its_head_and_ends_with_its_reader() -> None:
    state = make_state()
    async with connected(state) as stream:
        await stream.send_all(b"GET /logs/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"x-accel-buffering: no\r\n" in await read(stream)
        state.logs.proxy.write(b"live\n")
        assert b"live\n" in await read(stream)
        assert len(state.logs.combined._subscribers) == 1
        await stream.aclose()
        await wait_all_tasks_blocked()
        assert state.logs.combined._subscribers == []


async def test_a_stream_ends_cleanly_when_the_server_stops() -> None:
    state = make_state()
    async with connected(state) as stream:
        await stream.send_all(b"GET /logs/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await read(stream)
        state.stopping.set()
        assert await read(stream) == b"0\r\n\r\n"
