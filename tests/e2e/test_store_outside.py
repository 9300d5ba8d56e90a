"""The store from outside: a file survives whatever ends the server, and one that cannot be used is said at start."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness import Stage, stage, until

RUN_S = 30


def activity(on: Stage, query: str = "") -> list[dict[str, Any]]:
    answer = on.get(f"/api/metrics/activity?{query}")
    assert answer.status == 200, answer
    data: list[dict[str, Any]] = answer.json["data"]
    return data


def test_what_a_killed_server_leaves(pyz: Path, tmp_path: Path) -> None:
    file = tmp_path / "activity.db"
    with stage(pyz, tmp_path, {"a": {"aliases": ["alias"]}, "b": {}}, store={"path": str(file)}) as on:
        assert on.ask("alias").status == 200
        assert on.ask("a", stream=True).status == 200
        assert on.ask("b", status=418).status == 418
        newest, middle, oldest = activity(on)
        assert (oldest["id"], oldest["model"], oldest["requested"]) == (1, "a", "alias")
        assert oldest["load_ms"] > 0 and oldest["has_capture"]
        assert middle["resp_content_type"] == "text/event-stream" and middle["load_ms"] == 0
        assert (newest["id"], newest["resp_status_code"]) == (3, 418) and newest["error_msg"]
        assert on.get("/api/captures/1").json["req_path"] == "/v1/chat/completions"

        def written() -> list[Any]:
            with closing(sqlite3.connect(file)) as connection:
                return connection.execute("SELECT id, model FROM activity ORDER BY id").fetchall()

        until(lambda: len(written()) == 3, "all of it is in the file")
        on.signal(signal.SIGKILL)
        on.process.wait()
        until(lambda: not on.processes(), "the models are gone as well")
        assert written() == [(1, "a"), (2, "a"), (3, "b")]

        on.restart(pyz)
        assert [row["id"] for row in activity(on)] == [3, 2, 1]
        assert not any(row["has_capture"] for row in activity(on))
        assert on.ask("b").status == 200
        assert [row["id"] for row in activity(on, "model=b")] == [4, 3]
        [loads] = [model["load"]["typical_s"] for model in on.get("/api/models").json["models"] if model["id"] == "a"]
        assert loads > 0, "learned before it was killed"
        on.signal(signal.SIGTERM)
        on.ends(0)
        assert len(written()) == 4
        with closing(sqlite3.connect(file)) as connection:
            states = [
                state for (state,) in connection.execute("SELECT state FROM states WHERE model = 'b' ORDER BY id")
            ]
        assert states[-3:] == ["starting", "ready", "stopped"]
    assert sorted(path.name for path in tmp_path.glob("activity.db*")) == ["activity.db"]


def test_the_last_requests_of_an_orderly_end_are_kept(pyz: Path, tmp_path: Path) -> None:
    file = tmp_path / "activity.db"
    with stage(pyz, tmp_path, {"a": {}}, store={"path": str(file)}) as on:
        held = on.hold("a", "gate")
        on.signal(signal.SIGTERM)
        on.open("gate")
        assert held.wait().status == 200
        on.ends(0)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT model, resp_status_code FROM activity").fetchall() == [("a", 200)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a directory, not a file"),
        (lambda path: path.write_text("hello " * 1000), "is damaged or no database"),
        (lambda path: path.parent.rmdir(), "is not writable: there is no directory"),
    ],
)
def test_a_file_that_cannot_be_used(pyz: Path, tmp_path: Path, make: Any, message: str) -> None:
    path = tmp_path / "place" / "x.db"
    path.parent.mkdir()
    make(path)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"models": {"a": {"cmd": "true ${PORT}"}}, "store": {"path": str(path)}}))
    done = subprocess.run(
        [sys.executable, str(pyz), "--config", str(config), "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 1
    assert f"llamaswap: store.path {str(path)!r} {message}" in done.stderr
    assert "Traceback" not in done.stderr
