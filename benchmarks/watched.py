"""What being watched costs llamaswap: the loads of run.py, alone and with event subscribers and a store on disk.

    python3 benchmarks/watched.py [--rounds 3] [--seconds 3] [--only req_c1,req_c32] [--subscribers 50] [--deaf 10]

Two servers run side by side and take each load in turn: one that nobody watches, its store in memory, and one
whose /api/events `--subscribers` clients follow, `--deaf` of them without ever reading, its store in a file. Ratios are
of the second to the first. At the end the second one's memory is read while it answers 20,000 requests.
Needs what run.py needs.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from run import FIGURES, HERE, LOADS, PYZ, Found, Server, Tools, medians

REQUESTS, STEPS = 20_000, 4
WARM_REQUESTS = 2_000
EVENTS = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Watched(Server):
    """A server whose configuration names a store in a file."""

    def __init__(self, name: str, command: str, tools: Tools, directory: Path, store: bool) -> None:
        super().__init__(name, command, tools, directory)
        if store:
            config = directory / f"{name}.yaml"
            known = json.loads(config.read_text())
            config.write_text(json.dumps(known | {"store": {"path": str(directory / "activity.db")}}))

    def rss_mib(self) -> float:
        assert self.process
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True)
        return int(shown.stdout) / 1024


class Subscribers:
    """Clients of /api/events, some of which read."""

    def __init__(self, port: int, count: int, deaf: int) -> None:
        self.received_bytes = 0
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
        for number, sock in enumerate(self._sockets):
            sock.sendall(EVENTS)
            if number >= deaf:
                threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        try:
            while data := sock.recv(1 << 16):
                self.received_bytes += len(data)
        except OSError:
            return

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def ask_many(port: int, count: int) -> None:
    """Plain requests, one after another on one connection."""
    body = b'{"model":"a","messages":[]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        for _ in range(count):
            sock.sendall(request)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += sock.recv(1 << 16)
            top, _, rest = answer.partition(b"\r\n\r\n")
            length = next(int(line[15:]) for line in top.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            while len(rest) < length:
                rest += sock.recv(1 << 16)
            if not top.startswith(b"HTTP/1.1 200"):
                sys.exit(f"answered {top.splitlines()[0]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description="what being watched costs llamaswap")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default="req_c1,req_c32,stream_c1,stream_full_c32,paced_c64,big_c4")
    parser.add_argument("--subscribers", type=int, default=50)
    parser.add_argument("--deaf", type=int, default=10)
    options = parser.parse_args()
    loads = options.only.split(",")
    if unknown := [load for load in loads if load not in LOADS]:
        parser.error(f"no such load: {', '.join(unknown)}; there are {', '.join(LOADS)}")
    tools = Tools.find()
    if not PYZ.exists():
        subprocess.run([HERE.parent / "build_zipapp.sh"], check=True)
    command = shlex.join([sys.executable, str(PYZ)]) + " --config {config} --listen {listen}"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        alone = Watched("alone", command, tools, directory, store=False)
        watched = Watched("watched", command, tools, directory, store=True)
        runs: dict[str, dict[str, list[Found]]] = {s.name: {load: [] for load in loads} for s in (alone, watched)}
        subscribers: Subscribers | None = None
        try:
            alone.start()
            watched.start()
            subscribers = Subscribers(watched.port, options.subscribers, options.deaf)
            for number in range(options.rounds):
                for load in loads:
                    for server in (alone, watched) if number % 2 else (watched, alone):
                        print(f"round {number + 1}: {load}, {server.name}", file=sys.stderr)
                        runs[server.name][load].append(server.measure(load, options.seconds))
            ask_many(watched.port, WARM_REQUESTS)
            memory = [watched.rss_mib()]
            for _ in range(STEPS):
                ask_many(watched.port, REQUESTS // STEPS)
                memory.append(watched.rss_mib())
        finally:
            if subscribers is not None:
                subscribers.close()
            alone.stop()
            watched.stop()
    found = {name: {load: medians(all_) for load, all_ in by_load.items()} for name, by_load in runs.items()}
    for figure in FIGURES:
        one, other = figure.value(found["alone"]), figure.value(found["watched"])
        if not math.isnan(one) and one > 0:
            shown = f"{figure.title:44}{figure.show(one):>18}{figure.show(other):>18}"
            print(f"{shown}{other / one:>8.2f}x")
    print(f"memory over {REQUESTS} requests, MiB: " + ", ".join(f"{mib:.1f}" for mib in memory))
    readers = options.subscribers - options.deaf
    print(f"events received: {subscribers.received_bytes / 2**20:.1f} MiB by {readers} readers")


if __name__ == "__main__":
    main()
