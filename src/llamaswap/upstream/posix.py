"""What only a POSIX system has: process groups, marks and the guardian. A port for Windows starts here.

A model runs in a process group of its own, so that the group is its pid, Ctrl-C in a terminal does not
reach it, and whoever ends the model ends the group. It stays in the server's session: with a new session
comes, on Linux, a scheduling group (sched(7), "The autogroup feature"), and a proxy whose every upstream
has a scheduling group of its own loses a fifth of its throughput to them.

What leaves the group (job-control shells put their children into others, daemons make a session) keeps its
environment, and there a mark says whose it is. Linux shows it in /proc/<pid>/environ (proc(5)); elsewhere
such strays are not found. Two kinds are let go on purpose: who takes the mark off (`env -u LLAMASWAP_RUN`),
and who was moved to another cgroup, as container engines and systemd do with what they look after themselves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

log = logging.getLogger("llamaswap.upstream")

GUARDIAN_GRACE_S = 2.0  # from TERM to KILL after the server was killed: a restarted one wants the memory soon
GUARDIAN_RESPAWN_S = 1.0  # pause before the next if one died at once, so that a broken /bin/sh costs nothing
GUARDIAN_END_S = 3.0  # its pipe is closed and no group is left: it exits at once
GROUP_POLL_S = (0.005, 0.1)  # first and longest pause while a signalled group empties
READ_BYTES = 65536
MARK = "LLAMASWAP_RUN"
"""In the environment of everything that a model starts: <the server's token>.<number of the run>."""

# $1: tenths of a second from TERM to KILL. $2: the server's token.
_GUARDIAN = r"""
trap '' HUP INT TERM QUIT
g=
while read -r op p; do
  case $op in
    +) g="$g $p" ;;
    -) n=; for x in $g; do [ "$x" = "$p" ] || n="$n $x"; done; g=$n ;;
  esac
done
for x in $g; do kill -s TERM -- "-$x" 2>/dev/null; kill -s CONT -- "-$x" 2>/dev/null; done
n=0
while [ "$n" -lt "$1" ]; do
  left=
  for x in $g; do kill -s 0 -- "-$x" 2>/dev/null && left="$left $x"; done
  g=$left
  [ -n "$g" ] || break
  if sleep 0.1 2>/dev/null; then n=$((n + 1)); else sleep 1; n=$((n + 10)); fi
done
for x in $g; do kill -s KILL -- "-$x" 2>/dev/null; done
ours=$(cat /proc/self/cgroup 2>/dev/null)
for n in 1 2 3 4 5; do
  left=
  for x in $(grep -lsF "LLAMASWAP_RUN=$2." /proc/[0-9]*/environ); do
    x=${x#/proc/} x=${x%/environ}
    [ "$(cat "/proc/$x/cgroup" 2>/dev/null)" = "$ours" ] && kill -s KILL "$x" 2>/dev/null && left=1
  done
  [ -n "$left" ] || exit 0
  sleep 0.1 2>/dev/null
done
exit 0
"""

# The child names itself to the guardian before it becomes the model: no moment is left in which the
# server can be killed and the model survives. Its stdin is the guardian's pipe until then.
_REGISTER = 'echo "+ $$" >&0 2>/dev/null; exec "$@" </dev/null'
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Guardian:
    """A /bin/sh that ends all registered process groups once the server is gone, however it went.

    Strays come last, and find their end at an orderly shutdown as well. It reads the groups from a pipe
    whose write end only the server holds; the end of file is its cue. The server also keeps the read end, so
    a pipe whose reader died breaks no child that is about to register, and the next guardian reads on.
    """

    def __init__(self, grace_s: float = GUARDIAN_GRACE_S) -> None:
        self._grace_s = grace_s
        self._groups: set[int] = set()
        self._read_fd = self._write_fd = -1
        self._process: trio.Process | None = None
        self._token = secrets.token_hex(12)
        self._runs = 0

    @property
    def pid(self) -> int | None:
        """Of the present guardian; for tests and diagnosis."""
        return self._process.pid if self._process is not None else None

    def fileno(self) -> int:
        """The pipe's write end, for the child's stdin."""
        return self._write_fd

    def new_mark(self) -> str:
        """The value of `MARK` for the next run. The guardian knows it without being told."""
        self._runs += 1
        return f"{self._token}.{self._runs}"

    def add(self, pgid: int) -> None:
        """Have this group ended when the server dies. Twice is harmless."""
        self._groups.add(pgid)
        self._tell(f"+ {pgid}\n")

    def discard(self, pgid: int) -> None:
        """The group is empty; its number may come to mean another."""
        self._groups.discard(pgid)
        self._tell(f"- {pgid}\n")

    def _tell(self, line: str) -> None:
        if self._write_fd < 0:
            return  # its time is over
        try:
            os.write(self._write_fd, line.encode())  # far below PIPE_BUF: never torn
        except BlockingIOError:
            log.warning("the guardian does not read; a killed server might leave models behind")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep one alive within the block; at its end, the guardian ends whatever is still registered.

        Raises OSError if there is no /bin/sh. Cancelled, the block's own cleaning up is still guarded.
        """
        self._read_fd, self._write_fd = os.pipe()
        try:
            os.set_blocking(self._write_fd, False)  # a stopped guardian must not stop us
            self._process = await self._spawn()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep)
                yield
                nursery.cancel_scope.cancel()
        finally:
            os.close(self._write_fd)
            self._write_fd = -1
            try:
                if self._process is not None:
                    with trio.move_on_after(self._grace_s + GUARDIAN_END_S, shield=True):
                        await self._process.wait()
            finally:
                self._process = None
                os.close(self._read_fd)
                self._read_fd = -1

    async def _keep(self) -> None:
        while self._process is not None:
            begun = trio.current_time()
            code = await self._process.wait()
            log.warning("the guardian of the models died (%s); starting another", describe_exit(code))
            if trio.current_time() - begun < GUARDIAN_RESPAWN_S:
                await trio.sleep(GUARDIAN_RESPAWN_S)
            try:
                self._process = await self._spawn()
            except OSError as error:  # out of processes, say; the dead one is found dead again
                log.error("no guardian: %s", error)
                continue
            for pgid in self._groups:
                self._tell(f"+ {pgid}\n")

    async def _spawn(self) -> trio.Process:
        ticks = max(1, round(self._grace_s * 10))
        return await trio.lowlevel.open_process(
            ["/bin/sh", "-c", _GUARDIAN, "llamaswap-guardian", str(ticks), self._token],
            stdin=self._read_fd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # The server may itself be the model of another, which ends all that bears its mark: not this.
            env={name: value for name, value in os.environ.items() if name != MARK},
            start_new_session=True,
            cwd="/",
        )


class Child:
    """A spawned command and everything it started."""

    def __init__(self, process: trio.Process, guardian: Guardian, mark: str) -> None:
        assert isinstance(process.stdout, trio.lowlevel.FdStream)
        self._process = process
        self._guardian = guardian
        self._mark = mark
        self._output = process.stdout
        self.pid = process.pid
        self.code: int | None = None
        """Exit code of the leader once `wait` has returned; -N if signal N ended it."""

    async def read(self) -> bytes:
        """Some output (stdout and stderr as one); b"" when nobody holds it any more."""
        return await self._output.receive_some(READ_BYTES)

    async def wait(self) -> int:
        """Until the leader has exited (others of the group may live on). Cancel-safe."""
        self.code = await self._process.wait()
        return self.code

    def terminate(self) -> None:
        """SIGTERM to every process of the group; nobody there is no error."""
        if self.code is None or _group_exists(self.pid):
            _killpg(self.pid, signal.SIGTERM)
            # One that is stopped, since it reached for the terminal perhaps, can act on it only now.
            _killpg(self.pid, signal.SIGCONT)

    async def group_gone(self) -> None:
        """Return when no live process of the group is left; call it only after `wait`. Cancel-safe."""
        pause, longest = GROUP_POLL_S
        while _group_exists(self.pid) and await trio.to_thread.run_sync(_live_members, self.pid):
            await trio.sleep(pause)
            pause = min(pause * 1.5, longest)

    async def kill(self) -> None:
        """SIGKILL for all that is left, strays included, and wait until it is gone.

        Bound it: a process that hangs in a driver cannot be killed. Cancel-safe.
        """
        _killpg(self.pid, signal.SIGKILL)
        await self.wait()
        _killpg(self.pid, signal.SIGKILL)  # whatever was forked meanwhile
        await self.group_gone()
        await self._kill_strays()

    async def _kill_strays(self) -> None:
        killed: set[int] = set()
        pause, longest = GROUP_POLL_S
        # Again, until a look round finds none: one may have forked before it was killed.
        while await trio.to_thread.run_sync(_kill_marked, self._mark, killed, abandon_on_cancel=True):
            await trio.sleep(pause)
            pause = min(pause * 1.5, longest)
        _bury(killed)

    def close(self) -> None:
        """Let go of the output. The group is taken off the guardian's list if it is known to be gone."""
        if self.code is not None and not (_group_exists(self.pid) and _live_members(self.pid)):
            self._guardian.discard(self.pid)
        self._output.close()


async def spawn(argv: Sequence[str], env: Mapping[str, str], guardian: Guardian) -> Child:
    """Run a command in a process group of its own, marked and registered with the guardian, stdin empty.

    Raises OSError or ValueError if it cannot be run at all; what only shows in the child ends in an exit
    with code 126 or 127. Cancelled, it leaves no process.
    """
    # The shell in between passes on only names that it could have itself.
    odd = [f"{name}={value}" for name, value in env.items() if not _SHELL_NAME.match(name)]
    if odd:
        env = {name: value for name, value in env.items() if _SHELL_NAME.match(name)}
        argv = ["/usr/bin/env", *odd, *argv]
    mark = guardian.new_mark()
    process = await trio.lowlevel.open_process(
        ["/bin/sh", "-c", _REGISTER, "llamaswap", *argv],
        stdin=guardian,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**env, MARK: mark},
        process_group=0,
    )
    guardian.add(process.pid)  # again: a guardian that died just now may have taken the line with it
    return Child(process, guardian, mark)


def command_problem(argv: Sequence[str], env: Mapping[str, str]) -> str | None:
    """Why this command cannot be run, or None."""
    if not argv:
        return "empty command"
    name = argv[0]
    if "/" in name:
        if os.path.isdir(name):
            return f"cannot run {name}: it is a directory"
        if not os.path.exists(name):
            return f"command not found: {name}"
        if not os.access(name, os.X_OK):
            return f"cannot run {name}: it is not executable"
        return None
    if not name or shutil.which(name, path=env.get("PATH", os.defpath)) is None:
        return f"command not found: {name or repr(name)} (looked in PATH)"
    return None


def describe_exit(code: int) -> str:
    """An exit status in words: `exit code 3`, `signal SIGKILL`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"


def _killpg(pgid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone, or (macOS) only zombies, or all of it another user's, which no retry changes


def _group_exists(pgid: int) -> bool:
    """Is there a process in this group, a zombie perhaps? Its leader must have been waited for."""
    try:
        # As pid 1 of a container we inherit orphans, and nobody else would bury them.
        while os.waitpid(-pgid, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
    try:
        os.killpg(pgid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _live_members(pgid: int) -> bool:
    """Is anybody in this group more than a zombie? True where that cannot be known."""
    if not sys.platform.startswith("linux"):
        return True
    return any(_live_group(pid) == pgid for pid in _pids())


def _kill_marked(mark: str, killed: set[int]) -> bool:
    """SIGKILL for every process that bears this mark, in whatever group or session; their pids go to `killed`.

    Returns whether there may be more: it found one that was not among them yet, which may have forked a moment before,
    or one of them still lives. Linux only, and only those whose environment we may read.
    """
    if not sys.platform.startswith("linux"):
        return False
    wanted = f"\0{MARK}={mark}\0".encode()
    cgroup = _read("/proc/self/cgroup")
    known = len(killed)
    for pid in _pids():
        if wanted in b"\0" + _read(f"/proc/{pid}/environ") and _read(f"/proc/{pid}/cgroup") == cgroup:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    # Its environment goes first; what else it holds, a GPU's memory perhaps, only then.
    return len(killed) > known or any(_live_group(pid) is not None for pid in killed)


def _live_group(pid: int) -> int | None:
    """The process group of a process that is more than a zombie."""
    # State, parent, group (proc(5)), after the command, which may itself hold parentheses and blanks.
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:3]
    return int(fields[2]) if fields and fields[0] not in (b"Z", b"X") else None


def _bury(pids: set[int]) -> None:
    """As pid 1 of a container we inherit orphans (see `_group_exists`), of any group."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _read(path: str) -> bytes:
    """Empty if it ended meanwhile or is not ours to see."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
