"""Reloading from real files, over a fleet without processes."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from fakes import FakeLauncher
from trio.testing import wait_all_tasks_blocked

from llamaswap.config import Config, Place, load_sources
from llamaswap.errors import BadRequest
from llamaswap.observe.logs import Logs
from llamaswap.reload import NOWHERE, Origin, Reloader
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet, Lease

LIMIT_S = 10.0
PLAIN = ["python", "-S", "-E", "stub.py", "--port", "${PORT}"]


def model(*options: str, **settings: object) -> dict[str, object]:
    return {"cmd": " ".join([*PLAIN, *options]), **settings}


class Rig:
    def __init__(self, place: Place) -> None:
        self.place = place
        sources = tuple(place.read())
        config = load_sources(sources)
        self.launcher = FakeLauncher()
        self.fleet = Fleet(config, Catalogue(config), Logs(to_stdout="none"), launcher=self.launcher)
        self.reloader = Reloader(Origin(place, sources), config, self.fleet)
        self.applied: list[Config] = []
        self.told: list[Mapping[str, object]] = []
        self.reloader.on_apply(lambda config, catalogue: self.applied.append(config))
        self.reloader.on_reload.append(self.told.append)

    def write(self, **config: object) -> None:
        assert self.place.file is not None
        self.place.file.write_text(json.dumps(config))

    async def load(self, id: str) -> Lease:
        lease = self.fleet.submit(self.reloader.config.models[id])
        await lease.wait()
        return lease

    def state(self, id: str) -> State:
        return self.fleet.view(id).state


@asynccontextmanager
async def rig(path: Path, directory: Path | None = None, **config: object) -> AsyncIterator[Rig]:
    file = path / "config.yaml"
    file.write_text(json.dumps(config))
    it = Rig(Place(file, directory))
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(it.fleet.run)
            yield it
            nursery.cancel_scope.cancel()


async def test_what_changed_is_told_and_applied(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model(), "b": model(), "c": model()}) as r:
        lease = await r.load("b")
        r.write(models={"0": model(), "b": model(ttl=9), "c": model("--say", "x")}, logLevel="warn", logToStdout="both")
        outcome = await r.reloader.reload("test")
        assert outcome is not None
        record = outcome.record()
        assert record.pop("at")
        assert record == {
            "ok": True,
            "added": ["0"],
            "changed": ["c"],
            "updated": ["b"],
            "removed": ["a"],
            "unchanged": 0,
            "settings": ["logLevel", "logToStdout"],
            "restart_needed": ["logToStdout"],
            "errors": [],
        }
        assert r.told == [outcome.record()] and r.applied == [r.reloader.config]
        # Its port stays; nobody else gets it, nor those that were given out before.
        assert r.reloader.config.ports() == {"0": 5803, "b": 5801, "c": 5802}
        assert r.reloader.catalogue.get("a") is None and r.reloader.catalogue.get("0") is not None
        assert lease.upstream.model is r.reloader.config.models["b"]
        lease.release()


async def test_what_only_a_restart_applies_is_told_until_then(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        store = {"path": str(tmp_path / "x.db")}
        for _ in range(2):
            r.write(models={"a": model()}, store=store)
            outcome = await r.reloader.reload("test")
            assert outcome is not None and outcome.diff.restart_needed == ("store.path",)
        r.write(models={"a": model()})
        outcome = await r.reloader.reload("test")
        assert outcome is not None and not outcome.diff.restart_needed and outcome.diff.settings


async def test_a_store_that_the_next_start_could_not_open_is_refused(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        before = r.reloader.config
        r.write(models={"a": model()}, store={"path": str(tmp_path)})
        outcome = await r.reloader.reload("test")
        assert outcome is not None and r.reloader.config is before
        [problem] = outcome.problems
        assert problem.key == "store.path" and "is a directory, not a file" in problem.message


async def test_an_error_changes_nothing_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        before = r.reloader.config
        assert r.place.file is not None
        r.place.file.write_text("models:\n  a:\n    cmd: ${PORT}\n    ttl: ten\n    tttl: 1\n")
        outcome = await r.reloader.reload("test")
        assert outcome is not None and not outcome.diff
        assert r.reloader.config is before and r.applied == []
        shown = await r.reloader.show()
        assert [(e["line"], e["key"]) for e in shown["errors"]] == [(4, "models.a.ttl")]
        assert [w["key"] for w in shown["warnings"]] == ["models.a.tttl"]
        assert shown["text"].startswith("models:\n") and shown["effective"]["models"]["a"]["port"] == 5800
        assert shown["last_reload"]["ok"] is False and shown["last_reload"]["errors"] == shown["errors"]
        assert r.told == [outcome.record()]
        assert "must be a number of seconds" in caplog.text and "stays in force" in caplog.text
        with pytest.raises(BadRequest, match=r"not reloaded: .*config\.yaml:4: models\.a\.ttl: must be a number"):
            await r.reloader.reload_now()
        r.write(models={"a": model()})
        assert (await r.reloader.reload_now())["ok"] is True
        assert (await r.reloader.show())["errors"] == []


async def test_a_part_that_fails_keeps_nobody_else_from_the_new_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:

        def fails(config: Config, catalogue: Catalogue) -> None:
            raise RuntimeError("a bug")

        r.reloader.on_apply(fails)
        later: list[Config] = []
        r.reloader.on_apply(lambda config, catalogue: later.append(config))
        r.write(models={"b": model()})
        assert (await r.reloader.reload_now())["ok"] is True
        assert later == [r.reloader.config] and [view.id for view in r.fleet.views()] == ["b"]
        assert "a bug" in caplog.text


async def test_a_bug_in_reading_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        monkeypatch.setattr("llamaswap.reload.load_sources", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(BadRequest, match="internal error"):
            await r.reloader.reload_now()
        assert list(r.reloader.config.models) == ["a"]


async def test_an_empty_file_is_no_wish_to_have_no_models(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        assert r.place.file is not None
        r.place.file.write_text(" \n")
        with pytest.raises(BadRequest, match="is empty, and ignored"):
            await r.reloader.reload_now()
        assert list(r.reloader.config.models) == ["a"]


async def test_what_says_the_same_is_not_reloaded_for_its_looks(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        assert await r.reloader.reload("test", if_changed=True) is None
        assert r.place.file is not None
        r.place.file.write_text("models: [")
        assert await r.reloader.reload("test", if_changed=True) is not None
        assert await r.reloader.reload("test", if_changed=True) is None  # told once is enough
        assert await r.reloader.reload("test") is not None
        r.place.file.unlink()
        assert await r.reloader.reload("test", if_changed=True) is not None
        assert await r.reloader.reload("test", if_changed=True) is None


async def test_a_new_startport_is_for_those_that_do_not_run(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model(), "b": model()}) as r:
        lease = await r.load("b")
        r.write(startPort=7000, models={"a": model(), "b": model(), "c": model()})
        outcome = await r.reloader.reload("test")
        assert outcome is not None and outcome.diff.changed == ("a",) and outcome.diff.unchanged == ("b",)
        assert r.reloader.config.ports() == {"a": 7000, "b": 5801, "c": 7001}
        lease.release()


async def test_a_port_is_nobody_elses_while_its_process_drains(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        lease = await r.load("a")
        r.write(models={"b": model()})
        await r.reloader.reload("test")
        r.write(models={"b": model(), "c": model()})
        await r.reloader.reload("test")
        assert r.reloader.config.ports() == {"b": 5801, "c": 5802}
        r.write(models={"a": model(), "b": model(), "c": model()})
        await r.reloader.reload("test")
        assert r.reloader.config.ports()["a"] == 5800
        again = await r.load("a")
        assert again.upstream is lease.upstream
        for one in (lease, again):
            one.release()


async def test_preload_what_is_new_on_the_list_and_what_changed_while_it_was_loaded(tmp_path: Path) -> None:
    groups = {"g": {"swap": False, "members": ["a", "b", "c", "d"]}}
    models = {id: model() for id in "abcd"}
    async with rig(tmp_path, models=models, groups=groups, hooks={"on_startup": {"preload": ["a", "b", "d"]}}) as r:
        lease = await r.load("a")
        models |= {"a": model("--say", "x"), "b": model("--say", "y")}
        r.write(models=models, groups=groups, hooks={"on_startup": {"preload": ["a", "b", "c", "d"]}})
        await r.reloader.reload("test")
        await wait_all_tasks_blocked()
        # b and d were not loaded, and nobody asked for them again
        assert r.launcher.started == ["a", "c"] and r.state("c") is State.READY
        lease.release()
        await wait_all_tasks_blocked(0.01)
        assert r.launcher.started == ["a", "c", "a"] and r.state("a") is State.READY
        assert all(view.in_flight == view.queued == 0 for view in r.fleet.views())


async def test_a_preload_that_fails_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rig(tmp_path, models={}) as r:
        r.write(models={"a": model("--exit", "3")}, hooks={"on_startup": {"preload": ["a"]}})
        await r.reloader.reload("test")
        await wait_all_tasks_blocked()
        assert "preload of a failed" in caplog.text and r.fleet.view("a").in_flight == 0


async def test_one_after_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r:
        r.write(models={"a": model(), "b": model()})
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(r.reloader.reload, "test")
        assert [told["added"] for told in r.told] == [["b"], [], [], [], []]


async def test_a_file_that_cannot_be_read_to_its_end_keeps_nothing_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe nobody writes into; a network file system that has gone away is the same."""
    monkeypatch.setattr("llamaswap.reload.READ_S", 0.05)
    async with rig(tmp_path, models={"a": model()}) as r:
        file = r.place.file
        assert file is not None
        file.unlink()
        os.mkfifo(file)
        for _ in range(2):
            with pytest.raises(BadRequest, match=r"config\.yaml: cannot be read: no answer from the file system"):
                await r.reloader.reload_now()
        async with trio.open_nursery() as nursery:  # as when the server ends meanwhile
            monkeypatch.setattr("llamaswap.reload.READ_S", 1e9)
            nursery.start_soon(r.reloader.reload, "test")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))  # lets the first reader go
        file.unlink()
        r.write(models={"a": model(), "b": model()})
        monkeypatch.setattr("llamaswap.reload.READ_S", LIMIT_S)
        assert (await r.reloader.reload_now())["added"] == ["b"]


async def test_a_directory_and_its_problems(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "b.yaml").write_text(json.dumps({"models": {"b": model()}}))
    async with rig(tmp_path, directory, models={"a": model()}, apiKeys=["sk-0123"]) as r:
        (directory / "c.yaml").write_text(json.dumps({"models": {"b": model()}}))
        with pytest.raises(BadRequest, match=r'c\.yaml:1: models\.b: duplicate models "b" found in .*c\.yaml'):
            await r.reloader.reload_now()
        (directory / "c.yaml").write_text("macros: {my_token: sk-4567}\n")
        (directory / "b.yaml").unlink()
        assert (await r.reloader.reload_now())["removed"] == ["b"]
        shown = await r.reloader.show()
        assert [Path(file["path"]).name for file in shown["files"]] == ["config.yaml", "c.yaml"]
        assert shown["path"] == str(tmp_path / "config.yaml") and shown["dir"] == str(directory)
        assert "sk-" not in json.dumps(shown) and "my_token" in shown["text"]


async def test_secrets_of_a_file_that_was_refused_are_not_shown_either(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}, apiKeys=["sk-old"]) as r:
        assert r.place.file is not None
        r.place.file.write_text("apiKeys:\n  - sk-new\n  - sk-old\nmodels: [\n")
        await r.reloader.reload("test")
        shown = await r.reloader.show()
        assert "sk-" not in json.dumps(shown) and "apiKeys" in shown["text"] and shown["errors"]


async def test_the_watch_reloads(tmp_path: Path) -> None:
    async with rig(tmp_path, models={"a": model()}) as r, trio.open_nursery() as nursery:
        happened = trio.Event()
        r.reloader.on_reload.append(lambda outcome: happened.set())
        nursery.start_soon(r.reloader.watch)
        r.write(models={"b": model()})
        await happened.wait()
        assert r.told[0]["added"] == ["b"]
        nursery.cancel_scope.cancel()


async def test_nothing_to_reload_from(tmp_path: Path) -> None:
    config = Config()
    reloader = Reloader(NOWHERE, config, Fleet(config, Catalogue(config), Logs(to_stdout="none")))
    with pytest.raises(BadRequest, match="no configuration file"):
        await reloader.reload_now()
    shown = await reloader.show()
    assert (shown["path"], shown["dir"], shown["text"], shown["files"]) == (None, None, "", [])
