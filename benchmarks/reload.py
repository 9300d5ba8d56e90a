"""How long a reload takes that changes one model of fifty, on its own and beside 64 streams of 50 tokens/s.

    python3 benchmarks/reload.py [--reloads 20] [--streams 64] [--models 50]

A reload is POST /api/config/reload, from the request to its answer: reading, parsing, comparing, applying. Beside
streams, the longest pause between two tokens of any of them is told as well, with reloads and without. Needs Python
3.11 and this repository; llamaswap.pyz is built if it is not there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from run import HERE, PYZ, free_port

TOKEN_S = 0.02
PAUSE_S = 0.1  # between reloads


def write(path: Path, first_port: int, models: int, streams: int, number: int) -> None:
    """A file as people write them; `number` is in the environment of one model."""
    upstream = shlex.join([sys.executable, "-S", "-E", str(HERE / "upstream.py")])
    text = (
        f"startPort: {first_port}\nmacros:\n  upstream: {upstream}\ngroups:\n  all: {{swap: false, members: [m00]}}\n"
    )
    text += "models:\n"
    for n in range(models):
        text += f"""\
  m{n:02}:
    cmd: |
      ${{upstream}}
        --port ${{PORT}}
    name: Model {n}
    aliases: [alias-{n:02}, org/other-{n:02}]
    ttl: 600
    concurrencyLimit: {streams}
    env: ["CUDA_VISIBLE_DEVICES=0", "NUMBER={number if n == models - 1 else 0}"]
    filters:
      stripParams: "temperature, top_p"
      setParams: {{seed: {n}}}
    metadata: {{size: {n}}}
"""
    path.write_text(text)


class Streams:
    """Clients that read tokens and note the longest wait for one."""

    def __init__(self, port: int, count: int) -> None:
        self.longest_s, self.tokens, self._over = 0.0, 0, False
        body = json.dumps({"model": "m00", "stream": True, "x_chunks": 1_000_000, "x_interval_us": int(TOKEN_S * 1e6)})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(count)]
        for sock in self._sockets:
            sock.sendall((head + body).encode())
            sock.recv(1 << 16)
            threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        before = time.monotonic()
        with suppress(ConnectionResetError):  # also how it ends once nobody reads any more
            while sock.recv(1 << 16):
                now = time.monotonic()
                self.longest_s = max(self.longest_s, now - before)
                self.tokens, before = self.tokens + 1, now
        if not self._over:
            sys.exit("a stream has ended")

    def watch(self) -> None:
        self.longest_s = 0.0

    def close(self) -> None:
        self._over = True
        for sock in self._sockets:
            sock.shutdown(socket.SHUT_RDWR)


def reload(connection: http.client.HTTPConnection) -> float:
    begun = time.perf_counter()
    connection.request("POST", "/api/config/reload")
    answer = json.loads(connection.getresponse().read())
    took_s = time.perf_counter() - begun
    if len(answer.get("changed", ())) != 1:
        sys.exit(f"not the reload that was to be measured: {answer}")
    return took_s * 1e3


def until_up(port: int) -> http.client.HTTPConnection:
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/v1/models")  # the app is there as well
            connection.getresponse().read()
            return connection
        except OSError:
            time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="how long a reload takes")
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--models", type=int, default=50)
    options = parser.parse_args()
    if not PYZ.exists():
        subprocess.run([HERE.parent / "build_zipapp.sh"], check=True)
    with tempfile.TemporaryDirectory() as name:
        path, port = Path(name) / "config.yaml", free_port()
        first_port = free_port()
        write(path, first_port, options.models, options.streams, 0)
        listen = ("--config", str(path), "--listen", f"127.0.0.1:{port}")
        server = subprocess.Popen([sys.executable, str(PYZ), *listen], stdout=subprocess.DEVNULL)
        try:
            connection = until_up(port)
            number = 0

            def measure(what: str) -> None:
                nonlocal number
                took: list[float] = []
                for _ in range(options.reloads):
                    number += 1
                    write(path, first_port, options.models, options.streams, number)
                    took.append(reload(connection))
                    time.sleep(PAUSE_S)
                print(f"{what}: median {statistics.median(took):.0f} ms, longest {max(took):.0f} ms")

            measure(f"a reload that changes one model of {options.models}")
            streams = Streams(port, options.streams)
            time.sleep(1)
            streams.watch()
            time.sleep(options.reloads * PAUSE_S)
            alone_s = streams.longest_s
            streams.watch()
            measure(f"beside {options.streams} streams of {1 / TOKEN_S:.0f} tokens/s")
            told = f"{streams.longest_s * 1e3:.0f} ms; without reloads {alone_s * 1e3:.0f} ms"
            print(f"longest pause between two tokens of a stream meanwhile: {told}")
            streams.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
