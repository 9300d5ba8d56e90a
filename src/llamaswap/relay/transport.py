"""Two byte transports with one face: a plain socket, and TLS over one.

The plain one talks to the socket itself (`wait_readable` and one `recv`; `send` tried at once), which
saves a Trio checkpoint and two Python frames per call over `trio.SocketStream`.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Protocol

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from llamaswap.relay.engine import Engine

RECV_BYTES = 65536  # what one stream's burst fits in; larger buffers cost page faults on every read

Data = bytes | bytearray | memoryview


class Transport(Protocol):
    """A byte stream whose failures are `OSError`s."""

    async def recv(self, limit: int = RECV_BYTES) -> bytes:
        """At least one byte, or b"" at the other side's orderly end. A cancelled call loses nothing."""

    async def send(self, data: Data) -> None:
        """Everything of `data`. A cancelled call may have sent a part of it."""

    def send_now(self, data: Data) -> int:
        """How many bytes of `data` could be sent without waiting, possibly none."""

    async def send_rest(self, data: Data, sent: int) -> None:
        """Everything of `data` beyond what `send_now` sent."""

    def unsent(self) -> int:
        """How many bytes wait for the other side to read (over TLS: 1 if any do)."""

    def stale(self) -> bool:
        """Whether an idle connection can no longer be used: ended, broken, or bytes nobody asked for."""

    async def send_eof(self) -> None:
        """Half-close where the transport can, else close."""

    def close(self) -> None:
        """At once and without waiting; idempotent."""

    def reset(self) -> None:
        """Close so that the other side sees an error, not an end (RST)."""


class Plain:
    """A non-blocking stream socket, owned by this object."""

    __slots__ = ("_engine", "_look", "_unsent", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent = 0
        self._engine: Engine | None = None
        self._look: Callable[[int], object] | None = None

    def watch(self, engine: Engine, callback: Callable[[], None]) -> None:
        """Have `engine` call it whenever there is something to read, and nothing else that it was to call before.

        No task may wait for the socket meanwhile.
        """
        if self._engine is None:
            engine.watch(self.sock.fileno(), callback)
            self._engine = engine
        else:
            engine.swap(self.sock.fileno(), callback)

    def unwatch(self) -> None:
        """The opposite; harmless if nobody watches."""
        if self._engine is not None:
            self._engine.forget(self.sock.fileno())
            self._engine = None

    async def recv(self, limit: int = RECV_BYTES) -> bytes:
        sock = self.sock
        while True:
            if sock.fileno() < 0:
                raise _closed()
            try:
                await wait_readable(sock)
                return sock.recv(limit)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError as error:
                raise _closed() from error

    async def send(self, data: Data) -> None:
        sent = self.send_now(data)
        if sent < len(data):
            await self.send_rest(data, sent)

    def send_now(self, data: Data) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    async def send_rest(self, data: Data, sent: int) -> None:
        rest = memoryview(data)[sent:]
        try:
            while rest:
                self._unsent = len(rest)
                if self.sock.fileno() < 0:
                    raise _closed()
                try:
                    await wait_writable(self.sock)
                    rest = rest[self.sock.send(rest) :]
                except BlockingIOError:
                    continue
                except trio.ClosedResourceError as error:
                    raise _closed() from error
        finally:
            self._unsent = 0

    def unsent(self) -> int:
        return self._unsent

    def stale(self) -> bool:
        look = self._look
        if look is None:
            poll = select.poll()  # asks once a request: a third of a `recv` that fails
            poll.register(self.sock, select.POLLIN)
            look = self._look = poll.poll
        return bool(look(0))

    async def send_eof(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self.unwatch()
            notify_closing(self.sock)
            self.sock.close()

    def reset(self) -> None:
        reset_on_close(self.sock)
        self.close()


class Wire(trio.abc.HalfCloseableStream):
    """What goes beneath a TLS stream: a socket to which one can stop listening."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self.socket = self._stream.socket
        self.deaf = False

    async def send_all(self, data: Data) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self.deaf:
            await trio.lowlevel.checkpoint()
            return b""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


def _closed() -> OSError:
    return ConnectionAbortedError(errno.ECONNABORTED, "closed by another task of ours")


class Tls:
    """A Trio TLS stream over a `Wire`, its handshake done."""

    __slots__ = ("_blocked", "_ended", "_stream", "_wire")

    def __init__(self, stream: trio.SSLStream[Wire]) -> None:
        self._stream = stream
        self._wire = stream.transport_stream  # which the stream lets go when it is unwrapped
        self._blocked = False
        self._ended = False

    @property
    def stream(self) -> trio.SSLStream[Wire]:
        return self._stream

    async def recv(self, limit: int = RECV_BYTES) -> bytes:
        try:
            if self._ended:  # what still comes is only read past
                return await self._wire.receive_some(limit)
            return bytes(await self._stream.receive_some(limit))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError(str(error)) from error

    async def send(self, data: Data) -> None:
        self._blocked = True
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenPipeError(str(error)) from error
        finally:
            self._blocked = False

    def send_now(self, data: Data) -> int:
        return 0

    async def send_rest(self, data: Data, sent: int) -> None:
        await self.send(memoryview(data)[sent:])

    def unsent(self) -> int:
        return int(self._blocked)

    def stale(self) -> bool:
        # Session tickets arrive unasked, so only the end of the connection counts, and a peek finds it.
        sock = self._socket()
        try:
            return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def send_eof(self) -> None:
        """Say close_notify, without which the other side cannot tell an end from an attack."""
        wire = self._wire
        wire.deaf = True  # or unwrap would wait for the other side's
        try:
            await self._stream.unwrap()
        except trio.BusyResourceError:
            self.close()  # somebody reads or writes: TLS has no half-close that peers agree on
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side's is missing, as it must be
        finally:
            wire.deaf = False
            self._ended = True
        try:
            await wire.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokenPipeError(str(error)) from error

    def close(self) -> None:
        self._wire.socket.close()

    def reset(self) -> None:
        reset_on_close(self._wire.socket)
        self.close()

    def _socket(self) -> socket.socket:
        # A duplicate would leak; borrow the descriptor for one synchronous call.
        inner: socket.socket = self._wire.socket._sock  # type: ignore[attr-defined]
        return inner


def reset_on_close(sock: socket.socket | trio.socket.SocketType) -> None:
    """Make the coming close send RST (SO_LINGER 0)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    except OSError:
        return  # already closed or broken, which is what was wanted


def prepare(sock: socket.socket, keepalive_s: float = 0) -> None:
    """Non-blocking, no Nagle delay, TCP keepalive on (probing after `keepalive_s` where settable)."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = getattr(socket, "TCP_KEEPIDLE", None)
        if keepalive_s >= 1 and idle is not None:
            sock.setsockopt(socket.IPPROTO_TCP, idle, int(keepalive_s))
