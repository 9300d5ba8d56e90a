"""The commands of the built program against a running one: what a person at a terminal sees."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import DEADLINE_S
from harness import Stage, stage, until

KEY = "secret-key"
RUN_S = 30


@pytest.fixture(scope="module")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    models = {"a": {"ttl": 900}, "org/b:q4": {"aliases": ["bee"], "ttl": 0}, "bad": {}}
    with stage(pyz, tmp_path_factory.mktemp("commands"), models, unloadTimeout=2) as on:
        yield on


@pytest.fixture
def on(shared: Stage) -> Iterator[Stage]:
    yield shared
    shared.unload()
    shared.forget()


@pytest.fixture
def run(on: Stage, pyz: Path):  # type: ignore[no-untyped-def]
    def go(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        where = {"LLAMASWAP_SERVER": f"127.0.0.1:{on.port}", **environment}
        done = subprocess.run(
            [sys.executable, str(pyz), *arguments],
            capture_output=True, text=True, timeout=RUN_S, env={**os.environ, **where}, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done
        return done

    return go


def rows(told: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in told.splitlines()]


def test_load_look_unload(on: Stage, run) -> None:  # type: ignore[no-untyped-def]
    assert run("ps").stderr == "no model is loaded\n"
    done = run("load", "bee")
    assert done.returncode == 0 and re.fullmatch(r"bee: ready after [\d.]+s\n", done.stdout), done
    assert on.running() == {"org/b:q4": "ready"}
    head, line = rows(run("ps").stdout)
    shown = dict(zip(head, line, strict=True))
    assert (shown["MODEL"], shown["STATE"], shown["PID"]) == ("org/b:q4", "ready", str(on.pid("org/b:q4")))
    assert shown["UNLOADS IN"] == "never"
    listed = json.loads(run("models", "--json").stdout)
    assert listed.keys() == on.get("/api/models").json.keys()
    assert [model["id"] for model in listed["models"]] == ["a", "bad", "org/b:q4"]
    assert run("models", "-q").stdout == "a\nbad\norg/b:q4\n"
    done = run("unload", "bee")
    assert (done.returncode, done.stdout) == (0, "bee: unloaded\n")
    assert on.running() == {}


def test_a_ttl_counts_down(run) -> None:  # type: ignore[no-untyped-def]
    assert run("load", "a").returncode == 0
    head, line = rows(run("ps").stdout)
    assert re.fullmatch(r"1[45]m(\d\ds)?", dict(zip(head, line, strict=True))["UNLOADS IN"])


def test_a_model_that_does_not_start(on: Stage, run) -> None:  # type: ignore[no-untyped-def]
    on.script("bad", say="no such file\n", exit=3)
    done = run("load", "bad", "a")
    assert done.returncode == 1
    assert "bad" in done.stderr and "no such file" in done.stderr and "3" in done.stderr, done.stderr
    assert done.stdout.startswith("a: ready")
    shown = {line[0]: line for line in rows(run("models").stdout)}
    assert shown["bad"][1] == "failed" and shown["a"][1] == "ready"
    done = run("load", "nobody")
    assert done.returncode == 1 and "nobody" in done.stderr and done.stderr.count("\n") == 1


def test_without_waiting(on: Stage, run) -> None:  # type: ignore[no-untyped-def]
    on.script("a", health_gate="now")
    done = run("load", "--no-wait", "a")
    assert (done.returncode, done.stdout) == (0, "a: starting\n")
    assert rows(run("ps").stdout)[1][1].startswith("starting")
    assert run("unload", "--all").stdout == "all models are unloaded\n"


def test_activity(on: Stage, run) -> None:  # type: ignore[no-untyped-def]
    assert on.ask("bee").status == 200
    assert on.ask("a").status == 200
    done = run("activity", "--model", "org/b:q4")
    assert done.returncode == 0, done
    last = rows(done.stdout)[-1]
    assert last[1:4] == ["org/b:q4", "/v1/chat/completions", "200"]
    told = json.loads(run("activity", "--json", "-n", "1").stdout)
    assert [row["model"] for row in told["data"]] == ["a"] and told["total"] >= 2
    assert run("activity", "--since", "2999-01-01").stderr == "no requests were recorded that match\n"


def test_logs(on: Stage, run) -> None:  # type: ignore[no-untyped-def]
    on.script("a", say="one\ntwo\n")
    assert on.ask("a").status == 200
    on.unload()
    said = run("logs", "a").stdout
    assert "one\ntwo\n" in said
    assert run("logs", "-n1", "a").stdout == said.splitlines(keepends=True)[-1]
    assert "starting a" in run("logs", "proxy").stdout and "one" not in run("logs", "proxy").stdout
    assert "two" in run("logs").stdout
    assert (run("logs", "nobody").returncode, run("logs", "a", "bee").returncode) == (1, 2)


def follow(on: Stage, pyz: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(pyz), "logs", "-f", "--server", f"127.0.0.1:{on.port}", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
    )  # fmt: skip


def test_following_a_log_until_ctrl_c(on: Stage, pyz: Path) -> None:
    on.script("a", say="said by a\n")
    with follow(on, pyz, "-n", "5", "a") as reader:
        assert reader.stdout is not None and reader.stderr is not None
        try:
            assert on.ask("a").status == 200
            while b"said by a" not in reader.stdout.readline():
                assert reader.poll() is None
            reader.send_signal(signal.SIGINT)
            assert reader.wait(DEADLINE_S) == 130
            assert reader.stderr.read() == b""
        finally:
            reader.kill()


def test_a_reader_that_has_had_enough(on: Stage, pyz: Path) -> None:
    assert on.ask("a").status == 200
    with follow(on, pyz) as reader:
        assert reader.stdout is not None and reader.stderr is not None
        try:
            assert reader.stdout.readline()
            reader.stdout.close()
            until(lambda: on.ask("a").status == 200 and reader.poll() is not None, "it ends with its reader")
            assert reader.returncode == 141 and reader.stderr.read() == b""
        finally:
            reader.kill()


def test_a_terminal_gets_colours_and_its_width(on: Stage, pyz: Path) -> None:
    assert on.ask("a").status == 200

    def shown(**environment: str) -> str:
        ours, theirs = pty.openpty()
        try:
            where = {"LLAMASWAP_SERVER": f"127.0.0.1:{on.port}", "TERM": "xterm", "COLUMNS": "60", **environment}
            subprocess.run(
                [sys.executable, str(pyz), "models"], stdout=theirs, env={**os.environ, **where}, timeout=RUN_S
            )
            return os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)

    coloured = shown()
    assert "\x1b[32mready\x1b[0m" in coloured
    plain = shown(NO_COLOR="1")
    assert "\x1b" not in plain and "ready" in plain
    assert max(map(len, plain.splitlines())) <= 60


def test_keys(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    with stage(pyz, tmp_path / "stage", {"a": {}}, apiKeys=[KEY]) as on:

        def status(*arguments: str, **environment: str) -> int:
            place = {"LLAMASWAP_SERVER": f"127.0.0.1:{on.port}", **environment}
            command = [sys.executable, str(pyz), "models", *arguments]
            return subprocess.run(command, capture_output=True, env={**os.environ, **place}, timeout=RUN_S).returncode

        assert status() == 1
        assert status(LLAMASWAP_API_KEY=KEY) == 0
        assert status("--api-key-file", str(tmp_path / "key")) == 0
        assert status(LLAMASWAP_API_KEY="wrong") == 1


def test_check_is_quick_and_needs_no_server(pyz: Path, tmp_path: Path) -> None:
    """What it imports is what makes it slow: no event loop and no HTTP for what needs none."""
    (tmp_path / "config.yaml").write_text("models: {a: {cmd: 'serve ${PORT}'}}\n")
    for arguments, more in ((("check",), {"ssl"}), (("ps",), {"yaml"})):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(pyz), *arguments],
            capture_output=True, text=True, cwd=tmp_path, timeout=RUN_S,
            env={**os.environ, "LLAMASWAP_SERVER": "127.0.0.1:1"}, check=False,
        )  # fmt: skip
        assert done.returncode == (0 if arguments == ("check",) else 3)
        imported = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
        assert "argparse" in imported and not imported & {"trio", "httpx", "quart", "hypercorn", *more}
