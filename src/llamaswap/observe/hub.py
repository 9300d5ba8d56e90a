"""The event hub: who follows what happens, and how each of them is kept up to date.

An event is put into words once, whoever reads it. A subscriber's buffer is bounded; when it overflows,
it is dropped, nothing more is kept for that subscriber, and with its next read it starts afresh with a
snapshot of how things stand. So nobody can hold anybody else up, and nothing grows.

The wire format is llama-swap's: `event:message` with `{"type": T, "data": "<JSON as a string>"}`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from math import inf
from types import TracebackType
from typing import NamedTuple, Self

import trio

BUFFER_EVENTS = 1024  # as llama-swap
BUFFER_BYTES = 1 << 20  # several snapshots' worth; the events are shared by all who still have to read them
DELIVERIES_PER_S = 40  # to all subscribers together, spread over time: with many of them, each gets more at a time
APART_S = 0.005  # one delivery from the next, about, when all are woken by the same event
GOLDEN = 0.6180339887498949
LEAST_PAUSE_S = 0.05  # between two deliveries to one subscriber: fluent to the eye


class Event(NamedTuple):
    """One or more messages, ready to be sent."""

    payload: bytes
    source: str = ""
    """What counts on: a log, the activity. A subscriber that falls behind gets the rest of it, not all."""
    mark: int = 0
    """How far that source has come with this event."""


def _dumps(data: object) -> str:
    """JSON as compact as it gets; lone surrogates survive as escapes."""
    return json.dumps(data, separators=(",", ":"))


def message(type: str, data: object) -> bytes:
    """The bytes of one message of the stream. `data` goes through JSON twice."""
    return f'event:message\ndata:{{"type":"{type}","data":{_dumps(_dumps(data))}}}\n\n'.encode()


class Subscription:
    """One who follows; a context manager. One task at a time may receive."""

    def __init__(self, hub: Hub, place: float) -> None:
        self._hub = hub
        self._place = place
        """When it is served among all, from 0 to 1."""
        self._fresh = True
        """It has got nothing yet."""
        self._pending: deque[Event] = deque()
        self._bytes = 0
        self._behind = True
        """Nothing is kept for it: it gets a snapshot next."""
        self._seen: dict[str, int] = {}
        self._wakeup = trio.Event()
        self._wakeup.set()
        self._next_at = -inf
        self._gone = trio.Event()

    async def receive(self) -> bytes:
        """All messages since the last call; at first, and whenever it has fallen behind, a snapshot.

        Waits if there are none, and but for the first time a little in any case: so that many come at a time,
        and that others are not served in the same moment. Cancelled, it loses nothing. Raises trio.EndOfChannel
        once it is closed.
        """
        with trio.move_on_at(self._next_at):
            await self._gone.wait()
        if not self._wakeup.is_set():
            await self._wakeup.wait()  # as all do who have nothing left to read, and are woken by the same event
            self._next_at = trio.current_time() + self._place * self._hub.spread_s
            with trio.move_on_at(self._next_at):
                await self._gone.wait()
        if self.closed:
            raise trio.EndOfChannel
        events: Iterable[Event] = self._pending
        if self._behind:
            events = self._hub.snapshot(self._seen)
            self._behind = False
        for event in events:
            if event.source:
                self._seen[event.source] = event.mark
        data = b"".join([event.payload for event in events])
        self._pending.clear()
        self._bytes = 0
        self._wakeup = trio.Event()
        pause_s = self._hub.pause_s
        if self._fresh:  # others may have come with it
            self._fresh = False
            pause_s = LEAST_PAUSE_S + self._place * (pause_s - LEAST_PAUSE_S)
        self._next_at = trio.current_time() + pause_s
        return data

    def _push(self, event: Event) -> None:
        if self._behind:
            return
        self._pending.append(event)
        self._bytes += len(event.payload)
        if len(self._pending) > BUFFER_EVENTS or self._bytes > BUFFER_BYTES:
            self._pending.clear()
            self._bytes = 0
            self._behind = True
        self._wakeup.set()

    @property
    def held_bytes(self) -> int:
        """What waits to be read."""
        return self._bytes

    @property
    def closed(self) -> bool:
        return self._gone.is_set()

    def close(self) -> None:
        """Stop following; whoever waits in `receive` is woken. Idempotent, no checkpoint."""
        if not self.closed:
            self._gone.set()
            self._pending.clear()
            self._wakeup.set()
            self._hub._leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Hub:
    """All who follow. Synchronous but for `Subscription.receive`; Trio's thread only."""

    def __init__(self) -> None:
        self._subscribers: list[Subscription] = []
        self._closed = False
        self._numbers = count()
        self.snapshot: Callable[[Mapping[str, int]], Sequence[Event]] = lambda seen: ()
        """How things stand. `seen`: the marks of what this subscriber has read already; empty at first."""
        self.on_first: Callable[[], None] = lambda: None
        """Called when somebody begins to follow and nobody did."""
        self.on_last: Callable[[], None] = lambda: None
        """Called when nobody follows any more."""
        self.on_reload: Callable[[], None] = lambda: None
        """Called after `publish_reload`: names and models may be others now."""

    @property
    def followed(self) -> bool:
        """Whether anybody would hear."""
        return bool(self._subscribers)

    @property
    def followers(self) -> int:
        """How many follow."""
        return len(self._subscribers)

    def subscribe(self) -> Subscription:
        """Follow. Close it (`with`). After `close` it is closed already."""
        # Multiples of the golden ratio are far from each other, however many there are.
        subscription = Subscription(self, next(self._numbers) * GOLDEN % 1.0)
        if self._closed:
            subscription._gone.set()
            return subscription
        self._subscribers.append(subscription)
        if len(self._subscribers) == 1:
            self.on_first()
        return subscription

    def _leave(self, subscription: Subscription) -> None:
        self._subscribers.remove(subscription)
        if not self._subscribers:
            self.on_last()

    def send(self, event: Event) -> None:
        """To all who follow."""
        for subscriber in self._subscribers:
            subscriber._push(event)

    def publish(self, type: str, data: object) -> None:
        """Tell everybody; nothing is done if nobody follows. `data`: anything JSON can say."""
        if self._subscribers:
            self.send(Event(message(type, data)))

    def publish_reload(self, result: Mapping[str, object]) -> None:
        """A reload of the configuration has succeeded or failed; the event `configReload`."""
        self.publish("configReload", result)
        self.on_reload()

    @property
    def pause_s(self) -> float:
        """Between two deliveries to one subscriber, by how many there are."""
        return max(LEAST_PAUSE_S, len(self._subscribers) / DELIVERIES_PER_S)

    @property
    def spread_s(self) -> float:
        """From the first delivery of an event that all have waited for to the last: fifty at once would hold up every
        token by as many deliveries."""
        return (len(self._subscribers) - 1) * APART_S

    def close(self) -> None:
        """End all streams, now and in future: the server stops."""
        self._closed = True
        self.send_away()

    def send_away(self) -> None:
        """End all streams there are; who may can follow again."""
        for subscriber in self._subscribers[:]:
            subscriber.close()
