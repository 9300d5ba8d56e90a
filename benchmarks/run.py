"""What llamaswap costs beside the bare upstream, as ratios, so that they hold on other machines too.

    python3 benchmarks/run.py [--rounds 3] [--seconds 4] [--only req_c1,paced_c64] ['NAME=COMMAND' ...]

Needs Python 3.11 and this repository, nothing else: upstream and load generator are beside this file,
llamaswap.pyz is built if it is not there. Other servers can be measured in the same run: COMMAND is
started with {config} and {listen} filled in (a llama-swap configuration file, an address).
"""

from __future__ import annotations

import argparse
import http.client
import json
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYZ = HERE.parent / "llamaswap.pyz"
SLOW_MODEL_S = 0.3
UP_S = 60

LOADS = {
    "req_c1": ["--clients", "1"],
    "req_c32": ["--clients", "32"],
    "stream_c1": ["--clients", "1", "--stream", "--chunks", "50", "--interval-us", "2000"],
    "stream_full_c32": ["--clients", "32", "--stream", "--chunks", "200"],
    "paced_c64": ["--clients", "64", "--stream", "--chunks", "100", "--interval-us", "20000"],
    "big_c4": ["--clients", "4", "--prompt-bytes", "1000000"],
}
# load, figure, its name, unit, divisor
FIGURES = [
    ("req_c1", "p50_us", "one client: latency, median", "us", 1),
    ("req_c32", "rps", "32 clients: requests per second", "/s", 1),
    ("req_c32", "cpu_us_per_req", "32 clients: CPU per request", "us", 1),
    ("stream_c1", "ttfb_p50_us", "one stream: time to first byte, median", "us", 1),
    ("stream_full_c32", "chunks_ps", "32 streams flat out: chunks per second", "/s", 1),
    ("paced_c64", "cpu_us_per_chunk", "64 streams at 50/s: CPU per chunk", "us", 1),
    ("paced_c64", "lag_p50_us", "64 streams at 50/s: lag, median", "ms", 1000),
    ("paced_c64", "lag_p99_us", "64 streams at 50/s: lag, 99 %", "ms", 1000),
    ("big_c4", "rps", "4 clients, bodies of 1 MB: requests per second", "/s", 1),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """The bare upstream, or a server in front of it."""

    def __init__(self, name: str, command: str | None, directory: Path) -> None:
        self.name, self.port = name, free_port()
        fastup = [sys.executable, str(HERE / "fastup.py")]
        if command is None:
            argv = [*fastup, "--port", str(self.port)]
        else:
            config = directory / f"{name}.yaml"
            upstream = shlex.join(fastup) + " --port ${PORT}"
            models = {
                "a": {"cmd": upstream, "concurrencyLimit": 1000},
                "slow": {"cmd": f"{upstream} --bind-delay-s {SLOW_MODEL_S}"},
            }
            # Away from the ports that free_port and clients get.
            start_port = 12000 + self.port % 4000 * 2
            config.write_text(json.dumps({"logLevel": "warn", "startPort": start_port, "models": models}))
            argv = [part.format(config=config, listen=f"127.0.0.1:{self.port}") for part in shlex.split(command)]
        began_s = time.monotonic()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wait_until_up()
        self.start_s = time.monotonic() - began_s
        time.sleep(1)  # lets it come to rest
        self.idle_rss_mib = self.rss_mib()
        self.swap_s: float | None = None
        if command is not None:
            self.swap_s = min(self.first_answer_s("slow", "a") for _ in range(3))

    def wait_until_up(self) -> None:
        deadline_s = time.monotonic() + UP_S
        while True:
            try:
                self.request("GET", "/health", None)
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    sys.exit(f"{self.name} does not answer on port {self.port}")
                time.sleep(0.005)

    def request(self, method: str, path: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=UP_S)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status != 200:
            sys.exit(f"{self.name} answered {response.status} to {path}")

    def first_answer_s(self, model: str, other: str) -> float:
        """Seconds to the first answer of a model that has to take the other's place."""
        for name in (other, model):
            began_s = time.monotonic()
            self.request("POST", "/v1/chat/completions", json.dumps({"model": name}).encode())
        took_s = time.monotonic() - began_s
        self.request("POST", "/v1/chat/completions", json.dumps({"model": other}).encode())
        return took_s

    def rss_mib(self) -> float:
        pid = str(self.process.pid)
        shown = subprocess.run(["ps", "-o", "rss=", "-p", pid], capture_output=True, text=True).stdout
        return int(shown) / 1024

    def measure(self, load: str, seconds: float) -> dict[str, float]:
        command = [sys.executable, str(HERE / "loadgen.py"), "--port", str(self.port)]
        command += ["--seconds", str(seconds), "--pid", str(self.process.pid), *LOADS[load]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
        if done.returncode:
            sys.exit(f"{self.name}, {load}: {done.stderr}")
        found: dict[str, float] = json.loads(done.stdout)
        if found["errors"]:
            print(f"{self.name}, {load}: {found['errors']} requests failed", file=sys.stderr)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def table(servers: list[Server], found: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = [["", *[s.name for s in servers], *[f"{s.name} / bare" for s in servers[1:]]]]
    for load, figure, title, unit, divisor in FIGURES:
        if load not in found[servers[0].name]:
            continue
        values = [found[s.name][load].get(figure, float("nan")) / divisor for s in servers]
        rows.append([title, *[f"{v:,.2f} {unit}" if v < 100 else f"{v:,.0f} {unit}" for v in values]])
        rows[-1] += [f"{v / values[0]:.2f}x" for v in values[1:]]
    swaps = [f"{s.swap_s:.3f} s" if s.swap_s is not None else "" for s in servers]
    rows.append([f"first answer of a model that is ready after {SLOW_MODEL_S} s", *swaps])
    rows.append(["start to /health, files warm", *[f"{s.start_s:.2f} s" for s in servers]])
    rows.append(["memory when idle", *[f"{s.idle_rss_mib:.0f} MiB" for s in servers]])
    columns = len(rows[0])
    rows = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join(["-" * (widths[0] + 2), *["-" * (w + 1) + ":" for w in widths[1:]]]) + "|")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="what llamaswap costs beside the bare upstream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load in each round")
    parser.add_argument("--only", default=",".join(LOADS), help="loads, separated by commas")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("servers", nargs="*", metavar="NAME=COMMAND")
    options = parser.parse_args()
    loads = options.only.split(",")
    if unknown := [load for load in loads if load not in LOADS]:
        parser.error(f"no such load: {', '.join(unknown)}; there are {', '.join(LOADS)}")
    if not PYZ.exists():
        subprocess.run([HERE.parent / "build_zipapp.sh"], check=True)
    own = shlex.join([sys.executable, str(PYZ)])
    subprocess.run([sys.executable, str(PYZ), "--version"], check=True, stdout=subprocess.DEVNULL)  # unpacks it

    servers: list[Server] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            servers.append(Server("bare", None, Path(directory)))
            servers.append(Server("llamaswap", own + " --config {config} --listen {listen}", Path(directory)))
            for given in options.servers:
                name, _, command = given.partition("=")
                servers.append(Server(name, command, Path(directory)))
            rounds: dict[str, dict[str, list[dict[str, float]]]] = {s.name: {k: [] for k in loads} for s in servers}
            for number in range(options.rounds):
                for load in loads:  # side by side, so that a busy minute hits all alike
                    for server in servers:
                        print(f"round {number + 1}: {load}, {server.name}", file=sys.stderr)
                        rounds[server.name][load].append(server.measure(load, options.seconds))
        finally:
            for server in servers:
                server.stop()
    found = {
        name: {load: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for load, runs in by_load.items()}
        for name, by_load in rounds.items()
    }
    print(table(servers, found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
