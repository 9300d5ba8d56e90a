"""What the server answers before its app, with its pages and controls, is there."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from llamaswap.relay.exchange import Data, Exchange, Framing, Headers
from llamaswap.server import _App


class Asked(Exchange):
    """A request that remembers its answer."""

    def __init__(self, method: str, path: str) -> None:
        super().__init__(method, path, "", [], "127.0.0.1")
        self.said: list[Any] = []

    async def read_body(self, limit: int) -> bytes:
        return b""

    def start(self, status: int, headers: Headers, framing: Framing, reason: bytes = b"") -> None:
        self.said.append((status, dict(headers)))

    async def send(self, data: Data) -> None:
        self.said.append(bytes(data))

    async def finish(self, *, raw: bool = False) -> None:
        self.said.append("finished")

    async def abort(self) -> None:
        raise AssertionError

    def watch(self) -> None:
        return

    def cancel(self) -> None:
        return


@pytest.mark.parametrize(("method", "body"), [("GET", [b"OK"]), ("HEAD", [])])
async def test_it_is_healthy_as_soon_as_it_serves_models(method: str, body: list[bytes]) -> None:
    app, ex = _App(trio.Event()), Asked(method, "/health")
    await app.serve(ex)
    head = {b"Content-Type": b"text/plain; charset=utf-8", b"Content-Length": b"2"}
    assert ex.said == [(200, head), *body, "finished"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/api/models"), ("POST", "/health"), ("GET", "/healthy")])
async def test_all_else_waits_for_the_app(method: str, path: str, autojump_clock: trio.testing.MockClock) -> None:
    app, ex = _App(trio.Event()), Asked(method, path)
    with trio.move_on_after(10) as waited:
        await app.serve(ex)
    assert waited.cancelled_caught and ex.said == []
