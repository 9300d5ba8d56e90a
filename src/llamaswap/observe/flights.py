"""Requests under way: who they are, how far they have come, and enough of their answers to account for them.

`Flights.open` and `close` are called once per model request by whoever serves it; everything else here is read
when somebody looks (an event stream, a metrics page), never computed on a request's way.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Literal, NamedTuple, Protocol

import msgspec

from llamaswap.errors import RequestCancelled

HEAD_BYTES = 8192  # of an answer: Anthropic's first event has the input tokens
UNDER_WAY_BYTES = 32 << 20  # for the beginnings of all answers under way, together
TAIL_BYTES = 65536  # the Responses API puts its usage into one large last event
COUNTED_BYTES = 2048  # of one read: what brings more is like its beginning

CLIENT_CLOSED = 499  # nginx's status for a client that left before its answer
CANCELLED_STATUS = RequestCancelled.status
CANCELLED = "cancelled from outside"

Stage = Literal["queued", "loading", "waiting", "streaming"]
Headers = Sequence[tuple[bytes, bytes]]


class Kind(NamedTuple):
    """What the body of an answer is."""

    content_type: str
    encoding: str
    """Content-Encoding in small letters; empty for none."""


NO_KIND = Kind("", "")


class Head(Protocol):
    """What a flight keeps of its answer's head."""

    @property
    def kind(self) -> Kind: ...

    @property
    def passed(self) -> Headers:
        """The headers that went to the client."""
        ...

    @property
    def size(self) -> int:
        """Bytes that it alone takes, about."""
        ...


class Carried(Protocol):
    """What a flight reads of the exchange that serves it."""

    begun: float
    method: str
    path: str
    query: str
    headers: Headers
    client: str
    status: int
    bytes_sent: int
    broken: bool


class Flight(msgspec.Struct, eq=False):
    """One model request. Times in seconds of `time.monotonic`, but for `timestamp`.

    A struct of msgspec's is made in a fifth of the time of a class with as many fields.
    """

    id: int
    """Unique while the server runs; from 1."""
    exchange: Carried
    model: str
    """The model's id."""
    requested: str
    """The id or alias that the client wrote."""
    metered: bool
    """Whether it is recorded when it ends: inference, not a page of the upstream's."""
    keep: int
    """How many bytes of the answer's beginning are kept."""
    timestamp: float
    """Seconds since the epoch."""
    begun: float
    body: bytes | bytearray = b""
    """The request's body as the client sent it."""
    granted_at: float | None = None
    """When its model was ready for it."""
    load_s: float = 0.0
    """How much of the time before `granted_at` its model was starting; the rest was spent in the queue."""
    first_byte_at: float | None = None
    """When the first byte of the answer's body came."""
    ended_at: float | None = None
    answer: Head | None = None
    """The head of the upstream's answer."""
    received: int = 0
    """Bytes of the answer's body so far, its framing included."""
    events: int = 0
    """Server-sent events in it so far, about: as many as tokens, with most upstreams."""
    head: list[bytes] = []  # each has its own
    """The body's beginning: `keep` bytes or a little more."""
    tail: deque[bytes] | None = None
    """What followed, but only about the last 64 KiB of it."""
    tail_bytes: int = 0
    chunked: bool = False
    """Whether `head` and `tail` carry HTTP/1.1 chunk framing."""
    error: str = ""
    """What went wrong, if anything did: our own error's message."""
    hidden_status: int = 0
    """What the status would have been, had the client's stream not begun before: with words about the load."""
    gone: bool = False
    """Whether the client left before its answer was complete."""
    cancelled: bool = False
    """Whether somebody ended it from outside."""
    end: Callable[[], None] | None = None
    """What `cancel` calls; whoever serves the request sets it."""

    def cancel(self) -> None:
        """End it: the client gets an error, or a broken stream if its answer has begun. Synchronous."""
        self.cancelled = True
        self.error = self.error or CANCELLED
        if self.end is not None:
            self.end()

    def add(self, data: bytes) -> None:
        """Body bytes of the answer, in order."""
        size, before = len(data), self.received
        if not before:
            self.first_byte_at = time.monotonic()
        self.received = before + size
        found = data.count(b"data: ", 0, COUNTED_BYTES)
        self.events += found if size <= COUNTED_BYTES or found < 2 else found * size // COUNTED_BYTES
        if before < self.keep:
            self.head.append(data)
            return
        tail = self.tail
        if tail is None:
            tail = self.tail = deque()
        tail.append(data)
        self.tail_bytes += size
        while self.tail_bytes - len(tail[0]) >= TAIL_BYTES:
            self.tail_bytes -= len(tail.popleft())

    @property
    def response_headers(self) -> Headers:
        """Of the upstream's answer, as passed on."""
        return self.answer.passed if self.answer is not None else ()

    @property
    def whole(self) -> bool:
        """Whether nothing of the answer was left out between `head` and `tail`."""
        return self.received == sum(map(len, self.head)) + self.tail_bytes

    @property
    def stage(self) -> Stage:
        """How far it has come. Before its grant this cannot tell `loading` from `queued`: the model's state can."""
        if self.granted_at is None:
            return "queued"
        return "streaming" if self.received else "waiting"

    @property
    def queue_s(self) -> float:
        """How long it waited for its turn, loading aside, so far."""
        return max(0.0, (self.granted_at or self.ended_at or time.monotonic()) - self.begun - self.load_s)

    @property
    def elapsed_s(self) -> float:
        return (self.ended_at or time.monotonic()) - self.begun


Listener = Callable[[Flight], None]


class Flights:
    """All requests under way, and who wants to hear of them.

    Listeners are called synchronously on the request's way: they must be quick and must not raise.
    """

    def __init__(self) -> None:
        self._active: dict[int, Flight] = {}
        self._numbers = count(1)
        self.keep_bytes = HEAD_BYTES
        """How much of an answer's beginning is kept at most; more if answers are to be captured."""
        self.on_open: list[Listener] = []
        self.on_close: list[Listener] = []

    def __iter__(self) -> Iterator[Flight]:
        """In the order in which they came."""
        return iter(list(self._active.values()))

    def __len__(self) -> int:
        return len(self._active)

    def get(self, id: int) -> Flight | None:
        return self._active.get(id)

    @property
    def next_keep_bytes(self) -> int:
        """What the next request may keep: less each, the more are under way."""
        return max(HEAD_BYTES, min(self.keep_bytes, UNDER_WAY_BYTES // (len(self._active) + 1)))

    def open(self, exchange: Carried, model: str, requested: str, *, metered: bool) -> Flight:
        """A request has found its model."""
        id = next(self._numbers)
        keep = self.next_keep_bytes
        flight = Flight(id, exchange, model, requested, metered, keep, time.time(), exchange.begun)
        self._active[id] = flight
        for listener in self.on_open:
            listener(flight)
        return flight

    def close(self, flight: Flight) -> None:
        """It is over, whatever the outcome; its exchange has the final status."""
        flight.ended_at = time.monotonic()
        flight.end = None
        del self._active[flight.id]
        for listener in self.on_close:
            listener(flight)
