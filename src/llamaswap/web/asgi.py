"""The second way in: an ASGI middleware that serves model routes through the same relay.

With it the app is complete under Hypercorn alone, which is how HTTP/2 clients and tests reach it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import h2.exceptions
import trio

from llamaswap.errors import BadRequest, PayloadTooLarge, RequestCancelled
from llamaswap.relay.exchange import ClientGone, Exchange, Framing, Headers
from llamaswap.relay.transport import Data
from llamaswap.web.dispatch import Dispatcher

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE = re.compile(rb"[!-~]*")
H2_INTERNAL_ERROR = 2  # RFC 9113, section 7
DRAIN_S = 2.0  # for the rest of a body that was answered without it


class AsgiExchange(Exchange):
    """One request of an ASGI server."""

    __slots__ = ("_head", "_nursery", "_receive", "_scope", "_send", "_unread", "cancelled", "finished")

    def __init__(self, scope: Message, receive: Receive, send: Send, nursery: trio.Nursery) -> None:
        client = scope.get("client") or ("", 0)
        path = scope.get("raw_path") or scope["path"].encode()
        super().__init__(
            scope["method"],
            path.partition(b"?")[0].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            [(bytes(name), bytes(value)) for name, value in scope["headers"]],
            client[0],
        )
        self._scope = scope
        self._receive = receive
        self._send = send
        self._nursery = nursery
        self._head: Message | None = None
        self._unread = True
        self.cancelled = False
        self.finished = False

    async def read_body(self, limit: int) -> bytes | bytearray:
        body = bytearray()
        announced = self.header(b"content-length")
        too_large = announced is not None and announced.isdigit() and int(announced) > limit
        while not too_large:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            too_large = len(body) > limit
            if not message.get("more_body", False):
                self._unread = False
                break
        if too_large:
            raise PayloadTooLarge(f"the request body is larger than {limit} bytes")
        return body

    def start(self, status: int, headers: Headers, framing: Framing, reason: bytes = b"") -> None:
        self.started = True
        self.status = status
        # HTTP/2 allows lower-case names only.
        fields = [(name.lower(), value) for name, value in headers]
        fields = [field for field in fields if field[0] != b"date"]  # the server writes its own
        self._head = {"type": "http.response.start", "status": status, "headers": fields}

    async def send(self, data: Data) -> None:
        await self.flush()
        self.bytes_sent += len(data)
        await self._send({"type": "http.response.body", "body": bytes(data), "more_body": True})

    async def flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)

    def take_back(self) -> bool:
        if self._head is not None:
            self._head = None
            self.started = False
        return not self.started

    async def finish(self, *, raw: bool = False) -> None:
        if self.finished:
            return
        await self.flush()
        self.finished = True
        if self._unread:
            await self._drain()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        """Take in the rest of the body before the response ends, so that the client gets to read it.

        Hypercorn (0.18) gives up a whole HTTP/2 connection if DATA comes for a stream that has ended.
        """
        with trio.move_on_after(DRAIN_S):
            while (await self._receive()).get("more_body", False):
                continue

    @property
    def _is_http2(self) -> bool:
        return bool(self._scope["http_version"] in ("2", "3"))

    async def abort(self) -> None:
        self.broken = True
        if self._is_http2:
            await self._reset_stream()

    async def _reset_stream(self) -> None:
        """Hypercorn (0.18) ends an HTTP/2 stream in order when the app raises: reset it ourselves."""
        stream = getattr(self._send, "__self__", None)
        protocol = getattr(getattr(stream, "send", None), "__self__", None)
        if protocol is not None and hasattr(protocol, "connection"):
            try:
                protocol.connection.reset_stream(stream.stream_id, H2_INTERNAL_ERROR)  # type: ignore[union-attr]
            except h2.exceptions.ProtocolError:
                return  # the client was faster
            await protocol._flush()

    def cancel(self) -> None:
        if not self.finished:
            self.cancelled = True
            self._nursery.cancel_scope.cancel()

    def watch(self) -> None:
        self._unread = False  # or as good as: the watcher takes what comes
        self._nursery.start_soon(self._watch)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self.finished:  # an ordinary end looks the same
            self._nursery.cancel_scope.cancel()


def _is_line(method: bytes, path: bytes, query: bytes) -> bool:
    """Whether these can stand in an HTTP/1.1 request line; HTTP/2 lets blanks pass that would end it early."""
    return bool(_TOKEN.fullmatch(method) and _VISIBLE.fullmatch(path) and _VISIBLE.fullmatch(query))


class RelayMiddleware:
    """Serves what `Dispatcher.is_model_route` claims; everything else goes to `app`."""

    def __init__(self, app: Callable[..., Awaitable[None]], dispatcher: Dispatcher) -> None:
        self._app = app
        self._dispatcher = dispatcher

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # A raw tunnel exists in the front only.
            await send({"type": "websocket.http.response.start", "status": 501, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"", "more_body": False})
            return
        if scope["type"] == "http":
            path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0].decode("latin-1")
            if self._dispatcher.is_model_route(scope["method"], path):
                async with trio.open_nursery() as nursery:
                    ex = AsgiExchange(scope, receive, send, nursery)
                    if _is_line(scope["method"].encode(), path.encode("latin-1"), scope["query_string"]):
                        await self._dispatcher.serve(ex)
                    else:
                        await ex.fail(BadRequest("a method or path with characters that no request line may have"))
                    nursery.cancel_scope.cancel()
                if ex.cancelled:
                    await ex.fail(RequestCancelled())
                # Without its last message the server breaks off the response, on HTTP/2 the reset has.
                return
        await self._app(scope, receive, send)
