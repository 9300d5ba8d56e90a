"""What the vendors' tools and drivers say, read from recordings of real ones (tests/core/recorded)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.observe.gpu import MIB, Gpu, number, size
from llamaswap.observe.gpu_amd import parse_amd_smi, parse_amd_smi_processes, parse_rocm_smi
from llamaswap.observe.gpu_apple import parse_ioreg
from llamaswap.observe.gpu_nvidia import COLUMNS, parse_gpus, parse_processes, with_machine_memory
from llamaswap.observe.gpu_sysfs import CardNames, parse_fdinfo, read_cards, read_processes

RECORDED = Path(__file__).parent / "recorded"
GIB = 1 << 30


def recorded(name: str) -> str:
    return (RECORDED / name).read_text("utf-8")


def facts(gpu: Gpu, *names: str) -> tuple[Any, ...]:
    return tuple(asdict(gpu)[name] for name in names)


FIGURES = ("temp_c", "vram_temp_c", "util_percent", "mem_util_percent", "fan_percent", "power_w")
MEMORY = ("mem_used_bytes", "mem_total_bytes")


# -- NVIDIA


def test_nvidia_two_cards() -> None:
    one, two = parse_gpus(recorded("nvidia-two-cards.csv"))
    assert one == Gpu(
        index=0,
        vendor="nvidia",
        name="NVIDIA GeForce RTX 3090",
        uuid="GPU-5a4f6e2c-8d0b-4c7e-9a51-2f1f3f0f6b11",
        driver="550.54.14",
        temp_c=62,
        vram_temp_c=None,
        util_percent=97,
        mem_util_percent=71,
        mem_used_bytes=22871 * MIB,
        mem_total_bytes=24576 * MIB,
        fan_percent=58,
        power_w=318.42,
    )
    assert facts(two, "index", *FIGURES) == (1, 41, None, 0, 0, 0, 17.93)


@pytest.mark.parametrize(
    ("name", "figures", "memory"),
    [
        ("nvidia-laptop.csv", (45, None, 3, 1, None, 4.25), (512 * MIB, 3911 * MIB)),
        ("nvidia-mig-in-container.csv", (33, None, None, None, None, 87.14), (None, None)),
        ("nvidia-gb10.csv", (52, None, 0, 0, None, 10.8), (None, None)),
    ],
)
def test_what_an_nvidia_card_does_not_tell_is_unknown(name: str, figures: Any, memory: Any) -> None:
    (gpu,) = parse_gpus(recorded(name))
    assert (facts(gpu, *FIGURES), facts(gpu, *MEMORY)) == (figures, memory)


def test_a_card_and_a_driver_without_the_memory_temperature() -> None:
    columns = tuple(name for name in COLUMNS if name != "temperature.memory")
    (gpu,) = parse_gpus(recorded("nvidia-old.csv"), columns)
    assert (gpu.name, *facts(gpu, *FIGURES)) == ("Quadro K620", 39, None, None, None, 34, None)
    assert facts(gpu, *MEMORY) == (101 * MIB, 1999 * MIB)


def test_a_card_that_is_cut_up_still_tells_its_memory() -> None:
    gpus = parse_gpus(recorded("nvidia-mig.csv"))
    assert [gpu.util_percent for gpu in gpus] == [0, None]
    assert [gpu.mem_used_bytes for gpu in gpus] == [20483 * MIB, 34076 * MIB]
    assert not any(gpu.unified for gpu in gpus)


def test_a_lost_card_does_not_take_the_others_along() -> None:
    gpus = parse_gpus(recorded("nvidia-one-lost.csv"))
    assert [(gpu.index, gpu.temp_c, gpu.mem_used_bytes) for gpu in gpus] == [
        (0, 62, 22871 * MIB),
        (2, None, 1024 * MIB),
    ]


@pytest.mark.parametrize("name", ["no-driver", "no-devices", "old-driver", "mismatch"])
def test_an_error_of_nvidia_smi_is_no_card(name: str) -> None:
    text = recorded(f"nvidia-{name}.txt")
    assert parse_gpus(text) == []
    assert parse_processes(text) == {}


def test_nvidia_processes() -> None:
    found = parse_processes(recorded("nvidia-compute-apps.csv"))
    assert {(uuid[-4:], pid): size // MIB for (uuid, pid), size in found.items()} == {
        ("6b11", 28290): 1012,
        ("6b11", 28311): 21850,
        ("9e67", 28290): 402,
    }


def test_a_process_on_several_instances_of_one_card_is_added_up() -> None:
    assert parse_processes("MIG-1, 7, 10\nMIG-1, 7, 20\n") == {("MIG-1", 7): 30 * MIB}


def test_a_card_without_memory_of_its_own_uses_the_machines() -> None:
    gpus = parse_gpus(recorded("nvidia-gb10.csv"))
    processes = {(gpus[0].uuid, 3150): 218 * MIB, (gpus[0].uuid, 6330): 96073 * MIB, ("other", 1): 5}
    (gpu,) = with_machine_memory(gpus, processes, 121 * GIB)
    assert facts(gpu, *MEMORY, "unified") == (96291 * MIB, 121 * GIB, True)
    hidden = parse_gpus(recorded("nvidia-mig-in-container.csv"))
    assert with_machine_memory(hidden, {}, 121 * GIB) == hidden, "what is hidden is not shared"


# -- AMD's tools


def test_amd_smi_of_rocm_7() -> None:
    one, two = parse_amd_smi(recorded("amd-smi-metric-7800xt.json"))
    assert facts(one, *FIGURES) == (54, 70, 91, 66, 49.8, 212)
    assert facts(one, "vendor", "name", "uuid", *MEMORY) == ("amd", "AMD GPU 0", "", 20450 * MIB, 30576 * MIB)
    assert facts(two, *FIGURES) == (45, 38, None, None, None, None)
    assert facts(two, "index", *MEMORY) == (1, 285 * MIB, 196592 * MIB)


def test_amd_smi_of_rocm_6_with_names_and_ids() -> None:
    (gpu,) = parse_amd_smi(
        *(recorded(f"amd-smi-{name}.json") for name in ("metric-6600", "static", "list")),
    )
    assert facts(gpu, "name", "uuid", *FIGURES, *MEMORY) == (
        *("Navi 23 [Radeon RX 6600/6600 XT/6600M]", "00ff73ff-0000-1000-8000-000000000000"),
        *(31, 34, 42, 1, 0, 20, 202 * MIB, 8176 * MIB),
    )


def test_amd_smi_processes() -> None:
    assert parse_amd_smi_processes(recorded("amd-smi-process.json")) == {1564865: 7730941132}


def test_rocm_smi_of_a_desktop_card() -> None:
    reading = parse_rocm_smi(recorded("rocm-smi-7900xt.json"))
    assert reading is not None
    (gpu,) = reading.gpus
    assert facts(gpu, "name", "uuid", *FIGURES, *MEMORY) == (
        *("Radeon RX 7900 XT", "0x719d230578348e8c", 45, 48, 3, 1, 20, 17, 27856896, 21458059264),
    )
    assert reading.by_pid == {}


def test_rocm_smi_of_a_server_with_processes() -> None:
    reading = parse_rocm_smi(recorded("rocm-smi-mi300x.json"))
    assert reading is not None
    one, two = reading.gpus
    assert facts(one, *FIGURES) == (45, 38, 0, None, None, 159), "no edge sensor: the junction's"
    assert facts(two, "index", "name", "uuid", "power_w") == (1, "AMD GPU 1", "", 266)
    assert reading.by_pid == {710898: 200145596416, 721888: 0, 721900: 1024}


def test_rocm_smi_says_things_before_its_json() -> None:
    text = "WARNING: AMD GPU device(s) is/are in a low-power state.\n\n" + recorded("rocm-smi-7900xt.json")
    assert parse_rocm_smi(text) == parse_rocm_smi(recorded("rocm-smi-7900xt.json")) is not None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", '{"gpu_data": null}', '{"gpu_data": [1, {"gpu": "x"}]}'])
def test_amd_tools_with_nothing_to_tell(text: str) -> None:
    assert parse_amd_smi(text) == []
    assert parse_amd_smi_processes(text) == {}
    assert parse_rocm_smi(text) is None
    assert parse_rocm_smi(recorded("rocm-smi-no-cards.txt")) is None


# -- the amdgpu driver's files


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def a_card(drm: Path, card: str = "card1", **files: str) -> None:
    device = drm / card / "device"
    write(
        device,
        **{
            "vendor": "0x1002",
            "device": "0x744c",
            "revision": "0xc8",
            "mem_info_vram_total": "25753026560",
            "mem_info_vram_used": "12000000000",
            "mem_info_gtt_total": "33541849088",
            "mem_info_gtt_used": "71303168",
            "gpu_busy_percent": "88",
            "mem_busy_percent": "41",
            "uevent": "DRIVER=amdgpu\nPCI_ID=1002:744C\nPCI_SLOT_NAME=0000:03:00.0",
            "hwmon__hwmon3__temp1_input": "54000",
            "hwmon__hwmon3__temp1_label": "edge",
            "hwmon__hwmon3__temp2_input": "72000",
            "hwmon__hwmon3__temp2_label": "junction",
            "hwmon__hwmon3__temp3_input": "70000",
            "hwmon__hwmon3__temp3_label": "mem",
            "hwmon__hwmon3__power1_average": "210000000",
            "hwmon__hwmon3__pwm1": "127",
            **files,
        },
    )


def test_a_card_of_the_driver(tmp_path: Path) -> None:
    a_card(tmp_path)
    (tmp_path / "card1-DP-1").mkdir()
    write(tmp_path / "card0" / "device", vendor="0x8086")
    (gpu,) = read_cards(tmp_path)
    assert facts(gpu, "name", "uuid", *FIGURES) == ("AMD GPU 744C", "0000:03:00.0", 54, 70, 88, 41, 49.8, 210)
    assert facts(gpu, *MEMORY, "unified") == (12000000000, 25753026560, False)


def test_names_come_from_the_card_or_from_the_lists_of_the_system(tmp_path: Path) -> None:
    ids, pci = tmp_path / "amdgpu.ids", tmp_path / "pci.ids"
    ids.write_text("# List\n1.0.0\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n744C,\tCC,\tAMD Radeon RX 7900 XT\n")
    pci.write_text("1001  Other\n\t744c  Not it\n1002  AMD\n\t15bf  Phoenix1\n\t\t1 2  Board\n1003  Next\n\t744c  No\n")
    names = CardNames([tmp_path / "none", ids], [pci])
    a_card(tmp_path / "drm")
    a_card(tmp_path / "drm", "card2", device="0x15bf", revision="0xc1", unique_id="deadbeef")
    a_card(tmp_path / "drm", "card10", device="0x15c0", product_name="AMD Instinct MI210")
    a_card(tmp_path / "drm", "card11", device="0x15c1")
    found = [(gpu.index, gpu.name, gpu.uuid) for gpu in read_cards(tmp_path / "drm", names)]
    assert found == [
        (0, "AMD Radeon RX 7900 XTX", "0000:03:00.0"),
        (1, "AMD Phoenix1", "deadbeef"),
        (2, "AMD Instinct MI210", "0000:03:00.0"),
        (3, "AMD GPU 15C1", "0000:03:00.0"),
    ]


def test_an_apu_uses_the_machines_memory(tmp_path: Path) -> None:
    vram, gtt = 512 * MIB, int(61.41 * GIB)
    a_card(tmp_path, mem_info_vram_total=str(vram), mem_info_vram_used="1", mem_info_gtt_total=str(gtt))
    (gpu,) = read_cards(tmp_path)
    assert facts(gpu, *MEMORY, "unified") == (71303169, vram + gtt, True)


def test_a_card_that_sleeps_is_not_woken(tmp_path: Path) -> None:
    a_card(tmp_path, power__runtime_status="suspended")
    (gpu,) = read_cards(tmp_path)
    assert facts(gpu, *FIGURES) == (None, None, 0, 0, None, 0)
    assert gpu.mem_total_bytes == 25753026560


def test_a_card_with_next_to_no_files(tmp_path: Path) -> None:
    write(tmp_path / "card0" / "device", vendor="0x1002", mem_info_vram_total="1000", gpu_busy_percent="")
    (gpu,) = read_cards(tmp_path)
    assert facts(gpu, *FIGURES, *MEMORY) == (None,) * 7 + (1000,)
    assert read_cards(tmp_path / "none") == []


def test_newer_cards_call_power_input_and_fans_by_speed(tmp_path: Path) -> None:
    device = tmp_path / "card0" / "device"
    write(device, vendor="0x1002", mem_info_vram_total="1000")
    write(device / "hwmon" / "hwmon0", power1_input="159000000", fan1_input="680", fan1_max="3400")
    (gpu,) = read_cards(tmp_path)
    assert (gpu.power_w, gpu.fan_percent) == (159, 20)


def test_memory_of_processes(tmp_path: Path) -> None:
    kfd, proc = tmp_path / "kfd", tmp_path / "proc"
    write(kfd / "11", vram_12345="1000", vram_54321="500", sdma_12345="77", pasid="32770")
    for fd, target in (("3", "/dev/dri/renderD128"), ("4", "/dev/dri/renderD128"), ("5", "/etc/hosts")):
        (proc / "12" / "fd").mkdir(parents=True, exist_ok=True)
        (proc / "12" / "fdinfo").mkdir(exist_ok=True)
        (proc / "12" / "fd" / fd).symlink_to(target)
        (proc / "12" / "fdinfo" / fd).write_text(recorded("fdinfo-amdgpu.txt"))
    assert read_processes([11, 12, 13], kfd, proc) == {11: 1500, 12: (5243904 + 10112) << 10}


def test_fdinfo() -> None:
    assert parse_fdinfo(recorded("fdinfo-amdgpu.txt")) == (("0000:03:00.0", "81"), (5243904 + 10112) << 10)
    assert parse_fdinfo("pos:\t0\nflags:\t02\n") is None
    older = "drm-client-id:\t5\ndrm-pdev:\t0000:01:00.0\ndrm-memory-vram:\t2048 KiB\ndrm-memory-gtt:\t1 MiB\n"
    assert parse_fdinfo(older) == (("0000:01:00.0", "5"), 3 * MIB)


# -- Apple


def test_apple() -> None:
    (gpu,) = parse_ioreg(recorded("ioreg-m1-pro.txt"), 32 * GIB)
    assert facts(gpu, "vendor", "name", "util_percent", *MEMORY, "unified") == (
        *("apple", "Apple M1 Pro", 2, 340983808, 32 * GIB, True),
    )


def test_apple_with_several_accelerators_or_none() -> None:
    block = '+-o {0}  <class {0}>\n    {{\n      "PerformanceStatistics" = {{"Renderer Utilization %"=7}}\n    }}\n'
    text = (
        block.format("IntelAccelerator") + block.format("AGXAcceleratorG17X") + "+-o Other  <class Other>\n  {\n  }\n"
    )
    gpus = parse_ioreg(text, 0)
    assert [(gpu.index, gpu.vendor, gpu.name, gpu.util_percent) for gpu in gpus] == [
        (0, "", "IntelAccelerator", 7),
        (1, "apple", "Apple GPU", 7),
    ]
    assert gpus[0].mem_total_bytes is None
    assert parse_ioreg("", 1) == []


# -- all of them


@pytest.mark.parametrize("value", ["[N/A]", "N/A", "", "nan", "inf", "1e5", " ", "0x10", None, True, [], {}])
def test_what_is_no_number(value: object) -> None:
    assert number(value) is None


def test_sizes() -> None:
    assert size({"value": 2, "unit": "GB"}) == 2 * GIB
    assert size({"value": "3", "unit": None}) == 3 * MIB
    assert size(5, "B") == 5
    assert size({"value": 1, "unit": "furlongs"}) is None
    assert size("N/A") is None


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["gpu", "gpu_data", "card0", "x"]), inner),
)


@given(st.text(alphabet=st.sampled_from('0, []{}"=\n+-oN/A:'), max_size=80) | TREES.map(json.dumps))
def test_no_output_is_an_error(text: str) -> None:
    for gpu in parse_gpus(text) + parse_amd_smi(text, text, text) + parse_ioreg(text, 1):
        assert isinstance(gpu.index, int)
    parse_processes(text)
    parse_amd_smi_processes(text)
    parse_rocm_smi(text)
    parse_fdinfo(text)
