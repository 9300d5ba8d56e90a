"""The zipapp as a file: it builds repeatably, runs from anywhere, and says clearly why where it cannot."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zipapp_runner

ROOT = zipapp_runner.ROOT
RUN_S = 60


def run(pyz: Path, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHIV_") and k != "PYTHONPATH"}
    environment |= env
    return subprocess.run(
        [sys.executable, str(pyz), *arguments],
        capture_output=True, text=True, timeout=RUN_S, cwd=cwd, env=environment, check=False,
    )  # fmt: skip


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("llamaswap: "), done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "shiv root")


def test_version_from_any_directory_under_any_name(pyz: Path, tmp_path: Path, root: str) -> None:
    home = tmp_path / "a place, with 'odd' letters é"
    home.mkdir()
    copy = home / "swap"
    shutil.copy(pyz, copy)
    link = tmp_path / "llamaswap"
    link.symlink_to(copy)
    for program in (copy, link):
        done = run(program, "--version", cwd=tmp_path, SHIV_ROOT=root)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("version: ") and ", built at 2" in done.stdout
    executed = subprocess.run([copy, "-version"], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert executed.stdout == done.stdout


@pytest.mark.parametrize("copies", [2])
def test_builds_are_the_same_byte_for_byte(tmp_path: Path, copies: int) -> None:
    built = []
    for number in range(copies):
        tree = tmp_path / f"tree {number}" / ("x" * number + "llamaswap")
        tree.mkdir(parents=True)
        for name in ("build_zipapp.sh", "requirements.lock", "requirements-build.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, tree / name)
        for name in ("src", "scripts"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        before = os.umask(0o027 if number else 0o022)
        try:
            zipapp_runner.build(tree)
        finally:
            os.umask(before)
        built.append((tree / "llamaswap.pyz").read_bytes())
    assert built[0] == built[1]


def test_holds_the_locked_dependencies_and_no_trace_of_the_builder(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        everything = b"".join(archive.read(name) for name in names if not name.endswith(".so"))
    for part in ("trio/__init__.py", "httptools/__init__.py", "yaml/__init__.py", "llamaswap/_build.py"):
        assert f"site-packages/{part}" in names
    assert not [n for n in names if n.endswith((".pyc", "/RECORD", "/direct_url.json")) or "/bin/" in n]
    assert str(ROOT).encode() not in everything


def test_old_interpreters_are_told_so(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        source = archive.read("__main__.py").decode("ascii")
    ast.parse(source, feature_version=(3, 4))
    pretend = (
        "import runpy, sys; sys.version_info = (3, 8, 18, 'final', 0); sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend, pyz], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert_one_line(done, "Python 3.11 or newer", "3.8.18", str(pyz))


@pytest.mark.parametrize("name", ["python2.7", "python3.6", "python3.8", "python3.9", "python3.10"])
def test_real_old_interpreters(pyz: Path, name: str) -> None:
    python = shutil.which(name)
    if not python or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"no {name} here")
    done = subprocess.run([python, pyz], capture_output=True, text=True, timeout=RUN_S, check=False)
    assert_one_line(done, "Python 3.11 or newer")


def test_interpreters_it_was_not_built_for_are_told_so(pyz: Path) -> None:
    pretend = (
        "import importlib.machinery as m, runpy, sys; m.EXTENSION_SUFFIXES[:] = ['.cpython-399-riscv.so']; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", pretend, pyz], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    assert_one_line(done, "was built for Python 3.", "build_zipapp.sh")


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/below", "/proc/no-such-place"])
def test_a_root_that_cannot_be_written(pyz: Path, place: str) -> None:
    assert_one_line(run(pyz, "--version", SHIV_ROOT=place), place, "SHIV_ROOT")


def test_a_home_that_cannot_be_written(pyz: Path) -> None:
    assert_one_line(run(pyz, "--version", HOME="/proc/no-such-place"), "/proc/no-such-place", "SHIV_ROOT")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home(pyz: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        assert_one_line(run(pyz, "--version", HOME=str(tmp_path)), "Permission denied", "SHIV_ROOT")
    finally:
        tmp_path.chmod(0o755)


def test_a_truncated_file(pyz: Path, tmp_path: Path, root: str) -> None:
    damaged = tmp_path / "llamaswap.pyz"
    with zipfile.ZipFile(pyz) as archive:
        info = archive.getinfo("site-packages/trio/__init__.py")
    raw = bytearray(pyz.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    raw[start + 20 : start + 60] = bytes(40)
    damaged.write_bytes(raw)
    assert_one_line(run(damaged, "--version", SHIV_ROOT=root), "damaged")
    assert run(pyz, "--version", SHIV_ROOT=root).returncode == 0


def unpacked(root: str) -> Path:
    (directory,) = (p for p in Path(root).iterdir() if p.is_dir())
    return directory / "site-packages"


def test_a_cache_that_was_interrupted_or_tidied_up_is_mended(pyz: Path, root: str) -> None:
    assert run(pyz, "--version", SHIV_ROOT=root).returncode == 0
    where = unpacked(root)
    # killed while unpacking: what is there is not taken for the whole
    where.parent.rename(where.parent.with_name(where.parent.name + ".tmp"))
    shutil.rmtree(where.parent.with_name(where.parent.name + ".tmp") / "site-packages" / "trio")
    assert run(pyz, "--version", SHIV_ROOT=root).returncode == 0
    assert (where / "trio" / "__init__.py").exists()
    # cleaned up by somebody who knows nothing of it
    shutil.rmtree(where / "llamaswap")
    done = run(pyz, "--version", SHIV_ROOT=root)
    assert done.returncode == 0 and done.stdout.startswith("version: ") and done.stderr == ""
    assert (where / "llamaswap" / "cli.py").exists()


def test_first_starts_at_the_same_time(pyz: Path, root: str) -> None:
    environment = {**os.environ, "SHIV_ROOT": root}
    command = [sys.executable, str(pyz), "--version"]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(3)]
    answers = {start.communicate(timeout=RUN_S)[0] for start in starts}
    assert len(answers) == 1 and all(start.returncode == 0 for start in starts)


def test_modules_on_pythonpath_do_not_get_in(pyz: Path, tmp_path: Path, root: str) -> None:
    for name in ("trio", "yaml", "llamaswap", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    done = run(pyz, "--version", cwd=tmp_path, SHIV_ROOT=root, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_unpacked_modules_are_compiled(pyz: Path, root: str) -> None:
    assert run(pyz, "--version", SHIV_ROOT=root, PYTHONDONTWRITEBYTECODE="1").returncode == 0
    assert list(unpacked(root).glob(f"trio/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"))
