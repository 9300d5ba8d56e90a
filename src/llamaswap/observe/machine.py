"""What the machine is doing, read through psutil and /proc: plain blocking functions for a worker thread."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from llamaswap.config.settings import ModelConfig

_VIRTUAL_INTERFACE = re.compile(r"veth|cali[0-9a-f]|tap[0-9a-f]{6}")  # one for each container, come and gone with it
_NOT_WEIGHTS = ("/dev/", "/proc/", "/sys/", "/run/", "/tmp/")
_PROC_STAT_FIRST = 3  # proc(5) numbers the fields of /proc/<pid>/stat from 1; what follows the name starts here


@dataclass(frozen=True, slots=True)
class Interface:
    """Bytes since the machine started."""

    name: str
    bytes_recv: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class System:
    """The machine at one moment, disks and GPUs aside."""

    cores: tuple[float, ...]
    """Percent busy since the sample before; empty in the first."""
    mem_total_bytes: int
    mem_available_bytes: int
    """What could be had without swapping: free, and caches that would give way."""
    swap_total_bytes: int
    swap_used_bytes: int
    load: tuple[float, float, float] | None
    """Over 1, 5 and 15 minutes."""
    interfaces: tuple[Interface, ...]
    read_bytes_per_s: float | None
    """From all disks together; None in the first sample."""
    write_bytes_per_s: float | None


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system that models lie on."""

    path: str
    """Where it is mounted."""
    total_bytes: int
    used_bytes: int
    free_bytes: int
    """To us: without what is reserved for root."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A model's process and all that it started."""

    pids: frozenset[int]
    rss_bytes: int
    cpu_percent: float | None
    """100: one core; None when first seen."""


class SystemReader:
    """Keeps what the rates are counted from. One thread at a time."""

    def __init__(self) -> None:
        self._cores: list[tuple[float, float]] = []
        self._io: tuple[int, int] | None = None
        self._at = 0.0

    def read(self) -> System:
        """A sample; a part that this system does not tell is empty or zero."""
        now = time.monotonic()
        memory, swap = psutil.virtual_memory(), _swap()
        rates = self._disk_rates(now - self._at)
        self._at = now
        return System(
            cores=self._busy(),
            mem_total_bytes=memory.total,
            mem_available_bytes=memory.available,
            swap_total_bytes=swap[0],
            swap_used_bytes=swap[1],
            load=_load(),
            interfaces=_interfaces(),
            read_bytes_per_s=rates[0],
            write_bytes_per_s=rates[1],
        )

    def _busy(self) -> tuple[float, ...]:
        # Not psutil.cpu_percent: it remembers the last times by thread, and worker threads differ.
        before, self._cores = self._cores, [_core(times) for times in psutil.cpu_times(percpu=True)]
        if len(before) != len(self._cores):
            return ()  # the first time, or a core was switched on or off
        return tuple(
            round(min(100.0, max(0.0, (busy - busy0) * 100 / (total - total0))), 1) if total > total0 else 0.0
            for (busy0, total0), (busy, total) in zip(before, self._cores, strict=True)
        )

    def _disk_rates(self, elapsed_s: float) -> tuple[float | None, float | None]:
        try:
            counters = psutil.disk_io_counters()
        except (OSError, RuntimeError, ValueError):  # containers without /proc/diskstats, formats it does not know
            counters = None
        before, self._io = self._io, None if counters is None else (counters.read_bytes, counters.write_bytes)
        if before is None or self._io is None or elapsed_s <= 0:
            return None, None
        read, written = (max(0.0, (now - then) / elapsed_s) for now, then in zip(self._io, before, strict=True))
        return read, written


def _core(times: object) -> tuple[float, float]:
    """(busy, total) seconds of a core; waiting for a disk is not busy, guests are counted in user already."""
    values = times._asdict()  # type: ignore[attr-defined]
    total = sum(values.values()) - values.get("guest", 0.0) - values.get("guest_nice", 0.0)
    return total - values["idle"] - values.get("iowait", 0.0), total


def _swap() -> tuple[int, int]:
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError):  # containers without /proc/vmstat or with swap accounting off
        return 0, 0
    return swap.total, swap.used


def _load() -> tuple[float, float, float] | None:
    try:
        return os.getloadavg()
    except OSError:
        return None


def _interfaces() -> tuple[Interface, ...]:
    try:
        counters = psutil.net_io_counters(pernic=True)
    except OSError:
        return ()
    return tuple(
        Interface(name, io.bytes_recv, io.bytes_sent)
        for name, io in sorted(counters.items())
        if not _VIRTUAL_INTERFACE.match(name)
    )


# -- disks


def model_paths(models: Iterable[ModelConfig]) -> tuple[str, ...]:
    """Absolute paths in the models' commands that may be weights: `-m /x.gguf`, `--model=/x.gguf`; and
    the home directory, where downloads go, if there is none."""
    found: dict[str, None] = {}
    for model in models:
        for argument in model.argv[1:]:
            path = argument.partition("=")[2] if argument.startswith("-") else argument
            path = path.partition(":")[0]  # docker's /models:/models:ro
            if path.startswith("/") and not path.startswith(_NOT_WEIGHTS):
                found[os.path.dirname(path)] = None
    return tuple(found) or (os.path.expanduser("~"),)


def read_disks(paths: Sequence[str]) -> tuple[Disk, ...]:
    """The file systems that `paths` lie on, each once, those that are not mounted left out.

    A network file system whose server is gone blocks it: give it a thread of its own.
    """
    disks: dict[str, Disk] = {}
    for path in paths:
        try:
            mount = _mount_point(path)
            if mount not in disks:
                usage = psutil.disk_usage(mount)
                disks[mount] = Disk(mount, usage.total, usage.used, usage.free)
        except OSError:
            continue
    return tuple(disk for disk in disks.values() if disk.total_bytes)


def _mount_point(path: str) -> str:
    path = os.path.realpath(path)
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)  # a path inside a container, or of a file to come
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return path


# -- processes


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    group: int
    started: int | float
    cpu_s: float
    rss_bytes: int


class ProcessReader:
    """The process trees of models; keeps the CPU times of the sample before. One thread at a time."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._cpu_s: dict[tuple[int, int | float], float] = {}
        self._at = 0.0

    def read(self, roots: Mapping[str, int]) -> dict[str, Tree]:
        """Model id -> tree, for the process ids in `roots`; those that are gone are left out.

        What a container runtime runs elsewhere is not among the descendants of its command.
        """
        if not roots:
            self._cpu_s = {}
            return {}
        now = time.monotonic()
        elapsed_s, self._at = now - self._at, now
        trees = members(self._all(roots.values()), roots)
        before, self._cpu_s = self._cpu_s, {}
        told = {}
        for model, tree in trees.items():
            used_s = 0.0
            known = False
            for process in tree:
                key = process.pid, process.started
                self._cpu_s[key] = process.cpu_s
                known = known or key in before
                used_s += process.cpu_s - before.get(key, 0.0)
            told[model] = Tree(
                pids=frozenset(process.pid for process in tree),
                rss_bytes=sum(process.rss_bytes for process in tree),
                cpu_percent=round(max(0.0, used_s * 100 / elapsed_s), 1) if known and elapsed_s > 0 else None,
            )
        return told

    def _all(self, roots: Collection[int]) -> list[_Process]:
        if sys.platform.startswith("linux"):
            return _linux_processes(self._proc)
        return _descendants(roots)


def members(processes: Iterable[_Process], roots: Mapping[str, int]) -> dict[str, list[_Process]]:
    """Who belongs to whom: descendants, and those of the root's process group (a model leads its own) whose
    parent has gone."""
    owner = {pid: model for model, pid in roots.items()}
    parents = {}
    listed = list(processes)
    for process in listed:
        parents[process.pid] = process.parent
    found: dict[str, list[_Process]] = {}
    for process in listed:
        pid, model = process.pid, owner.get(process.group)
        for _ in range(64):  # no family is so old; a parent that changed while we read could close a circle
            if model is not None or pid in owner or pid not in parents:
                break
            pid = parents[pid]
        model = model or owner.get(pid)
        if model is not None:
            found.setdefault(model, []).append(process)
    return found


def _linux_processes(proc: Path) -> list[_Process]:
    """Every process, from /proc/<pid>/stat (proc(5)): one small file each, where psutil would open several."""
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = []
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            with open(f"{proc}/{name}/stat", "rb") as file:
                # The command, in parentheses, may itself hold parentheses and blanks.
                fields = file.read().rpartition(b")")[2].split()
            state, parent, group = fields[0], int(fields[4 - _PROC_STAT_FIRST]), int(fields[5 - _PROC_STAT_FIRST])
            cpu = int(fields[14 - _PROC_STAT_FIRST]) + int(fields[15 - _PROC_STAT_FIRST])
            started, pages = int(fields[22 - _PROC_STAT_FIRST]), int(fields[24 - _PROC_STAT_FIRST])
        except (OSError, ValueError, IndexError):
            continue  # ended meanwhile
        if state not in (b"Z", b"X"):
            found.append(_Process(int(name), parent, group, started, cpu / tick, pages * page))
    return found


def _descendants(roots: Collection[int]) -> list[_Process]:
    found = []
    for root in roots:
        try:
            family = [psutil.Process(root)]
            family += family[0].children(recursive=True)
        except psutil.Error:
            continue
        for process in family:
            try:
                with process.oneshot():
                    times, rss = process.cpu_times(), process.memory_info().rss
                    cpu_s = times.user + times.system
                    found.append(_Process(process.pid, process.ppid(), 0, process.create_time(), cpu_s, rss))
            except psutil.Error:
                continue
    return found
