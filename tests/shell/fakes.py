"""Models without processes: `FakeLauncher` keeps the promises of `Launcher`, on any clock."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import stub
import trio

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import StartFailed, StartTimeout
from llamaswap.observe.logs import LogMonitor
from llamaswap.upstream.process import TIMED_OUT_STOP_S, Control, Exit

STUB = str(Path(__file__).with_name("stub.py"))
_PARSER = stub.parser()


def a_model(id: str, *options: str, port: int = 1, **settings: object) -> ModelConfig:
    """A model served by the stub (see stub.py for the options), real or fake."""
    argv = (sys.executable, "-S", "-E", STUB, "--port", str(port), *options)
    settings = {"proxy": f"http://127.0.0.1:{port}", "port": port, "unload_timeout_s": 5.0, **settings}
    return ModelConfig(id=id, cmd=" ".join(argv), argv=argv, **settings)  # type: ignore[arg-type]


def a_config(*models: ModelConfig, **settings: object) -> Config:
    return Config(models={model.id: model for model in models}, **settings)  # type: ignore[arg-type]


class FakeLauncher:
    """Runs nothing, and remembers what it was asked to run.

    Understands --ready-after, --say, --exit, --ignore-term and --stop-takes of the stub.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        """Model ids in the order of their starts."""
        self.running: dict[str, trio.Event] = {}
        """Model id -> set it and the process crashes."""
        self.open = False
        self.most_at_once = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        self.open = True
        try:
            yield
        finally:
            assert not self.running, "processes outlive their launcher"
            self.open = False

    def crash(self, model_id: str) -> None:
        self.running[model_id].set()

    async def run(self, model: ModelConfig, output: LogMonitor, control: Control) -> Exit:
        assert self.open and model.id not in self.running
        if not model.argv:
            raise StartFailed(f"model '{model.id}' could not be started: empty command")
        options = _PARSER.parse_args(model.argv[4:])
        self.started.append(model.id)
        crashed = self.running[model.id] = trio.Event()
        self.most_at_once = max(self.most_at_once, len(self.running))
        said = f"pid 0\n{options.say}\n" if options.say else "pid 0\n"
        output.write(said.encode())
        control.pid = 1000 + len(self.started)
        try:
            if options.exit is not None:
                await trio.lowlevel.checkpoint()
                raise StartFailed(
                    f"model '{model.id}': upstream command exited prematurely with exit code {options.exit}",
                    exit_code=options.exit,
                    output=said,
                )
            if model.check_endpoint != "none":
                load_s = options.ready_after if options.ready_after >= 0 else float("inf")
                limit_s = model.health_check_timeout_s
                with trio.move_on_after(min(load_s, limit_s)):
                    await self._either(control.stop_asked, crashed)
                    if not control.stop_asked.is_set():
                        raise StartFailed(f"model '{model.id}': upstream command exited prematurely")
                if not control.stop_asked.is_set() and load_s > limit_s:
                    error = StartTimeout(
                        f"model '{model.id}': health check timed out after {limit_s:g}s", output=said
                    )
                    control.ending(error)
                    await self._stop(model, options, min(TIMED_OUT_STOP_S, model.unload_timeout_s))
                    raise error
            if not control.stop_asked.is_set():
                control.ready()
                await self._either(control.stop_asked, crashed)
            if crashed.is_set():
                control.ending(None)
                await trio.lowlevel.checkpoint()
                return Exit(-9, said)
            now = control.model or model
            grace_s = now.unload_timeout_s if control.grace_s is None else control.grace_s
            return await self._stop(model, options, grace_s)
        finally:
            del self.running[model.id]

    async def _either(self, one: trio.Event, other: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, one)
            nursery.start_soon(wait, other)

    async def _stop(self, model: ModelConfig, options: object, grace_s: float) -> Exit:
        takes_s = float("inf") if getattr(options, "ignore_term") else getattr(options, "stop_takes")  # noqa: B009
        await trio.sleep(min(takes_s, grace_s))
        return Exit(-9 if takes_s > grace_s else -15, "")
