"""A stage for tests from outside: llamaswap.pyz with fake models, and clients that trust nobody.

Everything a test waits for is an event (a line in the models' journal, an answer, a process that is
gone) with `DEADLINE_S` to happen in; nothing here depends on how long a thing takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import zipapp_runner
from clients import CHAT, DEADLINE_S, Answer, Call, Wire, request_bytes, stays, until

__all__ = [
    "CHAT",
    "Answer",
    "Call",
    "Stage",
    "Wire",
    "command",
    "marked",
    "one_test",
    "request_bytes",
    "shared_stage",
    "stage",
    "start",
    "stays",
    "until",
]

FAKE_MODEL = Path(__file__).with_name("fake_model.py")


def marked(marker: str) -> list[int]:
    """The processes with `marker` in their arguments, zombies not counted."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/cmdline", "rb") as file:
                if marker.encode() in file.read():
                    found.append(int(entry))
    return sorted(found)


def start(
    pyz: Path, directory: Path, *arguments: str, group: bool = False, **environment: str
) -> subprocess.Popen[bytes]:
    """The zipapp in `directory`, its output in llamaswap.log there. `group`: as a shell's job."""
    with open(directory / "llamaswap.log", "ab") as output:
        return subprocess.Popen(
            [sys.executable, str(pyz), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **environment},
            process_group=0 if group else None,
        )


def command(home: Path, *more: str) -> str:
    fake = [sys.executable, "-S", "-E", str(FAKE_MODEL)]
    return shlex.join([*fake, "--port", "${PORT}", "--name", "${MODEL_ID}", "--home", str(home), *more])


class Stage:
    """A running server and its models' scripts, gates and journal."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], port: int, first_port: int) -> None:
        self.directory, self.home = directory, directory / "models"
        self.process, self.port, self.first_port = process, port, first_port
        self.log_file = directory / "llamaswap.log"
        self.server = zipapp_runner.Running(process, port, self.log_file)
        self.tls: ssl.SSLContext | None = None
        self.server_process = psutil.Process(process.pid)
        self.arguments: list[str] = []
        self.settings: dict[str, dict[str, Any]] = {}
        self.family: list[psutil.Process] = []
        self._wires: list[Wire] = []
        self._seen = 0
        self._log_seen = 0

    # -- the models

    def script(self, model: str, **how: object) -> None:
        """How this model's next starts go; see `fake_model.STARTS`."""
        path = self.home / (model.replace("/", "_") + ".json")
        fresh = path.with_suffix(".fresh")
        fresh.write_text(json.dumps(how))
        fresh.replace(path)  # at once: it may be starting just now

    def open(self, gate: str) -> None:
        (self.home / gate).touch()

    def forget(self) -> None:
        """Scripts, gates, journal lines and connections so far."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()
        for path in self.home.iterdir():
            if path.name != "journal":
                path.unlink()
        journal = self.home / "journal"
        self._seen = journal.stat().st_size if journal.exists() else 0
        self._log_seen = len(self.log())

    def journal(self, event: str = "", model: str = "", **more: object) -> list[dict[str, Any]]:
        """What happened since `forget`."""
        journal = self.home / "journal"
        if not journal.exists():
            return []
        with open(journal, "rb") as file:
            file.seek(self._seen)
            whole, _, _ = file.read().rpartition(b"\n")  # the last line may be on its way
        lines = [json.loads(line) for line in whole.splitlines()]
        wanted = {**({"event": event} if event else {}), **({"model": model} if model else {}), **more}
        return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]

    def happens(self, event: str, model: str = "", count: int = 1, **more: object) -> dict[str, Any]:
        """The `count`th of such events, once it has happened."""
        until(
            lambda: len(self.journal(event, model, **more)) >= count or self.process.poll() is not None,
            lambda: f"{count} times {event} {model} {more}; there is:\n{self.journal()}",
        )
        return self.journal(event, model, **more)[count - 1]

    def pid(self, model: str) -> int:
        """Of its latest process."""
        return int(self.journal("start", model)[-1]["pid"])

    def port_of(self, model: str) -> int:
        """Its ${PORT}."""
        return self.first_port + sorted(id for id, it in self.settings.items() if "${PORT}" in it["cmd"]).index(model)

    def command_of(self, model: str) -> str:
        """Its `cmd`, as configured."""
        return str(self.settings[model]["cmd"])

    def lives(self, model: str) -> bool:
        """Whether its latest process is there."""
        return self.pid(model) in self.processes()

    def processes(self) -> list[int]:
        """Of all models, children included."""
        return marked(str(self.home))

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        assert pid in self.processes()
        os.kill(pid, number)

    # -- requests

    def wire(self) -> Wire:
        """A connection; whoever does not close it leaves it to `forget`."""
        self._wires.append(Wire(self.port, tls=self.tls))
        return self._wires[-1]

    def get(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
        wire = self.wire()
        with contextlib.closing(wire):
            return wire.ask(request_bytes(method, path, headers=headers), method=method)

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        wire = self.wire()
        with contextlib.closing(wire):
            return wire.ask(request_bytes("POST", path, raw, headers))

    def ask(self, model: str, *, path: str = CHAT, stream: bool = False, **do: object) -> Answer:
        """A chat with this model; `do` as in `fake_model.DOES`."""
        return self.call(model, path=path, stream=stream, **do).wait()

    def call(self, model: str, *, path: str = CHAT, stream: bool = False, version: str = "1.1", **do: object) -> Call:
        wire = self.wire()
        body = {"model": model, "messages": [], **({"stream": True} if stream else {}), **({"do": do} if do else {})}
        return Call(wire, request_bytes("POST", path, json.dumps(body).encode(), version=version))

    def hold(self, model: str, gate: str) -> Call:
        """A request that the model has got and answers when `gate` opens."""
        call = self.call(model, gate=gate, tag=gate)
        self.happens("request", model, tag=gate)
        return call

    def queue(self, model: str, **do: object) -> Call:
        """A request that the server has got and that waits, if it has to."""
        call = self.call(model, **do)
        self.get("/running")  # answered only after what arrived before it was read
        return call

    # -- the server

    def running(self) -> dict[str, str]:
        return {entry["model"]: entry["state"] for entry in self.get("/running").json["running"]}

    def until_running(self, **states: str) -> None:
        until(lambda: self.running() == states, f"{states}")

    def unload(self, model: str = "") -> None:
        answer = self.post("/api/models/unload" + (f"/{model}" if model else ""), b"")
        assert answer.status == 200, answer

    def clients(self) -> int:
        """How many client connections the server holds (reset ones may not show)."""
        with self.server_process.oneshot():
            there = self.server_process.net_connections("tcp")
        return sum(c.status != psutil.CONN_LISTEN and c.laddr.port == self.port for c in there)

    def notices(self, model: str, count: int = 1) -> None:
        """So many clients of this model have left, and the server knows."""
        line = re.compile(rf'" 499 .* model={re.escape(model)}\n')
        until(lambda: len(line.findall(self.log(), self._log_seen)) >= count, "the server notices that they left")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def note_family(self) -> list[psutil.Process]:
        """Remember what belongs to the server, so that it can be seen to be gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family = list({*self.family, *self.server_process.children(recursive=True)})
        return self.family

    def restart(self, pyz: Path) -> None:
        """Another server in the place of one that has ended."""
        self.note_family()
        self.process = start(pyz, self.directory, *self.arguments)
        self.server = zipapp_runner.Running(self.process, self.port, self.log_file)
        self.server_process = psutil.Process(self.process.pid)
        self.server.wait_until_up()

    def signal(self, number: signal.Signals) -> None:
        self.note_family()
        self.process.send_signal(number)

    def ends(self, code: int = 0, timeout_s: float = DEADLINE_S) -> None:
        """The server ends with this code and leaves nothing."""
        assert self.process.wait(timeout_s) == code, self.log()
        self.leaves_nothing()

    def leaves_nothing(self) -> None:
        until(lambda: not self.processes(), "no model is left")
        until(lambda: not [p for p in self.family if p.is_running() and p.status() != "zombie"], "nor anything else")

    def clean_up(self) -> None:
        """Whatever happened: end what this stage started."""
        self.note_family()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in [*self.processes(), *(p.pid for p in self.family if p.is_running())]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


Settings = Mapping[str, Any]


@contextlib.contextmanager
def stage(
    pyz: Path,
    directory: Path,
    models: Mapping[str, Settings],
    *,
    flags: tuple[str, ...] = (),
    tls: ssl.SSLContext | None = None,
    group: bool = False,
    **config: object,
) -> Iterator[Stage]:
    """Run llamaswap.pyz with these fake models; at the end it must go in order and leave nothing.

    `models`: id -> its settings; `cmd` is that of a fake model, `more` are arguments to it.
    """
    home = directory / "models"
    home.mkdir(parents=True)
    first = zipapp_runner.free_ports(len(models) + 1)
    complete = {id: {"cmd": command(home), **settings} for id, settings in models.items()}
    whole = {"startPort": first + 1, "models": complete, **config}
    (directory / "config.yaml").write_text(json.dumps(whole, indent=1))
    place = ("--config", str(directory / "config.yaml"), "--listen", f"127.0.0.1:{first}")
    process = start(pyz, directory, *place, *flags, group=group)
    it = Stage(directory, process, first, first + 1)
    it.settings = complete
    it.tls, it.arguments = tls, [*place, *flags]
    try:
        if tls:
            until(lambda: "listens on" in it.log() or process.poll() is not None, "it listens")
        else:
            it.server.wait_until_up()
        yield it
        if it.process.poll() is None:
            it.signal(signal.SIGTERM)
            it.ends(0)
        it.leaves_nothing()
        assert "Traceback" not in it.log(), it.log()
    except BaseException as error:
        error.add_note(f"the server's log:\n{it.log()[-6000:]}")
        raise
    finally:
        it.clean_up()
        it.forget()


@contextlib.contextmanager
def shared_stage(
    pyz: Path, directory: Path, models: Mapping[str, Settings], **config: object
) -> Iterator[tuple[Stage, int]]:
    """A stage for several tests, and how many descriptors its server has when nothing is going on."""
    with stage(pyz, directory, models, **config) as on:
        assert on.ask(next(iter(models))).status == 200
        on.unload()
        on.forget()
        yield on, on.descriptors()


@contextlib.contextmanager
def one_test(shared: tuple[Stage, int]) -> Iterator[Stage]:
    """One test's turn on it: afterwards all can be unloaded, and neither process nor descriptor is left."""
    on, descriptors = shared
    try:
        yield on
        on.unload()
        assert on.running() == {}
        assert on.processes() == []
    finally:
        on.forget()
    until(lambda: on.descriptors() <= descriptors, f"no more than {descriptors} descriptors")
