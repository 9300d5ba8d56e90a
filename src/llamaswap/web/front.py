"""The front door: our own HTTP/1.1 listener, for model requests as fast as Python goes.

A connection is a task. One sweeper counts seconds for all of them, so that no request arms a timer.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

import trio
from trio.lowlevel import wait_readable

from llamaswap.relay.pool import Pool
from llamaswap.relay.ride import Ride
from llamaswap.relay.transport import Plain, Tls, Transport, Wire, prepare
from llamaswap.web.connection import HEAD_S, Connection
from llamaswap.web.dispatch import Dispatcher
from llamaswap.web.http_exchange import HttpExchange
from llamaswap.web.lane import Seat

log = logging.getLogger("llamaswap.front")

BACKLOG = 1024
SWEEP_S = 1.0
UNWATCHED_S = 0.02  # a watcher costs 50 us; most short answers are over sooner, and 100 ms is promised
CLIENT_STALL_S = 60  # a client that takes nothing for so long, while others wait for room, is let go
POOL_SWEEP_TICKS = 10
POOL_IDLE_S = 90.0  # idle upstream connections are closed after this at the latest
FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
FULL_PAUSE_S = 0.1  # out of descriptors: existing connections must end before new ones can come


def parse_listen(listen: str, default_port: int) -> tuple[str, int]:
    """`host:port`, `:port`, `port`, `[::1]:port` or `host` as (host, port). Raises ValueError that says how.

    An empty host means all interfaces.
    """
    text = listen.strip()
    host, colon, port = text.rpartition(":")
    if text.isdigit():
        host, port = "127.0.0.1", text
    elif not colon or text.endswith("]"):
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(
            f"--listen {listen!r}: write an IPv6 address in brackets, as in [::1]:{default_port}"
        )
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(
            f"--listen {listen!r}: {port!r} is no port; write host:port, as in 127.0.0.1:{default_port}"
        )
    return host, int(port)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host` (both families for an empty one). Raises OSError."""
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(infos):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            failure = error  # a kernel without IPv6
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sock.bind(address)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            sockets.append(sock)
        except OSError as error:
            sock.close()
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
    if failure is not None and (not sockets or failure.errno == errno.EADDRINUSE):
        for sock in sockets:
            sock.close()
        raise failure
    return sockets


class Http2Server(Protocol):
    """Who serves connections that speak HTTP/2."""

    async def serve_http2(self, transport: Transport, client: str, received: bytes) -> None:
        """A whole connection, of which `received` was read already."""


class Front:
    """Accepts connections and serves them until `close` and the end of `run`."""

    def __init__(
        self,
        sockets: list[socket.socket],
        dispatcher: Dispatcher,
        http2: Http2Server,
        pool: Pool,
        *,
        tls: ssl.SSLContext | None = None,
        room_wanted: Callable[[], bool],
    ) -> None:
        self.tick = 0
        self.closing = False
        self._sockets = sockets
        self._dispatcher = dispatcher
        self._http2 = http2
        self._pool = pool
        self._tls = tls
        self._room_wanted = room_wanted
        self._fresh: list[Connection] = []
        self._resting: trio.Event | None = None
        self._connections: set[Connection] = set()
        self._handed_over = 0
        self._one_less = trio.Event()
        self._accepting = trio.CancelScope()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; cancelling breaks the connections that are open."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._pool.engine.run)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._watchdog, nursery)
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for sock in self._sockets:
                            acceptors.start_soon(self._accept, sock, nursery)
                        task_status.started()
                await trio.sleep_forever()
        finally:
            self._close_sockets()

    def close(self) -> None:
        """Stop accepting; idle connections end now, busy ones with the response they are at."""
        self.closing = True
        self._accepting.cancel()
        self._close_sockets()
        for connection in self._connections:
            if connection.idle:
                connection.scope.cancel()

    async def quiet(self) -> None:
        """After `close`: return when the last response is out and its connection closed."""
        while self._connections or self._handed_over:
            self._one_less = trio.Event()
            await self._one_less.wait()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                trio.lowlevel.notify_closing(sock)
                sock.close()

    async def serve(self, ex: HttpExchange) -> None:
        await self._dispatcher.serve(ex)

    async def resume(self, ride: Ride) -> None:
        await self._dispatcher.resume(ride)

    def seat(self, connection: Connection) -> Seat | None:
        transport = connection.transport
        if not isinstance(transport, Plain) or not self._pool.engine.ready:
            return None
        return Seat(connection, transport, self._dispatcher, self._pool)

    def watch(self, connection: Connection) -> None:
        self._fresh.append(connection)
        if self._resting is not None:
            self._resting.set()
            self._resting = None

    async def _watchdog(self, nursery: trio.Nursery) -> None:
        """Start the watchers of requests that have been going on for one to two periods."""
        waiting: list[Connection] = []
        while True:
            for connection in waiting:
                if connection.watched and not connection.guarded:
                    connection.start_watcher(nursery)
            waiting, self._fresh = self._fresh, []
            if waiting:
                await trio.sleep(UNWATCHED_S)
            else:
                self._resting = resting = trio.Event()
                await resting.wait()

    async def take_over(self, connection: Connection) -> None:
        self._connections.discard(connection)  # its time limits and its end are Hypercorn's from here on
        self._one_less.set()
        await self._serve_http2(connection.transport, connection.client, bytes(connection.buffer))

    async def _serve_http2(self, transport: Transport, client: str, received: bytes) -> None:
        self._handed_over += 1
        try:
            await self._http2.serve_http2(transport, client, received)
        finally:
            transport.close()
            self._handed_over -= 1
            self._one_less.set()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while not self.closing:
            await wait_readable(listener)
            if self.closing:
                return  # it came while we closed, and the listener is closed already
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if self.closing:
                    return  # in the very moment in which somebody came
                if error.errno not in FULL:
                    log.warning("a connection could not be accepted: %s", error.strerror)  # its network's trouble
                    continue
                log.error(
                    "cannot accept connections: %s; raise the limit of open files (ulimit -n)", error.strerror
                )
                await trio.sleep(FULL_PAUSE_S)
                continue
            nursery.start_soon(self._client, sock, str(address[0]))

    async def _client(self, sock: socket.socket, client: str) -> None:
        try:
            prepare(sock)
        except OSError:
            sock.close()  # gone already
            return
        client = client.removeprefix("::ffff:")
        transport: Transport = Plain(sock)
        if self._tls is not None:
            secured = await self._handshake(sock, self._tls)
            if secured is None:
                return
            transport = secured
            if secured.stream.selected_alpn_protocol() == "h2":
                await self._serve_http2(transport, client, b"")
                return
        connection = Connection(self, transport, client, secure=self._tls is not None)
        self._connections.add(connection)
        try:
            await connection.run()
        except Exception:
            log.exception("a connection's task failed")  # a bug here must not end the others
        finally:
            self._connections.discard(connection)
            self._one_less.set()

    async def _handshake(self, sock: socket.socket, context: ssl.SSLContext) -> Tls | None:
        stream = trio.SSLStream(
            Wire(sock),
            context,
            server_side=True,
            https_compatible=True,
        )
        done = False
        try:
            with trio.move_on_after(HEAD_S):
                await stream.do_handshake()
                done = True
        except (trio.BrokenResourceError, OSError):
            pass  # plain HTTP, a port scan, or a client that does not trust us
        finally:
            if not done:
                sock.close()
        return Tls(stream) if done else None

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """A second has passed: end the connections that used up their time. Called by `run` alone."""
        self.tick += 1
        for connection in self._connections:
            if connection.overdue():
                connection.scope.cancel()
            elif connection.exchange is not None and connection.stalled_s() >= CLIENT_STALL_S and self._room_wanted():
                log.warning("%s takes no data while others wait: breaking its response", connection.client)
                connection.scope.cancel()
        if self.tick % POOL_SWEEP_TICKS == 0:
            self._pool.sweep(POOL_IDLE_S)
