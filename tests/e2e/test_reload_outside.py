"""Reloading the running program: by signal, by file, by route; and what it must not disturb."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clients import Call
from harness import Stage, command, stage, until

STREAMS = 64
MODELS = 50
CHUNKS = 60
TOGETHER = {"all": {"swap": False, "members": ["m00", "m01", "m02"]}}


def write(on: Stage, config: Mapping[str, Any], how: str = "replace") -> None:
    text = json.dumps(config, indent=1)
    path = on.directory / "config.yaml"
    if how == "in place":
        path.write_text(text)
        return
    fresh = on.directory / ".config.yaml.swp"
    fresh.write_text(text)
    fresh.replace(path)


def configuration(on: Stage) -> dict[str, Any]:
    return dict(json.loads((on.directory / "config.yaml").read_text()))


def reload(on: Stage) -> dict[str, Any]:
    answer = on.post("/api/config/reload", b"")
    assert answer.status == 200, answer
    return dict(answer.json)


def until_log(on: Stage, text: str, count: int = 1) -> None:
    until(lambda: on.log().count(text) >= count, lambda: f"{count} times {text!r} in the log:\n{on.log()[-3000:]}")


@pytest.fixture
def few(pyz: Path, tmp_path: Path) -> Iterator[Stage]:
    models = {id: {"concurrencyLimit": 100} for id in ("m00", "m01", "m02")}
    with stage(pyz, tmp_path, models, flags=("--watch-config",), groups=TOGETHER, unloadTimeout=3) as on:
        until_log(on, "--watch-config: reloading whenever")
        yield on


def test_sixty_four_streams_are_not_disturbed_byte_for_byte(pyz: Path, tmp_path: Path) -> None:
    """One model of fifty changes, is added, is removed, and back, by every way there is; a bad file comes between."""
    models = {f"m{n:02}": {"concurrencyLimit": STREAMS} for n in range(MODELS)}
    groups = {"all": {"swap": False, "members": ["m00", "m01", "m02"]}}
    with stage(pyz, tmp_path, models, flags=("--watch-config",), groups=groups, unloadTimeout=3) as on:
        undisturbed = {id: on.ask(id, stream=True, chunks=CHUNKS) for id in ("m00", "m01")}
        assert all(answer.complete and answer.body.count(b"data:") == CHUNKS + 1 for answer in undisturbed.values())
        assert on.ask("m02").status == 200
        before = (on.pid("m00"), on.pid("m01"))
        calls = [
            on.call(f"m0{n % 2}", stream=True, chunks=CHUNKS, gap_s=0.05, chunk_gate="go on") for n in range(STREAMS)
        ]
        for call in calls:
            call.until_body(b'"n": 0}')
        on.open("go on")
        whole = configuration(on)
        changed = json.loads(json.dumps(whole))
        changed["models"]["m02"]["env"] = ["CHANGED=1"]
        write(on, changed)
        until_log(on, "changed m02")
        fewer = json.loads(json.dumps(changed))
        del fewer["models"]["m49"]
        fewer["models"]["a-first"] = {"cmd": command(on.home)}  # before all others, where ports are numbered
        write(on, fewer, "in place")
        until_log(on, "added a-first")
        (on.directory / "config.yaml").write_text("models: [\n")
        until_log(on, "stays in force")
        write(on, whole)
        until_log(on, "removed a-first")
        on.process.send_signal(signal.SIGHUP)
        until_log(on, "SIGHUP: reloaded")
        again = reload(on)
        assert (again["unchanged"], again["changed"], again["added"], again["removed"]) == (MODELS, [], [], [])
        assert not any(call.over for call in calls), "the streams were to outlast the reloads"
        for n, call in enumerate(calls):
            answer = call.wait(60)
            assert answer.complete, answer.trouble
            assert answer.body == undisturbed[f"m0{n % 2}"].body
        assert (on.pid("m00"), on.pid("m01")) == before
        assert not any(line["model"] in ("m00", "m01") for line in on.journal("start")[3:])
        took_ms = [int(ms) for ms in re.findall(r"reloaded in (\d+) ms", on.log())]
        assert len(took_ms) == 5 and sorted(took_ms)[2] < 1000, took_ms  # a busy machine; benchmarks measure it


def test_a_changed_model_drains_and_the_next_request_gets_the_new_one(few: Stage) -> None:
    held = few.hold("m00", "gate")
    first = few.pid("m00")
    config = configuration(few)
    config["models"]["m00"]["env"] = ["WHICH=second"]
    write(few, config)
    until_log(few, "changed m00")
    waiting = few.queue("m00", env=["WHICH"])
    assert not held.over and few.pid("m00") == first
    few.open("gate")
    assert held.wait().status == 200
    answer = waiting.wait()
    assert answer.status == 200 and answer.json["env"] == {"WHICH": "second"}
    assert few.pid("m00") != first


@pytest.mark.parametrize("how", ["loading", "with frames", "queued"])
def test_who_waits_under_a_name_gets_the_model_that_has_it_now(few: Stage, how: str) -> None:
    """A model is renamed, its alias stays: the request has never asked for anything else."""
    config = configuration(few)
    config["groups"] = {}
    config["models"]["m00"] |= {"aliases": ["prod"], "sendLoadingState": how == "with frames"}
    write(few, config)
    reload(few)
    if how == "queued":
        held = few.hold("m01", "gate")
    else:
        few.script("m00", health_gate="up")
    call = few.call("prod", tag="it", stream=how == "with frames")

    def waits() -> bool:
        [entry] = [entry for entry in few.get("/api/models").json["models"] if entry["id"] == "m00"]
        return bool(entry["queued"])

    until(waits, lambda: few.log()[-2000:])
    config["models"]["m09"] = config["models"].pop("m00")
    write(few, config)
    reload(few)
    few.open("gate" if how == "queued" else "up")
    answer = call.wait()
    assert answer.status == 200 and answer.complete, answer
    if how == "with frames":
        assert b"loading model: m09" in answer.body and answer.body.endswith(b"data: [DONE]\n\n")
    if how == "queued":
        assert held.wait().status == 200
    newest = few.get("/api/metrics/activity").json["data"]
    assert {(row["model"], row["resp_status_code"]) for row in newest if row["requested"] == "prod"} == {("m09", 200)}


def removed_while_held(few: Stage) -> Call:
    """A request to a model that a reload has removed meanwhile; the gate lets it end."""
    held = few.hold("m00", "gate")
    config = configuration(few)
    del config["models"]["m00"]
    config["groups"]["all"]["members"].remove("m00")
    write(few, config, "in place")
    until_log(few, "removed m00")
    return held


def test_a_removed_model_finishes_what_it_has(few: Stage) -> None:
    held = removed_while_held(few)
    refused = few.ask("m00")
    assert refused.refusal == (404, "model_not_found")
    assert few.lives("m00") and not held.over
    [running] = few.get("/running").json["running"]
    assert (running["model"], running["state"]) == ("m00", "ready")
    gone = {entry["id"]: entry for entry in few.get("/api/models").json["models"]}["m00"]
    assert gone["removed"] is True and gone["pid"] == few.pid("m00") and gone["in_flight"] == 1
    few.open("gate")
    assert held.wait().status == 200
    until(lambda: few.processes() == [], "it stops")
    until(lambda: few.get("/running").json["running"] == [], "it is forgotten")
    assert "m00" not in {entry["id"] for entry in few.get("/api/models").json["models"]}


def test_a_removed_model_can_be_unloaded(few: Stage) -> None:
    held = removed_while_held(few)
    assert few.post("/api/models/unload/m00", b"").status == 200
    assert not few.lives("m00") and held.wait().status != 200
    assert few.post("/api/models/unload/m00", b"").status == 404


def test_a_bad_file_is_told_once_and_changes_nothing(few: Stage) -> None:
    few.ask("m00")
    config = configuration(few)
    path = few.directory / "config.yaml"
    path.write_text('{"models": {"m00": {"ttl": "ten", "cmd": "x ${PORT}"}}}')
    until_log(few, "stays in force")
    os.utime(path, (1, 1))  # looked at again, and nothing to tell
    bad = few.get("/api/config").json
    assert bad["errors"][0]["line"] == 1 and "ttl" in bad["errors"][0]["key"]
    assert bad["last_reload"]["ok"] is False and set(bad["effective"]["models"]) == set(config["models"])
    answer = few.post("/api/config/reload", b"")
    assert answer.status == 400 and "models.m00.ttl" in answer.error["message"]
    assert few.log().count("the configuration has changed: not reloaded") == 1
    write(few, {**config, "logLevel": "debug"})
    until_log(few, "settings logLevel")
    good = few.get("/api/config").json
    assert good["errors"] == [] and good["last_reload"]["settings"] == ["logLevel"]
    until_log(few, 'DEBUG] Request 127.0.0.1 "GET /api/config')
    assert few.ask("m00").json["pid"] == few.pid("m00") and len(few.journal("start")) == 1


def test_keys_and_limits_count_at_once(few: Stage) -> None:
    config = configuration(few)
    write(few, {**config, "apiKeys": ["sesame"], "maxRequestBodyMiB": 0.001, "logToStdout": "both"})
    until_log(few, "settings apiKeys")
    until_log(few, "logToStdout has changed; that takes effect with the next start")
    assert few.ask("m00").status == few.get("/running").status == 401
    key = {"Authorization": "Bearer sesame"}
    assert few.get("/running", key).status == 200
    assert few.post("/v1/chat/completions", b'{"model": "m00", "x": "%s"}' % (b"x" * 3000), key).status == 413
    shown = few.get("/api/config", key)
    assert b"sesame" not in shown.body and shown.json["last_reload"]["restart_needed"] == ["logToStdout"]
    few.settings = {}
    write(few, config)
    until_log(few, "settings apiKeys", 2)
    assert few.ask("m00").status == 200


def test_a_swap_of_kubernetes_links(pyz: Path, tmp_path: Path) -> None:
    """And a directory of files: what a ConfigMap's mount looks like."""
    mount = tmp_path / "mount"
    with stage(pyz, tmp_path, {"m00": {}}, flags=("--watch-config", "--config-dir", str(version(mount, 1)))) as on:
        until_log(on, "--watch-config: reloading whenever")
        assert [m["id"] for m in on.get("/v1/models").json["data"]] == ["m00", "v1"]
        call: Call = on.hold("m00", "gate")
        version(mount, 2)
        until_log(on, "added v2; removed v1")
        assert [m["id"] for m in on.get("/v1/models").json["data"]] == ["m00", "v2"]
        on.open("gate")
        assert call.wait().status == 200 and len(on.journal("start")) == 1


def version(mount: Path, number: int) -> Path:
    data = mount / f"..v{number}"
    data.mkdir(parents=True)
    (data / "models.yaml").write_text(json.dumps({"models": {f"v{number}": {"cmd": "x ${PORT}"}}}))
    (mount / "..data_tmp").symlink_to(data.name)
    (mount / "..data_tmp").rename(mount / "..data")
    if not (mount / "models.yaml").is_symlink():
        (mount / "models.yaml").symlink_to("..data/models.yaml")
    return mount


def test_many_signals_in_a_row(few: Stage) -> None:
    few.ask("m00")
    for _ in range(20):
        few.process.send_signal(signal.SIGHUP)
    until_log(few, "SIGHUP: reloaded")
    assert few.ask("m00").status == 200 and len(few.journal("start")) == 1
