"""How the program ends: in order when asked, at once when told twice, and without leftovers even when killed."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import zipapp_runner
from harness import CHAT, Call, Stage, Wire, command, marked, request_bytes, stage, start, until

MODELS = {"a": {}, "b": {}, "beside": {}}
GROUPS = {"beside": {"swap": False, "exclusive": False, "members": ["beside"]}}
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture
def on(pyz: Path, tmp_path: Path) -> Iterator[Stage]:
    with stage(pyz, tmp_path, MODELS, groups=GROUPS, unloadTimeout=2) as it:
        yield it


@pytest.fixture(scope="module", autouse=True)
def too_slow(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, list[Call]]]:
    """A server that was told to stop while a request goes on for ever, beside the other tests."""
    deaf: list[Wire] = []
    with stage(pyz, tmp_path_factory.mktemp("slow"), MODELS) as on:
        calls = [on.call("a", stream=True, chunk_gate="never"), on.call("a", gate="never", tag="silent")]
        calls[0].until_body(b'"n": 0}')
        on.happens("request", "a", tag="silent")
        # Two clients that do not read what they get.
        for path, body in ((CHAT, b'{"model": "a", "do": {"size": 50000000, "tag": "large"}}'), ("/logs/stream", b"")):
            wire = on.wire()
            wire.sock.sendall(request_bytes("POST" if body else "GET", path, body))
            deaf.append(wire)
        on.happens("request", "a", tag="large")
        on.signal(signal.SIGTERM)
        yield on, calls
        on.process.wait(30)  # also if the test that does was not asked for
        for wire in deaf:
            wire.close()


def refuses_connections(port: int) -> bool:
    try:
        Wire(port).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False  # it was just closing
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_an_idle_server_ends_with_its_models(on: Stage, number: signal.Signals) -> None:
    for model in ("a", "beside"):
        on.ask(model)
    idle = on.wire()
    assert idle.ask(request_bytes("GET", "/running"), method="GET").status == 200
    on.signal(number)
    on.ends(0)
    assert {line["model"] for line in on.journal("term")} == {"a", "beside"}
    assert idle.sock.recv(1) == b""
    idle.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_requests_in_flight_are_finished_and_new_ones_refused(on: Stage, number: signal.Signals) -> None:
    streaming = on.call("a", stream=True, chunks=5, chunk_gate="stream")
    streaming.until_body(b'"n": 0}')
    silent = on.hold("a", "silent")
    queued = on.queue("b")
    on.script("beside", health_gate="never")
    loading = on.queue("beside")
    on.happens("listening", "beside")
    on.signal(number)
    for call in (queued, loading):
        assert call.wait().refusal == (503, "shutting_down")
    until(lambda: refuses_connections(on.port), "no new connections")
    until(lambda: not on.lives("beside"), "the loading model is stopped at once")
    assert not streaming.over and not silent.over
    on.open("stream")
    answer = streaming.wait()
    assert answer.complete and answer.body.endswith(b"[DONE]\n\n")
    on.open("silent")
    answer = silent.wait()
    assert answer.status == 200 and answer.header("connection") == "close"
    on.ends(0)
    assert on.journal("start", "b") == []


def test_a_kept_connection_gets_no_further_requests_through(on: Stage) -> None:
    held = on.hold("a", "gate")
    wire = on.wire()
    # Its first request is under way, the second is behind it in the same connection.
    body = json.dumps({"model": "a", "do": {"gate": "other", "tag": "other"}}).encode()
    first = Call(wire, request_bytes("POST", CHAT, body))
    on.happens("request", tag="other")
    on.signal(signal.SIGTERM)
    until(lambda: refuses_connections(on.port), "it has begun to stop")
    wire.sock.sendall(request_bytes("POST", CHAT, b'{"model": "a", "do": {"tag": "late"}}'))
    on.open("other")
    assert first.wait().header("connection") == "close"
    on.open("gate")
    assert held.wait().status == 200
    on.ends(0)
    assert on.journal("request", tag="late") == []


def test_streams_of_logs_end_in_order(on: Stage) -> None:
    logs = [Call(on.wire(), request_bytes("GET", path)) for path in ("/logs/stream", "/logs/stream/proxy")]
    for call in logs:
        call.until_body(b"listens on")
    on.signal(signal.SIGTERM)
    for call in logs:
        assert call.wait().complete
    on.ends(0)


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_ends_at_once(on: Stage, first: signal.Signals, second: signal.Signals) -> None:
    on.script("a", ignore_term=True, grandchild=True)
    calls = [on.hold("a", "never"), on.call("a", stream=True, chunk_gate="never")]
    calls[1].until_body(b'"n": 0}')
    on.happens("child", "a")
    on.signal(first)
    until(lambda: refuses_connections(on.port), "it has begun to stop")
    begun = time.monotonic()
    on.signal(second)
    on.ends(128 + second)
    assert time.monotonic() - begun < 5, "no grace"
    for call in calls:
        answer = call.wait()
        assert answer.trouble or answer.status == 503, answer


def test_the_second_signal_while_models_stop(on: Stage) -> None:
    on.script("a", ignore_term=True)
    on.ask("a")
    on.signal(signal.SIGTERM)
    on.happens("term ignored", "a")
    on.signal(signal.SIGTERM)
    on.ends(128 + signal.SIGTERM)


@pytest.mark.parametrize("astray", [False, True])
def test_a_model_that_ignores_term_does_not_keep_it(on: Stage, astray: bool) -> None:
    on.script("a", ignore_term=True, grandchild=True, astray=astray)
    on.ask("a")
    on.happens("child", "a")
    on.signal(signal.SIGTERM)
    on.ends(0)
    assert on.journal("term ignored", "a")


def test_ctrl_c_in_a_terminal_leaves_the_models_to_the_server(pyz: Path, tmp_path: Path) -> None:
    with stage(pyz, tmp_path, MODELS, group=True) as on:
        held = on.hold("a", "gate")
        on.note_family()
        os.killpg(on.process.pid, signal.SIGINT)
        until(lambda: refuses_connections(on.port), "it has begun to stop")
        assert on.journal("term") == []
        on.open("gate")
        assert held.wait().status == 200
        on.ends(0)


def test_a_client_that_leaves_ends_the_wait(on: Stage) -> None:
    held = on.hold("a", "never")
    on.signal(signal.SIGTERM)
    until(lambda: refuses_connections(on.port), "it has begun to stop")
    begun = time.monotonic()
    held.leave()
    on.ends(0)
    assert time.monotonic() - begun < 8


def test_a_crash_while_it_stops_restarts_nothing(on: Stage) -> None:
    held = on.hold("a", "never")
    on.signal(signal.SIGTERM)
    until(lambda: refuses_connections(on.port), "it has begun to stop")
    on.kill(on.pid("a"))
    answer = held.wait()
    assert answer.status in (502, 503) and answer.error
    on.ends(0)
    assert len(on.journal("start")) == 1


def test_sighup_is_no_reason_to_end(on: Stage) -> None:
    on.ask("a")
    on.process.send_signal(signal.SIGHUP)
    until(lambda: "SIGHUP" in on.log(), "it is noticed")
    assert on.ask("a").status == 200 and len(on.journal("start")) == 1


SLOW_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "llamaswap.web.app":
            time.sleep(600)

sys.meta_path.insert(0, Slow())
"""


def test_models_and_signals_do_not_wait_for_the_app(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    port = zipapp_runner.free_ports(2)
    config = {"models": {"a": {"cmd": command(tmp_path)}}, "startPort": port + 1}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    process = start(pyz, tmp_path, "--listen", f"127.0.0.1:{port}", PYTHONPATH=str(tmp_path))
    try:
        until(lambda: not refuses_connections(port), "it listens")
        for path in ("/health", "/wol-health"):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read() == b"OK"
        asked = urllib.request.Request(f"http://127.0.0.1:{port}{CHAT}", b'{"model": "a"}')
        assert urllib.request.urlopen(asked, timeout=20).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_at_any_moment_of_the_start(pyz: Path, tmp_path: Path, number: signal.Signals) -> None:
    """From the first instructions of the interpreter on: no traceback through our code, no leftovers."""
    (tmp_path / "models").mkdir()
    model = {"cmd": command(tmp_path / "models")}
    port = zipapp_runner.free_ports(2)
    config = {"startPort": port + 1, "models": {"a": model}, "hooks": {"on_startup": {"preload": ["a"]}}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    for moment in range(8):
        process = start(pyz, tmp_path, "--listen", f"127.0.0.1:{port}")
        time.sleep(0.06 * moment)  # not an order of events: a sample of moments
        process.send_signal(number)
        code = process.wait(15)
        if code == 1:  # the interpreter itself, before anything of ours: it gave up its own start
            assert number == signal.SIGINT and "KeyboardInterrupt" in (tmp_path / "llamaswap.log").read_text()
        else:
            assert code in (0, 130, -number), moment
        until(lambda: not marked(str(tmp_path / "models")), "no model is left")
    log = (tmp_path / "llamaswap.log").read_text()
    assert "llamaswap.pyz/__main__.py" not in log and "site-packages" not in log, log


@pytest.mark.parametrize("astray", [False, True])
def test_killed_it_leaves_no_model(on: Stage, astray: bool) -> None:
    on.script("a", ignore_term=True, grandchild=True, astray=astray)
    on.ask("a")
    on.happens("child", "a")
    on.script("beside", health_gate="never")
    loading = on.queue("beside")
    on.happens("listening", "beside")
    assert len(on.processes()) == 3
    on.signal(signal.SIGKILL)
    on.ends(-signal.SIGKILL, timeout_s=5)
    assert loading.wait().trouble


def test_killed_while_models_start_and_stop_it_leaves_none(pyz: Path, tmp_path: Path) -> None:
    for moment in range(3):
        directory = tmp_path / str(moment)
        directory.mkdir()
        with stage(pyz, directory, MODELS, groups=GROUPS) as on:
            calls = [on.call(model) for model in ("a", "b", "beside")]
            on.happens("start", count=1 + moment)
            on.signal(signal.SIGKILL)
            on.ends(-signal.SIGKILL)
            for call in calls:
                call.wait()


def test_its_successor_can_start_at_once(pyz: Path, tmp_path: Path) -> None:
    """After a kill the same ports are wanted again while the guardian may still be at work."""
    with stage(pyz, tmp_path, MODELS, unloadTimeout=1) as on:
        on.script("a", ignore_term=True)
        first = on.ask("a").json["pid"]
        on.signal(signal.SIGKILL)
        on.process.wait()
        on.restart(pyz)
        answer = on.ask("a")
        assert answer.status == 200 and answer.json["pid"] != first
        assert on.processes() == [answer.json["pid"]]


def guardians(on: Stage) -> list[int]:
    of_server = {process.pid for process in on.note_family()}
    return [pid for pid in marked("llamaswap-guardian") if pid in of_server]


def test_the_guardian_may_be_killed_too(on: Stage) -> None:
    on.ask("a")
    (first,) = guardians(on)
    os.kill(first, signal.SIGKILL)
    until(lambda: [pid for pid in guardians(on) if pid != first], "another one")
    on.ask("beside")
    on.signal(signal.SIGKILL)
    on.ends(-signal.SIGKILL)


def test_the_grace_is_not_without_end(too_slow: tuple[Stage, list[Call]]) -> None:
    on, calls = too_slow
    on.ends(0, timeout_s=30)
    for call in calls:
        assert call.wait().trouble or call.answer.status == 503
    assert calls[0].answer.trouble
