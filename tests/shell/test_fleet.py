"""The fleet on a fake launcher and a clock that jumps."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from fakes import FakeLauncher, a_config, a_model
from trio.testing import MockClock, wait_all_tasks_blocked

from llamaswap.config.settings import Config, Group, ModelConfig
from llamaswap.errors import ModelUnloaded, ShuttingDown, StartFailed, StartTimeout, TooManyRequests
from llamaswap.observe.logs import Logs
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet
from llamaswap.upstream.process import Control, Exit

TOGETHER = Group("all", swap=False, members=("a", "b", "c"))


class Rig:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.launcher = FakeLauncher()
        self.logs = Logs(to_stdout="none")
        self.fleet = Fleet(config, Catalogue(config), self.logs, launcher=self.launcher)
        self.changes: list[tuple[str, str]] = []
        self.fleet.on_change(lambda id: self.changes.append((id, self.fleet.view(id).state.value)))

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


async def test_a_place_in_the_queue_is_told_until_the_model_loads(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b", "--ready-after", "2")) as it:
        busy = it.fleet.submit(it.model("a"))
        await busy.wait()
        first, second = it.fleet.submit(it.model("b")), it.fleet.submit(it.model("b"))
        assert (first.queue_position, second.queue_position) == (1, 2)
        busy.release()
        while it.state("b") is not State.STARTING:
            await trio.lowlevel.checkpoint()
        assert (first.queue_position, second.queue_position) == (0, 0)
        for lease in (first, second):
            await lease.wait()
            lease.release()


async def test_a_first_request_starts_the_model_and_the_next_finds_it_ready(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--ready-after", "2")) as r:
        first = r.fleet.submit(r.model("a"))
        assert not first.granted and not first.rejected and first.queue_position == 0
        begun = trio.current_time()
        upstream = await first.wait()
        assert trio.current_time() - begun == pytest.approx(2)
        assert upstream.base_url == "http://127.0.0.1:1" and upstream.alive and first.queue_position == 0
        second = r.fleet.submit(r.model("a"))
        assert second.granted and second.upstream is upstream and await second.wait() is upstream
        assert r.fleet.view("a").in_flight == 2
        for lease in (first, second, first):
            lease.release()
        assert r.fleet.view("a").in_flight == 0
        assert r.changes == [("a", "starting"), ("a", "ready")]


async def test_waiters_share_one_start(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--ready-after", "1")) as r, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(r.fleet.preload, "a")
        await wait_all_tasks_blocked()
        assert r.fleet.view("a").queued == 5
    assert r.launcher.started == ["a"]


async def test_a_swap_waits_for_the_victim_to_drain_and_to_be_gone(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--stop-takes", "3"), a_model("b", "--ready-after", "1")) as r:
        busy = r.fleet.submit(r.model("a"))
        await busy.wait()
        other = r.fleet.submit(r.model("b"))
        await trio.sleep(5)
        assert r.state("a") is State.READY and not other.granted
        begun = trio.current_time()
        busy.release()
        assert r.state("a") is State.STOPPING
        await other.wait()
        assert trio.current_time() - begun == pytest.approx(4)
        assert r.launcher.most_at_once == 1
        other.release()


async def test_a_generation_is_one_process(autojump_clock: MockClock) -> None:
    async with rig(a_model("a")) as r:
        async with r.fleet.lease(r.model("a")) as first:
            pass
        await r.fleet.unload(["a"])
        assert first.exited.is_set() and not first.alive
        async with r.fleet.lease(r.model("a")) as second:
            assert second.alive
        assert second.generation > first.generation


async def test_ttl_counts_from_the_last_release(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", ttl_s=10)) as r:
        async with r.fleet.lease(r.model("a")):
            await trio.sleep(60)
            assert r.state("a") is State.READY
        await trio.sleep(6)
        async with r.fleet.lease(r.model("a")):
            await trio.sleep(6)
        await trio.sleep(9.9)
        assert r.state("a") is State.READY
        await trio.sleep(0.2)
        assert r.state("a") is State.STOPPED


async def test_ttl_of_a_model_that_nobody_used_counts_from_readiness(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--ready-after", "3", ttl_s=10), a_model("b", ttl_s=4), groups={"g": TOGETHER}) as r:
        await r.fleet.preload("a")
        await r.fleet.preload("b")
        await trio.sleep(3.9)
        assert (r.state("a"), r.state("b")) == (State.READY, State.READY)
        await trio.sleep(0.2)
        assert (r.state("a"), r.state("b")) == (State.READY, State.STOPPED)
        await trio.sleep(6)
        assert r.state("a") is State.STOPPED


async def test_a_failed_start_rejects_all_and_the_next_request_tries_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(a_model("a", "--exit", "3", "--say", "boom")) as r:
        leases = [r.fleet.submit(r.model("a")) for _ in range(3)]
        for lease in leases:
            with pytest.raises(StartFailed, match=r"(?s)exit code 3.*boom"):
                await lease.wait()
            assert lease.rejected
            lease.release()
        assert r.state("a") is State.STOPPED and r.launcher.started == ["a"]
        with pytest.raises(StartFailed):
            await r.fleet.preload("a")
        assert r.launcher.started == ["a", "a"]
    assert len([record for record in caplog.records if "exit code 3" in record.getMessage()]) == 2


async def test_a_start_that_takes_too_long_is_told_at_once_and_holds_its_place_until_it_is_gone(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    slow = a_model("a", "--ready-after", "-1", "--stop-takes", "3", health_check_timeout_s=20)
    async with rig(slow, a_model("b")) as r:
        lease = r.fleet.submit(r.model("a"))
        begun = trio.current_time()
        with pytest.raises(StartTimeout):
            await lease.wait()
        assert trio.current_time() - begun == pytest.approx(20)
        assert r.state("a") is State.STOPPED
        lease.release()
        await r.fleet.preload("b")
        assert trio.current_time() - begun == pytest.approx(23)
        assert r.launcher.most_at_once == 1
    assert len([record for record in caplog.records if "timed out" in record.getMessage()]) == 1


async def test_a_crash_is_noticed_and_the_next_request_restarts(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(a_model("a", "--say", "last words")) as r:
        lease = r.fleet.submit(r.model("a"))
        upstream = await lease.wait()
        r.launcher.crash("a")
        await upstream.exited.wait()
        assert not upstream.alive and r.state("a") is State.STOPPED and r.fleet.view("a").in_flight == 1
        again = r.fleet.submit(r.model("a"), since=lease.submitted_at)
        assert not again.granted and again.submitted_at == lease.submitted_at
        assert (await again.wait()).alive
        lease.release()
        again.release()
        assert r.fleet.view("a").in_flight == 0
        assert r.changes[-3:] == [("a", "stopped"), ("a", "starting"), ("a", "ready")]
    (line,) = [record for record in caplog.records if "SIGKILL" in record.getMessage()]
    assert line.levelno == logging.WARNING and "last words" in line.getMessage()


async def test_queued_requests_survive_the_crash_of_what_they_wait_behind(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b")) as r:
        lease = r.fleet.submit(r.model("a"))
        await lease.wait()
        other = r.fleet.submit(r.model("b"))
        r.launcher.crash("a")
        lease.release()
        assert (await other.wait()).model.id == "b"
        other.release()


async def test_condemned_processes_get_no_more_requests_and_are_replaced(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--ignore-term", unload_timeout_s=60.0)) as r:
        lease = r.fleet.submit(r.model("a"))
        upstream = await lease.wait()
        begun = trio.current_time()
        r.fleet.condemn(upstream)
        r.fleet.condemn(upstream)
        again = r.fleet.submit(r.model("a"), since=lease.submitted_at)
        assert not again.granted
        fresh = await again.wait()
        assert fresh.generation != upstream.generation and trio.current_time() - begun == pytest.approx(2)
        r.fleet.condemn(upstream)
        assert r.state("a") is State.READY and fresh.alive and r.launcher.most_at_once == 1
        lease.release()
        again.release()


async def test_a_waiter_that_leaves_starts_nothing(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b")) as r:
        busy = r.fleet.submit(r.model("a"))
        await busy.wait()
        with trio.move_on_after(1):
            await r.fleet.preload("b")
        busy.release()
        await wait_all_tasks_blocked()
        assert r.launcher.started == ["a"] and r.fleet.view("b").queued == 0


async def test_too_many_requests_show_in_wait(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", concurrency_limit=1)) as r:
        first = r.fleet.submit(r.model("a"))
        second = r.fleet.submit(r.model("a"))
        assert second.rejected and not second.granted
        with pytest.raises(TooManyRequests):
            await second.wait()
        second.release()
        await first.wait()
        first.release()


async def test_unload_stops_at_once_and_rejects_who_waits(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--stop-takes", "2"), a_model("b", "--ready-after", "9"), groups={"g": TOGETHER}) as r:
        busy = r.fleet.submit(r.model("a"))
        upstream = await busy.wait()
        waiting = r.fleet.submit(r.model("b"))
        begun = trio.current_time()
        await r.fleet.unload(None)
        assert trio.current_time() - begun == pytest.approx(2)
        assert r.state("a") is State.STOPPED and r.state("b") is State.STOPPED
        assert not upstream.alive
        with pytest.raises(ModelUnloaded):
            await waiting.wait()
        busy.release()
        waiting.release()
        await r.fleet.unload(["a"])


async def test_unload_of_one_does_not_wait_for_another(autojump_clock: MockClock) -> None:
    models = a_model("a", "--stop-takes", "4"), a_model("b", "--stop-takes", "1")
    async with rig(*models, groups={"g": TOGETHER}) as r, trio.open_nursery() as nursery:
        for id in "ab":
            await r.fleet.preload(id)
        begun = trio.current_time()
        nursery.start_soon(r.fleet.unload, ["a"])
        await r.fleet.unload(["b"])
        assert trio.current_time() - begun == pytest.approx(1)


async def test_shutdown_lets_requests_end_and_stops_the_idle_at_once(autojump_clock: MockClock) -> None:
    models = a_model("a", "--stop-takes", "1"), a_model("b", "--stop-takes", "1"), a_model("c", "--ready-after", "50")
    async with rig(*models, groups={"g": TOGETHER}) as r, trio.open_nursery() as nursery:
        await r.fleet.preload("b")
        busy = r.fleet.submit(r.model("a"))
        await busy.wait()
        waiting = r.fleet.submit(r.model("c"))
        begun = trio.current_time()
        done = trio.Event()
        await nursery.start(_shutdown, r.fleet, 10.0, done)
        with pytest.raises(ShuttingDown):
            await waiting.wait()
        late = r.fleet.submit(r.model("a"))
        with pytest.raises(ShuttingDown):
            await late.wait()
        await trio.sleep(2)
        assert (r.state("a"), r.state("b"), r.state("c")) == (State.READY, State.SHUTDOWN, State.SHUTDOWN)
        await trio.sleep(2)
        assert busy.upstream.alive and not done.is_set()
        busy.release()
        await done.wait()
        assert trio.current_time() - begun == pytest.approx(5)
        for lease in (waiting, late):
            lease.release()


async def test_shutdown_ends_the_grace_when_it_is_over(autojump_clock: MockClock) -> None:
    async with rig(a_model("a", "--stop-takes", "1")) as r:
        busy = r.fleet.submit(r.model("a"))
        await busy.wait()
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(r.fleet.shutdown, 10.0)
        assert trio.current_time() - begun == pytest.approx(11)
        assert not r.launcher.running and r.changes[-1] == ("a", "shutdown")
        busy.release()


async def test_cancelling_the_fleet_rejects_who_waits(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b")) as r:
        busy = r.fleet.submit(r.model("a"))
        await busy.wait()
        waiting = r.fleet.submit(r.model("b"))
    with pytest.raises(ShuttingDown):
        await waiting.wait()
    busy.release()
    waiting.release()


async def test_max_wait_fires_without_any_other_event(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b"), max_wait_s=5) as r, trio.open_nursery() as nursery:
        leases = [r.fleet.submit(r.model("a"))]
        await leases[0].wait()

        async def keep_busy() -> None:
            """Two clients that take turns: the model is never idle, unless it gets no new grants."""
            while True:
                await trio.sleep(1)
                lease = r.fleet.submit(r.model("a"))
                leases.append(lease)
                leases.pop(0).release()
                await lease.wait()

        nursery.start_soon(keep_busy)
        begun = trio.current_time()
        async with r.fleet.lease(r.model("b")):
            assert trio.current_time() - begun < 8
        nursery.cancel_scope.cancel()


async def test_a_launcher_that_fails_unexpectedly_is_one_models_trouble(autojump_clock: MockClock) -> None:
    async with rig(a_model("a"), a_model("b")) as r:

        async def broken(model: ModelConfig, output: object, control: Control) -> Exit:
            raise RuntimeError("no")

        run: Callable[..., Awaitable[Exit]] = r.launcher.run
        r.launcher.run = broken  # type: ignore[method-assign]
        with pytest.raises(StartFailed, match="RuntimeError"):
            await r.fleet.preload("a")
        r.launcher.run = run  # type: ignore[method-assign,assignment]
        await r.fleet.preload("b")


async def test_each_decision_is_logged_once(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamaswap.upstream")
    async with rig(a_model("a", "--ready-after", "1.5"), a_model("b", ttl_s=2)) as r:
        await r.fleet.preload("a")
        await r.fleet.preload("b")
        await trio.sleep(3)
        lines = [record.getMessage() for record in caplog.records]
        assert lines == [
            "starting a",
            "a is ready after 1.50 s",
            "evicting a for b",
            "a has stopped (signal SIGTERM)",
            "starting b",
            "b is ready after 0.00 s",
            "unloading b: idle for 2 s",
            "b has stopped (signal SIGTERM)",
        ]


async def _shutdown(
    fleet: Fleet, grace_s: float, done: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    await fleet.shutdown(grace_s)
    done.set()
