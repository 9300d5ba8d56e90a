"""The commands against a server that answers what the test wants: what they ask, print and exit with."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from fake_server import FakeServer, fake_server, refusal

from llamaswap.commands.catalogue import COMMANDS
from llamaswap.commands.client import CommandError, parse_server
from llamaswap.commands.run import is_command, run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with fake_server() as it:
        monkeypatch.setenv("LLAMASWAP_SERVER", it.url)
        monkeypatch.delenv("LLAMASWAP_API_KEY", raising=False)
        yield it


class Shell:
    """Runs a command line and keeps what it printed."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self.out = self.err = ""

    def __call__(self, *argv: str) -> int:
        try:
            return run(argv)
        except SystemExit as exit:
            assert isinstance(exit.code, int)
            return exit.code
        finally:
            self.out, self.err = self._capture.readouterr()


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


def entry(id: str, state: str = "stopped", **more: Any) -> dict[str, Any]:
    plain = {
        "id": id, "name": "", "description": "", "aliases": [], "unlisted": False, "state": state, "ttl_s": 0,
        "ttl_left_s": None, "in_flight": 0, "queued": 0, "pid": None, "cmd": "x", "proxy": "", "ready_since": None,
        "memory": {"rss_bytes": None, "gpu_bytes": None}, "load": {"elapsed_s": None, "typical_s": None},
        "waiting_for": [], "last_error": None, "group": "(default)",
    }  # fmt: skip
    return plain | more


MODELS = {
    "models": [
        entry("cold", aliases=["c", "see"], name="The cold one"),
        entry("broken", last_error={"message": "exited with 1:\nno such file", "exit_code": 1}),
        entry("hot", "ready", pid=77, in_flight=2, ttl_s=600, ttl_left_s=None, memory={"rss_bytes": 1536 << 20}),
        entry("idle", "ready", pid=78, ttl_s=600, ttl_left_s=250.2, ready_since="2026-01-01T00:00:00Z"),
        entry("next", "starting", pid=79, queued=3, load={"elapsed_s": 3.14, "typical_s": 12}),
        entry("waiting", queued=1, waiting_for=["hot"]),
    ]
}


# -- ps and models


def test_ps(server: FakeServer, shell: Shell) -> None:
    server.answers["GET /api/models"] = 200, MODELS
    assert shell("ps") == 0
    lines = [re.split(r" {2,}", line.strip()) for line in shell.out.splitlines()]
    heads = ["MODEL", "STATE", "PID", "BUSY", "QUEUED", "MEMORY", "UP", "UNLOADS IN", "WAITS FOR"]
    assert lines[0] == heads  # GPU holds nothing
    assert lines[1] == ["hot", "ready", "77", "2", "0", "1.5 GiB", "-", "10m idle", "-"]
    assert lines[2][7] == "4m10s" and re.fullmatch(r"\d+d(\d\dh)?", lines[2][6])
    assert lines[3][:5] == ["next", "starting 3.1s of ~12s", "79", "0", "3"]
    assert lines[4] == ["waiting", "stopped", "-", "0", "1", "-", "-", "never", "hot"]
    assert len(lines) == 5


def test_ps_for_programs(server: FakeServer, shell: Shell) -> None:
    server.answers["GET /api/models"] = 200, MODELS
    assert shell("ps", "-q") == 0 and shell.out == "hot\nidle\nnext\nwaiting\n"
    assert shell("ps", "--json") == 0
    assert json.loads(shell.out) == {"models": MODELS["models"][2:]}
    server.answers["GET /api/models"] = 200, {"models": [entry("cold")]}
    assert shell("ps", "-q") == 0 and shell.out == ""
    assert shell("ps", "--json") == 0 and json.loads(shell.out) == {"models": []}
    assert shell("ps") == 0 and (shell.out, shell.err) == ("", "no model is loaded\n")


def test_models(server: FakeServer, shell: Shell) -> None:
    server.answers["GET /api/models"] = 200, MODELS
    assert shell("models") == 0
    lines = [re.split(r" {2,}", line) for line in shell.out.splitlines()]
    assert lines[0] == ["MODEL", "STATE", "GROUP", "ALIASES", "ABOUT", "LAST ERROR"]
    assert lines[1] == ["cold", "stopped", "(default)", "c, see", "The cold one", "-"]
    assert lines[2] == ["broken", "failed", "(default)", "-", "-", "exited with 1:"]
    assert len(lines) == 7
    assert shell("models", "-q") == 0 and len(shell.out.splitlines()) == 6
    assert shell("models", "--json") == 0 and json.loads(shell.out) == MODELS
    server.answers["GET /api/models"] = 200, {"models": []}
    assert shell("models") == 0 and (shell.out, shell.err) == ("", "the configuration has no models\n")


# -- load and unload


def test_load(server: FakeServer, shell: Shell) -> None:
    ready = {"model": "org/c:q4", "state": "ready", "load_s": 0.1}
    server.answers["POST /api/models/load/org/c:q4"] = 200, ready
    server.answers["POST /api/models/load/odd ?#%"] = 200, {"model": "odd ?#%", "state": "ready", "load_s": 1}
    assert shell("load", "org/c:q4", "odd ?#%") == 0
    assert re.fullmatch(r"org/c:q4: ready after 0.\d\ds\nodd \?#%: ready after 0.\d\ds\n", shell.out)
    assert server.targets()[1] == "POST /api/models/load/odd%20%3F%23%25"
    assert shell("load", "--json", "org/c:q4") == 0 and json.loads(shell.out) == ready
    server.answers["POST /api/models/load/org/c:q4"] = 202, {"model": "org/c:q4", "state": "starting"}
    assert shell("load", "--no-wait", "org/c:q4") == 0 and shell.out == "org/c:q4: starting\n"
    assert server.targets()[-1].endswith("/org/c:q4?wait=0")


def test_a_terminal_shows_that_it_loads(server: FakeServer, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["POST /api/models/load/a"] = 200, {"model": "a", "state": "ready", "load_s": 1}
    assert shell("load", "a") == 0 and shell.err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shell("load", "a") == 0 and shell.err == "a: loading\r\x1b[K"
    monkeypatch.setenv("TERM", "dumb")
    assert shell("load", "a") == 0 and shell.err == ""


def test_a_model_that_does_not_load_does_not_keep_the_others(server: FakeServer, shell: Shell) -> None:
    server.answers["POST /api/models/load/bad"] = refusal(502, "exited with 3:\n| no such file", "start_failed")
    server.answers["POST /api/models/load/lost"] = refusal(404, "model 'lost' not found", "model_not_found")
    server.answers["POST /api/models/load/good"] = 200, {"model": "good", "state": "ready", "load_s": 1}
    assert shell("load", "bad", "lost", "good") == 1
    assert shell.out.startswith("good: ready")
    assert shell.err == "llamaswap: bad: exited with 3:\n| no such file\nllamaswap: model 'lost' not found\n"


def test_unload(server: FakeServer, shell: Shell) -> None:
    server.answers["POST /api/models/unload/a"] = 200, b"OK"
    server.answers["POST /api/models/unload"] = 200, {"msg": "ok"}
    assert shell("unload", "a") == 0 and shell.out == "a: unloaded\n"
    assert shell("unload", "--all") == 0 and shell.out == "all models are unloaded\n"
    for wrong in (("unload",), ("unload", "--all", "a"), ("unload", "")):
        assert shell(*wrong) == 2 and shell.out == "" and shell.err.count("\n") == 1
    assert server.targets() == ["POST /api/models/unload/a", "POST /api/models/unload"]


def test_unload_and_load_for_programs(server: FakeServer, shell: Shell) -> None:
    """A line of JSON for each model, whatever became of it."""
    server.answers["POST /api/models/unload/a"] = 200, b"OK"
    server.answers["POST /api/models/unload"] = 200, {"msg": "ok"}
    assert shell("unload", "--json", "a") == 0 and json.loads(shell.out) == {"model": "a", "state": "stopped"}
    assert shell("unload", "--json", "--all") == 0 and json.loads(shell.out) == {"msg": "ok"}
    server.answers["POST /api/models/load/a"] = 200, {"model": "a", "state": "ready", "load_s": 1}
    server.answers["POST /api/models/load/bad"] = refusal(502, "exited with 3", "start_failed")
    assert shell("load", "--json", "bad", "a") == 1
    failed, ready = [json.loads(line) for line in shell.out.splitlines()]
    assert failed["error"]["code"] == "start_failed" and ready["state"] == "ready"


@pytest.mark.parametrize("body", [{}, {"msg": "hello"}, [], b"<html>", b"OK?"])
@pytest.mark.parametrize(
    "words",
    ["ps", "models", "activity", "activity --json", "unload a", "unload --all", "load a", "load --json a", "logs"],
)
def test_a_server_of_another_kind_is_not_believed(server: FakeServer, shell: Shell, words: str, body: object) -> None:
    if words == "logs" and isinstance(body, bytes) and not body.startswith(b"<"):
        return  # any text may be a log
    for key in (
        *("GET /api/models", "GET /api/metrics/activity", "GET /logs/stream"),
        *("POST /api/models/unload", "POST /api/models/unload/a", "POST /api/models/load/a"),
    ):
        server.answers[key] = 200, body
    assert shell(*words.split()) == 1 and shell.out == ""
    assert "does not seem to be a llamaswap" in shell.err or "is it another version" in shell.err


def run_with(server: FakeServer, words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own, since it is about its standard output."""
    environ = os.environ | {"LLAMASWAP_SERVER": server.url, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "llamaswap", *words.split()]
    return subprocess.run(command, env=environ, stderr=subprocess.PIPE, timeout=30, check=False, **options)


def test_names_that_the_terminal_cannot_show(server: FakeServer) -> None:
    server.answers["GET /api/models"] = 200, {"models": [{"id": "ü漢", "state": "stopped"}]}
    done = run_with(server, "models", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"") and rb"\xfc\u6f22" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
@pytest.mark.parametrize("words", ["logs", "models", "completion bash"])
def test_output_that_goes_nowhere(server: FakeServer, words: str) -> None:
    server.answers["GET /logs/stream"] = 200, b"a line\n"
    server.answers["GET /api/models"] = 200, {"models": [{"id": "a", "state": "stopped"}]}
    with open("/dev/full", "wb") as full:
        done = run_with(server, words, stdout=full)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"llamaswap: cannot write the output: ")
    done = run_with(server, words, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (1, b"llamaswap: cannot write the output: it is closed\n")


# -- logs and activity


def test_logs(server: FakeServer, shell: Shell) -> None:
    server.answers["GET /logs/stream"] = 200, b"everything\n"
    server.answers["GET /logs/stream/org/c:q4"] = 200, b"a model's\n"
    assert shell("logs") == 0 and (shell.out, shell.err) == ("everything\n", "")
    assert shell("logs", "-n", "3", "org/c:q4") == 0 and shell.out == "a model's\n"
    assert shell("logs", "-fn0", "org/c:q4") == 0 and "ended the log" in shell.err
    assert server.targets() == [
        "GET /logs/stream?no-follow=",
        "GET /logs/stream/org/c:q4?no-follow=&lines=3",
        "GET /logs/stream/org/c:q4?lines=0",
    ]
    server.answers["GET /logs/stream/x"] = refusal(400, "invalid logger")
    assert shell("logs", "x") == 1 and shell.err == "llamaswap: invalid logger\n"


def row(id: int, **more: Any) -> dict[str, Any]:
    tokens = {"cache_tokens": -1, "input_tokens": 12, "output_tokens": 34, "tokens_per_second": 56.78}
    plain = {
        "id": id, "timestamp": "2026-08-01T12:00:00Z", "model": "qwen", "req_path": "/v1/chat/completions",
        "resp_status_code": 200, "tokens": tokens, "duration_ms": 1500, "queue_ms": 100, "load_ms": 2100,
        "ttfb_ms": None,
    }  # fmt: skip
    return plain | more


def test_activity(server: FakeServer, shell: Shell) -> None:
    rows = [row(2, resp_status_code=502, error_msg="broke\noff", tokens={"input_tokens": -1}), row(1)]
    answer = {"data": rows, "page": 1, "limit": 2, "total": 9, "total_pages": 5}
    server.answers["GET /api/metrics/activity"] = 200, answer
    assert shell("activity", "-n", "2", "--model", "a", "--model", "b/c") == 0
    lines = [re.split(r" {2,}", line.strip()) for line in shell.out.splitlines()]
    assert lines[0] == ["TIME", "MODEL", "PATH", "STATUS", "IN", "OUT", "TOKENS/S", "WAITED", "TOOK", "ERROR"]
    assert lines[1][1:] == ["qwen", "/v1/chat/completions", "200", "12", "34", "56.8", "2.2s", "1.5s", "-"]
    assert lines[2][3:] == ["502", "-", "-", "-", "2.2s", "1.5s", "broke off"]
    assert "2 of 9" in shell.err
    query = parse_qs(urlsplit(server.asked[0].target).query)
    assert query == {"limit": ["2"], "sort": ["id"], "order": ["desc"], "model": ["a", "b/c"]}
    assert shell("activity", "--json") == 0 and json.loads(shell.out) == answer
    server.answers["GET /api/metrics/activity"] = 200, {**answer, "data": [], "total": 0}
    assert shell("activity") == 0 and (shell.out, shell.err) == ("", "no requests were recorded\n")
    assert shell("activity", "--model", "x") == 0 and shell.err == "no requests were recorded that match\n"


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", timedelta(seconds=90)), ("10m", timedelta(minutes=10)), ("2h", timedelta(hours=2)), ("1d", timedelta(1)),
     ("2w", timedelta(14))],
)  # fmt: skip
def test_since_an_age(server: FakeServer, shell: Shell, text: str, ago: timedelta) -> None:
    shell("activity", "--since", text)
    start = datetime.fromisoformat(parse_qs(urlsplit(server.asked[0].target).query)["start"][0])
    assert start.tzinfo and abs(datetime.now().astimezone() - ago - start) < timedelta(seconds=60)


def test_since_a_time(server: FakeServer, shell: Shell) -> None:
    for text in ("2026-08-01T14:30:00+02:00", "2026-08-01T12:30Z"):
        shell("activity", "--since", text)
        start = parse_qs(urlsplit(server.asked[-1].target).query)["start"][0]
        assert datetime.fromisoformat(start) == datetime.fromisoformat("2026-08-01T12:30:00+00:00")
    shell("activity", "--since", "2026-08-01")
    assert "start=2026-08-01T00%3A00%3A00" in server.asked[-1].target


@pytest.mark.parametrize(
    "argv",
    [
        *(("activity", "--since", text) for text in ("", "x", "10", "999999w", "10y", "-1h", "2026-13-01", "٣h")),
        *(("activity", "-n", text) for text in ("0", "1000", "x", "-1", "1.5", "9" * 5000)),
        ("logs", "-n", "-1"), ("logs", "a", "b"), ("load",), ("ps", "--jso"), ("completion",), ("completion", "tcsh"),
        ("schema", "x"), ("ps", "--server", "ftp://x"), ("ps", "--server", "http://x:y"), ("ps", "--timeout", "0"),
        ("load", ""), ("check", "--config-dir"),
    ],
)  # fmt: skip
def test_wrong_usage(server: FakeServer, shell: Shell, argv: tuple[str, ...]) -> None:
    assert shell(*argv) == 2
    assert shell.out == "" and "llamaswap" in shell.err and "Traceback" not in shell.err
    assert server.asked == []


# -- which server, which key


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"), ("127.0.0.1:9000", "http://127.0.0.1:9000"),
        (":9000", "http://127.0.0.1:9000"), ("box", "http://box:8080"), ("https://llm.example.org/", "https://llm.example.org"),
        ("https://x/llm/", "https://x/llm"), ("[::1]:9000", "http://[::1]:9000"), (" http://x ", "http://x"),
    ],
)  # fmt: skip
def test_ways_to_say_where(text: str, url: str) -> None:
    assert parse_server(text) == url


@pytest.mark.parametrize("text", ["http://", "ftp://x", "x:y", "http://u:p@x", "http://x?y", "a b", "[::1", ":"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(CommandError, match="is no server's address") as caught:
        parse_server(text)
    assert caught.value.status == 2


def test_the_flag_wins(server: FakeServer, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["GET /prefix/api/models"] = 200, {"models": []}
    monkeypatch.setenv("LLAMASWAP_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert shell("ps", "--server", f"{server.url}/prefix/") == 0
    assert server.asked[0].headers["user-agent"].startswith("llamaswap/")
    assert "authorization" not in server.asked[0].headers


def test_the_key(server: FakeServer, shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.answers["GET /api/models"] = 200, {"models": []}
    file = tmp_path / "key"
    file.write_text("from-file\n")
    monkeypatch.setenv("LLAMASWAP_API_KEY", "clé")
    assert shell("ps") == shell("ps", "--api-key-file", str(file)) == 0
    sent = [it.headers["authorization"] for it in server.asked]
    assert sent == ["Bearer clé".encode().decode("latin-1"), "Bearer from-file"]
    server.answers["GET /api/models"] = refusal(401, "unauthorized", "unauthorized")
    assert shell("ps") == 1 and "does not accept this API key" in shell.err and "clé" not in shell.err
    monkeypatch.delenv("LLAMASWAP_API_KEY")
    assert shell("ps") == 1 and "LLAMASWAP_API_KEY" in shell.err and "--api-key-file" in shell.err


@pytest.mark.parametrize("content", [b"", b" \n", b"a b", b"a\nb", b"\xff", None])
def test_a_key_that_is_none(server: FakeServer, shell: Shell, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    assert shell("ps", "--api-key-file", str(file)) == 2
    assert shell.err.startswith(f"llamaswap: --api-key-file {file}: ") and shell.err.count("\n") == 1
    assert server.asked == []


# -- servers that are none


def unreachable(shell: Shell, *argv: str) -> str:
    assert shell(*argv) == 3
    assert shell.out == "" and shell.err.startswith("llamaswap: ") and shell.err.count("\n") == 1
    return shell.err


def test_nothing_listens(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    for command in ("ps", "models", "logs", "activity"):
        said = unreachable(shell, command, "--server", f":{port}")
        assert f"nothing listens on http://127.0.0.1:{port}" in said and "--config" in said and "--server" in said
    assert f":{port}" in unreachable(shell, "load", "a", "b", "--server", f":{port}")  # once, not for each model
    assert "no-such-host.invalid" in unreachable(shell, "ps", "--server", "no-such-host.invalid")


def test_one_that_says_nothing(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = unreachable(shell, "ps", "--timeout", "1", "--server", f":{silent.getsockname()[1]}")
    assert "does not answer in time" in said


@pytest.mark.parametrize(
    "answer", [(200, b"<html>hello"), (200, ["x"]), (404, b"not here"), (301, b""), (500, {"a": 1})]
)
def test_somebody_else(server: FakeServer, shell: Shell, answer: tuple[int, Any]) -> None:
    server.answers["GET /api/models"] = answer
    assert shell("ps") == 1
    assert shell.err.startswith(f"llamaswap: what listens on {server.url} does not seem to be a llamaswap")


@pytest.mark.parametrize(
    "answer", [{}, {"models": 3}, {"models": [{}]}, {"models": [{"id": 1, "state": "ready", "memory": 7}]}]
)
def test_an_answer_that_lacks_something(server: FakeServer, shell: Shell, answer: Any) -> None:
    server.answers["GET /api/models"] = 200, answer
    assert shell("ps") == 1
    assert "is not what llamaswap" in shell.err and shell.err.count("\n") == 1
    server.answers["GET /api/metrics/activity"] = 200, answer
    assert shell("activity") == 1 and "is not what llamaswap" in shell.err


def test_an_older_one(server: FakeServer, shell: Shell) -> None:
    assert shell("ps") == 1
    assert "older and does not know /api/models" in shell.err


def test_tls(server: FakeServer, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "none.pem").write_text("nothing")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with fake_server(context) as secure:
        secure.answers["GET /api/models"] = 200, {"models": []}
        monkeypatch.setenv("LLAMASWAP_SERVER", secure.url)
        assert "--ca-file" in unreachable(shell, "ps") and "--insecure" in shell.err
        assert shell("ps", "--ca-file", str(tmp_path / "ca.pem")) == 0
        assert shell("ps", "--insecure") == 0
        assert shell("ps", "--ca-file", str(tmp_path / "none.pem")) == 2 and "no PEM certificate" in shell.err
        assert shell("ps", "--ca-file", str(tmp_path / "gone.pem")) == 2 and "no such file" in shell.err
        assert "does it want https?" in unreachable(shell, "ps", "--server", secure.url.replace("https", "http"))
    assert "is it http?" in unreachable(shell, "ps", "--server", server.url.replace("http", "https"))


# -- check and schema


def test_check(shell: Shell, tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(
        "startPort: 9000\ntypo: 1\nmodels:\n  b: {cmd: 'run ${PORT}\n --x \"two words\"', ttl: 60, aliases: [bee]}\n"
        "  a: {cmd: 'serve', proxy: 'http://127.0.0.1:1'}\n"
    )
    assert shell("check", str(good)) == 0
    lines = [re.split(r" {2,}", line.strip()) for line in shell.out.splitlines()]
    assert lines == [
        ["MODEL", "PORT", "GROUP", "TTL", "ALIASES", "COMMAND"],
        ["a", "-", "(default)", "-", "-", "serve"],
        ["b", "9000", "(default)", "1m", "bee", "run 9000 --x 'two words'"],
        [f"{good}: valid, 2 models, 1 warning"],
    ]
    assert f"{good}:2: typo: " in shell.err and shell.err.count("\n") == 1
    assert shell("check", "--json", str(good)) == 0
    told = json.loads(shell.out)
    assert told["ok"] and told["models"][1]["argv"] == ["run", "9000", "--x", "two words"]
    assert told["warnings"][0]["line"] == 2 and told["errors"] == []


def test_check_tells_all_mistakes(shell: Shell, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("models:\n  a:\n    cmd: x ${PORT}\n    ttl: ten\n    cmdd: y\nlogToStdout: maybe\n")
    assert shell("check", str(bad)) == 1 and shell.out == ""
    assert [line.partition(": ")[0] for line in shell.err.splitlines()] == [
        f"{bad}:4", f"{bad}:5", f"{bad}:6", "2 problems in the configuration",
    ]  # fmt: skip
    assert "(a warning)" in shell.err.splitlines()[1]
    assert shell("check", "--json", str(bad)) == 1
    told = json.loads(shell.out)
    assert not told["ok"] and [error["line"] for error in told["errors"]] == [4, 6]


def test_check_looks_at_the_place_of_the_store(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"store: {{path: {tmp_path}}}\n")
    assert shell("check", str(file)) == 1 and "is a directory, not a file" in shell.err
    file.write_text(f"store: {{path: {tmp_path / 'x.db'}}}\n")
    assert shell("check", str(file)) == 0 and not (tmp_path / "x.db").exists()


def test_check_of_a_directory(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text("models: {a: {cmd: 'x ${PORT}'}}\n")
    (tmp_path / "2.yml").write_text("models: {b: {cmd: 'y ${PORT}'}}\n")
    assert shell("check", "--config-dir", str(tmp_path)) == 0 and "2 models" in shell.out
    (tmp_path / "2.yml").write_text("\nmodels: {a: {cmd: 'y ${PORT}'}}\n")
    assert shell("check", "--config-dir", str(tmp_path)) == 1 and f"{tmp_path / '2.yml'}:2" in shell.err
    assert shell("check", str(tmp_path)) == 2 and "--config-dir" in shell.err


def test_check_of_nothing(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shell("check") == 2 and "config.yaml" in shell.err
    assert shell("check", "gone.yaml") == 1 and "gone.yaml: cannot read" in shell.err
    Path("config.yaml").write_text("")
    assert shell("check") == 0 and shell.out == "config.yaml: valid, 0 models\n"


def test_schema(shell: Shell) -> None:
    assert shell("schema") == 0
    assert shell.out == (Path(__file__).parents[2] / "config-schema.json").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_disk_that_is_full() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "llamaswap", "schema"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"llamaswap: cannot write the output: No space left on device\n")


# -- help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(shell: Shell, name: str) -> None:
    for flag in ("--help", "-h"):
        assert shell(name, flag) == 0
        assert shell.out.startswith(f"usage: llamaswap {name}") and shell.err == ""
    command = COMMANDS[name]
    for flag in (*command.flags, *command.shared):
        assert flag.names[-1] in shell.out
    assert ("--server URL" in shell.out) == command.asks
    assert is_command([name]) and not is_command(["--config", name]) and not is_command([])
