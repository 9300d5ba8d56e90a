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


class Flight:
    """One model request. Times in seconds of `time.monotonic`, but for `timestamp`."""

    __slots__ = (
        "_room",
        "_tail_bytes",
        "answer",
        "begun",
        "body",
        "cancelled",
        "chunked",
        "end",
        "ended_at",
        "error",
        "events",
        "exchange",
        "first_byte_at",
        "gone",
        "granted_at",
        "head",
        "id",
        "load_s",
        "metered",
        "model",
        "received",
        "requested",
        "tail",
        "timestamp",
    )

    def __init__(self, id: int, exchange: Carried, model: str, requested: str, metered: bool, keep: int) -> None:
        self.id = id
        """Unique while the server runs; from 1."""
        self.exchange = exchange
        self.model = model
        """The model's id."""
        self.requested = requested
        """The id or alias that the client wrote."""
        self.metered = metered
        """Whether it is recorded when it ends: inference, not a page of the upstream's."""
        self.body: bytes | bytearray = b""
        """The request's body as the client sent it."""
        self.timestamp = time.time()
        """Seconds since the epoch."""
        self.begun = exchange.begun
        self.granted_at: float | None = None
        """When its model was ready for it."""
        self.load_s = 0.0
        """How much of the time before `granted_at` its model was starting; the rest was spent in the queue."""
        self.first_byte_at: float | None = None
        """When the first byte of the answer's body came."""
        self.ended_at: float | None = None
        self.answer: Head | None = None
        """The head of the upstream's answer."""
        self.received = 0
        """Bytes of the answer's body so far, its framing included."""
        self.events = 0
        """Server-sent events in it so far, about: as many as tokens, with most upstreams."""
        self.head: list[bytes] = []
        """The body's beginning: `keep` bytes or a little more."""
        self.tail: deque[bytes] = deque()
        """What followed, but only about the last 64 KiB of it."""
        self.chunked = False
        """Whether `head` and `tail` carry HTTP/1.1 chunk framing."""
        self.error = ""
        """What went wrong, if anything did: our own error's message."""
        self.gone = False
        """Whether the client left before its answer was complete."""
        self.cancelled = False
        """Whether somebody ended it from outside."""
        self.end: Callable[[], None] = _nothing
        """What `cancel` calls; whoever serves the request sets it."""
        self._room = keep
        self._tail_bytes = 0

    def cancel(self) -> None:
        """End it: the client gets an error, or a broken stream if its answer has begun. Synchronous."""
        self.cancelled = True
        self.error = self.error or CANCELLED
        self.end()

    def add(self, data: bytes) -> None:
        """Body bytes of the answer, in order."""
        size = len(data)
        if not self.received:
            self.first_byte_at = time.monotonic()
        self.received += size
        found = data.count(b"data: ", 0, COUNTED_BYTES)
        self.events += found if size <= COUNTED_BYTES or found < 2 else found * size // COUNTED_BYTES
        if self._room > 0:
            self._room -= size
            self.head.append(data)
            return
        self.tail.append(data)
        self._tail_bytes += size
        while self._tail_bytes - len(self.tail[0]) >= TAIL_BYTES:
            self._tail_bytes -= len(self.tail.popleft())

    @property
    def response_headers(self) -> Headers:
        """Of the upstream's answer, as passed on."""
        return self.answer.passed if self.answer is not None else ()

    @property
    def whole(self) -> bool:
        """Whether nothing of the answer was left out between `head` and `tail`."""
        return self.received == sum(map(len, self.head)) + self._tail_bytes

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

    @property
    def status(self) -> int:
        """Of the answer; 499 if the client left before its end, 0 while there is none."""
        if self.cancelled:
            return self.exchange.status or CANCELLED_STATUS
        return CLIENT_CLOSED if self.gone else self.exchange.status


def _nothing() -> None:
    return


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
        flight = Flight(next(self._numbers), exchange, model, requested, metered, self.next_keep_bytes)
        self._active[flight.id] = flight
        for listener in self.on_open:
            listener(flight)
        return flight

    def close(self, flight: Flight) -> None:
        """It is over, whatever the outcome; its exchange has the final status."""
        flight.ended_at = time.monotonic()
        flight.end = _nothing
        del self._active[flight.id]
        for listener in self.on_close:
            listener(flight)
