"""What the web UI costs the machine it is shown on, while much happens: a renderer's CPU, and its heap over time.

    .venv/bin/python benchmarks/ui.py [--seconds 60] [--pages activity,models] [--streams 64] [--lines 200]

A model streams to `--streams` clients at 50 tokens/s each, answer after answer, another prints `--lines` log lines a
second, and headless Chromium shows each page in turn for `--seconds`. Before, the log's buffer in the page is filled to
the brim (100,000 lines), so that a heap that still grows does not grow by that. CPU is that of the page's renderer
process, in percent of one core; heap is what is left after a collection of garbage. Needs the development tools (.venv)
and Chromium.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import CDPSession, Page, sync_playwright
from run import HERE, PYZ, Tools, free_port
from upstream import Upstream

TOKEN_US, TOKENS = 20_000, 500  # an answer takes 10 s
FULL_LINES, FILL_LINES_PS = 100_000, 1_250  # of a quicker flood the server passes on a part only
CPU_LIMIT_PERCENT, GROWTH_LIMIT_MIB_PER_MIN = 25.0, 0.5
SETTLE_S = 20.0  # caches fill
FULL = "() => document.querySelector('main').innerText.includes('100,000 lines')"
GO = "path => { history.pushState(null, '', '/ui/' + path); dispatchEvent(new PopStateEvent('popstate')); }"
SAMPLES = 10  # of the heap, on each page


def talk(port: int, lines_ps: int) -> None:
    """A model that logs: first as much as the page keeps, then at the given pace."""
    threading.Thread(target=Upstream(port).run, daemon=True).start()
    for number in range(FULL_LINES + 5_000):
        print(f"{number:>8} I srv  update_slots: a line of the usual length, to fill what the page keeps", flush=False)
        if number % 125 == 0:
            sys.stdout.flush()
            time.sleep(125 / FILL_LINES_PS)
    begun_s = time.monotonic()
    for number in range(1 << 40):
        level = "\x1b[33mW\x1b[0m" if number % 50 == 0 else "I"
        print(
            f"{number:>8} {level} slot print_timing: id {number % 64} | task {number} | eval time = 12.34 ms",
            flush=True,
        )
        time.sleep(max(0.0, begun_s + number / lines_ps - time.monotonic()))


def configuration(directory: Path, tools: Tools, lines_ps: int) -> Path:
    talker = shlex.join([sys.executable, str(Path(__file__).resolve()), "--talk", str(lines_ps)])
    models = {
        "streams": {"cmd": shlex.join(tools.upstream) + " --port ${PORT}", "concurrencyLimit": 1000},
        "talks": {"cmd": talker + " --port ${PORT}", "checkEndpoint": "/health"},
    }
    groups = {"all": {"swap": False, "members": list(models)}}
    path = directory / "config.yaml"
    path.write_text(
        json.dumps({"startPort": free_port(), "healthCheckTimeout": 240, "models": models, "groups": groups})
    )
    return path


class Renderer:
    """The process that draws the page."""

    def __init__(self, page: Page) -> None:
        self.session: CDPSession = page.context.new_cdp_session(page)
        self.session.send("Performance.enable")
        self.session.send("HeapProfiler.enable")
        ids = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")  # type: ignore[union-attr]
        found = [psutil.Process(entry["id"]) for entry in ids["processInfo"] if entry["type"] == "renderer"]
        self.process = max(found, key=lambda process: sum(process.cpu_times()[:2]))  # another one waits, idle

    def cpu_s(self) -> float:
        return sum(self.process.cpu_times()[:2])

    def heap_mib(self) -> float:
        self.session.send("HeapProfiler.collectGarbage")
        metrics = self.session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in metrics if metric["name"] == "JSHeapUsedSize")) / 2**20


def slope(points: list[tuple[float, float]]) -> float:
    """Of the line through them, by least squares."""
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def watch(page: Page, seconds: float) -> dict[str, float]:
    renderer = Renderer(page)
    heap: list[tuple[float, float]] = []
    used_s = watched_s = 0.0
    begun_s = time.monotonic()
    for _ in range(SAMPLES):
        heap.append((time.monotonic() - begun_s, renderer.heap_mib()))
        before_s, start_s = renderer.cpu_s(), time.monotonic()  # what collecting costs is not the page's
        page.wait_for_timeout(seconds / SAMPLES * 1000)
        used_s += renderer.cpu_s() - before_s
        watched_s += time.monotonic() - start_s
    heap.append((time.monotonic() - begun_s, renderer.heap_mib()))
    return {
        "cpu_percent": used_s / watched_s * 100,
        "heap_first_mib": heap[0][1],
        "heap_last_mib": heap[-1][1],
        "growth_mib_per_min": slope(heap) * 60,
        "rss_mib": renderer.process.memory_info().rss / 2**20,
    }


def measure(options: argparse.Namespace, directory: Path) -> dict[str, dict[str, float]]:
    tools, port = Tools.find(), free_port()
    config = configuration(directory, tools, options.lines)
    url = f"http://127.0.0.1:{port}"
    server = [sys.executable, str(options.pyz), "--config", str(config), "--listen", f"127.0.0.1:{port}"]
    pages = options.pages.split(",")
    total_s = str(len(pages) * (options.seconds + 30) + 60)
    load = [
        *tools.load,
        "--port",
        str(port),
        "--model",
        "streams",
        "--clients",
        str(options.streams),
        "--seconds",
        total_s,
    ]
    load += ["--stream", "--chunks", str(TOKENS), "--interval-us", str(TOKEN_US)]
    running: list[subprocess.Popen[bytes]] = []
    found = {}
    try:
        running.append(subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until_up(url)
        with sync_playwright() as playwright:
            program = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"{url}/ui/logs?source=upstream")
            ask(f"{url}/api/models/load/talks")
            page.wait_for_function(FULL, timeout=180_000)
            running.append(subprocess.Popen(load, stdout=subprocess.DEVNULL))
            for path in pages:
                # By a link, as people go: the page's data stays.
                page.evaluate(
                    GO,
                    path,
                )
                page.wait_for_timeout(SETTLE_S * 1000)
                found[path] = watch(page, options.seconds)
                print(path, {name: round(value, 2) for name, value in found[path].items()}, file=sys.stderr)
            browser.close()
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)
    return found


def ask(url: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=120) as response:
        return json.load(response)


def until_up(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit("llamaswap does not start")


def main() -> int:
    parser = argparse.ArgumentParser(description="what the web UI costs")
    parser.add_argument("--seconds", type=float, default=60.0, help="on each page")
    parser.add_argument("--pages", default="activity,models,logs?source=upstream")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--lines", type=int, default=200, help="of log, a second")
    parser.add_argument("--pyz", type=Path, default=PYZ)
    parser.add_argument("--talk", type=int, metavar="LINES", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.talk:
        talk(options.port, options.talk)
    if not options.pyz.exists():
        subprocess.run([HERE.parent / "build_zipapp.sh"], check=True)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(options, Path(directory))
    print(f"{options.streams} streams of 50 tokens/s, {options.lines} log lines/s, {options.seconds:g} s on each page")
    print("| page | renderer's CPU | heap, first → last | growth | resident |\n|---|---:|---:|---:|---:|")
    missed = False
    for path, value in found.items():
        cpu, growth = value["cpu_percent"], value["growth_mib_per_min"]
        missed |= cpu >= CPU_LIMIT_PERCENT or growth > GROWTH_LIMIT_MIB_PER_MIN
        heap = f"{value['heap_first_mib']:.1f} → {value['heap_last_mib']:.1f} MiB"
        print(f"| {path} | {cpu:.1f} % | {heap} | {growth:+.2f} MiB/min | {value['rss_mib']:.0f} MiB |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
