"""The sampler: when it looks, what it remembers, and that nothing that hangs or fails stops it."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
import trio.testing

from llamaswap.config.settings import Config, ModelConfig, Performance
from llamaswap.errors import NotStarted
from llamaswap.observe import sample as sample_module
from llamaswap.observe import worker
from llamaswap.observe.gpu import Gpu, Reading
from llamaswap.observe.gpu_nvidia import NvidiaSmi
from llamaswap.observe.gpus import FIRST_PAUSE_S, LONGEST_PAUSE_S, Gpus
from llamaswap.observe.hardware import Facts, container_of, cpu_name, describe, read_facts
from llamaswap.observe.machine import (
    Disk,
    Interface,
    ProcessReader,
    System,
    SystemReader,
    Tree,
    _Process,
    members,
    model_paths,
    read_disks,
)
from llamaswap.observe.sample import MachineReader, ModelUse, Sample
from llamaswap.observe.system import Monitor
from llamaswap.observe.tools import run_tool

START = 1_785_585_600.0  # 2026-08-01T12:00:00Z
SYSTEM = System((50.0,), 8 << 30, 2 << 30, 0, 0, (1.0, 2.0, 3.0), (Interface("eth0", 1, 2),), 10.4, 20.6)
FACTS = Facts("x86_64", "linux", "Debian", "6.1", "", False, "AMD EPYC", 8, 16, 64 << 30)
GPU = Gpu(0, "nvidia", "RTX", "GPU-1", "550.54", 60, mem_used_bytes=5 << 20, mem_total_bytes=9 << 20)


def a_config(*ids: str, **performance: Any) -> Config:
    models = {id: ModelConfig(id=id) for id in ids}
    return Config(models=models, performance=Performance(**performance))


class FakeReader:
    """Takes samples that are given to it; `takes_s` long, or fails."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, dict[str, int]]] = []
        self.models: list[str] = []
        self.takes_s = 0.0
        self.fails = False
        self.sample = Sample(SYSTEM, (Disk("/", 100, 60, 40),), (GPU,))

    def configure(self, models: Iterable[ModelConfig]) -> None:
        self.models = [model.id for model in models]

    async def read(self, processes: Mapping[str, int]) -> Sample:
        self.asked.append((trio.current_time(), dict(processes)))
        await trio.sleep(self.takes_s)
        if self.fails:
            raise OSError("no such machine")
        uses = {id: ModelUse(pid, 100.0, pid * 10, None) for id, pid in processes.items()}
        return replace(self.sample, models=uses)

    async def facts(self) -> Facts:
        return FACTS


class Stage:
    """A monitor over a fake machine, its clock at 12:00 when the test begins."""

    def __init__(self, config: Config, pids: Mapping[str, int] = {}) -> None:
        self.reader = FakeReader()
        self.pids = dict(pids)
        self.begun = trio.current_time()
        self.monitor = Monitor(
            config.performance,
            pid=self.pids.get,
            reader=self.reader,
            clock=lambda: START + trio.current_time() - self.begun,
        )
        self.monitor.configure(config)

    def times(self) -> list[float]:
        return [round(at - self.begun, 3) for at, _ in self.reader.asked]

    def answer(self, after: float | None = None) -> dict[str, Any]:
        return dict(json.loads(self.monitor.answer(after)))


async def test_it_looks_at_once_soon_after_and_then_regularly(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage(a_config())
    await nursery.start(stage.monitor.run)
    await trio.sleep(17)
    assert stage.times() == [0, 1, 6, 11, 16]
    stamps = [record["timestamp"][17:23] for record in stage.answer()["sys_stats"]]
    assert stamps == ["01.000", "06.000", "11.000", "16.000"], "the first, which has no rates, is not shown"


async def test_a_look_that_takes_long_delays_the_next_but_is_not_made_up_for(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage(a_config())
    stage.reader.takes_s = 3
    await nursery.start(stage.monitor.run)
    await trio.sleep(12.5)
    assert stage.times() == [0, 4, 9], "three seconds are within the period"
    stage.reader.takes_s = 12
    await trio.sleep(20)
    assert stage.times() == [0, 4, 9, 14, 26]


async def test_a_look_that_fails_is_logged_and_the_next_is_taken(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(a_config())
    stage.reader.fails = True
    with caplog.at_level(logging.ERROR, "llamaswap.observe"):
        await nursery.start(stage.monitor.run)
        await trio.sleep(2)
    assert "looking at the machine failed" in caplog.text
    assert stage.monitor.latest is None
    stage.reader.fails = False
    await trio.sleep(5)
    assert stage.monitor.latest is not None


async def test_what_a_sample_looks_like(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    stage = Stage(a_config("m"), {"m": 7})
    await nursery.start(stage.monitor.run)
    await trio.sleep(2)
    assert stage.answer() == {
        "enabled": True,
        "every_s": 5.0,
        "sys_stats": [
            {
                "timestamp": "2026-08-01T12:00:01.000Z",
                "cpu_util_per_core": [50.0],
                "mem_total_mb": 8192,
                "mem_used_mb": 6144,
                "mem_free_mb": 2048,
                "swap_total_mb": 0,
                "swap_used_mb": 0,
                "load_avg_1": 1.0,
                "load_avg_5": 2.0,
                "load_avg_15": 3.0,
                "net_io": [{"name": "eth0", "bytes_recv": 1, "bytes_sent": 2}],
                "disk_io": {"read_bytes_per_s": 10, "write_bytes_per_s": 21},
                "disks": [{"path": "/", "total_bytes": 100, "used_bytes": 60, "free_bytes": 40}],
            }
        ],
        "gpu_stats": [
            {
                "timestamp": "2026-08-01T12:00:01.000Z",
                "id": 0,
                "name": "RTX",
                "uuid": "GPU-1",
                "vendor": "nvidia",
                "temp_c": 60,
                "vram_temp_c": None,
                "gpu_util_pct": None,
                "mem_util_pct": None,
                "mem_used_mb": 5,
                "mem_total_mb": 9,
                "fan_speed_pct": None,
                "power_draw_w": None,
                "unified": False,
            }
        ],
        "models": [
            {
                "timestamp": "2026-08-01T12:00:01.000Z",
                "model": "m",
                "cpu_percent": 100.0,
                "rss_bytes": 70,
                "gpu_bytes": None,
            }
        ],
        "marks": [],
    }
    assert stage.answer(START + 1) == {
        **stage.answer(),
        "sys_stats": [],
        "gpu_stats": [],
        "models": [],
    }


async def test_a_part_that_could_not_be_had_is_left_out(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage(a_config())
    stage.reader.sample = Sample(gpus=(GPU,))
    await nursery.start(stage.monitor.run)
    await trio.sleep(2)
    assert (len(stage.answer()["sys_stats"]), len(stage.answer()["gpu_stats"])) == (0, 1)


async def test_memory_of_models(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    stage = Stage(a_config("m", "n"), {"m": 7})
    assert stage.monitor.model_memory("m") == (None, None)
    await nursery.start(stage.monitor.run)
    await trio.sleep(2)
    assert stage.reader.asked[-1][1] == {"m": 7}
    assert stage.monitor.model_memory("m") == (70, None)
    assert stage.monitor.model_memory("n") == stage.monitor.model_memory("unknown") == (None, None)
    stage.pids["m"] = 8
    assert stage.monitor.model_memory("m") == (None, None), "that was another process"


async def test_marks() -> None:
    monitor = Monitor(Performance(), clock=lambda: START)
    monitor.stopped("early", "unload", None)  # while it loaded
    monitor.ready("m", 1.0)
    monitor.stopped("m", "swap", "n")
    monitor.failed("n", NotStarted("x"))
    monitor.ready("n", 1.0)
    monitor.crashed("n", 1, "")
    monitor.stopped("n", "unload", None)
    marks = json.loads(monitor.answer())["marks"]
    assert [(mark["model"], mark["event"]) for mark in marks] == [
        ("m", "loaded"),
        ("m", "unloaded"),
        ("n", "crashed"),
        ("n", "loaded"),
        ("n", "crashed"),
    ]
    assert marks[0] == {"timestamp": "2026-08-01T12:00:00.000Z", "model": "m", "event": "loaded"}


async def test_switched_off_it_does_nothing(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    stage = Stage(a_config(disabled=True))
    await nursery.start(stage.monitor.run)
    stage.monitor.ready("m", 1.0)
    await trio.sleep(100)
    assert not stage.monitor.enabled
    assert stage.reader.asked == []
    assert await stage.monitor.hardware_known(5) is None
    assert stage.answer()["marks"] == []


async def test_settings_may_change(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    stage = Stage(a_config("m"))
    await nursery.start(stage.monitor.run)
    await trio.sleep(2)
    stage.monitor.configure(a_config("m", "n"))
    assert stage.reader.models == ["m", "n"]
    await trio.sleep(5)
    assert stage.times() == [0, 1, 6], "the pace stays while its settings do"
    stage.monitor.configure(a_config(every_s=60.0))
    await trio.sleep(70)
    assert stage.times() == [0, 1, 6, 7, 8, 68]
    assert len(stage.answer()["sys_stats"]) == 4, "what was remembered stays"
    stage.monitor.configure(a_config(disabled=True))
    await trio.sleep(100)
    assert stage.monitor.latest is stage.monitor.hardware is None
    assert stage.times()[-1] == 68
    stage.monitor.configure(a_config())
    await trio.sleep(2)
    assert [record["timestamp"][14:19] for record in stage.answer()["sys_stats"]] == ["02:58"]


async def test_hardware_is_known_after_the_first_look(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage(a_config())
    stage.reader.takes_s = 2
    await nursery.start(stage.monitor.run)
    assert await stage.monitor.hardware_known(1) is None
    found = await stage.monitor.hardware_known(5)
    assert found == {
        "schema_version": 1,
        "captured_at": "2026-08-01T12:00:02.000Z",
        "capture": {"program": "llamaswap", "version": found and found["capture"]["version"]},
        "architecture": "x86_64",
        "operating_system": {"family": "linux", "name": "Debian", "kernel": "6.1"},
        "environment": {"container": None, "wsl": False},
        "cpu": {"name": "AMD EPYC", "cores": 8, "threads": 16},
        "memory": {"capacity_bytes": 64 << 30},
        "accelerators": [
            {
                "id": 0,
                "vendor": "nvidia",
                "name": "RTX",
                "uuid": "GPU-1",
                "driver": "550.54",
                "memory_bytes": 9 << 20,
                "unified": False,
            }
        ],
    }


# -- who is asked about GPUs


class FakeSource:
    def __init__(self, name: str, *told: Reading | None, rest_s: float = 0.0) -> None:
        self.name = name
        self.rest_s = rest_s
        self.told = list(told)
        self.asked: list[float] = []
        self.hangs = False
        self.fails = False

    async def read(self, pids: Collection[int]) -> Reading | None:
        self.asked.append(trio.current_time())
        if self.hangs:
            await trio.sleep_forever()
        if self.fails:
            raise ValueError("odd output")
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


def cards(*indices: int, **by_pid: int) -> Reading:
    pids = {int(name[1:]): size for name, size in by_pid.items()}
    return Reading(tuple(replace(GPU, index=index) for index in indices), pids)


async def test_cards_of_several_vendors_are_numbered_through() -> None:
    gpus = Gpus([[FakeSource("n", cards(0, 2, p7=10, p8=1))], [FakeSource("a", cards(0, 1, p7=5))]])
    reading = await gpus.read([7])
    assert [gpu.index for gpu in reading.gpus] == [0, 2, 3, 4]
    assert reading.by_pid == {7: 15, 8: 1}


async def test_the_first_of_a_group_that_tells_anything_speaks_for_it() -> None:
    sources = [FakeSource("none", None), FakeSource("told", cards(0)), FakeSource("spare", cards(0, 1))]
    gpus = Gpus([sources])
    for _ in range(3):
        assert len((await gpus.read([])).gpus) == 1
    assert [len(source.asked) for source in sources] == [1, 3, 0]


async def test_who_has_nothing_to_tell_is_asked_less_and_less(autojump_clock: trio.testing.MockClock) -> None:
    source = FakeSource("none", None)
    gpus = Gpus([[source]])
    for _ in range(1200):
        assert (await gpus.read([])).gpus == ()
        await trio.sleep(5)
    pauses = [later - earlier for earlier, later in zip(source.asked, source.asked[1:], strict=False)]
    assert pauses[:5] == [FIRST_PAUSE_S * 2**n for n in range(5)]
    assert pauses[-1] == max(pauses) == LONGEST_PAUSE_S


async def test_a_hiccup_is_not_the_end(autojump_clock: trio.testing.MockClock) -> None:
    source = FakeSource("hiccup", cards(0), None, cards(0), None, None, cards(0))
    gpus = Gpus([[source]])
    found = []
    for _ in range(16):
        found.append(len((await gpus.read([])).gpus))
        await trio.sleep(5)
    assert found == [1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


async def test_a_dear_source_rests_on_its_last_reading(autojump_clock: trio.testing.MockClock) -> None:
    source = FakeSource("dear", cards(0), rest_s=15)
    gpus = Gpus([[source]])
    for _ in range(7):
        assert len((await gpus.read([])).gpus) == 1
        await trio.sleep(5)
    assert [at - source.asked[0] for at in source.asked] == [0, 15, 30]


@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_a_source_that_hangs_or_fails_is_silence(how: str, autojump_clock: trio.testing.MockClock) -> None:
    bad, good = FakeSource("bad", None), FakeSource("good", cards(0))
    setattr(bad, how, True)
    gpus = Gpus([[bad], [good]])
    for _ in range(3):
        assert len((await gpus.read([])).gpus) == 1
    assert (len(bad.asked), len(good.asked)) == (1, 3)


# -- tools: real processes, no mock clock


def a_tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{script}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


async def test_what_a_tool_prints_counts_whatever_its_status(tools: Path) -> None:
    a_tool(tools, "tool", "import sys; print(sys.argv[1:], '\\xff'); sys.exit(9)")
    with trio.fail_after(20):
        assert await run_tool("tool", "a", "b", timeout_s=15) == "['a', 'b'] \xff\n"


async def test_no_tool_or_none_that_runs(tools: Path) -> None:
    assert await run_tool("tool") is None
    (tools / "tool").write_text("#!/nonexistent\n")
    (tools / "tool").chmod(0o755)
    assert await run_tool("tool") is None


async def test_a_tool_that_hangs_is_killed(tools: Path, tmp_path: Path) -> None:
    a_tool(
        tools, "tool", "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()"
    )
    before = psutil.Process().children()
    with trio.fail_after(10):
        assert await run_tool("tool", timeout_s=0.3) is None
    assert psutil.Process().children() == before


async def test_a_tool_that_never_stops_talking(tools: Path) -> None:
    a_tool(tools, "tool", "while True: print('x' * 65536)")
    with trio.fail_after(30):
        assert await run_tool("tool", timeout_s=25) is None


COLUMNLESS = """
import sys
if "temperature.memory" in sys.argv[1]:
    print('Field "temperature.memory" is not a valid field to query.')
    sys.exit(2)
if "compute-apps" in sys.argv[1]:
    print("GPU-6b, 41, 100\\nGPU-6b, 42, [N/A]")
else:
    print("0, Quadro K620, GPU-6b, 367.57, 39, [Not Supported], [Not Supported], 101, 1999, 34, [Not Supported]")
"""


async def test_an_nvidia_driver_that_knows_fewer_columns(tools: Path) -> None:
    a_tool(tools, "nvidia-smi", COLUMNLESS)
    source = NvidiaSmi(8 << 30)
    for pids in ([41], []):
        with trio.fail_after(20):
            reading = await source.read(pids)
        assert reading is not None
        assert (reading.gpus[0].name, reading.gpus[0].temp_c) == ("Quadro K620", 39)
        assert reading.by_pid == ({41: 100 << 20} if pids else {})


async def test_an_nvidia_tool_without_its_driver(tools: Path) -> None:
    assert await NvidiaSmi(1).read([1]) is None
    a_tool(tools, "nvidia-smi", "import sys\nprint('NVIDIA-SMI has failed because ...')\nsys.exit(9)")
    with trio.fail_after(20):
        assert await NvidiaSmi(1).read([1]) is None


# -- the real machine


async def test_the_real_machine() -> None:
    reader = MachineReader(Gpus([[FakeSource("gpu", cards(0, **{f"p{os.getpid()}": 99}))]]))
    reader.configure([])
    with trio.fail_after(30):
        first = await reader.read({"me": os.getpid(), "gone": 2**22 - 1})
        second = await reader.read({"me": os.getpid()})
    assert first.system is not None and second.system is not None
    assert first.system.cores == () and len(second.system.cores) == os.cpu_count()
    assert all(0 <= core <= 100 for core in second.system.cores)
    assert 0 < second.system.mem_available_bytes <= second.system.mem_total_bytes
    assert second.disks and all(0 <= disk.free_bytes <= disk.total_bytes for disk in second.disks)
    assert first.models.keys() == {"me"}
    assert first.models["me"].cpu_percent is None
    mine = second.models["me"]
    assert mine.pid == os.getpid() and mine.rss_bytes > 1 << 20 and mine.gpu_bytes == 99
    assert mine.cpu_percent is not None and mine.cpu_percent >= 0


async def test_a_disk_that_hangs_takes_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    asked = 0

    def hang(paths: object) -> tuple[Disk, ...]:
        nonlocal asked
        asked += 1
        release.wait(30)
        return ()

    monkeypatch.setattr(sample_module, "read_disks", hang)
    monkeypatch.setattr(worker, "PART_S", 0.05)
    reader = MachineReader(Gpus([]))
    try:
        with trio.fail_after(20):
            for _ in range(3):
                sample = await reader.read({})
                assert sample.system is not None and sample.disks == ()
        assert asked == 1, "it is not asked again while it hangs"
    finally:
        release.set()


async def test_a_part_that_fails_takes_nothing_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(paths: object) -> tuple[Disk, ...]:
        raise RuntimeError("a format of tomorrow's kernel")

    monkeypatch.setattr(sample_module, "read_disks", fail)
    reader = MachineReader(Gpus([]))
    for _ in range(2):
        sample = await reader.read({})
        assert sample.system is not None and sample.disks == ()


def test_busy_is_counted_between_two_looks() -> None:
    reader = SystemReader()
    assert reader.read().cores == ()
    busy = sum(n * n for n in range(300_000))
    cores = reader.read().cores
    assert busy and len(cores) == os.cpu_count()


def a_process(pid: int, parent: int = 1, group: int = 1) -> _Process:
    return _Process(pid, parent, group, 0, 0.0, 1)


def test_families() -> None:
    processes = [
        a_process(10, 1, 10),
        a_process(11, 10, 10),
        a_process(12, 11, 12),  # left the group, not the family
        a_process(13, 1, 10),  # left the family, not the group
        a_process(20, 1, 20),
        a_process(30, 31),
        a_process(31, 30),  # parents that changed while we read
        a_process(40, 999),
    ]
    found = members(processes, {"m": 10, "n": 20, "gone": 50})
    assert {model: [p.pid for p in tree] for model, tree in found.items()} == {"m": [10, 11, 12, 13], "n": [20]}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_of_linux(tmp_path: Path) -> None:
    def write(pid: int, ppid: int, group: int, ticks: int, pages: int, state: str = "S", name: str = "a) (b") -> None:
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        numbers = [0] * 45
        numbers[0], numbers[1], numbers[10], numbers[18], numbers[20] = ppid, group, ticks, 1000 + pid, pages
        text = f"{pid} ({name}) {state} {' '.join(map(str, numbers))}\n"
        (tmp_path / str(pid) / "stat").write_text(text)

    page = os.sysconf("SC_PAGE_SIZE")
    tick = os.sysconf("SC_CLK_TCK")
    write(10, 1, 10, 5 * tick, 100)
    write(11, 10, 10, 0, 20)
    write(12, 10, 10, 0, 1000, state="Z")
    (tmp_path / "self").mkdir()
    (tmp_path / "13").mkdir()
    reader = ProcessReader(tmp_path)
    assert reader.read({"m": 10}) == {"m": Tree(frozenset({10, 11}), 120 * page, None)}
    write(10, 1, 10, 6 * tick, 100)
    second = reader.read({"m": 10})["m"]
    assert second.cpu_percent is not None and second.cpu_percent > 0
    assert reader.read({}) == {}
    assert reader.read({"m": 10})["m"].cpu_percent is None


def test_where_models_lie(tmp_path: Path) -> None:
    def paths(*argv: str) -> tuple[str, ...]:
        return model_paths([ModelConfig(id="m", argv=("/usr/bin/server", *argv))])

    assert paths("-m", "/models/a.gguf", "--mmproj=/models/b.gguf", "--lora", "/other/c") == ("/models", "/other")
    assert paths("run", "-v", "/srv/models:/models:ro", "--log-file", "/dev/null") == ("/srv",)
    assert paths("-hf", "org/model", "--port", "1") == (os.path.expanduser("~"),)
    disks = read_disks([str(tmp_path / "not" / "yet"), str(tmp_path), "/proc"])
    assert len(disks) == 1 and disks[0].total_bytes > 0


# -- what the machine consists of


def test_containers(tmp_path: Path) -> None:
    assert container_of(tmp_path) == ""
    assert container_of(tmp_path, "lxc") == "lxc"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.containerenv").touch()
    assert container_of(tmp_path) == "podman"
    (tmp_path / ".dockerenv").touch()
    assert container_of(tmp_path) == "docker"
    assert container_of(tmp_path, "", True) == "kubernetes"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nprocessor\t: 1\nmodel name\t: Other\n", "AMD EPYC 7B13"),
        ("processor\t: 0\nBogoMIPS\t: 108.00\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
        ("", ""),
    ],
)
def test_names_of_processors(text: str, name: str) -> None:
    assert cpu_name(text) == name


def test_the_real_hardware() -> None:
    facts = read_facts()
    assert facts.memory_bytes > 0 and facts.threads >= 1 and facts.architecture
    assert describe(facts, [], START)["accelerators"] == []
