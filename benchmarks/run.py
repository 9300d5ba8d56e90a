"""What llamaswap costs beside the bare upstream, as ratios, so that they hold on other machines too.

    python3 benchmarks/run.py [--rounds 3] [--seconds 4] [--only req_c1,paced_c64] [--json FILE] ['NAME=COMMAND' ...]

Needs Python 3.11 and this repository, nothing else. Upstream and load generator are beside this file,
once in Go and once in Python: with `go` on the PATH the former are built and used, without it the
latter, whose own costs differ so much that their ratios say nothing beside those of the former.
llamaswap.pyz is built if it is not there. Other servers can be measured in the same run: COMMAND is
started with {config} and {listen} filled in (a llama-swap configuration file, an address).

A round starts every server afresh, puts each load on each of them in turn, so that a busy minute hits
all alike, and stops them; figures are medians over the rounds. Ratios are to the bare upstream.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import math
import os
import platform
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "bench"
PYZ = HERE.parent / "llamaswap.pyz"
CHAT = "/v1/chat/completions"
SLOW_MODEL_S = 0.3
UP_S = 60
REST_S = 1  # after the start, before memory is read

LOADS = {
    "req_c1": ["--clients", "1"],
    "req_c32": ["--clients", "32"],
    "stream_c1": ["--clients", "1", "--stream", "--chunks", "50", "--interval-us", "2000"],
    "stream_full_c32": ["--clients", "32", "--stream", "--chunks", "200"],
    "paced_c64": ["--clients", "64", "--stream", "--chunks", "100", "--interval-us", "20000"],
    "big_c4": ["--clients", "4", "--prompt-bytes", "1000000"],
}
LIFE = "life"  # not a load: what a server costs by being there

Found = dict[str, float]


@dataclass(frozen=True)
class Floor:
    """What a figure has to reach. `of` takes the server's value and the bare one."""

    text: str
    of: Callable[[float, float], float]
    at_least: float = -math.inf
    at_most: float = math.inf
    relative: bool = True  # to the bare upstream in Go

    def met(self, value: float, bare: float) -> bool:
        return self.at_least <= self.of(value, bare) <= self.at_most


def ratio_floor(at_least: float = -math.inf, at_most: float = math.inf) -> Floor:
    text = f">= {at_least:.2f}x" if at_most == math.inf else f"<= {at_most:.2f}x"
    return Floor(text, lambda value, bare: value / bare, at_least, at_most)


def value_floor(at_most: float, unit: str) -> Floor:
    return Floor(f"<= {at_most:g} {unit}", lambda value, _: value, at_most=at_most, relative=False)


@dataclass(frozen=True)
class Figure:
    load: str
    key: str
    title: str
    unit: str
    floor: Floor | None = None
    divisor: float = 1.0

    def value(self, found: dict[str, Found]) -> float:
        """NaN where it was not measured."""
        return found.get(self.load, {}).get(self.key, math.nan) / self.divisor

    def show(self, value: float) -> str:
        if math.isnan(value):
            return ""
        return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {self.unit}"


LAG_FLOOR = Floor("<= bare + 2.5 ms", lambda value, bare: value - bare, at_most=2.5)
FIGURES = [
    Figure("req_c1", "p50_us", "req_c1: latency, median", "us", ratio_floor(at_most=3.0)),
    Figure("req_c32", "rps", "req_c32: requests", "/s", ratio_floor(at_least=0.25)),
    Figure("req_c32", "cpu_us_per_req", "req_c32: CPU per request", "us"),
    Figure("stream_c1", "ttfb_p50_us", "stream_c1: time to first byte, median", "us", ratio_floor(at_most=2.0)),
    Figure("stream_full_c32", "chunks_ps", "stream_full_c32: chunks", "/s", ratio_floor(at_least=0.75)),
    Figure("stream_full_c32", "cpu_us_per_chunk", "stream_full_c32: CPU per chunk", "us"),
    Figure("paced_c64", "cpu_us_per_chunk", "paced_c64: CPU per chunk", "us", ratio_floor(at_most=2.2)),
    Figure("paced_c64", "lag_p50_us", "paced_c64: lag, median", "ms", None, 1000),
    Figure("paced_c64", "lag_p99_us", "paced_c64: lag, 99 %", "ms", LAG_FLOOR, 1000),
    Figure("big_c4", "rps", "big_c4: requests", "/s", ratio_floor(at_least=0.6)),
    Figure(LIFE, "swap_s", "swap to a model that is ready after 0.3 s", "s", value_floor(0.4, "s")),
    Figure(LIFE, "start_s", "start to /health, files warm", "s", value_floor(0.7, "s")),
    Figure(LIFE, "idle_rss_mib", "memory when idle", "MiB", value_floor(64, "MiB")),
]


@dataclass(frozen=True)
class Tools:
    """The upstream and the load generator in one of their two languages."""

    language: str
    upstream: list[str]
    load: list[str]

    @classmethod
    def find(cls) -> Tools:
        go = shutil.which("go")
        try:
            if go is not None:
                return cls("Go", [build(go, "upstream")], [build(go, "load")])
            print("no go on the PATH: upstream and load generator run in Python", file=sys.stderr)
        except subprocess.CalledProcessError as error:
            print(f"go cannot build upstream and load generator, they run in Python: {error.stderr}", file=sys.stderr)
        return cls("Python", *([sys.executable, str(HERE / f"{name}.py")] for name in ("upstream", "load")))


def build(go: str, name: str) -> str:
    """The path of the program, built if its source has changed; raises CalledProcessError."""
    source = HERE / f"{name}.go"
    key = hashlib.sha256(source.read_bytes() + platform.platform().encode()).hexdigest()[:16]
    program = CACHE / f"{name}-{key}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        alone = {"GO111MODULE": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
        with tempfile.TemporaryDirectory(dir=CACHE) as directory:  # never half a program under its name
            made = Path(directory) / name
            command = [go, "build", "-o", str(made), str(source)]
            subprocess.run(command, env=os.environ | alone, check=True, capture_output=True, text=True)
            made.replace(program)
    return str(program)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """The bare upstream, or, with a command, a server in front of it."""

    def __init__(self, name: str, command: str | None, tools: Tools, directory: Path) -> None:
        self.name, self.tools, self.port = name, tools, free_port()
        self.is_proxy = command is not None
        if command is None:
            self.argv = [*tools.upstream, "--port", str(self.port)]
        else:
            config = directory / f"{name}.yaml"
            upstream = shlex.join(tools.upstream) + " --port ${PORT}"
            models = {
                "a": {"cmd": upstream, "concurrencyLimit": 1000},
                "slow": {"cmd": f"{upstream} --bind-delay-s {SLOW_MODEL_S}"},
            }
            # Away from the ports that free_port and clients get.
            start_port = 12000 + self.port % 4000 * 2
            config.write_text(json.dumps({"logLevel": "warn", "startPort": start_port, "models": models}))
            listen = f"127.0.0.1:{self.port}"
            self.argv = [part.format(config=config, listen=listen) for part in shlex.split(command)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Found:
        """What starting it, letting it rest and making it swap cost; model `a` is loaded afterwards."""
        began_s = time.monotonic()
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.wait_until_up(self.process, began_s + UP_S)
        found = {"start_s": time.monotonic() - began_s}
        time.sleep(REST_S)
        pid = str(self.process.pid)
        shown = subprocess.run(["ps", "-o", "rss=", "-p", pid], capture_output=True, text=True).stdout
        found["idle_rss_mib"] = int(shown) / 1024
        if self.is_proxy:
            self.ask("a")
            found["swap_s"] = self.ask("slow")
            self.ask("a")
        return found

    def wait_until_up(self, process: subprocess.Popen[bytes], deadline_s: float) -> None:
        while True:
            try:
                self.request("GET", "/health", None)
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    sys.exit(f"{self.name} does not answer on port {self.port}")
                time.sleep(0.005)

    def ask(self, model: str) -> float:
        """Seconds until the model's answer."""
        began_s = time.monotonic()
        self.request("POST", CHAT, json.dumps({"model": model}).encode())
        return time.monotonic() - began_s

    def request(self, method: str, path: str, body: bytes | None) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=UP_S)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        finally:
            connection.close()
        if response.status != 200:
            sys.exit(f"{self.name} answered {response.status} to {path}")

    def measure(self, load: str, seconds: float) -> Found:
        assert self.process
        command = [*self.tools.load, "--port", str(self.port), "--seconds", str(seconds)]
        command += ["--pid", str(self.process.pid), *LOADS[load]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120)
        if done.returncode:
            sys.exit(f"{self.name}, {load}: {done.stderr}")
        found: Found = {key: value for key, value in json.loads(done.stdout).items() if value >= 0}  # -1: none seen
        if found["errors"]:
            print(f"{self.name}, {load}: {found['errors']:.0f} requests failed {done.stderr}", file=sys.stderr)
        return found

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure_all(servers: list[Server], loads: list[str], rounds: int, seconds: float) -> dict[str, dict[str, Found]]:
    """The medians of every server's figures by load."""
    runs: dict[str, dict[str, list[Found]]] = {s.name: {load: [] for load in [LIFE, *loads]} for s in servers}
    try:
        for number in range(rounds):
            for server in servers:
                runs[server.name][LIFE].append(server.start())
            for load in loads:
                for server in servers:
                    print(f"round {number + 1}: {load}, {server.name}", file=sys.stderr)
                    runs[server.name][load].append(server.measure(load, seconds))
            for server in servers:
                server.stop()
    finally:
        for server in servers:
            server.stop()
    return {name: {load: medians(all_) for load, all_ in by_load.items()} for name, by_load in runs.items()}


def medians(runs: list[Found]) -> Found:
    keys = {key for run in runs for key in run}
    return {key: statistics.median(run[key] for run in runs if key in run) for key in sorted(keys)}


def rows(found: dict[str, dict[str, Found]], tools: Tools) -> list[list[str]]:
    """The table, its heading first; the first server of `found` is the bare one, the second llamaswap."""
    bare, *others = found
    table = [["figure", bare, *[cell for name in others for cell in (name, "ratio")], "floor"]]
    for figure in FIGURES:
        base, values = figure.value(found[bare]), [figure.value(found[name]) for name in others]
        if math.isnan(values[0]):
            continue
        floor, compares = figure.floor, figure.load != LIFE and base > 0
        cells = [figure.title, figure.show(base) if compares else ""]
        for value in values:
            cells += [figure.show(value), f"{value / base:.2f}x" if compares and value >= 0 else ""]
        verdict = ""
        if floor and not (floor.relative and not (compares and tools.language == "Go")):
            verdict = floor.text + (", met" if floor.met(values[0], base) else ", MISSED")
        table.append([*cells, verdict])
    return table


def markdown(table: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join(["-" * (widths[0] + 2), *["-" * (w + 1) + ":" for w in widths[1:]]]) + "|")
    return "\n".join(lines)


def about(tools: Tools, rounds: int, seconds: float, busy: float) -> str:
    text = f"Upstream and load generator in {tools.language}; medians, rounds: {rounds}, each load {seconds:g} s;"
    text += f" {os.cpu_count()} cores, load average {busy:.1f} beforehand."
    if tools.language == "Go":
        return text
    return text + (
        "\nTheir own costs are not those of the pair in Go, for which the floors of ratios were set:"
        "\ncompare ratios with others of the same pair only, or put go on the PATH."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="what llamaswap costs beside the bare upstream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load in each round")
    parser.add_argument("--only", default=",".join(LOADS), help="loads, separated by commas")
    parser.add_argument("--json", metavar="FILE", help="write all figures there; '-': to stdout in the table's place")
    parser.add_argument("servers", nargs="*", metavar="NAME=COMMAND")
    options = parser.parse_args()
    loads = options.only.split(",")
    if unknown := [load for load in loads if load not in LOADS]:
        parser.error(f"no such load: {', '.join(unknown)}; there are {', '.join(LOADS)}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    commands: dict[str, str | None] = {"bare": None}
    commands["llamaswap"] = shlex.join([sys.executable, str(PYZ)]) + " --config {config} --listen {listen}"
    for given in options.servers:
        name, is_pair, command = given.partition("=")
        if not is_pair or name in commands:
            parser.error(f"{given!r} is no NAME=COMMAND with a name of its own")
        commands[name] = command

    busy = os.getloadavg()[0]
    tools = Tools.find()
    if not PYZ.exists():
        subprocess.run([HERE.parent / "build_zipapp.sh"], check=True)
    subprocess.run([sys.executable, str(PYZ), "--version"], check=True, stdout=subprocess.DEVNULL)  # unpacks it
    with tempfile.TemporaryDirectory() as directory:
        servers = [Server(name, command, tools, Path(directory)) for name, command in commands.items()]
        found = measure_all(servers, loads, options.rounds, options.seconds)

    text = markdown(rows(found, tools)) + "\n\n" + about(tools, options.rounds, options.seconds, busy)
    if options.json is not None:
        run = {"language": tools.language, "rounds": options.rounds, "seconds": options.seconds, "load_average": busy}
        run["medians"] = found
        as_json = json.dumps(run, indent=1) + "\n"
        if options.json == "-":
            text = as_json.rstrip()
        else:
            Path(options.json).write_text(as_json)
    print(text)


if __name__ == "__main__":
    main()
