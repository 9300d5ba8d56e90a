"""What leaves a model's process group ends with the model all the same, unless it was let go on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
import trio

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import StartFailed
from llamaswap.observe.logs import LogMonitor
from llamaswap.upstream import posix
from llamaswap.upstream.posix import MARK, Child, Guardian, spawn
from llamaswap.upstream.process import Control, ProcessLauncher

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
LIMIT_S = 15
Alive = Callable[[int], bool]

DAEMON = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
r, w = os.pipe()
if os.fork():
    os.read(r, 1)
    if sys.argv[1] == "leave":
        os._exit(0)
    signal.pause()
os.setsid()
if os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
os.write(w, b"x")
signal.pause()
"""
PYTHON = (sys.executable, "-S", "-E", "-c", DAEMON)
# They print their stray's pid. dash has job control only at a terminal.
STRAYS: dict[str, tuple[str, ...]] = {
    "job control": ("bash", "-c", "set -m; sleep 60 & echo $!; wait"),
    "a session": ("/bin/sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & wait"),
    "a session left behind": ("/bin/sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' &"),
    "a daemon": (*PYTHON, "stay"),
    "a daemon left behind": (*PYTHON, "leave"),
}
LET_GO = ("/bin/sh", "-c", f"setsid env -u {MARK} sh -c 'echo $$; exec sleep 60' & wait")
every_stray = pytest.mark.parametrize("how", STRAYS)


@pytest.fixture
async def guardian() -> AsyncIterator[Guardian]:
    it = Guardian(0.3)
    with trio.fail_after(LIMIT_S):
        async with it.open():
            yield it


async def straying(argv: tuple[str, ...], guardian: Guardian) -> tuple[Child, int]:
    child = await spawn(argv, os.environ, guardian)
    stray = int(await child.read())
    assert os.getpgid(stray) != child.pid
    return child, stray


async def ended(child: Child) -> None:
    await child.kill()
    child.close()


def bearing(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process.pid)
    return found


async def gone(pid: int) -> None:
    """Wait until a process has ended that need not be ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


@every_stray
async def test_a_stray_ends_with_its_model(guardian: Guardian, process_alive: Alive, how: str) -> None:
    child, stray = await straying(STRAYS[how], guardian)
    other, stranger = await straying(STRAYS["a session"], guardian)
    assert process_alive(stray)
    await ended(child)
    assert not process_alive(stray) and process_alive(stranger)
    await ended(other)


async def test_one_that_forks_and_forks(guardian: Guardian, process_alive: Alive) -> None:
    script = "setsid bash -c 'echo $$; while :; do sleep 60 & disown; sleep 0.001; done' & wait"
    child, stray = await straying(("bash", "-c", script), guardian)
    await ended(child)
    assert not process_alive(stray) and not bearing(child._mark)


async def test_a_look_round_that_found_one_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it died: what it forked a moment before may not have been there to be seen."""
    monkeypatch.setattr(posix, "_live_group", lambda pid: None)
    stray = await trio.lowlevel.open_process(["/bin/sleep", "60"], env={MARK: "a mark"})
    killed: set[int] = set()
    while not killed:  # until it is more than a copy of ours
        more = await trio.to_thread.run_sync(posix._kill_marked, "a mark", killed)
    assert more and killed == {stray.pid}
    await stray.wait()
    assert not await trio.to_thread.run_sync(posix._kill_marked, "a mark", killed)


@every_stray
async def test_the_guardian_finds_strays(how: str) -> None:
    guardian = Guardian(0.3)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            async with guardian.open():
                child, stray = await straying(STRAYS[how], guardian)
                nursery.start_soon(child.wait)  # as init does when we are gone
                stranger = await trio.lowlevel.open_process(["/bin/sleep", "60"])
            await gone(stray)
            await gone(child.pid)
        assert stranger.poll() is None
        stranger.kill()
        await stranger.wait()
        child.close()


async def test_a_stray_holds_up_nobody(process_alive: Alive) -> None:
    """A model that makes itself a daemon has ended, as far as anybody can tell."""
    launcher = ProcessLauncher()
    model = ModelConfig(id="m", argv=STRAYS["a daemon left behind"], proxy="http://127.0.0.1:1")
    output = LogMonitor()
    with trio.fail_after(LIMIT_S):
        async with launcher.session():
            with pytest.raises(StartFailed, match="exit code 0"):
                await launcher.run(model, output, Control())
    assert not process_alive(int(output.history()))


async def test_who_takes_the_mark_off_is_let_go(process_alive: Alive) -> None:
    guardian = Guardian(0.1)
    with trio.fail_after(LIMIT_S):
        async with guardian.open():
            child, stray = await straying(LET_GO, guardian)
            await ended(child)
    assert process_alive(stray)
    os.kill(stray, signal.SIGKILL)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup for a test's processes."""
    roots = [Path(root) for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/pids") if Path(root, "cgroup.procs").exists()]
    try:
        home = roots[0] / f"llamaswap-test-{os.getpid()}"
        home.mkdir()
    except (IndexError, OSError):
        pytest.skip("no cgroup can be made here")
    yield home
    home.rmdir()


async def test_who_was_moved_to_another_cgroup_is_let_go(process_alive: Alive, cgroup: Path) -> None:
    """As container engines do, which look after it themselves."""
    guardian = Guardian(0.1)
    with trio.fail_after(LIMIT_S):
        async with guardian.open():
            child, stray = await straying(STRAYS["a session"], guardian)
            (cgroup / "cgroup.procs").write_text(str(stray))
            await ended(child)
    assert process_alive(stray)
    (cgroup.parent / "cgroup.procs").write_text(str(stray))
    os.kill(stray, signal.SIGKILL)


async def test_a_server_that_is_a_model_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may kill it and all that bears its mark: not our guardian, and our models bear ours."""
    monkeypatch.setenv(MARK, "other.1")
    guardian = Guardian(0.1)
    with trio.fail_after(LIMIT_S):
        async with guardian.open():
            assert MARK.encode() not in await trio.Path(f"/proc/{guardian.pid}/environ").read_bytes()
            child = await spawn(["/bin/sh", "-c", f"echo ${MARK}"], os.environ, guardian)
            assert await child.read() == child._mark.encode() + b"\n"
            await ended(child)
