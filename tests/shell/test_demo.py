"""The demo's stand-in model over real HTTP, and the configuration that runs two of them."""

from __future__ import annotations

import http.client
import json
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamaswap import demo, demo_model

TIMEOUT_S = 20
SAYS = "one two three four"
Ask = Callable[..., Any]


class StandIn:
    """A running stand-in; `line()` is the next line it prints."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-I", demo_model.__file__, "--port", "0", "--says", SAYS, *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        listening = self.line()
        assert listening.startswith("listening on 127.0.0.1:"), listening
        self.port = int(listening.split(":")[1].split(",")[0])

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def open(self, path: str, body: Any = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, None if body is None else raw)
        response = connection.getresponse()
        response.connection = connection  # type: ignore[attr-defined]  # keeps the socket open
        return response

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        response = self.open(path, body)
        answer = json.loads(response.read())
        response.connection.close()  # type: ignore[attr-defined]
        return response.status, answer

    def events(self, path: str, body: Any) -> list[tuple[str, Any]]:
        response = self.open(path, {**body, "stream": True})
        assert response.headers["Content-Type"] == "text/event-stream"
        found = []
        for frame in response.read().decode().strip().split("\n\n"):
            name, _, data = frame.rpartition("data: ")
            found.append((name.strip().removeprefix("event: "), data if data == "[DONE]" else json.loads(data)))
        response.connection.close()  # type: ignore[attr-defined]
        return found

    def end(self) -> int:
        self.process.terminate()
        code = self.process.wait(TIMEOUT_S)
        assert self.process.stdout
        self.process.stdout.close()
        return code


@pytest.fixture(scope="module")
def model() -> Iterator[StandIn]:
    stand_in = StandIn("--words-per-s", "1000", "--name", "stand-in")
    yield stand_in
    assert stand_in.end() == 0


CHAT = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a b c"}]}]}


def test_health_and_models(model: StandIn) -> None:
    assert model.ask("/health") == (200, {"status": "ok"})
    assert [m["id"] for m in model.ask("/v1/models")[1]["data"]] == ["stand-in"]
    assert model.ask("/nowhere")[0] == 404
    assert model.ask("/v1/nowhere", {})[0] == 404


def test_chat_completion_with_usage_and_timings(model: StandIn) -> None:
    status, answer = model.ask("/v1/chat/completions", CHAT)
    assert status == 200
    assert answer["object"] == "chat.completion" and answer["model"] == "m"
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": SAYS}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    assert answer["timings"]["predicted_n"] == 4 and answer["timings"]["predicted_per_second"] > 0


def test_max_tokens_cuts_the_answer(model: StandIn) -> None:
    choice = model.ask("/v1/chat/completions", {**CHAT, "max_tokens": 2})[1]["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "length")


def test_chat_stream(model: StandIn) -> None:
    events = model.events("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}})
    assert events[-1] == ("", "[DONE]")
    chunks = [data for _, data in events[:-1]]
    assert chunks[-1]["usage"]["completion_tokens"] == 4 and chunks[-1]["choices"] == []
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == SAYS
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop" and "timings" in chunks[-2]
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}


def test_text_completion(model: StandIn) -> None:
    body = {"model": "m", "prompt": "x y"}
    assert model.ask("/v1/completions", body)[1]["choices"][0]["text"] == SAYS
    *chunks, done = [data for _, data in model.events("/v1/completions", body)]
    assert done == "[DONE]"
    assert "".join(c["choices"][0]["text"] for c in chunks) == SAYS


def test_anthropic_messages(model: StandIn) -> None:
    answer = model.ask("/v1/messages", {**CHAT, "max_tokens": 100})[1]
    assert answer["content"] == [{"type": "text", "text": SAYS}]
    assert (answer["stop_reason"], answer["usage"]) == ("end_turn", {"input_tokens": 3, "output_tokens": 4})
    events = model.events("/v1/messages", {**CHAT, "max_tokens": 3})
    assert all(name == data["type"] for name, data in events)
    names = [name for name, _ in events]
    assert names[0] == "message_start" and names[-1] == "message_stop"
    said = [data["delta"]["text"] for name, data in events if name == "content_block_delta"]
    assert "".join(said) == "one two three"
    assert model.ask("/v1/messages/count_tokens", CHAT) == (200, {"input_tokens": 3})


def test_responses(model: StandIn) -> None:
    body = {"model": "m", "input": "hello there"}
    answer = model.ask("/v1/responses", body)[1]
    assert answer["status"] == "completed" and answer["output"][0]["content"][0]["text"] == SAYS
    events = model.events("/v1/responses", body)
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert events[-1][0] == "response.completed" and events[-1][1]["response"]["usage"]["output_tokens"] == 4


def test_embeddings(model: StandIn) -> None:
    one, two = model.ask("/v1/embeddings", {"model": "m", "input": ["one", "two"]})[1]["data"]
    assert (one["index"], two["index"]) == (0, 1) and one["embedding"] != two["embedding"]
    again = model.ask("/v1/embeddings", {"model": "m", "input": "one"})[1]["data"]
    assert again[0]["embedding"] == one["embedding"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"messages":[],"max_tokens":"many"}'])
def test_bad_bodies_are_400(model: StandIn, body: bytes) -> None:
    status, answer = model.ask("/v1/chat/completions", body)
    assert status == 400 and answer["error"]["message"]


def test_loading_answers_503() -> None:
    loading = StandIn("--load-s", "3600")
    assert loading.ask("/health")[0] == 503
    status, answer = loading.ask("/v1/chat/completions", CHAT)
    assert (status, answer["error"]["message"]) == (503, "Loading model")
    assert loading.end() == 0


def test_stops_when_the_client_leaves_and_at_once_when_told() -> None:
    slow = StandIn("--words-per-s", "0.01")
    response = slow.open("/v1/chat/completions", {**CHAT, "stream": True})
    assert response.readline().startswith(b"data: ")
    assert "POST /v1/chat/completions" in slow.line()
    response.close()
    response.connection.close()  # type: ignore[attr-defined]
    assert slow.line() == "client left, stopped\n"
    staying = slow.open("/v1/chat/completions", {**CHAT, "stream": True})
    assert slow.end() == 0  # in the middle of an answer
    staying.close()
    staying.connection.close()  # type: ignore[attr-defined]


def test_a_taken_port_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-I", demo_model.__file__, "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1 and done.stderr.startswith("cannot listen on") and done.stderr.count("\n") == 1


def test_configuration_has_two_models_that_swap() -> None:
    config = yaml.safe_load(demo.DEMO_CONFIG(start_port=6100))
    assert set(config["models"]) == {demo.FAST, demo.SLOW} and config["startPort"] == 6100
    assert set(config["groups"]["demo"]["members"]) == set(config["models"])
    for model in config["models"].values():
        argv = shlex.split(model["cmd"])
        assert argv[0] == sys.executable and argv[-2:] == ["--port", "${PORT}"]


def test_commands_survive_spaces_and_quotes_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / 'it\'s a "home" # ümlaut: x'
    home.mkdir()
    copy = home / "demo_model.py"
    shutil.copy(demo_model.__file__, copy)
    monkeypatch.setattr(demo, "__file__", str(home / "demo.py"))
    command = yaml.safe_load(demo.DEMO_CONFIG())["models"][demo.FAST]["cmd"]
    argv = shlex.split(command.replace("${PORT}", "0"))
    assert str(copy) in argv
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline().startswith("listening")
        process.terminate()


def test_ports_that_are_taken_are_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert demo._free_start_port(port - 1) > port


def test_the_hint_names_models_and_address() -> None:
    hint = demo.demo_hint("http://127.0.0.1:8080/")
    for part in (demo.FAST, demo.SLOW, "http://127.0.0.1:8080/v1/chat/completions", "/v1/models", "/logs"):
        assert part in hint
    bodies = [json.loads(line.split("-d ")[1].strip("'")) for line in hint.splitlines() if " -d " in line]
    assert [body["model"] for body in bodies] == [demo.FAST, demo.SLOW]
