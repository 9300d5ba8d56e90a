"""The built program for tests from outside: built when it is older than what it is built from."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_S = 300  # the first build of a machine downloads the dependencies
START_S = 30  # a first start unpacks and compiles
STOP_S = 25  # grace for requests and for models, and a margin


def up_to_date() -> Path:
    """The path of llamaswap.pyz, built anew if any of its sources is newer."""
    pyz = ROOT / "llamaswap.pyz"
    sources = [ROOT / "build_zipapp.sh", ROOT / "requirements.lock", ROOT / "requirements-build.lock"]
    sources += [*ROOT.glob("scripts/*zipapp*.py"), *(ROOT / "src" / "llamaswap").rglob("*")]
    sources += [*ROOT.glob("ui/*.*"), *(ROOT / "ui" / "src").rglob("*")]
    newest = max(p.stat().st_mtime for p in sources if p.is_file() and "__pycache__" not in p.parts)
    if not pyz.exists() or pyz.stat().st_mtime < newest:
        build(ROOT)
    return pyz


def build(root: Path) -> None:
    command = [str(root / "build_zipapp.sh")]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Below the ephemeral ports, and from another place for each of several test runs at a time.
_candidates = itertools.count(20000 + os.getpid() % 250 * 40)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports that are free now and were not given out before."""
    for _ in range(1000):
        start, *_rest = [next(_candidates) for _ in range(count)]
        with contextlib.ExitStack() as stack:
            try:
                for port in range(start, start + count):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return start
    raise AssertionError("no free ports")


class Running:
    """A running llamaswap.pyz and its address; what it printed is in `log`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, timeout_s: float = 10) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError):
                if self.get("/health")[0] == 200:
                    return
            assert self.process.poll() is None, f"exited with {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not up:\n{self.log.read_text()}"
            time.sleep(0.01)

    def stop(self) -> int:
        """Ends it as an administrator would and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not stop:\n{self.log.read_text()}") from None


@contextlib.contextmanager
def running(pyz: Path, directory: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Runs the zipapp with these arguments on a free port, in `directory`, until the block ends."""
    port = free_ports(1)
    log = directory / "llamaswap.log"
    command = [sys.executable, str(pyz), *arguments, "--listen", f"127.0.0.1:{port}"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, **environment},
        )
    server = Running(process, port, log)
    try:
        server.wait_until_up()
        yield server
    finally:
        server.stop()
