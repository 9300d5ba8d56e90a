"""The control routes of the running program (what runs, logs as they are made) and HTTP/2 as clients get it."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from h2.connection import H2Connection
from harness import Call, Stage, one_test, request_bytes, shared_stage, stage, until

MODELS = {
    "a": {"aliases": ["alpha"], "name": "Model A", "description": "The first", "ttl": 300},
    "org/b": {},
}


@pytest.fixture(scope="module")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, int]]:
    with shared_stage(pyz, tmp_path_factory.mktemp("control"), MODELS, unloadTimeout=3) as it:
        yield it


@pytest.fixture
def on(shared: tuple[Stage, int]) -> Iterator[Stage]:
    with one_test(shared) as it:
        yield it


# -- what runs


def test_what_runs(on: Stage) -> None:
    assert on.get("/running").json == {"running": []}
    on.script("a", health_gate="up")
    call = on.queue("a")
    on.happens("listening", "a")
    (record,) = on.get("/running").json["running"]
    assert record["state"] == "starting" and set(record) == {
        "model",
        "state",
        "cmd",
        "proxy",
        "ttl",
        "name",
        "description",
    }
    on.open("up")
    call.wait()
    (record,) = on.get("/running").json["running"]
    port = on.port_of("a")
    assert record["cmd"] == on.command_of("a").replace("${PORT}", str(port)).replace("${MODEL_ID}", "a")
    record.pop("cmd")
    assert record == {
        "model": "a", "state": "ready", "proxy": f"http://localhost:{port}", "ttl": 300,
        "name": "Model A", "description": "The first",
    }  # fmt: skip


def test_the_list_says_what_is_loaded(on: Stage) -> None:
    def loaded() -> dict[str, str]:
        return {model["id"]: model["status"]["value"] for model in on.get("/v1/models").json["data"]}

    assert loaded() == {"a": "unloaded", "org/b": "unloaded"}
    on.ask("org/b")
    assert loaded() == {"a": "unloaded", "org/b": "loaded"}
    assert on.get("/models").json["data"] == on.get("/v1/models").json["data"]


def test_a_name_with_a_slash_can_be_unloaded(on: Stage) -> None:
    on.ask("org/b")
    on.unload("org/b")
    assert on.running() == {}


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/", "/upstream", "/health", "/wol-health", "/api/version"])
def test_pages_that_need_no_model(on: Stage, path: str) -> None:
    assert on.get(path).status in (200, 302)
    assert on.journal("start") == []


def test_page_not_found(on: Stage) -> None:
    assert on.get("/no/such/page").refusal == (404, "not_found")
    assert on.get("/v1/chat/completions").status == 405
    assert on.get("/upstream/nobody/").refusal == (404, "model_not_found")


# -- logs


def log_stream(on: Stage, path: str) -> Call:
    call = Call(on.wire(), request_bytes("GET", path), "GET")
    until(lambda: call.answer.status, "the stream begins")
    return call


def test_the_log_as_a_whole(on: Stage) -> None:
    on.script("a", say="whole log: said by a\n", complain="whole log: complained by a\n")
    on.ask("a")
    answer = on.get("/logs")
    assert answer.complete and (answer.header("content-type") or "").startswith("text/plain")
    text = answer.body.decode()
    for part in ("said by a", "complained by a", "starting a", "a is ready"):
        assert part in text
    assert on.get("/logs", {"Accept": "text/html"}).status == 302


@pytest.mark.parametrize(
    ("path", "gets"),
    [
        ("/logs/stream", {"a", "b", "proxy"}),
        ("/logs/stream/proxy", {"proxy"}),
        ("/logs/stream/upstream", {"a", "b"}),
        ("/logs/stream/a", {"a"}),
        ("/logs/stream/alpha", {"a"}),
        ("/logs/stream/org/b", {"b"}),
    ],
)
@pytest.mark.parametrize("history", [True, False])
def test_logs_live(on: Stage, path: str, gets: set[str], history: bool) -> None:
    number = len(on.log())  # sets this test's lines apart from those before
    words = {"a": f"a says {number}.", "b": f"b says {number}."}
    on.script("a", say=words["a"] + "\n")
    on.script("org/b", say=words["b"] + "\n")
    on.ask("a")
    call = log_stream(on, path + ("" if history else "?no-history"))
    assert call.answer.header("x-accel-buffering") == "no"
    if "a" in gets and history:
        call.until_body(words["a"].encode())
    on.ask("org/b")
    on.ask("a")
    last = {"a": words["a"], "b": words["b"], "proxy": "evicting org/b for a"}
    for who in gets:
        until(lambda who=who: call.answer.body.decode().count(last[who]) > (who == "a" and history), who)  # type: ignore[misc]
    said = call.answer.body.decode()
    for who in {"a", "b", "proxy"} - gets:
        assert last[who] not in said
    if not history:
        assert "listens on" not in said and said.count(words["a"]) <= 1
    call.leave()


def test_an_unknown_log(on: Stage) -> None:
    answer = on.get("/logs/stream/nobody")
    assert answer.refusal == (400, "bad_request") and "invalid logger" in answer.error["message"]


def test_readers_of_logs_that_do_not_read_hold_nothing_up(on: Stage) -> None:
    deaf = [on.wire() for _ in range(3)]
    for wire in deaf:
        wire.sock.sendall(request_bytes("GET", "/logs/stream"))
    on.script("a", flood=3_000_000)
    on.ask("a")
    assert on.get("/logs").complete
    for wire in deaf:
        wire.close()


def test_many_who_follow_and_leave(on: Stage) -> None:
    before = on.descriptors()
    calls = [log_stream(on, "/logs/stream") for _ in range(10)]
    for number, call in enumerate(calls):
        call.leave("reset" if number % 2 else "close")
    until(lambda: on.descriptors() <= before, "all are forgotten")


# -- HTTP/2


@pytest.fixture(scope="module")
def secure(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    authority, directory = trustme.CA(), tmp_path_factory.mktemp("http2")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    flags = ("--tls-cert-file", str(directory / "both.pem"), "--tls-key-file", str(directory / "both.pem"))
    with stage(pyz, directory, {"a": {}}, flags=flags, tls=context, unloadTimeout=2) as on:
        yield on


@pytest.fixture
def client(secure: Stage) -> Iterator[httpx.Client]:
    assert secure.tls is not None
    address = f"https://localhost:{secure.port}"
    with httpx.Client(http1=False, http2=True, verify=secure.tls, base_url=address, timeout=15, trust_env=False) as it:
        yield it
    secure.forget()


def chat(**do: object) -> dict[str, object]:
    return {"model": "a", "stream": "chunks" in do, "do": do}


def test_http2(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json=chat())
    assert answer.http_version == "HTTP/2" and answer.json()["model"] == "a"
    assert client.get("/running").json()["running"][0]["model"] == "a"
    answer = client.post("/v1/chat/completions", json=chat(chunks=5))
    assert answer.text.count("data: ") == 6 and answer.text.endswith("[DONE]\n\n")
    assert client.post("/v1/chat/completions", json={"model": "b"}).json()["error"]["code"] == "model_not_found"


def test_http2_streams_arrive_as_they_are_made(secure: Stage, client: httpx.Client) -> None:
    with client.stream("POST", "/v1/chat/completions", json=chat(chunks=3, chunk_gate="go on")) as answer:
        parts = answer.iter_text()
        assert '"n": 0}' in next(parts)
        secure.open("go on")
        assert "".join(parts).endswith("[DONE]\n\n")


def test_http2_dead_in_mid_stream_is_seen(secure: Stage, client: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=chat(chunks=9, die="kill", die_after=4))
    assert client.post("/v1/chat/completions", json=chat()).status_code == 200


@pytest.mark.parametrize("how", ["connection", "stream"])
def test_http2_one_that_leaves_ends_its_work_upstream(secure: Stage, how: str) -> None:
    assert secure.tls is not None
    secure.forget()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    body = json.dumps(chat(chunks=3, chunk_gate="never", tag="it")).encode()
    with context.wrap_socket(socket.create_connection(("127.0.0.1", secure.port), timeout=15)) as sock:
        h2 = H2Connection()
        h2.initiate_connection()
        head = {":method": "POST", ":path": "/v1/chat/completions", ":scheme": "https", ":authority": "localhost"}
        h2.send_headers(1, list(head.items()))
        h2.send_data(1, body, end_stream=True)
        sock.sendall(h2.data_to_send())
        secure.happens("first chunk", "a", tag="it")
        if how == "stream":
            h2.reset_stream(1, 8)
            sock.sendall(h2.data_to_send())
            secure.happens("gone", "a", tag="it")
    secure.happens("gone", "a", tag="it")


def test_http2_in_flight_when_it_ends(pyz: Path, tmp_path: Path, secure: Stage) -> None:
    assert secure.tls is not None
    flags = tuple(secure.arguments[4:])
    with stage(pyz, tmp_path, {"a": {}}, flags=flags, tls=secure.tls, unloadTimeout=2) as on:
        address = f"https://localhost:{on.port}"
        with httpx.Client(
            http1=False, http2=True, verify=secure.tls, base_url=address, timeout=15, trust_env=False
        ) as it:
            whole: list[str] = []

            def ask() -> None:
                whole.append(it.post("/v1/chat/completions", json=chat(chunks=3, chunk_gate="go on")).text)

            asking = threading.Thread(target=ask)
            asking.start()
            on.happens("first chunk", "a")
            on.signal(signal.SIGTERM)
            until(lambda: "shutting down" in on.log(), "it has begun to stop")
            on.open("go on")
            asking.join()
            assert whole and whole[0].endswith("[DONE]\n\n")
            on.ends(0)
            assert json.loads(whole[0].split("\n\n")[0][6:])["model"] == "a"
