"""House rules that a machine can check over the repository's own files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
# Assembled from parts, so that this file passes its own test.
REGISTRIES = ["py" + "pi.org", "python" + "hosted.org", "registry.npm" + "js.org", "registry.yarn" + "pkg.com"]
UNFINISHED = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + "Error)\b")
LOCKS = ["requirements.lock", "requirements-build.lock", "requirements-dev.lock"]


def repository_files() -> list[Path]:
    """The files that belong to the repository; outside a clone, those of its own directories."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        skipped = {".git", ".venv", ".cache", "build", "node_modules", "__pycache__"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not skipped & set(p.relative_to(ROOT).parts)]
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    found = []
    for path in repository_files():
        try:
            found.append((path.relative_to(ROOT), path.read_text("utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def test_no_package_registry_is_named() -> None:
    naming = [(path, name) for path, text in texts() for name in REGISTRIES if name in text]
    assert not naming


@pytest.mark.parametrize("name", LOCKS)
def test_locks_pin_everything_by_hash_and_name_no_place(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text
    lines = text.splitlines()
    entries = [i for i, line in enumerate(lines) if line and not line.startswith((" ", "#"))]
    assert entries
    for i in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+ \\$", lines[i]), lines[i]
        assert re.match(r"    --hash=sha256:[0-9a-f]{64}", lines[i + 1]), lines[i]


def test_what_is_shipped_is_what_is_tested() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.lock") | pins("requirements-build.lock") <= pins("requirements-dev.lock")


def test_node_lock_files_carry_no_addresses() -> None:
    locks = [p for p in repository_files() if p.name in ("package-lock.json", ".npmrc", "yarn.lock")]
    assert not [p for p in locks if re.search(r'"resolved": *"http|registry *=', p.read_text())]


def source_files() -> list[Path]:
    return [p for p in repository_files() if p.is_relative_to(ROOT / "src") and p.suffix == ".py"]


def test_source_files_stay_small() -> None:
    sizes = {p.name: len(p.read_text().splitlines()) for p in source_files()}
    assert sizes
    assert not {name: lines for name, lines in sizes.items() if lines > MAX_LINES}


def test_nothing_is_left_unfinished() -> None:
    found = [(p.name, match[0]) for p in source_files() if (match := UNFINISHED.search(p.read_text()))]
    assert not found


def test_no_exception_is_swallowed_whole() -> None:
    swallowing = re.compile(r"^\s*except( Exception| BaseException)?:\s*\n?\s*pass\b", re.MULTILINE)
    assert not [p.name for p in source_files() if swallowing.search(p.read_text())]


@pytest.mark.parametrize("layer", ["core", "shell"])
def test_no_sleeping_tests(layer: str) -> None:
    """Only a clock that jumps may be slept by; what a model's process does is its own affair."""
    sleeping = []
    for path in (ROOT / "tests" / layer).glob("test_*.py"):
        text = path.read_text()
        by_jumps = "autojump_clock" in text or path == Path(__file__)
        if re.search(r"^\s*time\.sleep\(", text, re.MULTILINE) or ("trio.sleep(" in text and not by_jumps):
            sleeping.append(path.name)
    assert not sleeping


def test_no_path_of_a_machine() -> None:
    home = re.compile(r"/(home|Users|work|root)/(?!you\b|user\b|me\b)[A-Za-z0-9._-]+/")
    allowed = {Path("tests/core/test_repo_hygiene.py")}
    found = [(p, match[0]) for p, text in texts() if p not in allowed and (match := home.search(text))]
    assert not found
