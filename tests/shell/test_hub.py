"""The event hub: everybody gets the same events, nobody holds anybody up, nothing grows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llamaswap.observe.hub import (
    APART_S,
    BUFFER_BYTES,
    BUFFER_EVENTS,
    DELIVERIES_PER_S,
    LEAST_PAUSE_S,
    Event,
    Hub,
    Subscription,
    message,
)


def told(data: bytes) -> list[tuple[str, object]]:
    """(type, data) of every message, after a look at the framing."""
    assert data.endswith(b"\n\n")
    found = []
    for part in data.decode().split("\n\n")[:-1]:
        first, second = part.split("\n")
        assert first == "event:message" and second.startswith("data:")
        envelope = json.loads(second.removeprefix("data:"))
        assert set(envelope) == {"type", "data"} and isinstance(envelope["data"], str)
        found.append((envelope["type"], json.loads(envelope["data"])))
    return found


class Counted(Hub):
    """Its snapshot says how often it was made, and what the subscriber had seen."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.snapshot = self._count

    def _count(self, seen: Mapping[str, int]) -> Sequence[Event]:
        self.made += 1
        return [Event(message("snapshot", [self.made, dict(seen)]), "log", 100 * self.made)]


def test_the_envelope() -> None:
    assert message("activity", {"id": 7}) == b'event:message\ndata:{"type":"activity","data":"{\\"id\\":7}"}\n\n'
    awkward = "\n\r\u2028\x00\udcff é 😀 \\\" data:\n\n"
    assert told(message("logData", awkward)) == [("logData", awkward)]


async def test_a_snapshot_first_then_what_is_published(autojump_clock: MockClock) -> None:
    hub = Counted()
    with hub.subscribe() as follower:
        hub.publish("early", 0)
        assert told(await follower.receive()) == [("snapshot", [1, {}])]
        hub.publish("a", 1)
        hub.publish("b", {"x": [2]})
        assert told(await follower.receive()) == [("a", 1), ("b", {"x": [2]})]


async def test_an_event_is_one_object_for_all(autojump_clock: MockClock) -> None:
    hub = Counted()
    with hub.subscribe() as one, hub.subscribe() as other:
        for follower in (one, other):
            await follower.receive()
        hub.publish("a", "x" * 1000)
        assert one._pending[0] is other._pending[0]
        assert one.held_bytes == other.held_bytes > 1000


async def test_nothing_is_made_for_nobody() -> None:
    hub = Hub()
    hub.publish("a", object())  # no JSON, which nobody notices
    assert not hub.followed
    with hub.subscribe(), pytest.raises(TypeError):
        hub.publish("a", object())


async def test_first_and_last(autojump_clock: MockClock) -> None:
    hub, calls = Hub(), []
    hub.on_first, hub.on_last = lambda: calls.append("first"), lambda: calls.append("last")
    one = hub.subscribe()
    with hub.subscribe():
        one.close()
        one.close()
    assert calls == ["first", "last"] and not hub.followed


@pytest.mark.parametrize(("size", "count"), [(0, BUFFER_EVENTS + 1), (BUFFER_BYTES // 4, 5)])
async def test_a_slow_reader_starts_afresh_and_holds_nothing(
    autojump_clock: MockClock, size: int, count: int
) -> None:
    hub = Counted()
    with hub.subscribe() as slow, hub.subscribe() as quick:
        await slow.receive()
        await quick.receive()
        received = 0
        for number in range(3 * count):
            hub.publish("a", [number, "x" * size])
            assert slow.held_bytes <= BUFFER_BYTES and len(slow._pending) <= BUFFER_EVENTS
            if number % 3 == 2:
                received += len(told(await quick.receive()))
        assert received == 3 * count and hub.made == 2
        assert slow.held_bytes == 0 and not slow._pending
        hub.publish("late", 0)
        assert slow.held_bytes == 0
        assert told(await slow.receive()) == [("snapshot", [3, {"log": 100}])]
        hub.publish("b", 1)
        assert told(await slow.receive()) == [("b", 1)]
        assert told(await quick.receive()) == [("late", 0), ("b", 1)]


async def test_marks_of_dropped_events_do_not_count(autojump_clock: MockClock) -> None:
    hub = Counted()
    with hub.subscribe() as slow:
        await slow.receive()
        hub.send(Event(message("logData", "read"), "log", 150))
        await slow.receive()
        for _ in range(BUFFER_EVENTS + 1):
            hub.send(Event(message("logData", "lost"), "log", 10**6))
        assert told(await slow.receive()) == [("snapshot", [2, {"log": 150}])]


async def test_deliveries_are_spread(autojump_clock: MockClock) -> None:
    """A burst comes in few pieces; the more follow, the fewer."""
    hub = Counted()

    async def count(follower: object, got: list[int]) -> None:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await follower.receive()  # type: ignore[attr-defined]
                got.append(1)

    for followers in (1, 50):
        subscriptions = [hub.subscribe() for _ in range(followers)]
        got: list[int] = []
        async with trio.open_nursery() as nursery:
            for subscription in subscriptions:
                nursery.start_soon(count, subscription, got)
            for number in range(500):
                hub.publish("a", number)
                await trio.sleep(0.002)
            for subscription in subscriptions:
                subscription.close()
        assert 10 < len(got) <= min(followers * (1 / LEAST_PAUSE_S + 2), DELIVERIES_PER_S * 1.3 + followers)


async def test_followers_of_the_same_event_get_it_one_after_another(autojump_clock: MockClock) -> None:
    """All at once they would hold up whatever else the server does for as many deliveries."""
    hub = Counted()
    got: list[float] = []

    async def follow(follower: Subscription) -> None:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await follower.receive()
                got.append(trio.current_time())

    subscriptions = [hub.subscribe() for _ in range(50)]
    async with trio.open_nursery() as nursery:
        for subscription in subscriptions:
            nursery.start_soon(follow, subscription)
        await trio.sleep(10)
        assert got == [0.0] * 50  # the snapshots come at once
        for event_at in (10, 20):
            got.clear()
            hub.publish("a", 1)
            await trio.sleep(5)
            assert len(got) == 50 and got[0] == event_at and got[-1] < event_at + 50 * APART_S
            assert min(later - sooner for sooner, later in pairwise(got)) > 0.3 * APART_S
            await trio.sleep(5)
        for subscription in subscriptions:
            subscription.close()


async def test_a_steady_stream_is_spread_as_well(autojump_clock: MockClock) -> None:
    """Whoever came together is soon apart, and is served as often as the others."""
    hub = Counted()
    got: list[tuple[float, int]] = []

    async def follow(follower: Subscription, number: int) -> None:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await follower.receive()
                got.append((trio.current_time(), number))

    subscriptions = [hub.subscribe() for _ in range(50)]
    async with trio.open_nursery() as nursery:
        for number, subscription in enumerate(subscriptions):
            nursery.start_soon(follow, subscription, number)
        for number in range(3000):
            hub.publish("a", number)
            await trio.sleep(0.01)
        for subscription in subscriptions:
            subscription.close()
    later = [at for at, _ in got if at > 2]
    assert min(b - a for a, b in pairwise(later)) > 0.3 / DELIVERIES_PER_S
    served = Counter(number for _, number in got)
    assert max(served.values()) - min(served.values()) <= 2


@pytest.mark.parametrize("followers", [1, 50, 1000])
async def test_many_that_are_cancelled_meanwhile_are_served_all_the_same(
    autojump_clock: MockClock, followers: int
) -> None:
    """As by heartbeats; and nobody waits for those that have left."""
    hub = Counted()
    longest = 0.0

    async def follow(follower: Subscription) -> None:
        nonlocal longest
        last = trio.current_time()
        with pytest.raises(trio.EndOfChannel):
            while True:
                with trio.move_on_after(15):
                    await follower.receive()
                    longest = max(longest, trio.current_time() - last)
                    last = trio.current_time()

    async with trio.open_nursery() as nursery:
        for _ in range(followers):
            nursery.start_soon(follow, hub.subscribe())
        for number in range(400):
            hub.publish("a", number)
            await trio.sleep(0.5)
        hub.send_away()
    assert longest <= 2.5 * max(1.0, followers / DELIVERIES_PER_S)
    with hub.subscribe() as late:
        await late.receive()
        await trio.sleep(1)
        begun = trio.current_time()
        hub.publish("a", 1)
        await late.receive()
        assert trio.current_time() == begun


async def test_the_first_after_a_quiet_time_comes_at_once(autojump_clock: MockClock) -> None:
    hub = Counted()
    with hub.subscribe() as follower:
        await follower.receive()
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            at: list[float] = []

            async def note() -> None:
                await follower.receive()
                at.append(trio.current_time())

            nursery.start_soon(note)
            await wait_all_tasks_blocked()
            hub.publish("a", 1)
        assert at == [10]


async def test_a_cancelled_receive_loses_nothing(autojump_clock: MockClock) -> None:
    hub = Counted()
    with hub.subscribe() as follower:
        with trio.move_on_after(0) as scope:
            await follower.receive()
        assert scope.cancelled_caught
        assert told(await follower.receive()) == [("snapshot", [1, {}])]
        hub.publish("a", 1)
        with trio.move_on_after(LEAST_PAUSE_S / 2) as scope:
            await follower.receive()
        assert scope.cancelled_caught
        assert told(await follower.receive()) == [("a", 1)]


async def test_closing_wakes_whoever_waits(autojump_clock: MockClock) -> None:
    hub = Counted()
    one, other = hub.subscribe(), hub.subscribe()
    await one.receive()

    async def ends(follower: object) -> None:
        with pytest.raises(trio.EndOfChannel):
            while True:
                await follower.receive()  # type: ignore[attr-defined]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends, one)
        nursery.start_soon(ends, other)
        await wait_all_tasks_blocked()
        hub.close()
    assert trio.current_time() < 0.01 and not hub.followed
    late = hub.subscribe()
    assert late.closed
    await ends(late)
    late.close()


async def test_a_reload_is_told_before_what_follows_from_it(autojump_clock: MockClock) -> None:
    hub = Counted()
    hub.on_reload = lambda: hub.publish("modelStatus", [])
    with hub.subscribe() as follower:
        await follower.receive()
        hub.publish_reload({"ok": True})
        assert told(await follower.receive()) == [("configReload", {"ok": True}), ("modelStatus", [])]
