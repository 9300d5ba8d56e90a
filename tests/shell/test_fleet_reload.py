"""The fleet under a new configuration, on a fake launcher and a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from fakes import FakeLauncher, a_config, a_model
from trio.testing import MockClock, wait_all_tasks_blocked

from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.errors import ModelNotFound
from llamaswap.observe.logs import Logs
from llamaswap.observe.modellog import ModelObserver
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet

TOGETHER = Group("all", swap=False, members=("a", "b", "c"))


class Rig(ModelObserver):
    def __init__(self, config: Config) -> None:
        self.launcher = FakeLauncher()
        self.config = config
        self.fleet = Fleet(config, Catalogue(config), Logs(to_stdout="none"), launcher=self.launcher)
        self.fleet.observers.append(self)
        self.stops: list[tuple[str, str]] = []

    def stopped(self, model: str, reason: str, for_model: str | None) -> None:
        self.stops.append((model, reason))

    def reload(self, *models: ModelConfig, **settings: Any) -> None:
        self.config = a_config(*models, **settings)
        self.fleet.reconfigure(self.config, Catalogue(self.config))

    def model(self, id: str) -> ModelConfig:
        return self.config.models[id]

    def state(self, id: str) -> State:
        return self.fleet.view(id).state


@asynccontextmanager
async def rig(*models: ModelConfig, **settings: Any) -> AsyncIterator[Rig]:
    it = Rig(a_config(*models, **settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.fleet.run)
        yield it
        nursery.cancel_scope.cancel()
    assert not it.launcher.running
    assert all(view.state is State.SHUTDOWN for view in it.fleet.views())


async def test_an_unchanged_model_keeps_its_process_and_its_requests(autojump_clock: MockClock) -> None:
    a, b = a_model("a"), a_model("b", port=2)
    async with rig(a, b, groups={"all": TOGETHER}) as r:
        held = r.fleet.submit(a)
        before = await held.wait()
        r.reload(a_model("0", port=3), a, groups={"all": TOGETHER})
        again = r.fleet.submit(a)
        assert again.granted and again.upstream is before and before.alive
        assert r.fleet.view("a").in_flight == 2 and r.state("0") is State.STOPPED
        held.release()
        again.release()
        assert r.state("a") is State.READY and r.launcher.started == ["a"]


async def test_settings_that_need_no_restart_reach_the_process_that_runs(autojump_clock: MockClock) -> None:
    a = a_model("a", "--stop-takes", "9", unload_timeout_s=20.0)
    async with rig(a) as r:
        async with r.fleet.lease(a) as upstream:
            new = replace(a, ttl_s=3.0, unload_timeout_s=2.0, name="A", concurrency_limit=1)
            r.reload(new)
            assert upstream.model is new
            assert r.fleet.submit(new).rejected
        await trio.sleep(3.5)
        assert r.state("a") is State.STOPPING
        await trio.sleep(2)  # the new unloadTimeout, not the nine seconds it would take
        assert r.state("a") is State.STOPPED and r.stops == [("a", "ttl")]


async def test_a_changed_model_drains_and_waiters_get_the_new_one(autojump_clock: MockClock) -> None:
    old = a_model("a", "--stop-takes", "1")
    async with rig(old) as r:
        held = r.fleet.submit(old)
        first = await held.wait()
        new = a_model("a", "--ready-after", "2")
        r.reload(new)
        waiting = r.fleet.submit(new)
        await trio.sleep(10)
        assert not waiting.granted and first.alive and first.model is old
        begun = trio.current_time()
        held.release()
        second = await waiting.wait()
        assert trio.current_time() - begun == pytest.approx(3)
        assert second.generation > first.generation and second.model is new
        assert r.stops == [("a", "reload")] and r.launcher.started == ["a", "a"]
        waiting.release()


async def test_a_removed_model_drains_and_its_waiters_are_told(autojump_clock: MockClock) -> None:
    a, b = a_model("a"), a_model("b", port=2)
    async with rig(a, b) as r:
        held = r.fleet.submit(a)
        upstream = await held.wait()
        waiting = r.fleet.submit(b)
        r.reload()
        with pytest.raises(ModelNotFound, match="'b' is not in the configuration any more"):
            await waiting.wait()
        late = r.fleet.submit(b)  # its body was still arriving
        assert late.rejected and late.queue_position == 0
        assert upstream.alive and r.fleet.removed() == {"a": a} and r.fleet.ports() == {"a": 1}
        assert [(view.id, view.state, view.in_flight) for view in r.fleet.views()] == [("a", State.READY, 1)]
        held.release()
        await upstream.gone.wait()
        assert r.stops == [("a", "reload")] and r.fleet.ports() == {}
        assert r.fleet.removed() == {} and r.fleet.views() == []
        for lease in (waiting, late, held):
            lease.release()


async def test_a_start_is_not_finished_for_an_older_configuration(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--ready-after", "60")) as r:
        lease = r.fleet.submit(r.model("a"))
        await wait_all_tasks_blocked()
        begun = trio.current_time()
        r.reload(a_model("a", "--ready-after", "1"))
        await lease.wait()
        assert trio.current_time() - begun == pytest.approx(1)
        lease.release()


async def test_unloading_everything_includes_what_drains(autojump_clock: MockClock) -> None:
    a = a_model("a")
    async with rig(a) as r:
        held = r.fleet.submit(a)
        upstream = await held.wait()
        r.reload()
        await r.fleet.unload(None)
        assert not upstream.alive and not r.launcher.running
        held.release()


async def test_shutdown_ends_what_drains(autojump_clock: MockClock) -> None:
    a = a_model("a")
    async with rig(a) as r:
        held = r.fleet.submit(a)
        await held.wait()
        r.reload()
        begun = trio.current_time()
        await r.fleet.shutdown(4)
        assert trio.current_time() - begun == pytest.approx(4) and not r.launcher.running
        held.release()


async def test_other_groups_count_from_the_next_decision_on(autojump_clock: MockClock) -> None:
    a, b, c = a_model("a"), a_model("b", port=2), a_model("c", port=3)
    async with rig(a, b, c, groups={"all": TOGETHER}) as r:
        for model in (a, b):
            async with r.fleet.lease(model):
                pass
        r.reload(a, b, c)
        assert r.state("a") is r.state("b") is State.READY
        async with r.fleet.lease(c):
            assert sorted(r.stops) == [("a", "swap"), ("b", "swap")]


async def test_a_shorter_ttl_wakes_the_reaper(autojump_clock: MockClock) -> None:
    a = a_model("a")
    async with rig(a) as r:
        async with r.fleet.lease(a):
            pass
        await trio.sleep(100)
        r.reload(replace(a, ttl_s=5.0))
        await trio.sleep(0.1)
        assert r.stops == [("a", "ttl")]
