"""What only real processes show: environment, groups, cmdStop, ports, descriptors."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from fakes import a_config, a_model

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import StartFailed
from llamaswap.observe.logs import LogMonitor, Logs
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet
from llamaswap.upstream.process import Control, ProcessLauncher

LIMIT_S = 10
Alive = Callable[[int], bool]
Port = Callable[[], int]


@pytest.fixture
async def launcher() -> AsyncIterator[ProcessLauncher]:
    it = ProcessLauncher(port_free_s=0.2)
    with trio.fail_after(LIMIT_S):
        async with it.session():
            yield it


def shell(script: str, **settings: Any) -> ModelConfig:
    settings = {"check_endpoint": "none", "unload_timeout_s": 5.0, "proxy": "http://127.0.0.1:1", **settings}
    return ModelConfig(id="m", argv=("/bin/sh", "-c", script), **settings)


async def until(log: LogMonitor, pattern: bytes) -> bytes:
    """Wait for a line that matches; returns the pattern's group."""
    with log.subscribe() as lines:
        seen = b""
        while not (found := re.search(pattern, seen)):
            seen += await lines.receive()
    return found[1] if found.re.groups else found[0]


@asynccontextmanager
async def running(launcher: ProcessLauncher, model: ModelConfig) -> AsyncIterator[LogMonitor]:
    """A model that is ready; stopped at the end of the block."""
    log, ready = LogMonitor(), trio.Event()
    control = Control(ready.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.run, model, log, control)
        await ready.wait()
        yield log
        control.stop()


async def test_environment_is_ours_plus_the_models(
    launcher: ProcessLauncher, monkeypatch: pytest.MonkeyPatch, free_port: Port
) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("REPLACED", "no")
    monkeypatch.setenv("odd.name", "kept")
    print_env = (
        "import os; print([os.environ.get(n) for n in "
        "('INHERITED','REPLACED','EMPTY','EQUALS','odd.name','an-odd-one','UNICODE')])"
    )
    model = ModelConfig(
        id="m",
        argv=(sys.executable, "-S", "-E", "-c", print_env),
        env=("REPLACED=it is", "EMPTY=", "EQUALS=a=b", "an-odd-one=2", "UNICODE=grün"),
        check_endpoint="none",
        proxy="http://127.0.0.1:1",
    )
    log = LogMonitor()
    await launcher.run(model, log, Control())
    assert log.history().decode() == "['yes', 'it is', '', 'a=b', 'kept', '2', 'grün']\n"


async def test_stdin_is_empty_and_both_outputs_are_one_log(launcher: ProcessLauncher) -> None:
    log = LogMonitor()
    await launcher.run(shell("cat; echo out; echo err >&2; readlink /proc/self/fd/0 || echo /dev/null"), log, Control())
    assert log.history() == b"out\nerr\n/dev/null\n"


async def test_arguments_arrive_as_they_are(launcher: ProcessLauncher) -> None:
    awkward = ("", "a b", "$HOME", "'", '"', "*", "\\", "ü", "--", "-n", "a\nb")
    model = ModelConfig(
        id="m",
        argv=(sys.executable, "-S", "-E", "-c", "import sys; print(sys.argv[1:])", *awkward),
        check_endpoint="none",
        proxy="http://127.0.0.1:1",
    )
    log = LogMonitor()
    await launcher.run(model, log, Control())
    assert log.history().decode() == f"{list(awkward)}\n"


async def test_the_whole_group_is_asked_to_stop(launcher: ProcessLauncher) -> None:
    script = "(trap 'echo child ended; exit 0' TERM; echo up; while :; do sleep 0.02; done) & wait"
    async with running(launcher, shell(script)) as log:
        await until(log, b"up")
    assert b"child ended" in log.history()


async def test_grandchildren_that_ignore_term_do_not_survive_a_stop(
    launcher: ProcessLauncher, free_port: Port, process_alive: Alive
) -> None:
    model = a_model("m", "--child", port=free_port(), unload_timeout_s=0.3)
    async with running(launcher, model) as log:
        child = int(await until(log, rb"child (\d+)\n"))
        assert process_alive(child)
    assert not process_alive(child)


async def test_grandchildren_do_not_survive_a_crash(
    launcher: ProcessLauncher, free_port: Port, process_alive: Alive
) -> None:
    log, ready, endings = LogMonitor(), trio.Event(), list[object]()
    async with trio.open_nursery() as nursery:
        model = a_model("m", "--child", port=free_port())
        nursery.start_soon(launcher.run, model, log, Control(ready.set, endings.append))
        await ready.wait()
        child = int(await until(log, rb"child (\d+)\n"))
        os.kill(int(await until(log, rb"pid (\d+)\n")), signal.SIGKILL)
    assert endings == [None] and not process_alive(child)


async def test_a_stopped_model_is_asked_like_any_other(launcher: ProcessLauncher) -> None:
    """As one that reads from the terminal, where it is in the background."""
    script = "trap 'echo ended in order; exit 0' TERM; echo pid $$; while :; do sleep 0.02; done"
    async with running(launcher, shell(script)) as log:
        pid = int(await until(log, rb"pid (\d+)\n"))
        os.kill(pid, signal.SIGSTOP)
    assert b"ended in order" in log.history()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ((), "empty command"),
        (("",), "command not found: ''"),
        (("no-such-server",), "command not found: no-such-server"),
        (("/no/such/server",), "command not found: /no/such/server"),
        (("/etc/passwd",), "not executable"),
        (("/tmp",), "is a directory"),
        (("/bin/sh", "-c", "exit 127"), "exit code 127; it printed nothing"),
        (("/bin/sh", "-c", "kill -9 $$"), "signal SIGKILL"),
        (("/bin/echo", "a\0b"), "null"),
    ],
)
async def test_commands_that_cannot_run(launcher: ProcessLauncher, argv: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(StartFailed, match=re.escape(complaint)) as caught:
        await launcher.run(ModelConfig(id="m", argv=argv, proxy="http://127.0.0.1:1"), LogMonitor(), Control())
    assert "'m'" in caught.value.message


async def test_a_proxy_that_is_no_url(launcher: ProcessLauncher) -> None:
    model = ModelConfig(id="m", argv=("/bin/sleep", "9"), proxy="localhost:8080")
    with pytest.raises(StartFailed, match="not an http"):
        await launcher.run(model, LogMonitor(), Control())


async def test_long_output_is_quoted_in_part(launcher: ProcessLauncher) -> None:
    script = (
        "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; printf '\\033[31mred\\033[0m \\001end'; exit 1"
    )
    with pytest.raises(StartFailed) as caught:
        await launcher.run(shell(script, check_endpoint="/health"), LogMonitor(), Control())
    assert "line 2999\nred end" in caught.value.message and "line 2000\n" not in caught.value.message
    assert len(caught.value.message) < 2500


async def test_cmd_stop_is_run_with_the_pid_and_the_models_environment(launcher: ProcessLauncher) -> None:
    model = shell(
        "trap '' TERM; trap 'echo bye; exit 0' INT; echo up; while :; do sleep 0.02; done",
        cmd_stop="sh -c 'echo stopping $NAME ${PID}; kill -INT ${PID}'",
        env=("NAME=qwen",),
    )
    async with running(launcher, model) as log:
        await until(log, b"up")
    assert re.search(rb"stopping qwen \d+\n", log.history()) and b"bye" in log.history()


@pytest.mark.parametrize("cmd_stop", ["no-such-program", "sh -c 'exit 3'", "sh -c 'unbalanced"])
async def test_a_cmd_stop_that_fails_is_followed_by_term(
    launcher: ProcessLauncher, cmd_stop: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = shell("trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.02; done", cmd_stop=cmd_stop)
    async with running(launcher, model) as log:
        await until(log, b"up")
    assert b"term" in log.history() and "cmdStop of m" in caplog.text


async def test_how_it_is_stopped_may_change_while_it_runs(launcher: ProcessLauncher) -> None:
    model = shell("echo up; exec sleep 60", cmd_stop="echo as it was")
    control = Control()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            log = LogMonitor()
            nursery.start_soon(launcher.run, model, log, control)
            await until(log, b"up")
            control.model = replace(model, cmd_stop="sh -c 'echo as it is now; kill ${PID}'")
            control.stop()
    assert b"as it is now" in log.history() and b"as it was" not in log.history()


async def test_a_cmd_stop_that_hangs_is_bounded(launcher: ProcessLauncher, process_alive: Alive) -> None:
    model = shell("echo up; exec sleep 60", cmd_stop="sh -c 'echo stopper $$; exec sleep 60'", unload_timeout_s=0.3)
    async with running(launcher, model) as log:
        await until(log, b"up")
    assert not process_alive(int(await until(log, rb"stopper (\d+)")))


async def test_cmd_stop_runs_even_when_everything_is_cancelled(launcher: ProcessLauncher) -> None:
    model = shell("echo up; exec sleep 60", cmd_stop="echo stopped by cmdStop")
    with trio.CancelScope() as scope:
        async with running(launcher, model) as log:
            await until(log, b"up")
            scope.cancel()
            await trio.sleep_forever()
    assert b"stopped by cmdStop" in log.history()


async def test_a_port_that_is_taken_is_named_with_its_holder(launcher: ProcessLauncher, free_port: Port) -> None:
    port = free_port()
    stranger = a_model("stranger", port=port)
    async with running(launcher, stranger) as log:
        pid = int(await until(log, rb"pid (\d+)"))
        for proxy in (f"http://127.0.0.1:{port}", f"http://localhost:{port}/v1"):
            with pytest.raises(StartFailed) as caught:
                await launcher.run(a_model("m", port=port, proxy=proxy), LogMonitor(), Control())
            assert str(port) in caught.value.message and "already in use" in caught.value.message
            if sys.platform.startswith("linux"):
                assert f"pid {pid}" in caught.value.message and "stub.py" in caught.value.message


async def test_a_port_that_is_being_given_up_is_waited_for(free_port: Port) -> None:
    launcher = ProcessLauncher(port_free_s=LIMIT_S)
    port = free_port()
    with trio.fail_after(LIMIT_S):
        async with launcher.session(), trio.open_nursery() as nursery:
            log, ready = LogMonitor(), trio.Event()
            async with running(launcher, a_model("old", port=port)):
                control = Control(ready.set)
                nursery.start_soon(launcher.run, a_model("m", port=port), log, control)
                await trio.testing.wait_all_tasks_blocked()
            await ready.wait()
            control.stop()


async def test_a_fixed_port_of_a_server_that_somebody_else_runs_is_not_checked(
    launcher: ProcessLauncher, free_port: Port
) -> None:
    port = free_port()
    async with running(launcher, a_model("theirs", port=port)):
        model = shell("exec sleep 60", check_endpoint="/health", proxy=f"http://127.0.0.1:{port}")
        async with running(launcher, model):
            pass


async def test_nothing_is_left_open_after_many_starts(free_port: Port, process_alive: Alive) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc")
    models = [a_model(id, port=free_port()) for id in "ab"]
    bad = ModelConfig(id="bad", argv=("/bin/false",), proxy="http://127.0.0.1:1")
    config = a_config(*models, bad)
    logs = Logs(to_stdout="none")

    def children() -> set[int]:
        stats = (path.read_text() for path in Path("/proc").glob("[0-9]*/stat"))
        return {int(stat.split()[0]) for stat in stats if int(stat.rpartition(")")[2].split()[1]) == os.getpid()}

    before = children()
    async with trio.open_nursery() as nursery:
        with trio.fail_after(3 * LIMIT_S):
            fleet = Fleet(config, Catalogue(config), logs)
            await nursery.start(fleet.run)
            await fleet.preload("a")
            await fleet.unload(None)
            descriptors = len(os.listdir("/proc/self/fd"))
            for i in range(50):
                if i % 10 == 9:
                    with pytest.raises(StartFailed):
                        await fleet.preload("bad")
                else:
                    await fleet.preload("ab"[i % 2])  # every other one evicts
            await fleet.unload(None)
            assert len(os.listdir("/proc/self/fd")) == descriptors
            assert all(view.state is State.STOPPED for view in fleet.views())
            assert len(children() - before) == 1, "only the guardian is left"
        nursery.cancel_scope.cancel()
    assert children() == before
    pids = [int(pid) for id in "ab" for pid in re.findall(rb"pid (\d+)", logs.model(id).history())]
    assert len(pids) >= 46 and not any(process_alive(pid) for pid in pids)


async def test_cancelling_the_fleet_kills_and_leaves_nothing(free_port: Port, process_alive: Alive) -> None:
    model = a_model("a", "--child", "--ignore-term", port=free_port())
    config = a_config(model)
    logs = Logs(to_stdout="none")
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            fleet = Fleet(config, Catalogue(config), logs)
            await nursery.start(fleet.run)
            lease = fleet.submit(model)
            upstream = await lease.wait()
            child = int(await until(logs.model("a"), rb"child (\d+)\n"))
            nursery.cancel_scope.cancel()
    assert not upstream.alive and not process_alive(child)
    lease.release()
