"""AMD GPUs as the amdgpu driver shows them in /sys: no tool, no root, a millisecond.

The files are those of the kernel's "amdgpu driver" documentation (`mem_info_*`, `gpu_busy_percent`, hwmon);
memory of a process comes from the compute driver (`/sys/class/kfd/kfd/proc`) or, for Vulkan, from the
DRM client usage statistics in `/proc/<pid>/fdinfo`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from llamaswap.observe.gpu import Gpu, Reading
from llamaswap.observe.worker import Worker

_AMD = "0x1002"
_CARD = re.compile(r"card([0-9]+)")
_CARVE_OUT_BYTES = 2 << 30  # a card that is used for models has more; less is an APU's, which uses the machine's
_IDS = (Path("/usr/share/libdrm/amdgpu.ids"), Path("/opt/amdgpu/share/libdrm/amdgpu.ids"))
_PCI_IDS = (Path("/usr/share/hwdata/pci.ids"), Path("/usr/share/misc/pci.ids"))
_FDINFO = re.compile(r"^drm-(client-id|pdev|(?:memory|total)-(?:vram|gtt)):\s*(\S+)(?:\s+(KiB|MiB))?", re.MULTILINE)


def read_cards(root: Path = Path("/sys/class/drm"), names: CardNames | None = None) -> list[Gpu]:
    """Every AMD card under `root`. Never raises; a card that sleeps is told of without being woken."""
    gpus: list[Gpu] = []
    try:
        cards = sorted((int(m[1]), path) for path in root.iterdir() if (m := _CARD.fullmatch(path.name)))
    except OSError:
        return []
    for _, card in cards:
        device = card / "device"
        if _read(device / "vendor") != _AMD:
            continue
        vram = _number(device / "mem_info_vram_total")
        if vram is not None:
            gpus.append(_card(len(gpus), device, vram, names))
    return gpus


def _card(index: int, device: Path, vram: float, names: CardNames | None) -> Gpu:
    name = _read(device / "product_name")
    if not name:
        ids = [_read(device / what).removeprefix("0x").upper() for what in ("device", "revision")]
        name = names.find(*ids) if names is not None else f"AMD GPU {ids[0]}"
    asleep = _read(device / "power/runtime_status") == "suspended"
    gtt = _number(device / "mem_info_gtt_total") or 0.0
    unified = vram <= _CARVE_OUT_BYTES < gtt
    used = _number(device / "mem_info_vram_used")
    if unified:
        vram += gtt
        used = (used or 0.0) + (_number(device / "mem_info_gtt_used") or 0.0)
    temperature, power, fan = ({}, 0.0, None) if asleep else _hwmon(device)
    return Gpu(
        index=index,
        vendor="amd",
        name=name,
        uuid=_read(device / "unique_id") or _slot(device),
        temp_c=temperature.get("edge", temperature.get("junction")),
        vram_temp_c=temperature.get("mem"),
        util_percent=0.0 if asleep else _number(device / "gpu_busy_percent"),
        mem_util_percent=0.0 if asleep else _number(device / "mem_busy_percent"),
        mem_used_bytes=None if used is None else int(used),
        mem_total_bytes=int(vram),
        fan_percent=fan,
        power_w=power,
        unified=unified,
    )


def _slot(device: Path) -> str:
    """The card's place, 0000:03:00.0: it has no number of its own (consumer cards before RDNA, APUs)."""
    found = re.search(r"^PCI_SLOT_NAME=(\S+)$", _read(device / "uevent"), re.MULTILINE)
    return found[1] if found else ""


def _hwmon(device: Path) -> tuple[dict[str, float], float | None, float | None]:
    """(temperatures in °C by label, watts, fan in percent)."""
    try:
        chip = next(iter(sorted((device / "hwmon").iterdir())), None)
    except OSError:
        chip = None
    if chip is None:
        return {}, None, None
    temperatures = {}
    for n in (1, 2, 3):
        value = _number(chip / f"temp{n}_input")
        if value is not None:
            temperatures[_read(chip / f"temp{n}_label") or "edge"] = value / 1000
    power = _number(chip / "power1_average")
    if power is None:
        power = _number(chip / "power1_input")
    fan, fastest = _number(chip / "pwm1"), 255.0
    if fan is None:
        fan, fastest = _number(chip / "fan1_input"), _number(chip / "fan1_max") or 0.0
    percent = round(fan * 100 / fastest, 1) if fan is not None and fastest else None
    return temperatures, None if power is None else power / 1e6, percent


def read_processes(
    pids: Collection[int], kfd: Path = Path("/sys/class/kfd/kfd/proc"), proc: Path = Path("/proc")
) -> dict[int, int]:
    """Process id -> bytes of GPU memory, for those of `pids` that hold any. Never raises."""
    found = {}
    for pid in pids:
        used = _kfd(kfd / str(pid)) or _fdinfo(proc / str(pid))
        if used:
            found[pid] = used
    return found


def _kfd(process: Path) -> int:
    try:
        return int(sum(_number(path) or 0.0 for path in process.iterdir() if path.name.startswith("vram_")))
    except OSError:
        return 0


def _fdinfo(process: Path) -> int:
    clients: dict[tuple[str, str], int] = {}
    try:
        for entry in (process / "fd").iterdir():
            try:
                if not str(entry.readlink()).startswith("/dev/dri/"):
                    continue
                used = parse_fdinfo((process / "fdinfo" / entry.name).read_text())
            except (OSError, ValueError):
                continue  # closed meanwhile
            if used is not None:
                clients[used[0]] = used[1]  # several descriptors of one client tell the same
    except OSError:
        return 0
    return sum(clients.values())


def parse_fdinfo(text: str) -> tuple[tuple[str, str], int] | None:
    """((device, client), bytes of VRAM and GTT) of one descriptor; None if it tells of no memory.

    Kernels from 6.5 on say `drm-total-vram`, all say `drm-memory-vram`.
    """
    values: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for key, value, unit in _FDINFO.findall(text):
        if key in ("client-id", "pdev"):
            values[key] = value
        elif value.isdigit():
            sizes[key] = int(value) * {"": 1, "KiB": 1 << 10, "MiB": 1 << 20}[unit]
    if not sizes:
        return None
    total = sum(max(sizes.get(f"memory-{pool}", 0), sizes.get(f"total-{pool}", 0)) for pool in ("vram", "gtt"))
    return (values.get("pdev", ""), values.get("client-id", "")), total


class CardNames:
    """Names of cards that do not tell their own, from the lists that libdrm and the PCI tools install."""

    def __init__(self, ids: Collection[Path] = _IDS, pci_ids: Collection[Path] = _PCI_IDS) -> None:
        self._ids, self._pci_ids = ids, pci_ids
        self._found: dict[tuple[str, str], str] = {}

    def find(self, device: str, revision: str) -> str:
        """The name for a device id and revision, hexadecimal in capitals; read from disk once."""
        key = device, revision
        if key not in self._found:
            self._found[key] = self._exact(device, revision) or self._family(device) or f"AMD GPU {device}"
        return self._found[key]

    def _exact(self, device: str, revision: str) -> str:
        """amdgpu.ids has lines of `744C,\\tC8,\\tAMD Radeon RX 7900 XTX`."""
        for line in _first_file(self._ids):
            cells = [cell.strip() for cell in line.split(",", 2)]
            if len(cells) == 3 and (cells[0].upper(), cells[1].upper()) == (device, revision):
                return cells[2]
        return ""

    def _family(self, device: str) -> str:
        """pci.ids has the vendor at the line's start and its devices after one tab."""
        ours = False
        for line in _first_file(self._pci_ids):
            if line[:1] not in "\t#":
                if ours:
                    break
                ours = line.startswith("1002 ")
            elif ours and line[1:5].upper() == device and line[5:7] == "  ":
                return f"AMD {line[7:].strip()}"
        return ""


def _first_file(paths: Collection[Path]) -> list[str]:
    for path in paths:
        try:
            return path.read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
    return []


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""  # also EBUSY, EINVAL: this card has it, but not now


def _number(path: Path) -> float | None:
    try:
        return float(_read(path))
    except ValueError:
        return None


class Sysfs:
    """The amdgpu driver's files."""

    name = "amdgpu"
    rest_s = 0.0

    def __init__(self) -> None:
        self._names = CardNames()
        self._worker = Worker(self._look)

    def _look(self, pids: Collection[int]) -> Reading | None:
        gpus = read_cards(names=self._names)
        return Reading(tuple(gpus), read_processes(pids)) if gpus else None

    async def read(self, pids: Collection[int]) -> Reading | None:
        """See `Source.read`."""
        return await self._worker.run(pids)
