"""Keep-alive connections to upstreams, and how new ones are made."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

import trio
from trio.lowlevel import wait_writable

from llamaswap.config.settings import Timeouts
from llamaswap.errors import BadGateway
from llamaswap.relay.engine import Engine
from llamaswap.relay.splice import Splicer
from llamaswap.relay.transport import Plain, Tls, Transport, Wire, prepare
from llamaswap.upstream.fleet import Upstream

MAX_IDLE = 128  # per model; more than that many at once is a burst whose connections need not be kept


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream listens, from its proxy URL."""

    tls: bool
    host: str
    port: int
    prefix: bytes
    """The URL's path without its trailing slash, put before every request's path."""


@lru_cache(maxsize=1024)
def origin_of(base_url: str) -> Origin:
    """Take a proxy URL apart. Raises BadGateway if it is none."""
    try:
        parts = urlsplit(base_url)
        tls, host, port = parts.scheme == "https", parts.hostname, parts.port
    except ValueError as error:
        raise BadGateway(f"the model's proxy {base_url!r} is no URL: {error}") from error
    if not host:
        raise BadGateway(f"the model's proxy {base_url!r} names no host")
    return Origin(tls, host, port or (443 if tls else 80), parts.path.rstrip("/").encode())


class Pool:
    """Idle connections per model. A connection in use belongs to its request, not to the pool.

    The engine watches plain ones while they are idle, so that one that has ended is closed at once, and so that a
    request of the lane finds it watched already: a call of the kernel less at its beginning and at its end.
    """

    def __init__(self) -> None:
        self.engine = Engine()
        """Moves bytes between these connections and plain clients, while somebody runs it."""
        self.splicer = Splicer(self.engine)
        self._idle: dict[str, tuple[int, list[tuple[float, Transport]]]] = {}
        self._tls: ssl.SSLContext | None = None

    def __len__(self) -> int:
        """How many are idle."""
        return sum(len(idle) for _, idle in self._idle.values())

    def take(self, upstream: Upstream) -> Transport | None:
        """An idle connection that looked alive a moment ago, or None. Synchronous."""
        connection = self.pick(upstream)
        if isinstance(connection, Plain):
            connection.unwatch()
        return connection

    def pick(self, upstream: Upstream) -> Transport | None:
        """The same for those who have the engine watch it: a plain one is watched already, for its end."""
        kept = self._idle.get(upstream.model.id)
        if kept is None or kept[0] != upstream.generation:
            return None
        idle = kept[1]
        limit_s = upstream.model.timeouts.idle_conn_s
        while idle:
            since, connection = idle.pop()
            # Never without a look: bytes that came behind the last answer would be the next client's answer.
            expired = 0 < limit_s < time.monotonic() - since
            if not expired and not connection.stale():
                return connection
            connection.close()
        return None

    def give(self, upstream: Upstream, connection: Transport) -> None:
        """Keep a connection whose response was complete for the next request."""
        model_id = upstream.model.id
        kept = self._idle.get(model_id)
        if kept is None or kept[0] != upstream.generation:
            self.forget(model_id)
            kept = self._idle[model_id] = (upstream.generation, [])
        idle = kept[1]
        if not upstream.alive or len(idle) >= MAX_IDLE:
            connection.close()
            return
        idle.append((time.monotonic(), connection))
        if isinstance(connection, Plain) and self.engine.ready:
            connection.watch(self.engine, partial(_ended, idle, connection))

    def forget(self, model_id: str) -> None:
        """Close what is idle to a model: its process has ended."""
        _, idle = self._idle.pop(model_id, (0, []))
        for _, connection in idle:
            connection.close()

    def sweep(self, idle_s: float) -> None:
        """Close connections that have been idle for `idle_s`."""
        oldest = time.monotonic() - idle_s
        for _, idle in self._idle.values():
            while idle and idle[0][0] < oldest:
                idle.pop(0)[1].close()

    def close(self) -> None:
        for model_id in list(self._idle):
            self.forget(model_id)

    async def connect(self, upstream: Upstream) -> Transport:
        """A fresh connection. Raises ConnectionRefusedError if nothing listens, BadGateway on all else.

        A cancelled call leaves no socket open.
        """
        origin = origin_of(upstream.base_url)
        timeouts = upstream.model.timeouts
        with trio.move_on_after(timeouts.connect_s or float("inf")):
            try:
                sock = await _dial(origin.host, origin.port, timeouts)
            except ConnectionRefusedError:
                raise
            except OSError as error:
                raise BadGateway(
                    f"cannot connect to {upstream.base_url}: {error.strerror or error}"
                ) from error
            return await self._handshake(sock, origin, timeouts) if origin.tls else Plain(sock)
        raise BadGateway(f"no connection to {upstream.base_url} within {timeouts.connect_s:g} s")

    async def _handshake(self, sock: socket.socket, origin: Origin, timeouts: Timeouts) -> Tls:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        stream = trio.SSLStream(
            Wire(sock),
            self._tls,
            server_hostname=origin.host,
            https_compatible=True,
        )
        done = False
        try:
            with trio.fail_after(timeouts.tls_handshake_s or float("inf")):
                await stream.do_handshake()
            done = True
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            raise BadGateway(
                f"TLS handshake with {origin.host} failed: {error.__cause__ or error!r}"
            ) from error
        finally:
            if not done:
                sock.close()
        return Tls(stream)


def _ended(idle: list[tuple[float, Transport]], connection: Plain) -> None:
    """An idle connection can be read: that is its end, or nothing that anybody asked for."""
    connection.close()
    idle[:] = [entry for entry in idle if entry[1] is not connection]


async def _dial(host: str, port: int, timeouts: Timeouts) -> socket.socket:
    """The first address of `host` that accepts."""
    if host == "localhost":
        # Local servers bind one of the two, most of them IPv4; no resolver is asked.
        addresses = [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    else:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
    failure: OSError | None = None
    for family, address in addresses:
        try:
            return await _dial_one(family, address, timeouts.keepalive_s)
        except OSError as error:
            # A refusal says most; "no IPv6 here" after it says nothing.
            if not isinstance(failure, ConnectionRefusedError):
                failure = error
    raise failure or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")


async def _dial_one(family: socket.AddressFamily, address: Any, keepalive_s: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    connected = False
    try:
        prepare(sock, keepalive_s)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))  # the matching subclass, ConnectionRefusedError included
        connected = True
        return sock
    finally:
        if not connected:
            sock.close()
