"""One client connection of the front: its requests one after another, each an `Exchange`."""

from __future__ import annotations

import http
from collections.abc import Callable
from typing import Protocol

import trio

from llamaswap.errors import PayloadTooLarge, RequestTimeout, SwapError
from llamaswap.relay.exchange import ClientGone, Exchange, Framing, Headers
from llamaswap.relay.transport import Data, Plain, Transport
from llamaswap.web.http1 import ChunkedBody, RequestHead, take_head

HEAD_S = 10  # a request head must be complete by then
IDLE_S = 75  # keep-alive between requests, as nginx has it
BODY_STALL_S = 60  # without a byte of a body that was announced
WATCH_LIMIT = 65536  # pipelined bytes kept while a request is served
READ_BYTES = 1 << 20  # a large body is read in steps of up to this
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
DRAIN_BYTES = 1 << 18  # of an unread body, for the sake of keeping the connection
DRAIN_S = 2.0  # and no longer than this
ERROR_SEND_S = 2.0  # to say why a connection is closed

REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


class Host(Protocol):
    """What a connection needs of the front that owns it."""

    tick: int
    """Seconds, coarse: the front's sweeper counts them, so that no request has to read a clock."""
    closing: bool

    async def serve(self, ex: HttpExchange) -> None:
        """Answer a request. Raises nothing but Cancelled."""

    def watch(self, connection: Connection) -> None:
        """Call `start_watcher` of it in a moment."""

    async def take_over(self, connection: Connection) -> None:
        """Serve a connection that opened with HTTP/2's preface, to its end."""


class Connection:
    """Reads requests and hands them to `host.serve` until either side ends it.

    `run` returns with the transport closed. The sweeper reads `overdue` and cancels `scope`.
    """

    def __init__(self, host: Host, transport: Transport, client: str, secure: bool = False) -> None:
        self.host = host
        self.transport = transport
        self.client = client
        self.secure = secure
        self.buffer = bytearray()
        self.scope = trio.CancelScope()
        self.exchange: HttpExchange | None = None
        self.watched = False
        self._watcher: trio.CancelScope | None = None
        self._watcher_done = trio.Event()
        self._reading = ""  # head | body, while a client owes us one
        self._since = host.tick
        self._timed_out = False
        self._progress = (0, 0)
        self._stalled_since = host.tick

    async def run(self) -> None:
        try:
            with self.scope:
                await self._requests()
            if self._timed_out:
                await self._refuse(RequestTimeout(f"the request's {self._reading} did not arrive in time"))
        except (OSError, ClientGone):
            pass  # it left, which is its right
        finally:
            ex = self.exchange
            if ex is not None and ex.started and not ex.finished and not ex.raw:
                self.transport.reset()  # cut off by us: nothing else tells HTTP/1.0 that the body is not whole
            else:
                self.transport.close()

    def overdue(self) -> bool:
        """Called by the sweeper: whether the client owes us bytes for too long. Ends the wait if so."""
        waited = self.host.tick - self._since
        if self._reading:
            limit = HEAD_S if self._reading == "head" else BODY_STALL_S
            self._timed_out = waited > limit
            return self._timed_out
        return self.exchange is None and (waited > IDLE_S or self.host.closing)

    def stalled_s(self) -> int:
        """Called once a second by the sweeper: for how long the client has taken none of its response."""
        unsent = self.transport.unsent()
        progress = (unsent, self.exchange.bytes_sent if self.exchange is not None else 0)
        if unsent == 0 or progress != self._progress:
            self._progress = progress
            self._stalled_since = self.host.tick
        return self.host.tick - self._stalled_since

    async def _requests(self) -> None:
        while True:
            try:
                head = await self._next_head()
            except SwapError as error:
                self._reading = ""
                await self._refuse(error)
                return
            if head is None:
                return
            ex = self.exchange = HttpExchange(self, head)
            await self.host.serve(ex)
            await self.unwatch()
            self._since = self.host.tick
            if not ex.finished or not ex.keep_alive:
                await self._close_gently(ex)
                return
            if not ex.body_read and not await self._drained(ex):
                await self._close_gently(ex)
                return
            self.exchange = None
            if self.host.closing:
                return

    def watch(self) -> None:
        """Notice if the client leaves from now on, after a moment in which most answers are over."""
        self.watched = True
        self.host.watch(self)

    async def unwatch(self) -> None:
        """The opposite; returns when nobody else reads from the transport."""
        self.watched = False
        if self._watcher is not None:
            self._watcher.cancel()
            await self._watcher_done.wait()
            self._watcher = None

    @property
    def guarded(self) -> bool:
        return self._watcher is not None

    def start_watcher(self, nursery: trio.Nursery) -> None:
        """Called by the host, once it has waited, if `watched` still is."""
        self._watcher, self._watcher_done = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._watch, self._watcher, self._watcher_done)

    async def _watch(self, scope: trio.CancelScope, done: trio.Event) -> None:
        """Read ahead, which is the only way to see the end behind pipelined bytes; cancel all if it comes."""
        try:
            with scope:
                while not scope.cancel_called and len(self.buffer) < WATCH_LIMIT:
                    try:
                        data = await self.transport.recv()
                    except OSError:
                        data = b""
                    if not data:
                        if self.watched:
                            self.scope.cancel()
                        return
                    self.buffer += data
        finally:
            done.set()

    async def _next_head(self) -> RequestHead | None:
        self._since = self.host.tick
        while True:
            if self.buffer:
                if PREFACE.startswith(self.buffer[: len(PREFACE)]):
                    if len(self.buffer) >= len(PREFACE):
                        self._reading = ""
                        await self.host.take_over(self)
                        return None
                    head = None
                else:
                    head = take_head(self.buffer)
                if head is not None:
                    self._reading = ""
                    return head
                if not self._reading:
                    self._reading, self._since = "head", self.host.tick
            data = await self.transport.recv()
            if not data:
                return None
            self.buffer += data

    async def receive_body(self, limit: int) -> bytes:
        """More of a body that is owed. Raises ClientGone."""
        self._reading, self._since = "body", self.host.tick
        try:
            data = await self.transport.recv(limit)
        except OSError as error:
            raise ClientGone from error
        if not data:
            raise ClientGone
        self._reading = ""
        return data

    async def _refuse(self, error: SwapError) -> None:
        """Say why and close: what follows on the connection cannot be told apart from the broken part."""
        with trio.move_on_after(ERROR_SEND_S, shield=True):
            ex = self.exchange
            if ex is None:
                head = RequestHead()
                head.method = "GET"
                head.keep_alive = False
                ex = HttpExchange(self, head)
            ex.keep_alive = False
            await ex.fail(error)
            await self._close_gently(ex)

    async def _close_gently(self, ex: HttpExchange) -> None:
        """Let the client read our answer before the bytes it still sends make the kernel reset it."""
        unread = not ex.body_read or bool(self.buffer)
        if ex.finished and (unread or self.secure):
            with trio.move_on_after(DRAIN_S):
                await self.transport.send_eof()
                left = DRAIN_BYTES * 16 if unread else 0
                while left > 0 and (data := await self.transport.recv()):
                    left -= len(data)

    async def _drained(self, ex: HttpExchange) -> bool:
        """Read past the body of a request that was answered without it."""
        with trio.move_on_after(DRAIN_S):
            try:
                await ex.read_body(DRAIN_BYTES)
            except (SwapError, ClientGone):
                return False
            return True
        return False


class HttpExchange(Exchange):
    """One request on a `Connection`."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_head",
        "_reader",
        "_request",
        "_transport",
        "body_read",
        "finished",
        "keep_alive",
        "raw",
        "websocket",
    )

    def __init__(self, connection: Connection, request: RequestHead) -> None:
        target, _, query = request.target.decode("latin-1").partition("?")
        super().__init__(request.method, target, query, request.headers, connection.client)
        self._connection = connection
        self._request = request
        self._head = b""
        self._reader: ChunkedBody | None = None
        self._chunked = False
        self._transport = connection.transport
        self.raw = not request.http10
        self.websocket = request.websocket
        self.keep_alive = request.keep_alive
        self.body_read = not request.chunked and request.length == 0
        self.finished = False

    @property
    def request(self) -> RequestHead:
        return self._request

    async def read_body(self, limit: int) -> bytes | bytearray:
        if self.body_read:
            return b""
        request, buffer = self._request, self._connection.buffer
        if request.length > limit:
            raise PayloadTooLarge(f"the request body is larger than {limit} bytes")
        if request.expects_continue and not buffer:
            await self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.chunked:
            return await self._read_chunked(limit)
        length = request.length
        if len(buffer) >= length:
            whole = bytes(buffer[:length])
            del buffer[:length]
            self.body_read = True
            return whole
        body = bytearray(buffer)
        buffer.clear()
        while (missing := length - len(body)) > 0:
            body += await self._connection.receive_body(min(missing, READ_BYTES))
        self.body_read = True
        return body

    async def _read_chunked(self, limit: int) -> bytearray:
        connection = self._connection
        reader = self._reader
        if reader is None:  # else there was too much of it, and this is the rest
            reader = self._reader = ChunkedBody(self._request)
        body = bytearray()
        while True:
            if connection.buffer:
                try:
                    decoded, used = reader.feed(bytes(connection.buffer))
                except SwapError:
                    self.keep_alive = False  # nobody can say where the next request begins
                    raise
                del connection.buffer[:used]
                body += decoded
                if self._request.complete:
                    self.body_read = True
                if len(body) > limit:
                    raise PayloadTooLarge(f"the request body is larger than {limit} bytes")
                if self.body_read:
                    return body
            connection.buffer += await connection.receive_body(READ_BYTES)

    def start(self, status: int, headers: Headers, framing: Framing, reason: bytes = b"") -> None:
        self.started = True
        self.status = status
        lines = [b"HTTP/1.1 %d %b" % (status, reason or REASONS.get(status, b""))]
        lines += [b"%b: %b" % header for header in headers]
        if framing is Framing.CHUNKED:
            if self.raw:
                self._chunked = True
                lines.append(b"Transfer-Encoding: chunked")
            else:
                self.keep_alive = False  # to HTTP/1.0 the body ends with the connection
        if not self.body_read and (self._request.expects_continue or self._request.length > DRAIN_BYTES):
            self.keep_alive = False  # it may or may not send the body that we did not ask for
        if not self.keep_alive or self._connection.host.closing:
            self.keep_alive = False
            lines.append(b"Connection: close")
        lines.append(b"\r\n")
        self._head = b"\r\n".join(lines)

    async def send(self, data: Data) -> None:
        self.bytes_sent += len(data)
        if self._chunked:
            data = b"".join((b"%x\r\n" % len(data), data, b"\r\n"))
        await self._send(data)

    async def send_raw(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        await self._send(data)

    async def _send(self, data: Data) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        try:
            sent = self._transport.send_now(data)
            if sent < len(data):
                await self._transport.send_rest(data, sent)
        except OSError as error:
            raise ClientGone from error

    def raw_sink(self) -> Callable[[bytes], int] | None:
        transport = self._connection.transport
        return transport.send_now if isinstance(transport, Plain) else None

    async def flush(self) -> None:
        if self._head:
            await self._send(b"")

    def take_back(self) -> bool:
        if self._head:
            self._head = b""
            self._chunked = self.started = False
        return not self.started

    async def finish(self, *, raw: bool = False) -> None:
        if not self.finished:
            self.finished = True
            if self._chunked and not raw:
                self._head += b"0\r\n\r\n"  # behind the head if that has not left yet, else alone
        await self.flush()

    async def abort(self) -> None:
        self.broken = True
        self.keep_alive = self.finished = False
        self._connection.watched = False  # its end is of our making
        if self._chunked or self.raw:
            self._connection.transport.close()
        else:
            self._connection.transport.reset()  # nothing else tells HTTP/1.0 that the body is not whole

    def watch(self) -> None:
        self._connection.watch()

    async def hijack(self) -> tuple[Transport, bytes]:
        self.keep_alive = False
        await self._connection.unwatch()
        early = bytes(self._connection.buffer)
        self._connection.buffer.clear()
        return self._connection.transport, early
