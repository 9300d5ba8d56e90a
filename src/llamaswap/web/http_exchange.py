"""One request of a client connection of the front, as the relay sees it."""

from __future__ import annotations

import http
from collections.abc import Callable
from typing import TYPE_CHECKING

from llamaswap.errors import PayloadTooLarge, SwapError
from llamaswap.relay.exchange import ClientGone, Exchange, Framing, Headers
from llamaswap.relay.transport import Data, Plain, Transport
from llamaswap.web.http1 import ChunkedBody, RequestHead

if TYPE_CHECKING:
    from llamaswap.web.connection import Connection

READ_BYTES = 1 << 20  # a large body is read in steps of up to this
DRAIN_BYTES = 1 << 18  # of an unread body, for the sake of keeping the connection

REASONS = {status.value: status.phrase.encode() for status in http.HTTPStatus}


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
        super().__init__(request.method, request.path, request.query, request.headers, connection.client)
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
        self.memo = request.memo
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

    def cancel(self) -> None:
        if self._connection.exchange is self and not self.finished:
            self._connection.cancel()

    def watch(self) -> None:
        self._connection.watch()

    async def hijack(self) -> tuple[Transport, bytes]:
        self.keep_alive = False
        await self._connection.unwatch()
        early = bytes(self._connection.buffer)
        self._connection.buffer.clear()
        return self._connection.transport, early
