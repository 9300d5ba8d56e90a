"""What the machine consists of: the snapshot of /api/hardware."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llamaswap import __version__
from llamaswap.observe.gpu import Gpu
from llamaswap.observe.history import rfc3339

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while we run, accelerators aside."""

    architecture: str
    system: str
    """linux, darwin."""
    system_name: str
    """For people: Debian GNU/Linux 12 (bookworm), macOS 15.1."""
    kernel: str
    container: str
    """docker, podman, kubernetes, lxc or "other" inside a container, else empty."""
    wsl: bool
    cpu: str
    cores: int | None
    threads: int
    memory_bytes: int


def read_facts(root: Path = Path("/")) -> Facts:
    """Look at the machine; blocking, for a worker thread. `root` stands in for the file system's."""
    release = platform.release()
    return Facts(
        architecture=platform.machine(),
        system=sys.platform,
        system_name=_system_name(),
        kernel=release,
        container=container_of(root, os.environ.get("container", ""), "KUBERNETES_SERVICE_HOST" in os.environ),  # noqa: SIM112
        wsl="microsoft" in release.lower(),
        cpu=cpu_name(_read(root / "proc/cpuinfo")) or platform.processor() or platform.machine(),
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
    )


def _system_name() -> str:
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def container_of(root: Path, variable: str = "", kubernetes: bool = False) -> str:
    """The kind of container we are in; empty outside. `variable` is what $container says (systemd's custom)."""
    if kubernetes:
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return variable


def cpu_name(cpuinfo: str) -> str:
    """From /proc/cpuinfo: `model name` on x86, `Model` or `Hardware` on boards that have no such line."""
    values: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values.setdefault(key.strip(), value.strip())
    return next((name for key in ("model name", "Model", "Hardware") if (name := values.get(key))), "")


def describe(facts: Facts, gpus: Iterable[Gpu], at: float) -> dict[str, Any]:
    """The answer of /api/hardware; `at` in seconds since the epoch."""
    return {
        "schema_version": SCHEMA_VERSION,
        "captured_at": rfc3339(at),
        "capture": {"program": "llamaswap", "version": __version__},
        "architecture": facts.architecture,
        "operating_system": {"family": facts.system, "name": facts.system_name, "kernel": facts.kernel},
        "environment": {"container": facts.container or None, "wsl": facts.wsl},
        "cpu": {"name": facts.cpu, "cores": facts.cores, "threads": facts.threads},
        "memory": {"capacity_bytes": facts.memory_bytes},
        "accelerators": [
            {
                "id": gpu.index,
                "vendor": gpu.vendor,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "driver": gpu.driver or None,
                "memory_bytes": gpu.mem_total_bytes,
                "unified": gpu.unified,
            }
            for gpu in gpus
        ],
    }


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
