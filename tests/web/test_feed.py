"""What followers are told: the snapshot in its order, then logs, models and requests as they change."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from app_fixtures import CONFIG, FakeFleet, make_config, make_state
from trio.testing import MockClock

from llamaswap.config.settings import Capabilities, ModelConfig
from llamaswap.observe.flights import Flight, Flights
from llamaswap.observe.hub import BUFFER_EVENTS, Event, Subscription
from llamaswap.observe.logs import HISTORY_BYTES
from llamaswap.observe.rows import Row, Tokens
from llamaswap.relay.response import Answer
from llamaswap.routing.lifecycle import State
from llamaswap.web.feed import LOG_BYTES_PER_S, LOG_PAUSE_S, REQUEST_PAUSE_S, Feed
from llamaswap.web.sources import ROWS_KEPT, ROWS_TOLD, TOLD_AT_ONCE
from llamaswap.web.state import AppState

ORDER = ["logData", "logData", "modelStatus", "uiConfig", "profileChanged", "inflight", "modelProgress"]
Told = list[tuple[str, Any]]


class Carried:
    """An exchange, as far as flights look at it."""

    def __init__(self, path: str = "/v1/chat/completions") -> None:
        self.method, self.path, self.query, self.client = "POST", path, "", "127.0.0.1"
        self.headers = ((b"user-agent", b"test"), (b"authorization", b"Bearer sk-secret"))
        self.status, self.bytes_sent, self.broken = 0, 0, False
        self.begun = time.monotonic()


def opened(flights: Flights, model: str = "a") -> Flight:
    return flights.open(Carried(), model, model, metered=True)


class Rig:
    def __init__(self, state: AppState) -> None:
        self.state = state
        self.fleet: FakeFleet = state.fleet  # type: ignore[assignment]
        self.flights = state.flights
        self.proxy = state.logs.proxy
        self.feed = Feed(state)
        self.follower: Subscription = None  # type: ignore[assignment]
        self.unread: Told = []

    async def told(self, follower: Subscription | None = None) -> Told:
        with trio.fail_after(100):
            data = await (follower or self.follower).receive()
        found = []
        for part in data.decode().split("\n\n")[:-1]:
            envelope = json.loads(part.split("data:", 1)[1])
            found.append((envelope["type"], json.loads(envelope["data"])))
        return found

    async def until(self, type: str, follower: Subscription | None = None) -> Any:
        """The data of the next event of a type; those of other types before it are passed over."""
        while True:
            while self.unread:
                kind, data = self.unread.pop(0)
                if kind == type:
                    return data
            self.unread = await self.told(follower)

    async def quiet(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.told()
            return False
        return True


@asynccontextmanager
async def following(state: AppState | None = None) -> AsyncIterator[Rig]:
    """One who has read the snapshot."""
    rig = Rig(make_state() if state is None else state)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.feed.run)
        with rig.state.hub.subscribe() as rig.follower:
            await rig.told()
            yield rig
        nursery.cancel_scope.cancel()


async def test_the_snapshot(autojump_clock: MockClock) -> None:
    model = ModelConfig(
        id="m", name=" M ", aliases=("em",), capabilities=Capabilities(("text", "image"), ("text",), context=4096)
    )
    state = make_state(make_config(model, ModelConfig(id="n", unlisted=True)), {"m": State.READY})
    state.logs.proxy.write(b"ours\n")
    state.logs.model("m").write("théirs \ud83d\n".encode("utf-8", "surrogatepass"))
    rig = Rig(state)
    with state.hub.subscribe() as follower:
        told = await rig.told(follower)
    assert [type for type, _ in told] == ORDER
    status = {"peerID": "", "description": ""}
    assert [data for _, data in told] == [
        {"source": "proxy", "data": "ours\n"},
        {"source": "upstream", "data": "théirs \ufffd\ufffd\ufffd\n"},
        [
            {
                "id": "m", "name": "M", "state": "ready", "unlisted": False, "aliases": ["em"],
                "capabilities": {
                    "vision": True, "audio_transcriptions": False, "audio_speech": False, "image_generation": False,
                    "image_to_image": False, "function_calling": False, "reranker": False,
                },
                "context_length": 4096, **status,
            },
            {"id": "n", "name": "", "state": "stopped", "unlisted": True, **status},
        ],
        {"activity": {"session_id": ["X-Session-ID", "X-Litellm-Session-Id"]}},
        {"active": None},
        {"operation": "snapshot"},
        [{"id": "m", "state": "ready", "queued": 0}],
    ]  # fmt: skip


async def test_nobody_looks_at_requests_that_nobody_follows(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    rig = Rig(state)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.feed.run)
        with state.hub.subscribe() as follower:
            await rig.told(follower)
            flight = opened(state.flights)
            await rig.until("inflight", follower)
        state.flights.close(flight)
        await trio.sleep(1)
        assert not state.flights.on_open
        looks: list[float] = []
        with monkeypatch.context() as patch:
            patch.setattr(rig.feed, "_flush_requests", lambda: looks.append(trio.current_time()))
            await trio.sleep(100)
        assert not looks
        with state.hub.subscribe() as follower:
            told = dict(await rig.told(follower))
            assert told["inflight"] == {"operation": "snapshot"}
            again = opened(state.flights)
            assert (await rig.until("inflight", follower))["request"]["id"] == again.id
        nursery.cancel_scope.cancel()


async def test_nobody_listens_while_nobody_follows(autojump_clock: MockClock) -> None:
    state = make_state()
    monitors = (state.logs.proxy, state.logs.upstream)
    before = [len(monitor.listeners) for monitor in monitors]
    async with following(state):
        assert [len(monitor.listeners) for monitor in monitors] == [count + 1 for count in before]
        await trio.sleep(1)
        assert state.flights.on_open
    assert [len(monitor.listeners) for monitor in monitors] == before
    assert not state.flights.on_open


# -- logs


async def test_log_lines_come_together(autojump_clock: MockClock) -> None:
    """The first at once, the others at most ten times a second, all of them once and in order."""
    async with following() as rig:
        expected, events = "", 0
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                nonlocal expected
                for number in range(200):
                    rig.proxy.write(b"line %d\n" % number)
                    expected += f"line {number}\n"
                    await trio.sleep(0.005)

            nursery.start_soon(write)
            got = ""
            while not got.endswith("line 199\n"):
                for type, data in await rig.told():
                    assert type == "logData" and data["source"] == "proxy"
                    got += data["data"]
                    events += 1
        assert got == expected
        assert events <= 1 / LOG_PAUSE_S + 2


async def test_a_character_that_comes_in_two_writes(autojump_clock: MockClock) -> None:
    async with following() as rig:
        for data in ("é😀".encode(), b"\xff\xffx"):
            for byte in data:
                rig.proxy.write(bytes([byte]))
                await trio.sleep(1)
        got = ""
        while not got.endswith("x"):
            got += (await rig.until("logData"))["data"]
        assert got == "é😀\ufffd\ufffdx"


async def test_a_flood_of_log_lines_is_bounded(autojump_clock: MockClock) -> None:
    async with following() as rig:
        for number in range(100_000):
            rig.proxy.write(b"line %d\n" % number)
        text = (await rig.until("logData"))["data"]
        assert len(text) < 110_000
        assert text.startswith("[WARN] ") and text.endswith("line 99999\n")


async def test_a_lasting_flood_is_told_in_part(autojump_clock: MockClock) -> None:
    async with following() as rig, trio.open_nursery() as nursery:

        async def write() -> None:
            while True:
                rig.proxy.write(b"%99d\n" % 0 * 1000)
                await trio.sleep(0.1)

        nursery.start_soon(write)
        told, begun = 0, trio.current_time()
        while trio.current_time() < begun + 20:
            told += len((await rig.until("logData"))["data"])
        nursery.cancel_scope.cancel()
    assert told < 20 * LOG_BYTES_PER_S + 2 * HISTORY_BYTES


async def test_who_comes_later_gets_no_line_twice(autojump_clock: MockClock) -> None:
    async with following() as rig:
        rig.proxy.write(b"one\n")
        await rig.told()
        rig.proxy.write(b"two\n")
        with rig.state.hub.subscribe() as late:
            told = dict((await rig.told(late))[:1])
            assert told["logData"]["data"] == "one\ntwo\n"
            rig.proxy.write(b"three\n")
            assert (await rig.until("logData", late))["data"] == "three\n"


async def test_a_follower_that_fell_behind_gets_the_rest_of_the_logs(autojump_clock: MockClock) -> None:
    async with following() as rig:
        rig.proxy.write("é1\n".encode())
        assert (await rig.until("logData"))["data"] == "é1\n"
        rig.proxy.write(b"2\n")
        await trio.sleep(1)
        for number in range(BUFFER_EVENTS + 1):
            rig.state.hub.publish("activity", {"id": number})
        assert rig.follower.held_bytes == 0
        rig.proxy.write(b"3\n")
        told = await rig.told()
        assert [type for type, _ in told] == ORDER[1:]
        assert told[0][1] == {"source": "proxy", "data": "2\n3\n"}


async def test_a_follower_that_fell_far_behind_is_told_what_it_missed(autojump_clock: MockClock) -> None:
    async with following() as rig:
        for _ in range(20):
            rig.proxy.write(b"%99d\n" % 0 * 1000)
            await trio.sleep(1)
        told = await rig.told()
        assert told[0][0] == "logData" and told[0][1]["data"].startswith("[WARN] ")
        skipped = int(told[0][1]["data"].split()[1])
        rest = told[0][1]["data"].split("\n", 1)[1]
        assert skipped + len(rest) == 20 * 100 * 1000


# -- models


async def test_changes_of_models(autojump_clock: MockClock) -> None:
    async with following() as rig:
        begun = trio.current_time()
        rig.fleet.becomes("a", State.STARTING, queued=2, loading_s=0.25, waiting_for=[])
        rig.state.model_log.remember("a", [3.0])
        told = dict(await rig.told())
        assert trio.current_time() - begun < 0.1
        assert {model["id"]: model["state"] for model in told["modelStatus"]} == {
            "a": "starting", "b": "stopped", "org/c:q4": "stopped", "hidden": "stopped",
        }  # fmt: skip
        assert told["modelProgress"] == [
            {"id": "a", "state": "starting", "queued": 2, "elapsed_s": 0.25, "typical_s": 3.0}
        ]


async def test_progress_while_something_loads(autojump_clock: MockClock) -> None:
    """Once a second, and no more once all is still."""
    async with following() as rig:
        rig.fleet.becomes("a", State.READY, in_flight=1)
        rig.fleet.becomes("b", State.STOPPED, queued=1, waiting_for=["a"])
        await rig.told()
        begun = trio.current_time()
        for _ in range(4):
            assert await rig.until("modelProgress") == [
                {"id": "a", "state": "ready", "queued": 0},
                {"id": "b", "state": "stopped", "queued": 1, "waiting_for": ["a"]},
            ]
        assert 3 <= trio.current_time() - begun <= 5
        rig.fleet.becomes("b", State.STOPPED)
        assert await rig.until("modelProgress") == [{"id": "a", "state": "ready", "queued": 0}]
        assert await rig.quiet(60)


async def test_a_ttl_that_begins_to_run_is_told(autojump_clock: MockClock) -> None:
    async with following(make_state(states={"b": State.READY})) as rig:
        await rig.quiet(5)
        rig.fleet.details["b"] = {"ttl_deadline": trio.current_time() + 60}
        (entry,) = await rig.until("modelProgress")
        assert 58 <= entry["ttl_left_s"] <= 60
        assert await rig.quiet(30)


# -- requests under way


async def test_the_way_of_a_request(autojump_clock: MockClock) -> None:
    async with following() as rig:
        flight = opened(rig.flights)
        told = await rig.until("inflight")
        entry = told["request"]
        assert told["operation"] == "upsert" and set(entry) == {
            "id", "timestamp", "model", "requested", "req_path", "method", "req_headers", "remote_ip",
            "resp_headers", "resp_bytes", "resp_events", "elapsed_ms", "state", "queue_ms", "load_ms", "ttfb_ms",
        }  # fmt: skip
        assert (entry["id"], entry["state"], entry["ttfb_ms"]) == (flight.id, "queued", None)
        assert entry["req_headers"] == {"User-Agent": "test", "Authorization": "[REDACTED]"}
        rig.fleet.becomes("a", State.STARTING, loading_s=0.0)
        assert (await rig.until("inflight"))["request"]["state"] == "loading"
        rig.fleet.becomes("a", State.READY)
        flight.granted_at = flight.begun
        assert (await rig.until("inflight"))["request"]["state"] == "waiting"
        headers = [(b"content-type", b"text/event-stream"), (b"set-cookie", b"secret")]
        flight.answer = Answer(200, b"OK", headers, -1, False)
        flight.add(b"data: 1\n\n")
        entry = (await rig.until("inflight"))["request"]
        assert (entry["state"], entry["resp_bytes"], entry["resp_events"]) == ("streaming", 9, 1)
        assert entry["ttfb_ms"] is not None
        assert entry["resp_headers"] == {"Content-Type": "text/event-stream", "Set-Cookie": "[REDACTED]"}
        assert await rig.quiet(10)
        rig.flights.close(flight)
        assert await rig.until("inflight") == {"operation": "remove", "id": flight.id}
        assert await rig.quiet(10)


async def test_bytes_are_told_four_times_a_second(autojump_clock: MockClock) -> None:
    async with following() as rig:
        flight = opened(rig.flights)
        await rig.told()
        async with trio.open_nursery() as nursery:

            async def stream() -> None:
                for _ in range(1000):
                    flight.add(b"x")
                    await trio.sleep(0.01)
                rig.flights.close(flight)

            nursery.start_soon(stream)
            sizes: list[int] = []
            while (data := await rig.until("inflight"))["operation"] == "upsert":
                sizes.append(data["request"]["resp_bytes"])
        assert sizes == sorted(set(sizes)) and 25 <= len(sizes) <= 41


async def test_short_requests_cost_nothing(autojump_clock: MockClock) -> None:
    """What has come and gone between two looks is not told; what was told is taken back."""
    async with following() as rig:
        known = opened(rig.flights)
        await rig.told()
        for _ in range(1000):
            rig.flights.close(opened(rig.flights))
        rig.flights.close(known)
        assert await rig.told() == [("inflight", {"operation": "remove", "id": known.id})]
        assert await rig.quiet(10)


async def test_who_comes_later_sees_what_is_under_way(autojump_clock: MockClock) -> None:
    state = make_state()
    first = opened(state.flights)
    async with following(state) as rig:
        second = opened(rig.flights)
        await rig.until("inflight")
        with rig.state.hub.subscribe() as late:
            told = [data for type, data in await rig.told(late) if type == "inflight"]
            assert [entry["id"] for entry in told[0]["requests"]] == [first.id, second.id]
            first.add(b"x")
            assert (await rig.until("inflight", late))["request"]["id"] == first.id
            rig.flights.close(second)
            rig.flights.close(first)
            removed = []
            while len(removed) < 2:
                removed += [data["id"] for type, data in await rig.told(late) if type == "inflight"]
            assert sorted(removed) == [first.id, second.id]


async def test_a_thousand_streams_are_told_less_often(autojump_clock: MockClock) -> None:
    async with following() as rig:
        flights = [opened(rig.flights) for _ in range(1000)]
        await rig.told()
        upserts = 0
        with trio.move_on_after(10):
            while True:
                for flight in flights:
                    flight.add(b"x")
                upserts += len(await rig.told())
        assert 3000 <= upserts <= 5000


async def test_many_that_come_at_once_are_told_by_and_by(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go they would hold up every token; none is forgotten, nor is one told twice."""
    async with following() as rig:
        events: list[Event] = []
        hub_send = rig.state.hub.send

        def send(event: Event) -> None:
            events.append(event)
            hub_send(event)

        monkeypatch.setattr(rig.state.hub, "send", send)
        flights = [opened(rig.flights) for _ in range(100)]
        assert await upserts(rig) == [flight.id for flight in flights]
        for flight in reversed(flights):
            flight.add(b"x")
        assert sorted(await upserts(rig)) == [flight.id for flight in flights]
        assert max(event.payload.count(b"upsert") for event in events) <= TOLD_AT_ONCE


async def upserts(rig: Rig) -> list[int]:
    """The ids of the requests that are told of in five seconds."""
    ids: list[int] = []
    with trio.move_on_after(5):
        while True:
            ids += [data["request"]["id"] for type, data in await rig.told() if type == "inflight"]
    return ids


async def test_whoever_is_new_goes_before_the_progress_of_others(autojump_clock: MockClock) -> None:
    """Among hundreds that come and go: told soon, and gone only if it was told."""
    async with following() as rig:
        come: dict[int, float] = {}
        known = set[int]()
        late: list[float] = []

        async def request() -> None:
            flight = opened(rig.flights)
            come[flight.id] = trio.current_time()
            for _ in range(20):
                await trio.sleep(0.05)
                flight.add(b"x")
            rig.flights.close(flight)

        async def requests(nursery: trio.Nursery) -> None:
            for _ in range(2000):
                nursery.start_soon(request)
                await trio.sleep(0.0025)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(requests, nursery)
            with trio.move_on_after(8):
                while True:
                    for type, data in await rig.told():
                        if type != "inflight":
                            continue
                        if data["operation"] == "remove":
                            known.remove(data["id"])
                        elif (id := data["request"]["id"]) not in known:
                            known.add(id)
                            late.append(trio.current_time() - come[id])
        assert len(late) == len(come) == 2000 and not known
        assert max(late) < 0.4


async def test_a_model_that_is_gone_from_the_configuration(autojump_clock: MockClock) -> None:
    async with following() as rig:
        opened(rig.flights, "removed")
        assert (await rig.until("inflight"))["request"]["model"] == "removed"


# -- the rest


async def test_a_reload(autojump_clock: MockClock) -> None:
    async with following() as rig:
        rig.state.config = make_config(CONFIG.models["a"], session_id_headers=("X-Other",))
        rig.state.hub.publish_reload({"ok": True})
        told: Told = []
        while len(told) < 5:
            told += await rig.told()
        assert [type for type, _ in told] == [
            "configReload", "uiConfig", "profileChanged", "modelStatus", "modelProgress",
        ]  # fmt: skip
        assert told[1][1]["activity"]["session_id"] == ["X-Other"]
        assert [model["id"] for model in told[3][1]] == ["a"]


async def test_streams_end_when_the_server_stops(autojump_clock: MockClock) -> None:
    async with following() as rig:
        rig.state.stopping.set()
        with pytest.raises(trio.EndOfChannel):
            await rig.told()
        assert trio.current_time() < REQUEST_PAUSE_S * 2


# -- finished requests


def a_row(model: str = "a", timestamp_ms: int = 0) -> Row:
    return Row(
        timestamp_ms, model, model, "127.0.0.1", "/v1/chat/completions", "application/json", 200,
        *Tokens(input_tokens=3, output_tokens=5), 12, 1.0, 0.0, 0.0, "", "",
    )  # fmt: skip


async def test_finished_requests(autojump_clock: MockClock) -> None:
    async with following() as rig:
        store = rig.state.recorder.store
        for rows in (1, 2):
            for _ in range(rows):
                store.add_row(a_row())
            await store.flush()
        told = await rig.told()
        assert [data for type, data in told if type == "activity"] == [{"id": 1}, {"id": 2}, {"id": 3}]
        metrics = [data for type, data in told if type == "metrics"]
        assert [[row["id"] for row in rows] for rows in metrics] == [[1], [2, 3]]
        assert metrics[0][0] == {
            "id": 1, "timestamp": "1970-01-01T00:00:00.000Z", "model": "a", "cache_tokens": -1, "input_tokens": 3,
            "output_tokens": 5, "prompt_per_second": -1, "tokens_per_second": -1, "duration_ms": 12,
        }  # fmt: skip
        with rig.state.hub.subscribe() as late:
            told = await rig.told(late)
            assert [type for type, _ in told] == [*ORDER, "metrics"]
            assert [row["id"] for row in told[-1][1]] == [1, 2, 3]


async def test_finished_requests_of_an_earlier_run(autojump_clock: MockClock) -> None:
    state = make_state()
    for _ in range(ROWS_KEPT + 10):
        state.recorder.store.add_row(a_row())
    rig = Rig(state)
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.feed.run)
        with state.hub.subscribe() as follower:
            (type, rows) = (await rig.told(follower))[-1]
        assert type == "metrics" and [row["id"] for row in rows] == list(range(11, ROWS_KEPT + 11))
        nursery.cancel_scope.cancel()


async def test_a_snapshot_has_no_rows_that_the_older_list_has_not(autojump_clock: MockClock) -> None:
    state = make_state()
    state.recorder.listed = 3
    async with following(state) as rig:
        for _ in range(7):
            state.recorder.store.add_row(a_row())
        await state.recorder.store.flush()
        with state.hub.subscribe() as late:
            type, rows = (await rig.told(late))[-1]
        assert type == "metrics" and [row["id"] for row in rows] == [5, 6, 7]


async def test_of_a_flood_of_finished_requests_the_last_are_told(autojump_clock: MockClock) -> None:
    async with following() as rig:
        for _ in range(5000):
            rig.state.recorder.store.add_row(a_row())
        await rig.state.recorder.store.flush()
        told = await rig.told()
        assert [data["id"] for type, data in told if type == "activity"] == list(range(5001 - ROWS_TOLD, 5001))
        assert [row["id"] for row in told[-1][1]] == list(range(5001 - ROWS_TOLD, 5001))


async def test_a_follower_that_fell_behind_gets_the_rows_it_missed(autojump_clock: MockClock) -> None:
    async with following() as rig:
        store = rig.state.recorder.store
        for rows in (2, 3):
            for _ in range(rows):
                store.add_row(a_row())
            await store.flush()
            if rows == 2:
                await rig.told()
        for number in range(BUFFER_EVENTS + 1):
            rig.state.hub.publish("configReload", {"number": number})
        told = await rig.told()
        assert [type for type, _ in told] == [*ORDER[2:], "activity", "metrics"]
        assert told[-2][1] == {"id": 5} and [row["id"] for row in told[-1][1]] == [3, 4, 5]
