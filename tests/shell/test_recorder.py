"""From a request's end to the row that tells of it, and to what may be seen of it."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from flying import Exchange, fly, land

from llamaswap.config import loads
from llamaswap.config.settings import StoreLimits
from llamaswap.observe import flights as flights_module
from llamaswap.observe.activity import PAUSE_S, SLICE, Recorder
from llamaswap.observe.answer import BROKEN, LEFT, finished
from llamaswap.observe.captures import Captures
from llamaswap.observe.entry import Entry
from llamaswap.observe.flights import HEAD_BYTES, Flights
from llamaswap.observe.rows import Row
from llamaswap.observe.store import Store
from llamaswap.observe.store_query import PageQuery
from llamaswap.relay.response import Answer, read_answer
from llamaswap.relay.usage import read


@pytest.fixture
def flights() -> Flights:
    return Flights()


@pytest.fixture
def recorder(flights: Flights) -> Iterator[Recorder]:
    recorder = Recorder(flights, Store(limits=StoreLimits(keep_activity=1000)), read, Captures(1 << 20))
    yield recorder
    recorder.close()


async def records(recorder: Recorder, **query: Any) -> list[dict[str, Any]]:
    found, _ = await recorder.page(PageQuery(**query))
    return found


async def test_a_finished_request_is_a_record(
    flights: Flights, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight = fly(flights)
    flight.requested = "alias"
    flight.load_s = 0.5
    flight.granted_at = flight.begun + 0.75
    flight.first_byte_at = flight.begun + 1.0
    monkeypatch.setattr(flights_module, "time", SimpleNamespace(monotonic=lambda: flight.begun + 2.0))
    flights.close(flight)
    [record] = await records(recorder)
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "id": 1,
        "model": "m",
        "requested": "alias",
        "client": "10.0.0.7",
        "req_path": "/v1/chat/completions",
        "resp_content_type": "application/json",
        "resp_status_code": 200,
        "tokens": {
            "cache_tokens": -1,
            "draft_tokens": -1,
            "draft_acc_tokens": -1,
            "input_tokens": 12,
            "output_tokens": 3,
            "prompt_per_second": -1.0,
            "tokens_per_second": -1.0,
        },
        "duration_ms": 2000,
        "ttfb_ms": 1000.0,
        "queue_ms": 250.0,
        "load_ms": 500.0,
        "has_capture": True,
    }


async def test_only_inference_is_recorded(flights: Flights, recorder: Recorder) -> None:
    land(flights, metered=False)
    land(flights)
    assert [record["id"] for record in await records(recorder)] == [1]


@pytest.mark.parametrize(
    ("changes", "exchange", "message"),
    [
        ({"error": "start failed: \ud800"}, {"status": 502}, "start failed: \\ud800"),
        ({"error": "x" * 600}, {"status": 502}, "x" * 500),
        ({"gone": True}, {}, LEFT),
        ({}, {"broken": True}, BROKEN),
        ({}, {"status": 404}, "no such thing"),
        ({"error": "ours"}, {"status": 404}, "ours"),
    ],
)
async def test_errors_are_told(
    flights: Flights, recorder: Recorder, changes: dict[str, Any], exchange: dict[str, Any], message: str
) -> None:
    flight = fly(flights, {"error": {"message": "no such thing"}}, **exchange)
    for name, value in changes.items():
        setattr(flight, name, value)
    flights.close(flight)
    [record] = await records(recorder)
    assert record["error_msg"] == message
    assert record["resp_status_code"] == (499 if changes.get("gone") else exchange.get("status", 200))


async def test_a_request_that_never_got_anywhere(flights: Flights, recorder: Recorder) -> None:
    flight = flights.open(Exchange(status=0), "m", "m", metered=True)
    flights.close(flight)
    [record] = await records(recorder)
    assert (record["ttfb_ms"], record["resp_content_type"], record["resp_status_code"]) == (None, "", 0)
    assert "error_msg" not in record


async def test_the_priority_is_told_where_there_is_one(flights: Flights, recorder: Recorder) -> None:
    recorder.reconfigure(
        loads("models: {m: {proxy: 'http://x'}}\nrouting: {scheduler: {settings: {fifo: {priority: {m: 7}}}}}")
    )
    land(flights)
    land(flights, model="other")
    newest, oldest = await records(recorder)
    assert oldest["metadata"] == {"fifo_priority": "7"}
    assert "metadata" not in newest


@pytest.mark.parametrize(
    ("headers", "session"),
    [
        (((b"x-session-id", b"s1"), (b"X-Litellm-Session-Id", b"s2")), "s1"),
        (((b"X-Litellm-Session-Id", b"s2"), (b"X-SESSION-ID", b"s1")), "s1"),
        (((b"X-Litellm-Session-Id", b"s2"), (b"X-Session-ID", b"")), "s2"),
        (((b"X-Session-ID", b"s" * 500),), "s" * 128),
        (((b"X-Session-ID", b"\xff\xe9"),), "ÿé"),
        (((b"X-Other", b"s1"),), None),
        (((b"X-Api-Key", b"a secret"),), None),
    ],
)
async def test_the_session_is_told_if_the_client_names_one(
    flights: Flights, recorder: Recorder, headers: Any, session: str | None
) -> None:
    names = "[X-Session-ID, x-litellm-session-id, X-Api-Key]"
    recorder.reconfigure(loads(f"models: {{m: {{proxy: 'http://x'}}}}\nui: {{activity: {{session_id: {names}}}}}"))
    land(flights, headers=headers)
    [record] = await records(recorder)
    assert record.get("metadata") == (None if session is None else {"session_id": session})


async def test_a_row_says_what_was_configured_when_its_request_ended(flights: Flights, recorder: Recorder) -> None:
    """Though it may be made much later."""
    model = "models: {m: {proxy: 'http://x'}}"
    for session, priority in (("X-One", 7), ("X-Two", 8)):
        fifo = f"routing: {{scheduler: {{settings: {{fifo: {{priority: {{m: {priority}}}}}}}}}}}"
        recorder.reconfigure(loads(f"{model}\nui: {{activity: {{session_id: [{session}]}}}}\n{fifo}"))
        land(flights, headers=((b"X-One", b"1"), (b"X-Two", b"2")))
    newest, oldest = await records(recorder)
    assert oldest["metadata"] == {"fifo_priority": "7", "session_id": "1"}
    assert newest["metadata"] == {"fifo_priority": "8", "session_id": "2"}


async def test_rows_hold_no_more_of_their_requests_than_captures_do(flights: Flights, recorder: Recorder) -> None:
    """Else a thousand rows that nobody asked for would hold a thousand bodies."""
    land(flights, body=b"x" * 300_000)
    land(flights, headers=((b"X-Large", b"x" * 50_000),))
    land(flights, status=500)
    land(flights)
    await recorder.flush()
    large, headers, failed, small = recorder.store._unasked
    assert isinstance(large, Row) and isinstance(headers, Row) and isinstance(failed, Row)
    assert isinstance(small, Entry) and recorder.captures._kept[3] is small.request
    assert [record["id"] for record in await records(recorder)] == [4, 3, 2, 1]


async def test_with_many_rows_most_of_them_are_made(flights: Flights, recorder: Recorder) -> None:
    recorder.store.reconfigure(StoreLimits(keep_activity=2000))
    for total in (700, 1500, 2100, 3400):
        while recorder.store._next_id <= total:
            for _ in range(100):
                land(flights)
            await recorder.flush()
        unasked = recorder.store._unasked
        assert len(unasked) == min(total, 2000)
        lazy = min(total, 1000)
        assert [isinstance(row, Entry) for row in unasked] == [False] * (len(unasked) - lazy) + [True] * lazy
    found = await records(recorder, limit=999)
    assert [record["id"] for record in found] == list(range(3400, 2401, -1))[:999]


async def test_large_heads_of_answers_take_room(flights: Flights, recorder: Recorder) -> None:
    sizes = []
    for large in (b"", b"X-Large: " + b"x" * 50_000 + b"\r\n"):
        flight = fly(flights)
        flight.answer = read_answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%b\r\n" % large)
        flights.close(flight)
        await recorder.flush()
        sizes.append(recorder.captures.size_bytes)
    assert sizes[1] > sizes[0] + 50_000
    assert [isinstance(row, Entry) for row in recorder.store._unasked] == [True, False]


async def test_another_path_for_the_store_changes_nothing_for_the_one_that_is_open(
    flights: Flights, recorder: Recorder, tmp_path: Path
) -> None:
    """A store in memory keeps its small limit, one in a file its rows, until the next start."""
    model = "models: {m: {proxy: 'http://x'}}"
    recorder.reconfigure(loads(f"{model}\nmetricsMaxInMemory: 5\nstore: {{path: x.db}}"))
    for _ in range(9):
        land(flights)
    assert len(await records(recorder)) == 5
    filed = Recorder(Flights(), Store(str(tmp_path / "x.db"), StoreLimits(keep_activity=100)), read)
    filed.reconfigure(loads(f"{model}\nmetricsMaxInMemory: 5"))
    for _ in range(9):
        land(filed.flights)
    assert len(await records(filed)) == 9
    filed.close()


async def test_listeners_hear_of_rows_and_then_of_ids(flights: Flights, recorder: Recorder) -> None:
    heard: list[Any] = []
    recorder.on_read.append(lambda request, tokens, error: heard.append((request.model, tokens.output_tokens)))
    recorder.store.on_stored.append(lambda first, rows: heard.append((first, len(rows))))
    land(flights, model="a")
    land(flights, model="b")
    await recorder.flush()
    assert heard == [("a", 3), ("b", 3), (1, 2)]


async def test_it_records_by_itself(flights: Flights, recorder: Recorder) -> None:
    recorded: list[int] = []
    two, all_ = trio.Event(), trio.Event()

    def hear(first: int, rows: Sequence[object]) -> None:
        for id in range(first, first + len(rows)):
            recorded.append(id)
            if id == 2:
                two.set()
            if id == 3:
                all_.set()

    recorder.store.on_stored.append(hear)
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.run)
        with trio.fail_after(5):
            land(flights)
            land(flights, {"usage": {"completion_tokens": 1}, "pad": "x" * 50_000})
            await two.wait()
            land(flights)
            await all_.wait()
        nursery.cancel_scope.cancel()
    assert recorded == [1, 2, 3]


async def test_an_answer_that_breaks_the_reader_breaks_nothing_else(flights: Flights, recorder: Recorder) -> None:
    recorder._read = lambda answer: read(answer) if answer.status == 200 else 1 / 0  # type: ignore[assignment,return-value]
    land(flights, status=500)
    land(flights)
    assert [record["tokens"]["output_tokens"] for record in await records(recorder)] == [3, -1]


async def test_many_at_once_are_not_piled_up(flights: Flights, recorder: Recorder) -> None:
    heard: list[object] = []
    recorder.on_read.append(lambda request, tokens, error: heard.append(request.model))
    for _ in range(3 * SLICE + 1):
        land(flights)
    assert len(heard) == 3 * SLICE
    assert len(await records(recorder, limit=999)) == 3 * SLICE + 1


async def test_an_answer_is_read_a_moment_later(
    flights: Flights, recorder: Recorder, autojump_clock: trio.testing.MockClock
) -> None:
    """So that its connection's next request goes first."""
    heard: list[object] = []
    recorder.on_read.append(lambda request, tokens, error: heard.append(request.model))
    async with trio.open_nursery() as nursery:
        await nursery.start(recorder.run)
        for number in range(3):
            land(flights)
            assert len(heard) == number
            await trio.sleep(2 * PAUSE_S)
            assert len(heard) == number + 1
        nursery.cancel_scope.cancel()


async def test_closing_records_the_rest(flights: Flights, tmp_path: Path) -> None:
    file = str(tmp_path / "x.db")
    Recorder(flights, Store(file), read).close()
    recorder = Recorder(flights, Store(file), read)
    land(flights)
    recorder.close()
    again = Recorder(Flights(), Store(file), read)
    assert [record["model"] for record in await records(again)] == ["m"]
    again.close()


async def test_the_older_list(flights: Flights, recorder: Recorder) -> None:
    recorder.listed = 2
    for _ in range(3):
        land(flights)
    found = await recorder.metrics()
    assert [record["id"] for record in found] == [2, 3]
    assert set(found[0]) == {
        *("id", "timestamp", "model", "cache_tokens", "input_tokens", "output_tokens"),
        *("prompt_per_second", "tokens_per_second", "duration_ms"),
    }


def decoded(text: object) -> bytes:
    return base64.b64decode(str(text))


async def test_a_capture_without_its_secrets(flights: Flights, recorder: Recorder) -> None:
    land(flights, body=b'{"model":"m","messages":[]}')
    found = await recorder.capture(1)
    assert found is not None
    assert decoded(found.pop("req_body")) == b'{"model":"m","messages":[]}'
    assert json.loads(decoded(found.pop("resp_body"))) == {"usage": {"prompt_tokens": 12, "completion_tokens": 3}}
    assert found == {
        "id": 1,
        "req_path": "/v1/chat/completions",
        "req_headers": {"Host": "localhost", "X-Api-Key": "[REDACTED]"},
        "resp_headers": {"Content-Type": "application/json", "Set-Cookie": "[REDACTED]"},
    }
    assert await recorder.capture(2) is None


async def test_large_captures_are_packed(flights: Flights, recorder: Recorder) -> None:
    answer = b'{"usage":{"completion_tokens":3}}' + b" " * 100_000
    land(flights, answer, body=b"y" * 50_000)
    await recorder.flush()
    before = recorder.captures.size_bytes
    await recorder._pack()
    assert recorder.captures.size_bytes < before / 10
    found = await recorder.capture(1)
    assert found is not None
    assert (decoded(found["req_body"]), decoded(found["resp_body"])) == (b"y" * 50_000, answer)


async def test_what_is_gone_in_a_moment_is_not_packed(flights: Flights, recorder: Recorder) -> None:
    for _ in range(20):
        land(flights, body=b"x" * 200_000)
    await recorder.flush()
    before = recorder.captures.size_bytes
    await recorder._pack()
    assert recorder.captures.size_bytes == before


async def test_large_headers_take_room_as_well(flights: Flights, recorder: Recorder) -> None:
    for number in range(40):
        land(flights, headers=((b"Cookie", b"%060000d" % number),))
    await recorder.flush()
    assert 0 < len(recorder.captures) <= recorder.captures.limit_bytes // 60_000


async def test_the_oldest_captures_make_room(flights: Flights, recorder: Recorder) -> None:
    for _ in range(10):
        land(flights, body=b"x" * 200_000)
    found = await records(recorder)
    assert [record["has_capture"] for record in found] == [True] * 5 + [False] * 5
    assert recorder.captures.size_bytes <= recorder.captures.limit_bytes
    recorder.reconfigure(loads("captureBuffer: 0.5"))
    assert len(recorder.captures) == 2
    recorder.reconfigure(loads("captureBuffer: 0"))
    land(flights)
    assert not any(record["has_capture"] for record in await records(recorder))
    assert recorder.captures.size_bytes == 0
    assert flights.keep_bytes == HEAD_BYTES


async def test_captures_of_ids_that_do_not_follow(flights: Flights, recorder: Recorder) -> None:
    """Switched off and on again, and rows beside them that have none."""
    captures = recorder.captures
    land(flights)
    await recorder.flush()
    captures.resize(0)
    land(flights)
    await recorder.flush()
    assert (len(captures), captures.size_bytes) == (0, 0) and not captures._kept
    captures.resize(1 << 20)
    land(flights)
    await recorder.flush()
    assert [id in captures for id in (1, 2, 3, 4)] == [False, False, True, False]
    size = captures.size_bytes
    assert captures.add(4, [None, captures.made(finished(fly(flights)))]) == []
    assert [id in captures for id in (3, 4, 5)] == [True, False, True] and len(captures) == 2
    assert captures.size_bytes == 2 * size
    captures.resize(1)
    assert (len(captures), captures.size_bytes) == (0, 0)


async def test_pictures_in_json_are_left_out(flights: Flights, recorder: Recorder) -> None:
    most = recorder.captures.limit_bytes // 4
    for id, size in enumerate((5_000, most + 1), 1):
        picture = b"A" * size
        answer = b'{"usage":{"completion_tokens":3},"data":[{"b64_json":"%b"}]}'
        land(flights, answer % picture[:100_000], body=b'{"url":"data:image/png;base64,%b","model":"m"}' % picture)
        for _ in range(2):
            found = await recorder.capture(id)
            assert found is not None and "truncated" not in found
            assert decoded(found["req_body"]) == (
                b'{"url":"data:image/png;base64,[%d bytes of base64 left out]","model":"m"}' % size
            )
            note = b"[%d bytes of base64 left out]" % min(size, 100_000)
            assert decoded(found["resp_body"]) == answer % note
            await recorder._pack()
        assert recorder.captures.size_bytes < 10_000


async def test_pictures_in_streams_and_compressed_answers(flights: Flights, recorder: Recorder) -> None:
    picture = b"A" * 20_000
    events = b'data: {"type":"response.image_generation_call.partial_image","partial_image_b64":"%b"}\n\n'
    flight = fly(flights, b"".join(b"%x\r\n%b\r\n" % (len(it), it) for it in [events % picture] * 2) + b"0\r\n\r\n")
    flight.chunked = True
    flights.close(flight)
    flight = fly(flights, gzip.compress(b'{"b64_json":"%b"}' % picture + bytes(random.Random(1).randbytes(9000))))
    flight.answer = Answer(200, b"OK", [(b"Content-Encoding", b"gzip")], -1, False)
    flights.close(flight)
    note = b"[20000 bytes of base64 left out]"
    for _ in range(2):
        for id, shown in ((1, events % note * 2), (2, b'{"b64_json":"%b"}' % note)):
            found = await recorder.capture(id)
            assert found is not None and decoded(found["resp_body"]).startswith(shown)
        await recorder._pack()


async def test_what_is_too_long_is_cut(flights: Flights, recorder: Recorder) -> None:
    most = recorder.captures.limit_bytes // 4
    assert flights.keep_bytes == most
    land(flights, b"[" + b"1," * most, body=b"x" * (most + 1))
    found = await recorder.capture(1)
    assert found is not None and found["truncated"] is True
    assert len(decoded(found["req_body"])) == len(decoded(found["resp_body"])) == most
    flight = fly(flights, b"a" * most)
    flight.add(b"b" * 200_000)
    flights.close(flight)
    found = await recorder.capture(2)
    assert found is not None and found["truncated"] is True
    assert decoded(found["resp_body"]) == b"a" * most


@pytest.mark.parametrize(
    ("options", "request_kept", "answer_kept"),
    [
        ({}, True, True),
        ({"status": 500}, True, False),
        ({"path": "/v1/audio/speech", "content_type": "audio/mpeg"}, True, False),
        ({"path": "/v1/audio/transcriptions"}, False, True),
        ({"path": "/v1/images/generations"}, True, False),
        ({"path": "/upstream/m/v1/images/edits"}, False, False),
        ({"path": "/sdapi/v1/txt2img"}, True, False),
        ({"path": "/sdapi/v1/img2img"}, False, False),
        ({"content_type": "image/png"}, True, False),
    ],
)
async def test_media_are_left_out(
    flights: Flights, recorder: Recorder, options: dict[str, Any], request_kept: bool, answer_kept: bool
) -> None:
    land(flights, **options)
    found = await recorder.capture(1)
    assert found is not None
    assert bool(found["req_body"]) is request_kept
    assert bool(found["resp_body"]) is answer_kept


async def test_framing_and_compression_are_taken_off(flights: Flights, recorder: Recorder) -> None:
    flight = fly(flights, b"5\r\nhello\r\n0\r\n\r\n")
    flight.chunked = True
    flights.close(flight)
    flight = fly(flights, b"no gzip at all")
    flight.answer = Answer(200, b"OK", [(b"Content-Encoding", b"gzip")], -1, False)
    flights.close(flight)
    first, second = await recorder.capture(1), await recorder.capture(2)
    assert first is not None and decoded(first["resp_body"]) == b"hello"
    assert second is not None and decoded(second["resp_body"]) == b"no gzip at all"
    assert second["resp_headers"] == {"Content-Encoding": "gzip"}


async def test_many_at_a_time_keep_less_each(flights: Flights, recorder: Recorder) -> None:
    recorder.reconfigure(loads("captureBuffer: 100"))
    assert flights.next_keep_bytes == 1 << 20
    crowd = [fly(flights) for _ in range(100)]
    assert flights.next_keep_bytes == (32 << 20) // 101
    for flight in crowd:
        flights.close(flight)
