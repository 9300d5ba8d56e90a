"""One request and its response, as the relay sees it: no server, no protocol version.

`web/http1.py` implements it over our own HTTP/1.1 front, `web/asgi.py` over ASGI.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from llamaswap.errors import SwapError, render
from llamaswap.observe.flights import Flight
from llamaswap.relay.transport import Data, Transport

Headers = Sequence[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client closed its connection (or half-closed it, which means the same here)."""


class Framing(Enum):
    """How a response's body ends."""

    LENGTH = "length"
    """Its Content-Length says."""
    CHUNKED = "chunked"
    """Transfer-Encoding: chunked, or what the protocol has in its place."""
    NONE = "none"
    """There is no body (HEAD, 204, 304)."""


class Exchange(ABC):
    """A request head, its body on demand, and a way to answer.

    Errors of the client's connection are raised as `ClientGone`. One task uses an exchange at a time.
    """

    __slots__ = (
        "begun",
        "broken",
        "bytes_sent",
        "client",
        "flight",
        "headers",
        "memo",
        "method",
        "model_id",
        "path",
        "query",
        "started",
        "status",
    )

    def __init__(self, method: str, path: str, query: str, headers: Headers, client: str) -> None:
        self.method = method
        self.path = path
        """Percent-encoded, as the client wrote it."""
        self.query = query
        """Without the question mark; percent-encoded."""
        self.headers = headers
        """Names as the client wrote them (lower case over HTTP/2)."""
        self.client = client
        """The peer's address, without its port."""
        self.begun = time.monotonic()
        self.started = False
        """Whether `start` was called: from here on an error can only break the connection."""
        self.status = 0
        self.bytes_sent = 0
        """Of the response's body."""
        self.broken = False
        """Whether the response was broken off by us, after it had started."""
        self.model_id = ""
        """The model that it went to, for the log."""
        self.memo: dict[Any, Any] | None = None
        """Where to remember what follows from the request's head alone, if other requests share that head."""
        self.flight: Flight | None = None
        """Its entry among the requests under way, from the moment its model is known."""

    raw: bool = False
    """Whether `send_raw` may be used: the client speaks HTTP/1.1 with us."""
    websocket: bool = False
    """Whether the client asks to upgrade to a WebSocket, and `hijack` may be used."""

    def header(self, name: bytes) -> bytes | None:
        """The first header of that (lower-case) name."""
        for key, value in self.headers:
            if len(key) == len(name) and key.lower() == name:
                return value
        return None

    @abstractmethod
    async def read_body(self, limit: int) -> bytes | bytearray:
        """The whole body. Raises PayloadTooLarge above `limit` bytes, BadRequest, RequestTimeout, ClientGone."""

    @abstractmethod
    def start(self, status: int, headers: Headers, framing: Framing, reason: bytes = b"") -> None:
        """The response head; it leaves with the first body bytes, or at `flush` or `finish`.

        `headers` carry no framing of the hop but, with LENGTH, their Content-Length.
        """

    @abstractmethod
    async def send(self, data: Data) -> None:
        """Body bytes, without framing."""

    async def send_raw(self, data: bytes) -> None:
        """Body bytes that already carry the HTTP/1.1 framing announced by `start`; only where `raw`."""
        raise TypeError(f"{type(self).__name__} carries no raw framing")

    def raw_sink(self) -> Callable[[bytes], int] | None:
        """Where `raw` bytes can be put without waiting: a function that says how many it took, if there is one.

        It raises OSError if the client has left. The head has left before it is used.
        """
        return None

    async def flush(self) -> None:
        """Send a head that still waits for its body."""
        return

    def take_back(self) -> bool:
        """Undo `start` if the head still waits, so that another may be started; whether none has left."""
        return not self.started

    @abstractmethod
    async def finish(self, *, raw: bool = False) -> None:
        """The response is complete (`raw`: its last chunk went through `send_raw`). Idempotent."""

    @abstractmethod
    async def abort(self) -> None:
        """Break the connection so that the client sees an incomplete response, never a clean end."""

    @abstractmethod
    def watch(self) -> None:
        """The request is read: from now on the client's leaving cancels the task that serves it.

        It is noticed within 100 ms, in whatever that task waits for.
        """

    @abstractmethod
    def cancel(self) -> None:
        """End the request from outside: RequestCancelled for the client, or a broken stream if it has started.

        Synchronous; later than the end it does nothing.
        """

    async def hijack(self) -> tuple[Transport, bytes]:
        """The client's transport and what was read of it beyond the request; the exchange is over with it."""
        raise TypeError(f"{type(self).__name__} has no transport of its own")

    async def answer(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """A complete small response of our own."""
        fixed = [*headers, (b"Content-Length", b"%d" % len(body))] if status not in (204, 304) else headers
        self.start(status, fixed, Framing.NONE if self.method == "HEAD" or not body else Framing.LENGTH)
        if body and self.method != "HEAD":
            await self.send(body)
        await self.finish()

    async def fail(self, error: SwapError) -> None:
        """Answer with `error`'s envelope, or break the connection if the response has started."""
        if self.started:
            await self.abort()
            return
        accept = self.header(b"accept") or b""
        status, headers, body = render(error, accept.decode("latin-1"))
        fields = [(k.encode(), v.encode()) for k, v in headers if k != "Content-Length"]
        await self.answer(status, fields, body)
