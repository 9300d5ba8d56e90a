"""One model's OS process in one scope: spawned, probed, its output drained, ended with its whole group."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from llamaswap.config.command import split_command
from llamaswap.config.settings import ModelConfig
from llamaswap.errors import NotStarted, StartFailed, StartTimeout
from llamaswap.observe.logs import LogMonitor
from llamaswap.upstream import ports
from llamaswap.upstream.output import Tail
from llamaswap.upstream.posix import GUARDIAN_GRACE_S, Child, Guardian, command_problem, describe_exit, spawn
from llamaswap.upstream.probe import Probe, Target

log = logging.getLogger("llamaswap.upstream")

KILL_S = 5.0  # after SIGKILL; what is still there then hangs in the kernel, and waiting longer helps nobody
CANCELLED_STOP_S = 2.0  # for a cmdStop when the server ends at once: a container ends no other way
TIMED_OUT_STOP_S = 5.0  # from TERM to KILL for a model that never became ready: nobody talks to it
DRAIN_S = 0.25  # for output after the group has gone; more only comes from somebody who left the group
PORT_FREE_S = 2.0  # an earlier server's guardian may be ending its models just now
PORT_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process that had been ready, or was told to stop, ended."""

    code: int | None
    """None: it could not be killed. -N: signal N."""
    output: str
    """Its last lines."""

    def __str__(self) -> str:
        return "still running" if self.code is None else describe_exit(self.code)


class Control:
    """The line between the fleet and one running process: the fleet asks, the launcher tells."""

    def __init__(
        self,
        on_ready: Callable[[], None] = lambda: None,
        on_ending: Callable[[NotStarted | None], None] = lambda error: None,
    ) -> None:
        self.ready = on_ready
        """The launcher calls it once, when requests may come."""
        self.ending = on_ending
        """The launcher calls it when the process has exited by itself after it was ready, or failed to
        become ready in time (with the error), before it cleans up."""
        self.pid: int | None = None
        """Of the process, also its group's; the launcher sets it."""
        self.model: ModelConfig | None = None
        """What a reload has made of the model's settings meanwhile: how to stop it."""
        self.stop_asked = trio.Event()
        self.grace_s: float | None = None

    def stop(self, grace_s: float | None = None) -> None:
        """End the process: cmdStop or SIGTERM, SIGKILL after `grace_s` (the model's unloadTimeout)."""
        self.grace_s = grace_s
        self.stop_asked.set()


class Launcher(Protocol):
    """Runs models. The fleet's tests use one without processes; both pass the same tests."""

    def session(self) -> AbstractAsyncContextManager[None]:
        """Open while models may run."""
        ...

    async def run(self, model: ModelConfig, output: LogMonitor, control: Control) -> Exit:
        """Run the model's process, from spawning until nothing of it is left.

        Raises StartFailed or StartTimeout if it never became ready (not if it was stopped before).
        Cancelled, it kills the process within `CANCELLED_STOP_S` + `KILL_S` and leaves nothing.
        """
        ...


class ProcessLauncher:
    """The real one."""

    def __init__(self, *, port_free_s: float = PORT_FREE_S, guardian_grace_s: float = GUARDIAN_GRACE_S) -> None:
        """`port_free_s`: how long a taken port may take to become free; `guardian_grace_s`: from TERM to
        KILL for the models of a server that was killed."""
        self._guardian = Guardian(guardian_grace_s)
        self._port_free_s = port_free_s

    def session(self) -> AbstractAsyncContextManager[None]:
        return self._guardian.open()

    async def run(self, model: ModelConfig, output: LogMonitor, control: Control) -> Exit:
        env = {**os.environ, **dict(entry.split("=", 1) for entry in model.env if "=" in entry)}
        problem = command_problem(model.argv, env)
        if problem:
            raise StartFailed(f"model '{model.id}' could not be started: {problem}")
        try:
            target = Target.of(model.proxy, model.check_endpoint)
        except ValueError as error:
            raise StartFailed(f"model '{model.id}' could not be started: {error}") from None
        if not await self._port_free(model, control):
            return Exit(0, "")  # stopped before it began
        try:
            child = await spawn(model.argv, env, self._guardian)
        except (OSError, ValueError) as error:
            raise StartFailed(f"model '{model.id}' could not be started: {error}") from error
        control.pid = child.pid
        run = _Run(model, output, control, child, env, self._guardian)
        try:
            return await run.live(None if model.check_endpoint == "none" else target)
        finally:
            await run.end()

    async def _port_free(self, model: ModelConfig, control: Control) -> bool:
        """True when it is, False if the model was told to stop meanwhile; raises StartFailed if it stays taken."""
        if model.port is None:
            return True
        with trio.move_on_after(self._port_free_s):
            while await ports.taken(model.proxy, model.port) is not None:
                with trio.move_on_after(PORT_POLL_S):
                    await control.stop_asked.wait()
                    return False
            return True
        address = await ports.taken(model.proxy, model.port)
        if address is None:
            return True
        by = await ports.holder(model.port) or "another program"
        raise StartFailed(
            f"model '{model.id}' could not be started: its port {model.port} ({address}) is already in use by {by}"
        )


class _Run:
    def __init__(
        self,
        model: ModelConfig,
        output: LogMonitor,
        control: Control,
        child: Child,
        env: dict[str, str],
        guardian: Guardian,
    ) -> None:
        self._model = model
        self._output = output
        self._control = control
        self._child = child
        self._env = env
        self._guardian = guardian
        self._tail = Tail()
        self._drained = trio.Event()
        self._exited = trio.Event()
        self._probe: Probe | None = None
        self._gone = False

    async def live(self, target: Target | None) -> Exit:
        error: NotStarted | None = None
        served = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._drain)
            nursery.start_soon(self._reap)
            ready = target is None or await self._become_ready(target)
            if ready and not self._exited.is_set():
                served = True
                self._control.ready()
                await first_of(self._exited.wait, self._control.stop_asked.wait)
                if self._exited.is_set():
                    self._control.ending(None)
            elif not (self._exited.is_set() or self._control.stop_asked.is_set()):
                error = self._timed_out()
                self._control.ending(error)
            exited_by_itself = self._exited.is_set()
            if not exited_by_itself:
                await self._stop(error)
            await self._kill()
            with trio.move_on_after(DRAIN_S):
                await self._drained.wait()
            if exited_by_itself and not served:
                error = self._exited_early()
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
        return Exit(self._child.code, self._tail.text())

    async def end(self) -> None:
        """Leave nothing if `live` was cut short; let go of what it held."""
        if not self._gone:
            cmd_stop = self._as_configured_now().cmd_stop
            if self._child.code is None and cmd_stop:
                with trio.move_on_after(CANCELLED_STOP_S, shield=True):
                    await self._run_cmd_stop(cmd_stop)
            with trio.CancelScope(shield=True):
                await self._kill()
        self._child.close()

    # -- the tasks beside

    async def _drain(self) -> None:
        while data := await self._child.read():
            self._tail.write(data)
            self._output.write(data)
            if self._probe is not None:
                self._probe.output_seen()
        self._drained.set()

    async def _reap(self) -> None:
        await self._child.wait()
        self._exited.set()

    # -- the phases

    async def _become_ready(self, target: Target) -> bool:
        """False if it exited, was told to stop, or took too long."""
        self._probe = Probe(target)
        ready = False

        async def probe() -> None:
            nonlocal ready
            assert self._probe is not None
            await self._probe.until_ready()
            ready = True

        with trio.move_on_after(self._model.health_check_timeout_s):
            await first_of(probe, self._exited.wait, self._control.stop_asked.wait)
        # Asked to stop in the same moment: nobody is to be let in any more.
        return ready and not self._control.stop_asked.is_set()

    async def _stop(self, error: NotStarted | None) -> None:
        """Ask the group to end and wait for it, at most for the grace."""
        grace_s = self._control.grace_s
        model = self._as_configured_now()
        if grace_s is None:
            grace_s = model.unload_timeout_s
        if error is not None:
            grace_s = min(grace_s, TIMED_OUT_STOP_S)
        with trio.move_on_after(grace_s) as grace:
            if not (model.cmd_stop and await self._run_cmd_stop(model.cmd_stop)):
                self._child.terminate()
            await self._exited.wait()
            await self._child.group_gone()
        if grace.cancelled_caught:
            log.warning("%s did not stop within %g s; killing it", self._model.id, grace_s)

    def _as_configured_now(self) -> ModelConfig:
        return self._control.model or self._model

    async def _run_cmd_stop(self, cmd_stop: str) -> bool:
        """True if it ran and succeeded. Cancelled, it is killed."""
        try:
            argv = [part.replace("${PID}", str(self._child.pid)) for part in split_command(cmd_stop)]
            problem = command_problem(argv, self._env)
            if problem:
                raise OSError(problem)
            command = await spawn(argv, self._env, self._guardian)
        except (OSError, ValueError) as error:
            log.warning("cmdStop of %s could not be run: %s", self._model.id, error)
            return False
        drained = trio.Event()

        async def drain() -> None:
            while data := await command.read():
                self._output.write(data)
            drained.set()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain)
                code = await command.wait()
                with trio.move_on_after(DRAIN_S):
                    await drained.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(KILL_S, shield=True):
                await command.kill()
            command.close()
        if code:
            log.warning("cmdStop of %s ended with %s", self._model.id, describe_exit(code))
        return code == 0

    async def _kill(self) -> None:
        with trio.move_on_after(KILL_S) as bound:
            await self._child.kill()
        self._gone = True  # as far as can be
        if bound.cancelled_caught:
            log.error("%s (pid %d) cannot be killed", self._model.id, self._child.pid)

    # -- what went wrong

    def _exited_early(self) -> StartFailed:
        code = self._child.code or 0
        return StartFailed(
            f"model '{self._model.id}': upstream command exited prematurely with {describe_exit(code)}",
            exit_code=code,
            output=self._tail.text(),
        )

    def _timed_out(self) -> StartTimeout:
        last = f"; {self._model.check_endpoint}: {self._probe.last}" if self._probe is not None else ""
        return StartTimeout(
            f"model '{self._model.id}': health check timed out after "
            f"{go_duration(self._model.health_check_timeout_s)}{last}",
            output=self._tail.text(),
        )


async def first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when one of these has returned; the others are cancelled."""
    async with trio.open_nursery() as nursery:

        async def run(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(run, wait)


def go_duration(seconds: float) -> str:
    """As llama-swap writes it, for scripts that look for it: `15s`, `2m0s`, `1h0m0s`."""
    whole, rest = divmod(seconds, 1)
    minutes, s = divmod(int(whole), 60)
    hours, m = divmod(minutes, 60)
    last = f"{s + rest:g}s"
    if hours:
        return f"{hours}h{m}m{last}"
    return f"{minutes}m{last}" if minutes else last
