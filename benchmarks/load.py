"""Closed-loop load on one OpenAI-compatible endpoint; prints one JSON object of figures.

    python benchmarks/load.py --port 8080 --clients 32 --seconds 4 [--stream --chunks 200 --interval-us 0] [--pid N]

Every client keeps one connection and sends its next request when the last is answered. With --pid
it adds what that process used meanwhile: microseconds of CPU for each request and each event.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import selectors
import socket
import subprocess
import time
from typing import Any

STAMP = re.compile(rb'"t":(\d+)')
END = b"0\r\n\r\n"


def cpu_s(pid: int) -> float:
    """User and system time of a process in seconds; from ps where there is no /proc."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        shown = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True).stdout
        total = 0.0
        for part in shown.strip().replace("-", ":").split(":"):
            total = total * 60 + float(part or 0)
        return total


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[int((len(values) - 1) * share)] if values else -1.0


class Client:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.sock: socket.socket | None = None
        self.begin()

    def connect(self) -> None:
        self.sock = socket.create_connection(("127.0.0.1", self.load.options.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.setblocking(False)
        self.load.selector.register(self.sock, selectors.EVENT_READ, self)

    def begin(self) -> None:
        """Sends the next request."""
        self.head, self.need, self.have, self.first = b"", -1, 0, True
        self.tail = b""
        self.unsent = memoryview(self.load.request)
        if self.sock is None:
            self.connect()
        self.began_s = time.perf_counter()
        self.write()

    def write(self) -> None:
        assert self.sock
        try:
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        except BlockingIOError:
            self.load.selector.modify(self.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, self)
            return
        except ConnectionError:
            self.fail()
            return
        if len(self.load.request) > 65_536:
            self.load.selector.modify(self.sock, selectors.EVENT_READ, self)

    def fail(self) -> None:
        assert self.sock
        self.load.errors += 1
        self.load.selector.unregister(self.sock)
        self.sock.close()
        self.sock = None
        self.load.idle.append(self)

    def read(self) -> None:
        assert self.sock
        try:
            data = self.sock.recv(262_144)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.fail()
            return
        if self.need == -1:
            self.head += data
            head, found, data = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self.fail()
                return
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            self.need = int(length[1]) if length else -2
        if self.load.options.stream:
            self.events(data)
        self.have += len(data)
        if self.need == -2:
            self.tail = (self.tail + data)[-len(END) :]
            done = self.tail == END
        else:
            done = self.have >= self.need
        if done:
            self.load.latencies_us.append((time.perf_counter() - self.began_s) * 1e6)
            self.load.idle.append(self)

    def events(self, data: bytes) -> None:
        # A stamp or a mark cut in two is missed in one of some thousands; figures can bear that.
        count = data.count(b"data: ")
        if not count:
            return
        if self.first:
            self.first = False
            self.load.first_us.append((time.perf_counter() - self.began_s) * 1e6)
        self.load.chunks += count
        if self.load.options.interval_us:
            now = time.time_ns()
            self.load.lags_us += [(now - int(t)) / 1e3 for t in STAMP.findall(data)]


class Load:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        fields = {"model": options.model, "stream": options.stream}
        fields |= {"x_chunks": options.chunks, "x_interval_us": options.interval_us}
        fields["messages"] = [{"role": "user", "content": "p" * options.prompt_bytes}]
        body = json.dumps(fields).encode()
        self.request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (options.port, len(body), body)
        )
        self.selector = selectors.DefaultSelector()
        self.idle: list[Client] = []
        self.errors = self.chunks = 0
        self.latencies_us: list[float] = []
        self.first_us: list[float] = []
        self.lags_us: list[float] = []

    def run(self) -> dict[str, Any]:
        pid, begun_s = self.options.pid, time.monotonic()
        used_s = cpu_s(pid) if pid else 0.0
        stop_s = begun_s + self.options.seconds
        clients = [Client(self) for _ in range(self.options.clients)]
        while len(self.idle) < len(clients):
            for key, events in self.selector.select(60):
                if events & selectors.EVENT_WRITE:
                    key.data.write()
                if events & selectors.EVENT_READ:
                    key.data.read()
            if time.monotonic() < stop_s:
                again, self.idle = self.idle, []
                for client in again:
                    client.begin()
        took_s, count = time.monotonic() - begun_s, len(self.latencies_us)
        found = {"rps": count / took_s, "errors": self.errors}
        found |= {"p50_us": percentile(self.latencies_us, 0.5), "p99_us": percentile(self.latencies_us, 0.99)}
        if self.options.stream:
            found["chunks_ps"] = self.chunks / took_s
            found["ttfb_p50_us"] = percentile(self.first_us, 0.5)
        if self.lags_us:
            found["lag_p50_us"] = percentile(self.lags_us, 0.5)
            found["lag_p99_us"] = percentile(self.lags_us, 0.99)
        if pid:
            used_s = cpu_s(pid) - used_s
            found["cpu_us_per_req"] = used_s / max(1, count) * 1e6
            found["cpu_us_per_chunk"] = used_s / max(1, self.chunks) * 1e6
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="closed-loop load on one endpoint")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="a")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--interval-us", type=int, default=0)
    parser.add_argument("--prompt-bytes", type=int, default=200)
    parser.add_argument("--pid", type=int, default=0)
    options = parser.parse_args()
    gc.disable()
    print(json.dumps(Load(options).run()))


if __name__ == "__main__":
    main()
