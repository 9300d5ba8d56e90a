"""Hypercorn and the Quart-Trio app as an upstream inside the process.

A control request goes through a socket pair whose other end a Hypercorn connection serves, so the app sees
ordinary HTTP/1.1 with back-pressure while the front keeps the client's connection. An HTTP/2 connection
is handed to Hypercorn whole.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from llamaswap.config.settings import ModelConfig, Timeouts
from llamaswap.errors import SwapError
from llamaswap.relay.exchange import Exchange
from llamaswap.relay.heads import request_head
from llamaswap.relay.pool import Pool
from llamaswap.relay.pump import Attempt, Outcome
from llamaswap.relay.transport import RECV_BYTES, Plain, Tls, Transport
from llamaswap.upstream.fleet import Upstream
from llamaswap.web.http2 import Http2Connection

log = logging.getLogger("llamaswap.web")

CONTROL_BODY_BYTES = 16 << 20  # control requests carry a few fields
CLIENT_HEAD_BYTES = 128 << 10  # above the front's own limit, which has already been applied


class AppFailed(SwapError):
    """A bug, or the end of the program."""


class _Discard(Pool):
    """Every control request has a socket pair of its own."""

    def give(self, upstream: Upstream, connection: Transport) -> None:
        connection.close()


class _Addresses:
    """What Hypercorn asks of a stream's socket: who is at both ends."""

    def __init__(self, client: str) -> None:
        try:
            self.family = socket.AF_INET6 if ipaddress.ip_address(client).version == 6 else socket.AF_INET
        except ValueError:
            self.family = socket.AF_INET
        self._client = client

    def getpeername(self) -> tuple[Any, ...]:
        return (self._client, 0)

    def getsockname(self) -> tuple[Any, ...]:
        return ("127.0.0.1", 0)


class _Stream(trio.abc.Stream):
    """A transport as the Trio stream that Hypercorn serves."""

    def __init__(self, transport: Transport, client: str, prefix: bytes = b"") -> None:
        self._transport = transport
        self._prefix = prefix
        self.socket = _Addresses(client)
        self.server: TCPServer | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._prefix:
            prefix, self._prefix = self._prefix, b""
            return prefix
        try:
            data = await self._transport.recv(max_bytes or RECV_BYTES)
        except OSError as error:
            raise trio.BrokenResourceError from error
        if not data and self.server is not None:
            # Its idle task would keep this end's descriptor until the keep-alive time-out.
            await self.server.idle_task.stop()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._transport.send(data)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        try:
            await self._transport.send_eof()
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        self._transport.close()
        await trio.lowlevel.checkpoint()


class InProcess:
    """Serves requests with an ASGI app; `run` must be running."""

    def __init__(self, app: Any, stopping: trio.Event) -> None:
        """`stopping`: the program begins to end; HTTP/2 connections end with their last answer."""
        self._app = ASGIWrapper(app)
        self._stopping = stopping
        self._config = HypercornConfig()
        self._config.accesslog = None
        self._config.errorlog = logging.getLogger("hypercorn.error")  # what fails after a response began
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = CLIENT_HEAD_BYTES
        self._config.keep_alive_timeout = 75
        self._config.keep_alive_max_requests = sys.maxsize
        self._context = WorkerContext(None)
        self._nursery: trio.Nursery | None = None
        self._upstream = Upstream(
            model=ModelConfig(id="", proxy="http://llamaswap", timeouts=Timeouts()),
            base_url="http://llamaswap",
            generation=0,
        )
        self._pool = _Discard()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of Hypercorn's connections until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def serve(self, ex: Exchange) -> None:
        """Answer `ex` by the app. Raises SwapError and ClientGone as a relayed request does."""
        assert self._nursery is not None
        body = await ex.read_body(CONTROL_BODY_BYTES)
        ex.watch()
        target = ex.path.encode("latin-1") + (b"?" + ex.query.encode("latin-1") if ex.query else b"")
        head = request_head(ex, target, len(body), identity=False)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._nursery.start_soon(self._serve_stream, _Stream(Plain(theirs), ex.client))
        outcome = await Attempt(ex, self._upstream, self._pool, Plain(ours), [b"".join((head, body))]).carry()
        if outcome is not Outcome.DONE:
            raise AppFailed("the app gave no answer; the log says more")

    async def serve_http2(self, transport: Transport, client: str, received: bytes) -> None:
        """A whole HTTP/2 connection, of which `received` was read already."""
        stream = _Stream(transport, client, received)
        secure = isinstance(transport, Tls)
        await self._serve(
            Http2Connection(
                self._app, self._config, self._context, stream, client=client, secure=secure, stopping=self._stopping
            )
        )

    async def _serve_stream(self, stream: _Stream) -> None:
        stream.server = TCPServer(self._app, self._config, self._context, {}, stream)  # type: ignore[arg-type]
        await self._serve(stream.server)

    async def _serve(self, server: TCPServer) -> None:
        try:
            await server.run()
        except Exception as error:
            # Hypercorn lets some errors of one connection out; here they would end all others too. One line,
            # since a stranger can cause them as often as he likes.
            log.warning("Hypercorn gave a connection up: %r", error)
            log.debug("where that came from", exc_info=True)
