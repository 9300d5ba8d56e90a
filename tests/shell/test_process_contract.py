"""What every launcher promises; run with real processes and with the fake of the other tests."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from fakes import FakeLauncher, a_model

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import StartFailed, StartTimeout, SwapError
from llamaswap.observe.logs import LogMonitor
from llamaswap.upstream.process import Control, Exit, Launcher, ProcessLauncher

LIMIT_S = 10


class Bench:
    """One launcher, open, and what it told."""

    def __init__(self, launcher: Launcher, free_port: Callable[[], int]) -> None:
        self.launcher = launcher
        self.log = LogMonitor()
        self.ready = trio.Event()
        self.endings: list[SwapError | None] = []
        self.control = Control(self.ready.set, self.endings.append)
        self.free_port = free_port
        self.result: Exit | SwapError | None = None

    def model(self, *options: str, **settings: Any) -> ModelConfig:
        return a_model("m", *options, port=self.free_port(), **settings)

    async def run(self, model: ModelConfig) -> None:
        try:
            self.result = await self.launcher.run(model, self.log, self.control)
        except SwapError as error:
            self.result = error

    def pid(self) -> int:
        found = re.search(rb"pid (\d+)", self.log.history())
        assert found
        return int(found[1])

    def crash(self) -> None:
        if isinstance(self.launcher, FakeLauncher):
            self.launcher.crash("m")
        else:
            os.kill(self.pid(), signal.SIGKILL)

    async def said(self, text: bytes) -> None:
        with self.log.subscribe() as lines:
            seen = b""
            while text not in seen:
                seen += await lines.receive()


@pytest.fixture(params=["fake", "real"])
async def bench(request: pytest.FixtureRequest, free_port: Callable[[], int]) -> AsyncIterator[Bench]:
    launcher = FakeLauncher() if request.param == "fake" else ProcessLauncher()
    with trio.fail_after(LIMIT_S):
        async with launcher.session():
            yield Bench(launcher, free_port)


async def test_ready_then_stopped(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--say", "hello"))
        await bench.ready.wait()
        await bench.said(b"hello\n")
        bench.control.stop()
    assert bench.result == Exit(-15, bench.result.output if isinstance(bench.result, Exit) else "")
    assert bench.endings == []


async def test_check_endpoint_none_is_ready_when_spawned(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--ready-after", "-1", check_endpoint="none"))
        await bench.ready.wait()
        bench.control.stop()
    assert isinstance(bench.result, Exit)


async def test_an_exit_during_the_start_names_code_and_output(bench: Bench) -> None:
    await bench.run(bench.model("--say", "no such file: x.gguf", "--exit", "7"))
    assert isinstance(bench.result, StartFailed)
    assert "exited prematurely with exit code 7" in bench.result.message
    assert "no such file: x.gguf" in bench.result.message
    assert not bench.ready.is_set() and bench.endings == []


async def test_an_empty_command_cannot_start(bench: Bench) -> None:
    await bench.run(ModelConfig(id="m", proxy="http://127.0.0.1:1"))
    assert isinstance(bench.result, StartFailed) and "empty command" in bench.result.message


async def test_never_ready_is_a_timeout_told_before_the_process_is_gone(bench: Bench) -> None:
    model = bench.model("--ready-after", "-1", "--say", "loading", "--ignore-term", health_check_timeout_s=1.0,
                        unload_timeout_s=0.2)  # fmt: skip
    await bench.run(model)
    assert isinstance(bench.result, StartTimeout)
    assert "health check timed out after 1s" in bench.result.message and "loading" in bench.result.message
    assert bench.endings == [bench.result]


async def test_stopped_while_it_starts(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--ready-after", "-1"))
        await bench.said(b"pid")
        bench.control.stop()
    assert isinstance(bench.result, Exit)
    assert not bench.ready.is_set() and bench.endings == []


async def test_stopped_before_it_began(bench: Bench) -> None:
    bench.control.stop()
    await bench.run(bench.model("--ready-after", "-1"))
    assert isinstance(bench.result, Exit) and not bench.ready.is_set()


async def test_a_crash_is_told_at_once(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--say", "last words"))
        await bench.ready.wait()
        bench.crash()
    assert bench.endings == [None]
    assert isinstance(bench.result, Exit) and bench.result.code == -9 and "last words" in bench.result.output


async def test_one_that_ignores_term_is_killed_after_the_grace(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--ignore-term", unload_timeout_s=0.2))
        await bench.ready.wait()
        bench.control.stop()
    assert isinstance(bench.result, Exit) and bench.result.code == -9


async def test_a_shorter_grace_can_be_asked_for(bench: Bench) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--ignore-term", unload_timeout_s=60.0))
        await bench.ready.wait()
        bench.control.stop(0.1)
    assert isinstance(bench.result, Exit) and bench.result.code == -9


async def test_cancelled_it_leaves_nothing(bench: Bench, process_alive: Callable[[int], bool]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, bench.model("--ignore-term"))
        await bench.ready.wait()
        nursery.cancel_scope.cancel()
    assert bench.result is None
    if isinstance(bench.launcher, FakeLauncher):
        assert not bench.launcher.running
    else:
        assert not process_alive(bench.pid())
