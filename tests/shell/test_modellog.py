"""What observers of the fleet hear, in which order; learned load times and last errors."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from fakes import FakeLauncher, a_config, a_model
from trio.testing import MockClock, wait_all_tasks_blocked

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import NotStarted, StartFailed, StartTimeout, SwapError
from llamaswap.observe.logs import Logs
from llamaswap.observe.modellog import LOADS_KEPT, ModelLog, ModelObserver
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet


class Ear(ModelObserver):
    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def started(self, model: str) -> None:
        self.heard.append(("started", model))

    def ready(self, model: str, load_s: float) -> None:
        self.heard.append(("ready", model, round(load_s, 3)))

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        self.heard.append(("stopped", model, reason, for_model))

    def failed(self, model: str, error: NotStarted) -> None:
        self.heard.append(("failed", model, error.exit_code, error.output))

    def crashed(self, model: str, exit_code: int | None, output: str) -> None:
        self.heard.append(("crashed", model, exit_code, output))


class Rig:
    def __init__(self, *models: ModelConfig) -> None:
        self.config = a_config(*models)
        self.launcher = FakeLauncher()
        self.fleet = Fleet(self.config, Catalogue(self.config), Logs(to_stdout="none"), launcher=self.launcher)
        self.ear, self.log = Ear(), ModelLog(clock=lambda: 1e9)
        self.fleet.observers.append(self.ear)
        self.fleet.observers.append(self.log)

    async def load(self, model: str) -> None:
        await self.fleet.preload(model)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        await self.fleet.run(task_status=task_status)


async def test_loads_evictions_unloads(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a", "--ready-after", "2"), a_model("b", "--ready-after", "1"))
    await nursery.start(rig.run)
    await rig.load("a")
    assert rig.fleet.pid("a") == 1001 and rig.fleet.pid("b") is None
    await rig.load("b")
    await rig.fleet.unload(None)
    assert rig.ear.heard == [
        ("started", "a"),
        ("ready", "a", 2),
        ("stopped", "a", "swap", "b"),
        ("started", "b"),
        ("ready", "b", 1),
        ("stopped", "b", "unload", None),
    ]
    assert rig.log.typical_load_s("a") == pytest.approx(2)
    assert rig.log.last_error("a") is None and rig.fleet.pid("b") is None


async def test_a_ttl_and_an_aborted_load(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a", "--ready-after", "2", ttl_s=5.0))
    await nursery.start(rig.run)
    await rig.load("a")
    await trio.sleep(6)
    lease = rig.fleet.submit(rig.config.models["a"])
    await trio.sleep(0.5)
    assert rig.fleet.loading_s("a") == pytest.approx(0.5)
    await rig.fleet.unload(["a"])
    assert rig.fleet.loading_s("a") is None
    lease.release()
    assert rig.ear.heard[2:] == [("stopped", "a", "ttl", None), ("started", "a"), ("stopped", "a", "unload", None)]
    assert rig.log.last_error("a") is None


async def test_a_failed_start_is_told_with_its_exit_code(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a", "--exit", "7", "--say", "no room"))
    await nursery.start(rig.run)
    with pytest.raises(StartFailed):
        await rig.load("a")
    assert rig.ear.heard == [("started", "a"), ("failed", "a", 7, "pid 0\nno room\n")]
    error = rig.log.last_error("a")
    assert error is not None
    assert (error.message, error.exit_code, error.at, error.failed_start) == (
        "model 'a': upstream command exited prematurely with exit code 7", 7, 1e9, True,
    )  # fmt: skip


async def test_a_start_that_took_too_long_is_told_at_once_and_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    rig = Rig(a_model("a", "--ready-after", "-1", "--ignore-term", health_check_timeout_s=15.0))
    await nursery.start(rig.run)
    with pytest.raises(StartTimeout):
        await rig.load("a")
    assert trio.current_time() == pytest.approx(15)
    assert [event[:3] for event in rig.ear.heard] == [("started", "a"), ("failed", "a", None)]
    await trio.sleep(30)
    assert len(rig.ear.heard) == 2


async def test_a_crash_and_a_recovery(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a", "--ready-after", "1"))
    await nursery.start(rig.run)
    await rig.load("a")
    rig.launcher.crash("a")
    await wait_all_tasks_blocked()
    assert rig.ear.heard[-1] == ("crashed", "a", -9, "pid 0\n")
    error = rig.log.last_error("a")
    assert error is not None and not error.failed_start
    assert error.message == "model 'a' ended by itself with signal SIGKILL"
    await rig.load("a")
    assert rig.log.last_error("a") is None


async def test_a_condemned_process_counts_as_crashed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a"))
    await nursery.start(rig.run)
    async with rig.fleet.lease(rig.config.models["a"]) as upstream:
        rig.fleet.condemn(upstream)
    await wait_all_tasks_blocked()
    assert rig.ear.heard[2:] == [("crashed", "a", None, "")]


async def test_the_end_of_the_server(autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a"))
    async with trio.open_nursery() as nursery:
        await nursery.start(rig.run)
        await rig.load("a")
        nursery.cancel_scope.cancel()
    assert rig.ear.heard[2:] == [("stopped", "a", "shutdown", None)]


async def test_who_is_waited_for(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rig = Rig(a_model("a", "--stop-takes", "3"), a_model("b", "--ready-after", "1"))
    await nursery.start(rig.run)
    models = rig.config.models
    busy = rig.fleet.submit(models["a"])
    await busy.wait()
    waiting = rig.fleet.submit(models["b"])
    assert rig.fleet.waiting_for("b") == ["a"] and rig.fleet.waiting_for("a") == []
    busy.release()
    assert rig.fleet.view("a").state is State.STOPPING and rig.fleet.waiting_for("b") == ["a"]
    await trio.sleep(3.5)
    assert rig.fleet.view("b").state is State.STARTING
    assert rig.fleet.waiting_for("b") == []
    await waiting.wait()
    waiting.release()


def test_the_typical_load_is_the_median_of_the_last() -> None:
    log = ModelLog()
    assert log.typical_load_s("a") is None
    log.remember("a", [100.0] * LOADS_KEPT)
    for _ in range(LOADS_KEPT // 2):
        log.ready("a", 2.0)
    assert log.typical_load_s("a") == 100.0
    log.ready("a", 2.0)
    assert log.typical_load_s("a") == 2.0


def test_a_signal_without_a_name() -> None:
    log = ModelLog()
    log.crashed("a", -63, "")
    log.crashed("b", 3, "x")
    messages = [error.message for id in "ab" if (error := log.last_error(id))]
    assert messages == ["model 'a' ended by itself with signal 63", "model 'b' ended by itself with exit code 3"]


def test_errors_say_what_was_printed() -> None:
    assert str(StartFailed("no")) == "no" and isinstance(StartFailed("no"), SwapError)
    assert str(StartFailed("no", output="")) == "no; it printed nothing"
    assert str(StartTimeout("no", output="x\ny")) == "no; last output:\nx\ny"
