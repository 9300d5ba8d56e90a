"""Requests in, the right model's answers out: swapping, waiting, order, limits, and what clients see of failures."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CHAT, Call, Stage, one_test, request_bytes, shared_stage, stage, until

MODELS = {
    # one at a time, and each other's victims
    "a": {"aliases": ["gpt-a", "org/alias:a"]},
    "b": {},
    "c": {},
    # together, beside the others
    "pair1": {},
    "pair2": {},
    "always": {"ttl": 0},
    "limited": {"concurrencyLimit": 2},
    "talks": {"sendLoadingState": True},
    "org/model-1.5": {"useModelName": "inner", "filters": {"stripParams": ["top_k"], "setParams": {"seed": 7}}},
}
GROUPS = {
    "pair": {"swap": False, "exclusive": False, "members": ["pair1", "pair2"]},
    "always": {"swap": False, "exclusive": False, "persistent": True, "members": ["always"]},
}


@pytest.fixture(scope="module")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, int]]:
    config = {"groups": GROUPS, "routing": {"scheduler": {"settings": {"fifo": {"priority": {"c": 5}}}}}}
    with shared_stage(pyz, tmp_path_factory.mktemp("main job"), MODELS, unloadTimeout=3, **config) as it:
        yield it


@pytest.fixture
def on(shared: tuple[Stage, int]) -> Iterator[Stage]:
    with one_test(shared) as it:
        yield it


def starts(on: Stage) -> list[str]:
    return [line["model"] for line in on.journal("start")]


# -- one request


def test_the_first_request_starts_its_model_and_gets_its_answer(on: Stage) -> None:
    assert on.running() == {}
    body = b'{ "model":"a",  "temperature": 0.10000000000000001, "n": 12345678901234567890, "x": "\\ud83d\xc3\xa9" }'
    answer = on.post(
        CHAT + "?x=%2F&y", body, {"X-Mine": "1", "Authorization": "Bearer own", "Accept": "application/json"}
    )
    assert answer.status == 200 and answer.json["model"] == "a"
    assert answer.sent == body
    assert answer.json["target"] == CHAT + "?x=%2F&y"
    headers = [(name.lower(), value) for name, value in answer.json["headers"]]
    assert ("x-mine", "1") in headers and ("authorization", "Bearer own") in headers
    assert ("host", "127.0.0.1") in headers and ("x-forwarded-for", "127.0.0.1") in headers
    assert on.running() == {"a": "ready"}
    again = on.ask("a")
    assert again.json["pid"] == answer.json["pid"] and starts(on) == ["a"]


@pytest.mark.parametrize("name", ["a", "gpt-a", "org/alias:a"])
def test_any_of_its_names_will_do(on: Stage, name: str) -> None:
    assert on.ask(name).json["model"] == "a"
    assert on.running() == {"a": "ready"}


def test_filters_and_names_with_slashes(on: Stage) -> None:
    answer = on.post(CHAT, b'{"model": "org/model-1.5", "top_k": 3, "big": 9007199254740993}')
    assert json.loads(answer.sent) == {"model": "inner", "big": 9007199254740993, "seed": 7}
    page = on.get("/upstream/org/model-1.5/some%2Fpage?q=%20")
    assert page.json["target"] == "/some%2Fpage?q=%20"
    assert on.get("/upstream/org/model-1.5").status == 301


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b'{"model": "aa"}', 404, "model_not_found", "aa"),
        (b'{"messages": []}', 400, "bad_request", "model"),
        (b'["a"]', 400, "bad_request", ""),
        (b'{"model": "a"', 400, "bad_request", ""),
        (b"", 400, "bad_request", ""),
        (b'{"model": 3}', 400, "bad_request", "model"),
        (b"[" * 200_000, 400, "bad_request", ""),
    ],
)
def test_what_cannot_be_served_is_said_so(on: Stage, body: bytes, status: int, code: str, says: str) -> None:
    answer = on.post(CHAT, body)
    assert answer.refusal == (status, code) and says in answer.error["message"]
    assert starts(on) == []


def test_streams_arrive_as_they_are_made(on: Stage) -> None:
    call = on.call("a", stream=True, chunks=3, chunk_gate="go on")
    call.until_body(b'"n": 0}\n\n')
    assert b'"n": 1}' not in call.answer.body
    on.open("go on")
    answer = call.wait()
    assert answer.complete and answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.header("content-type") == "text/event-stream" and answer.header("x-accel-buffering") == "no"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_framing_reaches_every_client_whole(on: Stage, framing: str, version: str) -> None:
    answer = on.call("a", stream=True, chunks=20, framing=framing, version=version).wait()
    assert answer.complete and answer.body.count(b"data: ") == 21


def test_large_bodies_pass_both_ways(on: Stage) -> None:
    body = json.dumps({"model": "a", "pad": "y" * 3_000_000}).encode()
    assert len(on.post("/v1/embeddings", body).json["sha256"]) == 64
    assert len(on.ask("a", size=20_000_000).body) == 20_000_000


# -- many requests


def test_concurrent_requests_share_one_start(on: Stage) -> None:
    on.script("a", health_gate="up")
    calls = [on.call("a") for _ in range(8)]
    on.happens("listening", "a")
    on.until_running(a="starting")
    on.open("up")
    assert {call.wait().json["pid"] for call in calls} == {on.pid("a")}
    assert starts(on) == ["a"]


def test_swapping_ends_one_before_the_other_starts(on: Stage) -> None:
    for model in ("a", "b", "a", "c"):
        assert on.ask(model).json["model"] == model
        assert on.running() == {model: "ready"}
        assert len(on.processes()) == 1
    happened = [f"{line['event']} {line['model']}" for line in on.journal() if line["event"] in ("start", "term")]
    assert happened == ["start a", "term a", "start b", "term b", "start a", "term a", "start c"]


def test_groups_say_who_goes_and_who_stays(on: Stage) -> None:
    for model in ("always", "pair1", "pair2"):
        on.ask(model)
    assert set(on.running()) == {"always", "pair1", "pair2"}
    on.ask("a")  # its group is exclusive
    assert set(on.running()) == {"always", "a"}
    on.ask("pair1")  # its is not
    assert set(on.running()) == {"always", "a", "pair1"}
    assert starts(on).count("always") == 1


def test_a_busy_model_is_not_evicted(on: Stage) -> None:
    held = on.hold("a", "gate")
    other = on.queue("b")
    beside = on.ask("pair1")  # nobody's victim and nobody's enemy
    assert beside.status == 200
    assert not other.over and "b" not in starts(on)
    on.open("gate")
    assert held.wait().status == 200 and other.wait().json["model"] == "b"


def test_requests_for_the_same_model_go_together(on: Stage) -> None:
    held = on.hold("c", "gate")
    calls = [on.queue(model, tag=f"{number}{model}") for number, model in enumerate("abab")]
    on.open("gate")
    assert held.wait().status == 200
    assert [call.wait().json["model"] for call in calls] == ["a", "b", "a", "b"]
    assert starts(on) == ["c", "a", "b"]
    served = [line["tag"][1] for line in on.journal("request") if line["tag"] != "gate"]
    assert served == ["a", "a", "b", "b"]


def test_higher_priority_goes_first(on: Stage) -> None:
    held = on.hold("a", "gate")
    low, high = on.queue("b"), on.queue("c")
    on.open("gate")
    for call in (held, low, high):
        assert call.wait().status == 200
    assert starts(on) == ["a", "c", "b"]


def test_nobody_starves(pyz: Path, tmp_path: Path) -> None:
    fifo = {"settings": {"fifo": {"maxWait": "1s"}}}
    with stage(pyz, tmp_path, {"a": {}, "b": {}}, routing={"scheduler": fifo}) as on:
        on.ask("a")
        stop = threading.Event()
        served: list[int] = []

        def agent(number: int) -> None:
            """Never lets the model rest: the next request is there before this one's answer."""
            turn = 0
            before: Call | None = None
            while not stop.is_set():
                call = on.call("a", gate=f"{number}-{turn}", tag=f"{number}-{turn}")
                if before is not None:
                    on.open(f"{number}-{turn - 1}")
                    served.append(before.wait().status)
                before, turn = call, turn + 1
                stop.wait(0.05)
            on.open(f"{number}-{turn - 1}")
            if before is not None:
                served.append(before.wait().status)

        # It waits for the start of its own next request, so three keep "a" busy at any moment.
        agents = [threading.Thread(target=agent, args=(number,)) for number in range(3)]
        for thread in agents:
            thread.start()
        until(lambda: len(served) > 5, "the agents are at work")
        try:
            assert on.ask("b").json["model"] == "b"
        finally:
            stop.set()
            for thread in agents:
                thread.join()
        assert set(served) == {200}


def test_the_concurrency_limit(on: Stage) -> None:
    held = [on.hold("limited", f"gate{number}") for number in range(2)]
    answer = on.post(CHAT, {"model": "limited"}, {"Accept": "text/plain"})
    assert answer.refusal == (429, "concurrency_limit") and answer.header("retry-after") == "1"
    assert answer.error["type"] == "rate_limit_error"
    on.open("gate0")
    assert held[0].wait().status == 200
    assert on.ask("limited").status == 200
    held[1].leave()
    assert on.ask("limited").status == 200
    # Those who wait count as well.
    on.unload()
    on.script("limited", health_gate="up")
    waiting = [on.queue("limited") for _ in range(2)]
    assert on.ask("limited").status == 429
    on.open("up")
    assert [call.wait().status for call in waiting] == [200, 200]


# -- the loading stream


def test_a_waiting_chat_is_told_how_it_goes(on: Stage) -> None:
    on.script("talks", health_gate="up")
    call = on.call("talks", stream=True)
    call.until_body(b"llama-swap loading model: talks")
    on.open("up")
    answer = call.wait()
    assert answer.status == 200 and answer.complete and answer.body.endswith(b"data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in answer.body.split(b"\n\n") if line.startswith(b"data: {")]
    said = "".join(event["choices"][0]["delta"]["reasoning_content"] for event in events if "choices" in event)
    assert "Done!" in said
    assert b"loading model" not in on.ask("talks", stream=True).body
    assert not on.ask("talks").body.startswith(b"data")


def test_a_failed_start_ends_a_loading_stream_in_order(on: Stage) -> None:
    on.script("talks", exit=5, say="no room\n")
    answer = on.ask("talks", stream=True)
    assert answer.status == 200 and answer.complete
    assert b"start_failed" in answer.body and b"no room" in answer.body


# -- clients that leave


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_one_that_leaves_the_queue_starts_nothing(on: Stage, how: str) -> None:
    held = on.hold("a", "gate")
    queued = on.queue("b")
    queued.leave(how)
    on.notices("b")
    on.open("gate")
    assert held.wait().status == 200
    assert on.ask("a").status == 200
    assert starts(on) == ["a"]


@pytest.mark.parametrize("how", ["close", "reset", "half"])
@pytest.mark.parametrize("phase", ["first byte", "stream"])
def test_one_that_leaves_ends_its_work_upstream(on: Stage, how: str, phase: str) -> None:
    if phase == "stream":
        call = on.call("a", stream=True, chunk_gate="never", tag="it")
        call.until_body(b"data: ")
    else:
        call = on.hold("a", "it")
    call.leave(how)
    on.happens("gone", "a", tag="it")
    assert on.ask("b").json["model"] == "b"  # nothing holds "a" any more


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_one_that_leaves_while_its_model_loads(on: Stage, how: str) -> None:
    on.script("a", health_gate="up")
    call = on.call("a")
    on.happens("listening", "a")
    call.leave(how)
    on.notices("a")
    assert on.ask("b").json["model"] == "b"  # a load that nobody waits for gives way
    assert on.running() == {"b": "ready"}


def test_one_of_several_leaves_while_the_model_loads(on: Stage) -> None:
    on.script("a", health_gate="up")
    calls = [on.queue("a", tag=str(number)) for number in range(3)]
    on.happens("listening", "a")
    calls[1].leave()
    on.notices("a")
    on.open("up")
    assert [calls[n].wait().status for n in (0, 2)] == [200, 200]
    assert {line["tag"] for line in on.journal("request")} == {"0", "2"}


def test_one_that_leaves_within_its_body(on: Stage) -> None:
    wire = on.wire()
    wire.sock.sendall(request_bytes("POST", CHAT, b'{"model": "a"}')[:-3])
    on.get("/running")
    wire.close()
    until(lambda: on.clients() == 0, "the server has noticed")
    assert starts(on) == []


def test_one_with_a_request_behind_the_one_it_leaves(on: Stage) -> None:
    wire = on.wire()
    body = json.dumps({"model": "a", "do": {"gate": "it", "tag": "it"}}).encode()
    wire.sock.sendall(request_bytes("POST", CHAT, body) + request_bytes("GET", "/running"))
    on.happens("request", "a", tag="it")
    wire.close()
    on.happens("gone", "a", tag="it")


def test_many_that_leave_at_once(on: Stage) -> None:
    calls = [on.call("a", gate="never", tag="x", stream=bool(n % 2)) for n in range(9)]
    on.happens("request", "a", count=9)
    for call in calls:
        call.leave("reset")
    on.happens("gone", "a", count=9)
    assert on.ask("a").status == 200


# -- connections


def test_one_connection_for_everything(on: Stage) -> None:
    wire = on.wire()
    for model in ("a", "b", "a"):
        assert wire.ask(request_bytes("POST", CHAT, json.dumps({"model": model}).encode())).json["model"] == model
        assert wire.ask(request_bytes("GET", "/running"), method="GET").json["running"][0]["model"] == model
    assert wire.ask(request_bytes("POST", CHAT, b'{"model": "nobody"}')).status == 404
    assert wire.ask(request_bytes("GET", "/health"), method="GET").body == b"OK"
    wire.close()


def test_pipelined_requests_are_answered_in_order(on: Stage) -> None:
    wire = on.wire()
    bodies = [json.dumps({"model": model, "n": n}).encode() for n, model in enumerate("abab")]
    first, *rest = [request_bytes("POST", CHAT, body) for body in bodies]
    answers = [wire.ask(first + b"".join(rest))] + [wire.ask(b"") for _ in rest]
    assert [answer.json["model"] for answer in answers] == ["a", "b", "a", "b"]
    wire.close()
