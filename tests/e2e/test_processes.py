"""Models as processes: how they start, fail, crash, are stopped, and that nothing of them is left."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import CHAT, Answer, Call, Stage, one_test, request_bytes, shared_stage, stage, stays, until

PYTHON = [sys.executable, "-S", "-E"]
STOPPER = "import os, sys\nopen(sys.argv[2], 'w').write(sys.argv[1])\nos.kill(int(sys.argv[1]), 15)"
MODELS = {
    "m": {"aliases": ["m/alias"]},
    "n": {},
    "env": {"env": ["FAKE_ONE=1 = 2", "FAKE_EMPTY=", "FAKE-ODD=odd", "FAKE_QUOTED=\"'$HOME`"]},
    "bare": {"checkEndpoint": "none"},
    "asked": {"checkEndpoint": "/v1/models?ready=1"},
    "stubborn": {"unloadTimeout": 1},
    "brief": {"ttl": 1},
    "nowhere": {"cmd": "/no/such/program --port ${PORT}"},
    "unknown": {"cmd": "no-such-program-anywhere ${PORT}"},
    "empty": {"cmd": "", "proxy": "http://127.0.0.1:9"},
    "beside": {},
}


def cmd_stop(home: Path, code: str = STOPPER) -> str:
    return shlex.join([*PYTHON, "-c", code, "${PID}", str(home / "stopped")])


@pytest.fixture(scope="module")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, int]]:
    directory = tmp_path_factory.mktemp("processes")
    models = {
        **MODELS,
        "stopper": {"cmdStop": cmd_stop(directory / "models")},
        "failing": {"cmdStop": shlex.join([*PYTHON, "-c", "raise SystemExit(4)"])},
    }
    groups = {"beside": {"swap": False, "exclusive": False, "persistent": True, "members": ["beside", "brief"]}}
    with shared_stage(pyz, directory, models, unloadTimeout=5, groups=groups) as it:
        yield it


@pytest.fixture
def on(shared: tuple[Stage, int]) -> Iterator[Stage]:
    with one_test(shared) as it:
        yield it


@pytest.fixture(scope="module", autouse=True)
def slow_start(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, list[Answer]]]:
    """A start that times out, beside the other tests: 15 s is the least that a configuration may say."""
    answers: list[Answer] = []
    with stage(pyz, tmp_path_factory.mktemp("slow"), {"slow": {}, "other": {}}, healthCheckTimeout=1) as on:
        on.script("slow", health_gate="never", say="still loading\n")
        calls = [on.queue("slow") for _ in range(2)]
        thread = threading.Thread(target=lambda: answers.extend(call.wait(60) for call in calls))
        thread.start()
        yield on, answers
        thread.join()


# -- starting


def test_environment_and_arguments(on: Stage) -> None:
    names = ["FAKE_ONE", "FAKE_EMPTY", "FAKE-ODD", "FAKE_QUOTED", "PATH", "HOME"]
    told = on.ask("env", env=names).json["env"]
    expected = ["1 = 2", "", "odd", "\"'$HOME`", os.environ["PATH"], os.environ.get("HOME")]
    assert [told[name] for name in names] == expected


def test_a_process_group_of_its_own_and_no_input(on: Stage) -> None:
    on.ask("m")
    pid = on.pid("m")
    assert os.getpgid(pid) == pid
    assert os.getsid(pid) == os.getsid(on.process.pid), "a session would bring a scheduling group"
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    # Nothing of the server's own: no listening socket, no other model's pipe.
    inherited = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)}
    server = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{on.process.pid}/fd") if not gone(entry.path)}
    others = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd") if not gone(entry.path)} - inherited
    assert not [name for name in others & server if name.startswith(("socket:", "pipe:"))]


def gone(path: str) -> bool:
    return not os.path.lexists(path)


def test_no_health_check_means_ready_at_once(on: Stage) -> None:
    on.script("bare", bind_gate="bind")
    call = on.queue("bare")
    on.until_running(bare="ready")
    assert not call.over
    on.open("bind")
    assert call.wait().json["model"] == "bare" and len(on.journal("start")) == 1


def test_the_health_check_asks_what_it_is_told_to(on: Stage) -> None:
    assert on.ask("asked").json["model"] == "asked"
    assert on.journal("request")[0]["path"] == "/v1/models"


@pytest.mark.parametrize("status", [204, 302, 401, 404, 500])
def test_only_200_is_healthy(on: Stage, status: int) -> None:
    on.script("m", health=status)
    call = on.queue("m")
    on.happens("health", "m", count=4)
    assert on.running() == {"m": "starting"} and not call.over
    call.leave()


@pytest.mark.parametrize("exit", [0, 3])
def test_without_a_health_check_an_early_exit_is_an_error_as_well(on: Stage, exit: int) -> None:
    on.script("bare", exit=exit)
    answer = on.ask("bare")
    assert answer.refusal == (502, "start_failed") and f"exit code {exit}" in answer.error["message"]
    assert 1 <= len(on.journal("start")) <= 2  # once more, but not for ever


@pytest.mark.parametrize("waiters", [1, 5])
def test_an_early_exit_is_told_with_code_and_last_words(on: Stage, waiters: int) -> None:
    on.script("m", exit_gate="exit", exit=7, say="loading\nfailed to allocate 9 GiB\n", complain="out of memory\n")
    calls = [on.queue("m") for _ in range(waiters)]
    on.open("exit")
    for call in calls:
        answer = call.wait()
        assert answer.refusal == (502, "start_failed")
        for part in ("m", "exit code 7", "failed to allocate 9 GiB", "out of memory"):
            assert part in answer.error["message"]
    assert on.running() == {} and len(on.journal("start")) == 1
    on.script("m")
    assert on.ask("m").status == 200


def test_an_early_exit_while_a_child_holds_the_output(on: Stage) -> None:
    on.script("m", exit=7, grandchild=True, say="last words\n")
    answer = on.ask("m")
    assert answer.refusal == (502, "start_failed") and "last words" in answer.error["message"]
    assert on.processes() == []


def test_killed_while_it_loads(on: Stage) -> None:
    on.script("m", health_gate="never")
    call = on.queue("m")
    on.happens("listening", "m")
    on.kill(on.pid("m"))
    answer = call.wait()
    assert answer.refusal == (502, "start_failed") and "SIGKILL" in answer.error["message"]


@pytest.mark.parametrize(
    ("model", "says"),
    [("nowhere", "/no/such/program"), ("unknown", "no-such-program-anywhere"), ("empty", "empty command")],
)
def test_a_command_that_cannot_run(on: Stage, model: str, says: str) -> None:
    for _ in range(2):
        answer = on.ask(model)
        assert answer.refusal == (502, "start_failed") and says in answer.error["message"]
    assert on.ask("m").status == 200


def test_a_taken_port_is_reported_with_its_holder(on: Stage) -> None:
    port = on.port_of("m")
    code = (
        f"import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\nprint('up', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([*PYTHON, "-c", code, "the holder"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "up\n"
        answer = on.ask("m")
        holder.kill()
    assert answer.refusal == (502, "start_failed")
    for part in (f"port {port}", f"pid {holder.pid}", "python"):
        assert part in answer.error["message"], answer.error
    assert on.journal("start") == []
    assert on.ask("m").status == 200


def test_much_and_odd_output_while_starting(on: Stage) -> None:
    on.script("m", flood=8_000_000, say="no newline \x1b[31m\udcff".encode("utf-8", "replace").decode())
    assert on.ask("m").status == 200


def test_preloading(pyz: Path, tmp_path: Path) -> None:
    models = {"one": {"aliases": ["uno"], "ttl": 2}, "two": {}, "three": {}}
    group = {"g": {"swap": False, "members": ["one", "two", "three"]}}
    hooks = {"on_startup": {"preload": ["uno", "two", "nobody"]}}
    with stage(pyz, tmp_path, models, groups=group, hooks=hooks) as on:
        on.until_running(one="ready", two="ready")
        ready = time.monotonic()
        on.until_running(two="ready")  # its idle time counts from readiness
        assert time.monotonic() - ready > 1
        assert on.ask("one").json["model"] == "one"


def test_a_preload_that_fails_is_in_the_log_and_harms_nobody(pyz: Path, tmp_path: Path) -> None:
    models = {"bad": {"cmd": shlex.join([*PYTHON, "-c", "raise SystemExit('no weights')", "${PORT}"])}, "good": {}}
    hooks = {"on_startup": {"preload": ["bad", "good"]}}
    with stage(pyz, tmp_path, models, hooks=hooks) as on:
        on.until_running(good="ready")
        until(lambda: "no weights" in on.log(), "the log says so")


# -- crashing


def test_an_idle_model_that_crashed_is_restarted_by_the_next_request(on: Stage) -> None:
    first = on.ask("m").json["pid"]
    on.kill(first)
    until(lambda: on.running() == {}, "the crash is noticed")
    until(lambda: "signal SIGKILL" in on.log(), "the log says so")
    assert on.ask("m").json["pid"] != first


def test_a_request_right_after_a_crash(on: Stage) -> None:
    for _ in range(5):
        on.kill(on.ask("m").json["pid"])
        assert on.ask("m").status == 200


@pytest.mark.parametrize("astray", [False, True])
def test_children_of_a_crashed_model_go_with_it(on: Stage, astray: bool) -> None:
    on.script("m", grandchild=True, astray=astray)
    pid = on.ask("m").json["pid"]
    on.happens("child", "m")
    assert len(on.processes()) == 2
    on.kill(pid)
    until(lambda: on.processes() == [], "the child is gone as well")


@pytest.mark.parametrize("die", ["kill", "exit"])
def test_dead_before_the_first_byte_means_once_more(on: Stage, die: str) -> None:
    body = json.dumps({"model": "m", "pad": "z" * 300_000, "do": {"die": die, "once": "died", "tag": "it"}}).encode()
    answer = on.post(CHAT, body)
    assert answer.status == 200 and len(on.journal("request", tag="it")) == 2 and len(on.journal("start")) == 2
    assert answer.json["pid"] == on.pid("m")
    assert answer.json["sha256"] == hashlib.sha256(body).hexdigest()


def test_dead_before_the_first_byte_again_is_an_error(on: Stage) -> None:
    answer = on.ask("m", die="kill", tag="it")
    assert answer.refusal == (502, "bad_gateway")
    assert len(on.journal("request", tag="it")) == 2
    assert on.ask("m").status == 200


def test_all_who_waited_for_a_first_byte_are_served_by_one_restart(on: Stage) -> None:
    calls = [on.hold("m", "gate") for _ in range(5)]
    on.happens("request", "m", count=5)
    on.kill(on.pid("m"))
    on.happens("request", "m", count=10)
    on.open("gate")
    assert [call.wait().status for call in calls] == [200] * 5
    assert len(on.journal("start")) == 2


def test_killed_again_and_again_under_waiting_requests(on: Stage) -> None:
    call = on.hold("m", "gate")
    on.kill(on.pid("m"))
    on.happens("request", "m", count=2)
    on.kill(on.pid("m"))
    assert call.wait().refusal == (502, "bad_gateway")


@pytest.mark.parametrize("die", ["close", "reset", "garbage"])
def test_no_answer_from_a_live_model_is_an_error_at_once(on: Stage, die: str) -> None:
    answer = on.ask("m", die=die)
    assert answer.refusal == (502, "bad_gateway")
    assert on.ask("m").status == 200
    assert len(on.journal("start")) == 1


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("die", ["kill", "exit"])
def test_dead_in_mid_stream_breaks_the_stream(on: Stage, die: str, framing: str, version: str) -> None:
    answer = on.call("m", stream=True, chunks=9, framing=framing, die=die, die_after=4, version=version).wait()
    assert_broken(answer, version)
    assert len(on.journal("request")) == 1
    assert on.ask("m").status == 200


def assert_broken(answer: Answer, version: str = "1.1") -> None:
    assert answer.status == 200 and b'"n": 0}' in answer.body and b"[DONE]" not in answer.body
    assert answer.trouble and not answer.complete, answer


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("die", ["close", "reset"])
def test_a_stream_that_a_live_model_breaks_off(on: Stage, die: str, framing: str) -> None:
    assert_broken(on.ask("m", stream=True, chunks=9, framing=framing, die=die, die_after=4))
    assert on.ask("m").status == 200 and len(on.journal("start")) == 1


def test_killed_from_outside_under_many_streams(on: Stage) -> None:
    calls = [on.call("m", stream=True, chunk_gate="never") for _ in range(8)]
    for call in calls:
        call.until_body(b'"n": 0}')
    on.kill(on.pid("m"))
    for call in calls:
        assert_broken(call.wait())


def test_a_model_that_only_stopped_listening_is_restarted(on: Stage) -> None:
    first = on.ask("m", then="refuse").json["pid"]
    on.happens("refusing", "m")
    second = on.ask("m")
    assert second.status == 200 and second.json["pid"] != first
    assert len(on.processes()) == 1


def test_stale_connections_are_replaced_silently(on: Stage) -> None:
    for number in range(20):
        answer = on.ask("m", then="close" if number % 3 else "")
        assert answer.status == 200
    assert len(on.journal("start")) == 1 and len(on.journal("request")) == 20


# -- unloading


@pytest.mark.parametrize("way", ["one", "alias", "all", "GET"])
def test_unloading(on: Stage, way: str) -> None:
    on.ask("m")
    method, path, body = {
        "one": ("POST", "/api/models/unload/m", b"OK"),
        "alias": ("POST", "/api/models/unload/m/alias", b"OK"),
        "all": ("POST", "/api/models/unload", b'{"msg": "ok"}'),
        "GET": ("GET", "/unload", b"OK"),
    }[way]
    answer = on.get(path, method=method)
    assert answer.status == 200 and answer.body == body, answer
    assert on.processes() == [] and on.running() == {}
    assert on.post("/api/models/unload/nobody", b"").status == 404


def test_unloading_in_mid_stream(on: Stage) -> None:
    on.ask("beside")
    streams = [on.call("m", stream=True, chunk_gate="never") for _ in range(3)]
    for call in streams:
        call.until_body(b'"n": 0}')
    on.unload("m")
    for call in streams:
        assert_broken(call.wait())
    assert on.running() == {"beside": "ready"}
    assert on.ask("m").status == 200


def test_unloading_while_it_loads(on: Stage) -> None:
    on.script("m", health_gate="never")
    calls = [on.queue("m") for _ in range(4)]
    on.happens("listening", "m")
    on.unload("m")
    for call in calls:
        assert call.wait().refusal == (503, "model_unloaded")
    assert on.processes() == []


def test_unloading_what_still_waits_for_another(on: Stage) -> None:
    held = on.hold("m", "gate")
    call = on.queue("n")
    on.unload("n")
    assert call.wait().refusal == (503, "model_unloaded")
    assert not held.over
    on.open("gate")
    assert held.wait().status == 200
    assert on.journal("start", "n") == []


def test_unloading_before_the_first_byte_starts_nothing_again(on: Stage) -> None:
    call = on.hold("m", "gate")
    on.unload("m")
    assert call.wait().refusal == (503, "model_unloaded")
    assert len(on.journal("start")) == 1 and on.running() == {}


def test_unloading_does_not_hold_others_up(on: Stage) -> None:
    on.ask("beside")
    on.script("m", ignore_term=True)
    on.ask("m")
    stop = Call(on.wire(), request_bytes("POST", "/api/models/unload/m"))
    on.happens("term ignored", "m")
    for _ in range(5):
        assert on.ask("beside").status == 200
    assert not stop.over and on.running() == {"beside": "ready", "m": "stopping"}
    on.kill(on.pid("m"))
    assert stop.wait().status == 200


def test_an_idle_model_goes_after_its_ttl(on: Stage) -> None:
    on.ask("brief")
    until(lambda: on.running() == {}, "it is unloaded")
    assert on.journal("term", "brief") and on.processes() == []
    held = on.hold("brief", "gate")
    assert stays(lambda: on.running() == {"brief": "ready"}, 1.5), "never while it is busy"
    on.open("gate")
    assert held.wait().status == 200
    until(lambda: on.running() == {}, "it is unloaded")


# -- stopping


def test_one_that_ignores_term_is_killed_after_its_time(on: Stage) -> None:
    on.script("stubborn", ignore_term=True, grandchild=True)
    on.ask("stubborn")
    begun = time.monotonic()
    on.unload()
    assert time.monotonic() - begun >= 0.95
    assert on.journal("term ignored") and on.processes() == []


@pytest.mark.parametrize("astray", [False, True])
def test_a_child_that_ignores_term_and_holds_the_output(on: Stage, astray: bool) -> None:
    on.script("stubborn", grandchild=True, astray=astray)
    on.ask("stubborn")
    on.happens("child")
    on.unload()
    assert on.journal("term") and on.processes() == []


def test_cmd_stop_is_told_the_pid(on: Stage) -> None:
    pid = on.ask("stopper").json["pid"]
    on.unload()
    assert (on.home / "stopped").read_text() == str(pid)
    assert on.journal("term", "stopper") and on.processes() == []


def test_a_cmd_stop_that_fails_is_no_way_out(on: Stage) -> None:
    on.ask("failing")
    on.unload()
    assert on.processes() == []
    until(lambda: "exit code 4" in on.log(), "the log says so")


def test_swapping_with_a_stubborn_one_waits_for_its_end(on: Stage) -> None:
    on.script("stubborn", ignore_term=True)
    on.ask("stubborn")
    answer = on.ask("m")
    assert answer.status == 200 and on.processes() == [answer.json["pid"]]


def test_nothing_grows(on: Stage) -> None:
    on.ask("m")
    on.ask("n")
    descriptors, threads = on.descriptors(), on.threads()
    for number in range(100):
        model = ("m", "m", "n", "beside", "n")[number % 5]
        answer = on.ask(model, stream=number % 2 == 0, then="kill" if number % 20 == 19 else "")
        assert answer.status == 200 and answer.complete
    on.unload("beside")
    on.ask("n")
    until(lambda: on.descriptors() <= descriptors, f"as few descriptors as before ({descriptors})")
    assert on.threads() <= threads + 3


def test_a_start_that_takes_too_long(slow_start: tuple[Stage, list[Answer]]) -> None:
    on, answers = slow_start
    until(lambda: len(answers) == 2, "the answers", timeout_s=40)
    for answer in answers:
        assert answer.refusal == (504, "start_timeout")
        assert "15s" in answer.error["message"] and "still loading" in answer.error["message"]
    until(lambda: on.processes() == [], "it was stopped")
    on.script("slow")
    assert on.ask("slow").status == 200
