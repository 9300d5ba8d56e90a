"""Models do not outlive the server, however it goes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from llamaswap.upstream import posix
from llamaswap.upstream.posix import Guardian, spawn

LIMIT_S = 15
Alive = Callable[[int], bool]

SERVER = """
import os, signal, sys
sys.path.insert(0, {here!r})
import trio
from fakes import a_config, a_model
from llamaswap.config.settings import Group
from llamaswap.observe.logs import Logs
from llamaswap.routing.catalogue import Catalogue
from llamaswap.upstream.fleet import Fleet
from llamaswap.upstream.process import ProcessLauncher

async def main():
    ids = "ab"
    models = [a_model(id, "--child", port=int(port)) for id, port in zip(ids, sys.argv[1:])]
    config = a_config(*models, groups={{"g": Group("g", swap=False, members=tuple(ids))}})
    logs = Logs(to_stdout="none")
    async with trio.open_nursery() as nursery:
        launcher = ProcessLauncher(guardian_grace_s=0.3)
        fleet = Fleet(config, Catalogue(config), logs, launcher=launcher)
        await nursery.start(fleet.run)
        for id in ids:
            await fleet.preload(id)
            with logs.model(id).subscribe() as lines:
                seen = b""
                while seen.count(b"\\n") < 2:
                    seen += await lines.receive()
            print(seen.decode(), end="")
        print("guardian", launcher._guardian.pid, flush=True)
        {then}

trio.run(main)
"""

# Nothing of the server runs after the fork: it dies inside Popen's caller, before it learns the pid.
AT_ONCE = """
import os, subprocess, sys, trio
from llamaswap.upstream import posix

class Popen(subprocess.Popen):
    def __init__(self, args, **options):
        super().__init__(args, **options)
        if "llamaswap-guardian" not in args:
            os.kill(os.getpid(), 9)

async def main():
    guardian = posix.Guardian(0.2)
    async with guardian.open():
        subprocess.Popen = Popen
        await posix.spawn(sys.argv[1:], os.environ, guardian)

trio.run(main)
"""


async def gone(pid: int) -> None:
    """Wait until a process, ours or not, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def having_argument(wanted: list[str]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        if not set(wanted).isdisjoint(argv):
            found.append(int(path.parent.name))
    return found


needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfd_open")


async def the_server_is_killed(then: str, free_port: Callable[[], int]) -> tuple[str, list[int]]:
    """Run a server with two models, each with a child that ignores TERM; returns its output and their pids."""
    source = SERVER.format(here=str(Path(__file__).parent), then=then)
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", textwrap.dedent(source), str(free_port()), str(free_port())], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    output = ""
    try:
        while len(pids := re.findall(r"(?:pid|child|guardian) (\d+)\n", output)) < 5:
            data = await server.stdout.receive_some()
            assert data, output
            output += data.decode()
        if "sleep_forever" in then:
            server.kill()
        await server.wait()
        return output, [int(pid) for pid in pids]
    finally:
        server.kill()
        await server.stdout.aclose()


@needs_pidfd
@pytest.mark.parametrize("then", ["await trio.sleep_forever()", "os.kill(os.getpid(), 9)", "os._exit(1)"])
async def test_a_server_that_is_killed_leaves_nothing(then: str, free_port: Callable[[], int]) -> None:
    with trio.fail_after(LIMIT_S):
        _, pids = await the_server_is_killed(then, free_port)
        for pid in pids:
            await gone(pid)


@needs_pidfd
async def test_a_server_killed_right_after_the_fork_leaves_nothing() -> None:
    with trio.fail_after(LIMIT_S):
        marks = [f"6{os.getpid()}.{i}" for i in range(3)]
        for mark in marks:
            await trio.run_process([sys.executable, "-c", AT_ONCE, "/bin/sleep", mark], check=False)
        for pid in having_argument(marks):
            await gone(pid)


@needs_pidfd
async def test_a_guardian_that_dies_is_replaced_and_knows_all_groups(
    process_alive: Alive, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posix, "GUARDIAN_RESPAWN_S", 0.0)
    guardian = Guardian(0.5)
    with trio.fail_after(LIMIT_S):
        async with guardian.open():
            child = await spawn(["/bin/sleep", "60"], os.environ, guardian)
            first = guardian.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            while guardian.pid == first:
                await trio.lowlevel.checkpoint()
            assert process_alive(child.pid)
        # The block's end is the end of the pipe, as if the server had gone.
        assert await child.wait() == -signal.SIGTERM
        child.close()
    assert "guardian of the models died" in caplog.text


@needs_pidfd
async def test_groups_that_have_ended_are_forgotten(process_alive: Alive) -> None:
    guardian = Guardian(0.1)
    with trio.fail_after(LIMIT_S):
        async with guardian.open():
            old = await spawn(["/bin/true"], os.environ, guardian)
            await old.kill()
            old.close()
            assert not guardian._groups
            # A group of the same number that is not ours any more: started apart, never registered.
            stranger = await trio.lowlevel.open_process(["/bin/sleep", "60"], start_new_session=True)
            guardian.add(stranger.pid)
            guardian.discard(stranger.pid)
        assert process_alive(stranger.pid)
        stranger.kill()
        await stranger.wait()


@needs_pidfd
async def test_the_guardian_waits_for_those_who_end_by_themselves() -> None:
    guardian = Guardian(5)
    script = "trap 'sleep 0.2; echo ended in order; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            async with guardian.open():
                child = await spawn(["/bin/sh", "-c", script], os.environ, guardian)
                nursery.start_soon(child.wait)  # as init does when we are gone
                assert await child.read() == b"up\n"
                begun = trio.current_time()
            assert trio.current_time() - begun < 4
        output = b""
        while data := await child.read():
            output += data
        assert b"ended in order" in output and child.code == 0
        child.close()
