"""Assembles llamaswap.pyz; build_zipapp.sh runs it in a virtual environment with the locked tools.

The dependencies are installed from requirements.lock into a staging directory, with the compiled
modules of every supported Python side by side (their file names carry the version); the program
is copied beside them; shiv packs it all; and `finish` writes the archive once more, so that its
bytes depend on nothing but the files inside.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "zipapp"
LOCK = ROOT / "requirements.lock"
PYTHONS = ((3, 11), (3, 12), (3, 13), (3, 14))
HERE = sys.version_info[:2]
SHEBANG = "/usr/bin/env python3"
# What wheels carry and no program needs: their own tests, C sources, and the notes in which
# pip and the wheel say for which machine and interpreter they are.
LEFT_OUT_DIRS = {"__pycache__", "_tests", "bin"}
LEFT_OUT_FILES = re.compile(r"(\.(pyc|pyx|pxd|c|h)|/(RECORD|WHEEL|INSTALLER|REQUESTED|direct_url\.json))$")


def say(message: str) -> None:
    print(f"build_zipapp: {message}", file=sys.stderr)


def quietly(*command: str, cwd: Path | None = None) -> None:
    """Runs it; its output is shown when it fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, output=done.stdout)


def pip(*arguments: str) -> None:
    """Runs pip as this machine has it configured."""
    quietly(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@contextmanager
def only_one() -> Iterator[None]:
    """Builds of one working tree take turns."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# Dependencies ------------------------------------------------------------------------------------


def compiled(site: Path) -> list[str]:
    """The distributions in `site` that hold compiled modules, as the lock names them."""
    names = []
    for wheel in site.glob("*.dist-info/WHEEL"):
        if "Root-Is-Purelib: false" in wheel.read_text():
            names.append(re.sub(r"[-_.]+", "-", wheel.parent.name.split("-")[0]).lower())
    return sorted(names)


def excerpt(names: list[str]) -> str:
    """The entries of these distributions in requirements.lock, hashes included."""
    entries = re.findall(r"^[A-Za-z0-9].*?(?<!\\)\n", LOCK.read_text(), re.MULTILINE | re.DOTALL)
    return "".join(entry for entry in entries if entry.split("==")[0].strip() in names)


def add_other_pythons(site: Path) -> None:
    """Puts the compiled modules of the other Pythons beside those of this one, as far as there are any."""
    names = compiled(site)
    if not names:
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        wanted = Path(work, "wanted.lock")
        wanted.write_text(excerpt(names))
        for version in PYTHONS:
            if version == HERE:
                continue
            label = ".".join(map(str, version))
            wheels = Path(work, label)
            try:
                pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", label,
                    "--dest", str(wheels), "--require-hashes", "--requirement", str(wanted))  # fmt: skip
            except subprocess.CalledProcessError as error:
                why = (error.output or "").strip().splitlines()[-1:] or ["no reason given"]
                say(f"this llamaswap.pyz will not run on Python {label}: {why[0]}")
                continue
            for wheel in wheels.glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    for name in archive.namelist():
                        if name.endswith(".so") and not (site / name).exists():
                            archive.extract(name, site)


def dependencies() -> Path:
    """A directory with everything that requirements.lock names; kept for the next build."""
    parts = (LOCK.read_bytes(), Path(__file__).read_bytes(), sys.version.encode(), sys.prefix.encode())
    site = CACHE / f"site-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}"
    if not site.exists():
        say("installing the locked dependencies")
        fresh = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            pip("install", "--quiet", "--no-deps", "--no-compile", "--require-hashes", "--prefer-binary",
                "--target", str(fresh), "--requirement", str(LOCK))  # fmt: skip
            add_other_pythons(fresh)
            fresh.rename(site)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return site


def suffixes(site: Path) -> list[str]:
    """The file name suffixes with which every compiled module is there; one for each Python that will do."""
    modules: dict[str, set[str]] = {}
    for path in site.rglob("*.so"):
        name, _, suffix = path.name.partition(".")
        modules.setdefault(str(path.parent / name), set()).add(f".{suffix}")
    # A module of the stable ABI serves every Python and so limits nothing.
    tied = [found for found in modules.values() if ".abi3.so" not in found]
    return sorted(set.intersection(*tied)) if tied else []


# The program -------------------------------------------------------------------------------------


def git(*arguments: str) -> str:
    """What git says, or nothing: without git, or outside a clone, the build goes on."""
    try:
        command = ["git", "-C", str(ROOT), *arguments]
        top = subprocess.run([*command[:3], "rev-parse", "--show-toplevel"], capture_output=True, text=True)
        if top.returncode or Path(top.stdout.strip()).resolve() != ROOT:
            return ""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def build_info() -> tuple[str, int]:
    """The commit, and the second (Unix time) that stands for the build's date: the commit's own."""
    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    if git("status", "--porcelain", "--untracked-files=no"):
        commit += "-dirty"
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct") or "0"
    return commit, max(int(epoch), 315_532_800)  # a zip archive knows no date before 1980


def build_ui() -> None:
    """Builds the web UI into src/llamaswap/_ui, where there is one to build and npm to do it."""
    ui = ROOT / "ui"
    if not (ui / "package.json").exists():
        return
    if not shutil.which("npm"):
        say("npm is not installed: this llamaswap.pyz carries no web UI (or the one built before)")
        return
    lock, installed = ui / "package-lock.json", ui / "node_modules" / ".installed-from"
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        say("installing the UI's locked tools")
        quietly("npm", "ci", cwd=ui)
        shutil.copyfile(lock, installed)
    quietly("npm", "run", "build", cwd=ui)


def left_out(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if n in LEFT_OUT_DIRS or LEFT_OUT_FILES.search(f"{directory}/{n}") or n == ".gitkeep"]


def stage(site: Path, target: Path) -> int:
    """Puts dependencies and program into `target`; returns the build's date (Unix time)."""
    shutil.copytree(site, target, dirs_exist_ok=True, ignore=left_out)
    shutil.copytree(ROOT / "src" / "llamaswap", target / "llamaswap", ignore=left_out)
    commit, epoch = build_info()
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    (target / "llamaswap" / "_build.py").write_text(
        f'"""Written by build_zipapp.sh."""\n\nCOMMIT = "{commit}"\nBUILD_DATE = "{date}"\n'
    )
    return epoch


# The archive -------------------------------------------------------------------------------------


def finish(packed: Path, output: Path, epoch: int, found: list[str]) -> None:
    """Writes shiv's archive anew with our __main__, names in order, and no trace of umask or clock."""
    versions = [f"3.{m[1]}" for s in found if (m := re.match(r"\.[a-z]+-?3(\d+)-", s))] or ["3.11 or newer"]
    with zipfile.ZipFile(packed) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    build_id = re.search(r'"build_id": "(\w+)"', contents["environment.json"].decode())
    assert build_id
    main = (ROOT / "scripts" / "zipapp_main.py").read_text()
    for blank, value in {
        '"@BUILD_ID@"': repr(build_id[1]),
        "()  # @SUFFIXES@": repr(tuple(found)),
        '"@VERSIONS@"': repr(", ".join(sorted(versions, key=lambda v: int(v.split(".")[1].split()[0])))),
        '"@PLATFORM@"': repr(" ".join(os.uname()[i] for i in (0, 4))),
    }.items():
        assert main.count(blank) == 1, blank
        main = main.replace(blank, value)
    contents["__main__.py"] = main.encode()

    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with open(fresh, "wb") as file:
            file.write(f"#!{SHEBANG}\n".encode())
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in sorted(contents):
                    entry = zipfile.ZipInfo(name, time.gmtime(epoch)[:6])
                    entry.external_attr = 0o100644 << 16
                    entry.create_system = 3
                    archive.writestr(entry, contents[name], zipfile.ZIP_DEFLATED, 9)
        fresh.chmod(0o755)
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output.absolute()
    with only_one(), tempfile.TemporaryDirectory(dir=CACHE) as work:
        build_ui()
        site = dependencies()
        target, packed = Path(work, "site"), Path(work, "packed.pyz")
        epoch = stage(site, target)
        command = [sys.executable, "-m", "shiv", "--site-packages", str(target), "--entry-point",
                   "llamaswap.cli:main", "--python", SHEBANG, "--compile-pyc", "--uncompressed", "--reproducible",
                   "--output-file", str(packed)]  # fmt: skip
        subprocess.run(command, check=True, cwd=work, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)})
        found = suffixes(target)
        finish(packed, output, epoch, found)
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        say(f"{output} ({output.stat().st_size / 1e6:.1f} MB, sha256 {digest})")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failed:
        sys.exit(f"{failed.output or ''}build_zipapp: this failed: {' '.join(map(str, failed.cmd))}")
