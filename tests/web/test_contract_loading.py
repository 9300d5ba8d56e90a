"""What a streaming chat client sees while its model loads."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from fakefleet import World, a_world
from upstreams import Client, Connection, Incomplete, chat, frames

from llamaswap.config.settings import Timeouts
from llamaswap.observe.answer import Finished, finished
from llamaswap.observe.flights import Flight
from llamaswap.observe.rows import Tokens
from llamaswap.relay.usage import read

CHAT = "/v1/chat/completions"


def reasoning(data: bytes) -> str:
    """The text of loading frames; anything else fails."""
    return "".join(frame["choices"][0]["delta"]["reasoning_content"] for frame in frames(data))


async def loading(world: World, client: Client, **more: Any) -> bytes:
    """A client that waits, and what it was told at first."""
    world.launcher.held.add("a")
    await client.request("POST", CHAT, body=chat(stream=True, **more))
    head = await client.head()
    assert head.status == 200
    assert head.get("content-type") == "text/event-stream"
    assert head.get("x-accel-buffering") == "no"
    assert head.get("content-length") is None
    told = await client.data()
    assert "llama-swap loading model: a" in reasoning(told)
    if world.busy() == 1:
        await world.until(lambda: "a" in world.launcher.processes)
    return told


async def loaded(world: World, client: Client) -> tuple[Connection, bytes]:
    """The model is ready and has been asked; what the client was told until then."""
    world.launcher.held.clear()
    world.launcher.processes["a"].ready.set()
    up, request = await world.up().request()
    assert request.target == CHAT
    told = b""
    while "Done!" not in reasoning(told):
        told += await client.data()
    return up, told


SENDS = {"a": {"send_loading_state": True}}
EVENTS = [b"data: %s\n\n" % json.dumps({"n": n}).encode() for n in range(3)]
ANSWERS = {
    "chunked": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(e), e) for e in EVENTS)
    + b"0\r\nTrailer: x\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(b"".join(EVENTS)) + b"".join(EVENTS),
    "until close": b"HTTP/1.0 200 OK\r\n\r\n" + b"".join(EVENTS),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_frames_and_then_the_answer(any_door: str, answer: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.send(ANSWERS[answer])
        if answer == "until close":
            up.close()
        rest = b""
        while piece := await client.data():
            rest += piece
        assert rest.endswith(b"".join(EVENTS))
        reasoning(rest.removesuffix(b"".join(EVENTS)))
        await client.request("GET", "/health")
        assert (await client.response()).status == 200


async def test_events_as_they_are_made(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.start_chunked()
        for event in EVENTS:
            await up.chunk(event)
            received = b""
            while event not in received:
                received += await client.data()
            assert received.endswith(event)


async def test_http10_clients() -> None:
    async with a_world("front", SENDS) as world:
        client = await world.h1()
        world.launcher.held.add("a")
        client.expect("POST")
        body = chat(stream=True)
        await client.send(b"POST %b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
        assert (await client.head()).get("transfer-encoding") is None
        await world.until(lambda: "a" in world.launcher.processes)
        up, _ = await loaded(world, client)
        await up.send(ANSWERS["chunked"])
        rest = b""
        while piece := await client.data():
            rest += piece
        assert rest.endswith(b"".join(EVENTS))


async def test_no_frames_when_ready(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        for number in range(2):
            await client.request("POST", CHAT if number else "/v1/embeddings", body=chat(stream=True))
            up, _ = await world.up().request()
            await up.answer(b"plain", headers=[("X-Plain", "1")])
            response = await client.response()
            assert (response.body, response.get("x-plain")) == (b"plain", "1")


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"stream": False}),
        (CHAT, {}),
        (CHAT, {"stream": "true"}),
        ("/v1/completions", {"stream": True}),
        ("/v1/messages", {"stream": True}),
    ],
)
async def test_no_frames_for_others(door: str, path: str, more: dict[str, Any]) -> None:
    async with a_world(door, SENDS) as world:
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", path, body=chat(**more))
        await world.until(lambda: world.launcher.started == ["a"])
        world.launcher.processes["a"].ready.set()
        up, _ = await world.up().request()
        await up.answer(b"plain")
        assert (await client.response()).body == b"plain"


async def test_too_many_are_told_so_plainly(any_door: str) -> None:
    async with a_world(any_door, {"a": {"send_loading_state": True, "concurrency_limit": 1}}) as world:
        first, second = await world.client(), await world.client()
        await loading(world, first)
        await second.request("POST", CHAT, body=chat(stream=True))
        response = await second.response()
        assert (response.status, response.get("retry-after")) == (429, "1")
        first.close()


async def test_the_place_in_the_queue(any_door: str) -> None:
    async with a_world(any_door, {"a": {"send_loading_state": True}, "b": {}}) as world:
        busy = await world.client()
        await busy.request("POST", CHAT, body=chat("b"))
        up, _ = await world.up("b").request()
        client = await world.client()
        told = await loading(world, client)
        assert "Queue position: #1" in reasoning(told)
        await up.answer()
        await busy.response()
        await world.until(lambda: "a" in world.launcher.started)
        await loaded(world, client)
        client.close()


# -- failures after the head has left


async def rest_of(client: Client) -> list[Any]:
    data = b""
    while piece := await client.data():
        data += piece
    return frames(data)


async def test_a_start_that_fails(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        world.launcher.processes["a"].failed.set()
        told = await rest_of(client)
        assert told[-1]["error"]["code"] == "start_failed" and told[-1]["src"] == "llama-swap"
        assert "no room" in told[-1]["error"]["message"]


async def test_unloaded(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        await world.fleet.unload(None)
        assert (await rest_of(client))[-1]["error"]["code"] == "model_unloaded"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        ("400 Bad Request", b'{"error":{"message":"too\\nlong",\n "code":400}}', "too\nlong"),
        ("500 Oops", b"", "500"),
        ("503 Busy", b"come\r\nback later", "back later"),
        ("404 Not Found", b"<html>nothing</html>", "nothing"),
        ("400 Bad", b'"text"', "text"),
        ("422 Bad", b'{"detail":"missing"}', "missing"),
        ("204 No Content", b"", "204"),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_error_answer_becomes_one_event(
    any_door: str, status: str, body: bytes, message: str, framing: str
) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        if status.startswith("204"):
            await up.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif framing == "length":
            await up.answer(body, status=status)
        else:
            await up.start_chunked("application/json", status)
            for index in range(len(body)):
                await up.chunk(body[index : index + 1])
            await up.send(b"0\r\n\r\n")
        told = await rest_of(client)
        assert message in told[-1]["error"]["message"]
        await client.request("GET", "/health")
        assert (await client.response()).status == 200


def accounted(closed: list[Flight]) -> tuple[Finished, Tokens, str]:
    """The only request there was, as it is recorded."""
    (flight,) = closed
    request = finished(flight)
    return request, *read(request)


async def test_an_answer_behind_frames_is_accounted_for(any_door: str) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
    async with a_world(any_door, SENDS) as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.start_chunked()
        await up.chunk(EVENTS[0])
        await up.chunk(usage)
        await up.send(b"0\r\n\r\n")
        await rest_of(client)
        await world.until(lambda: bool(closed))
        request, tokens, error = accounted(closed)
        assert (tokens.input_tokens, tokens.output_tokens, error) == (3, 4, "")
        assert (request.status, request.content_type, request.outcome) == (200, "text/event-stream", "ok")
        assert request.head == EVENTS[0] + usage
        assert (b"Content-Type", b"text/event-stream") in closed[0].response_headers


@pytest.mark.parametrize(
    ("status", "body", "outcome", "message"),
    [
        ("500 Oops", b'{"error":{"message":"kaputt"}}', "upstream_error", "kaputt"),
        ("400 Bad", b'{"error":{"message":"too long"}}', "client_error", "too long"),
        ("422 Bad", b'{"detail":"missing"}', "client_error", "missing"),
        ("503 Busy", b"later", "upstream_error", "later"),
        ("400 Bad", b'{"error":{"message":"long","param":"%b"}}' % (b"x" * 5000), "client_error", "long"),
        ("500 Oops", '{"error":{"message":"wide"}}'.encode("utf-16"), "upstream_error", "answered 500"),
    ],
)
async def test_an_error_behind_frames_is_accounted_for(
    any_door: str, status: str, body: bytes, outcome: str, message: str
) -> None:
    async with a_world(any_door, SENDS) as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.answer(body, status=status)
        await rest_of(client)
        await world.until(lambda: bool(closed))
        request, _, _ = accounted(closed)
        assert (request.status, request.outcome) == (200, outcome)
        assert message in request.error


async def test_a_failed_load_behind_frames_is_no_success(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        closed: list[Flight] = []
        world.flights.on_close.append(closed.append)
        client = await world.client()
        await loading(world, client)
        world.launcher.processes["a"].failed.set()
        await rest_of(client)
        await world.until(lambda: bool(closed))
        request, _, _ = accounted(closed)
        assert (request.status, request.outcome) == (200, "upstream_error")
        assert "no room" in request.error


async def test_a_long_error_answer_is_not_collected_without_end(door: str) -> None:
    async with a_world(door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.answer(b"x" * (4 << 20), status="500 Oops")
        told = await rest_of(client)
        assert len(json.dumps(told[-1])) < 2000


async def test_the_upstream_gives_no_answer(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        up.close()
        assert (await rest_of(client))[-1]["error"]["code"] == "bad_gateway"


async def test_the_upstream_speaks_no_http(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.send(b"SSH-2.0\r\n")
        assert (await rest_of(client))[-1]["error"]["code"] == "bad_gateway"


async def test_the_upstream_is_too_slow(any_door: str) -> None:
    async with a_world(
        any_door, {"a": {"send_loading_state": True, "timeouts": Timeouts(response_header_s=0.05)}}
    ) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        assert (await rest_of(client))[-1]["error"]["code"] == "gateway_timeout"
        await up.gone()


async def test_a_dead_process_is_loaded_again(any_door: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        world.launcher.processes["a"].crashed.set()
        up.close()
        again, request = await world.up().request()
        assert request.json["stream"] is True
        await again.send(ANSWERS["chunked"])
        data = b""
        while piece := await client.data():
            data += piece
        assert data.endswith(b"".join(EVENTS))
        assert world.launcher.started == ["a", "a"]


@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
async def test_an_answer_that_breaks_off_looks_broken(any_door: str, status: str) -> None:
    async with a_world(any_door, SENDS) as world:
        client = await world.client()
        await loading(world, client)
        up, _ = await loaded(world, client)
        await up.start_chunked(status=status)
        await up.chunk(b"data: {}\n\n")
        if status == "200 OK":
            received = b""
            while b"{}" not in received:
                received += await client.data()
        else:
            await trio.sleep(0.01)
        up.close()
        with pytest.raises(Incomplete):
            while await client.data():
                pass
