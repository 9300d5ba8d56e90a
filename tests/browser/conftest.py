"""The built zipapp's web UI in a real browser, with llama.cpp's real server and with fake models behind it.

A test gets a `visit`: a window on a server, watched all the time. Whatever a test is about, no request may leave for
another host, nothing may break the Content-Security-Policy, and the console must stay empty of errors.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.extend(str(Path(__file__).resolve().parents[1] / name) for name in ("", "e2e", "real"))

import harness
import real_stage
import zipapp_runner
from visitor import CHROMIUM, Visitor, launch

Visit = Callable[..., Visitor]


@pytest.fixture(scope="session")
def pyz() -> Path:
    """The program in one file, built from this tree, with its UI."""
    built = zipapp_runner.up_to_date()
    if "llamaswap/_ui/index.html" not in "\n".join(zipfile.ZipFile(built).namelist()):
        pytest.skip("llamaswap.pyz was built without the web UI: npm is not installed")
    return built


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian, Ubuntu: apt-get install chromium)")
    with launch() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """`visit(url, "models/x", **options of the browser's context)`: opens a window; all are checked at the end."""
    visitors: list[Visitor] = []

    def visit(url: str, path: str = "", **options: Any) -> Visitor:
        visitors.append(Visitor(browser, url, **options))
        visitors[-1].go(path)
        return visitors[-1]

    try:
        yield visit
    finally:
        for visitor in visitors:
            visitor.leave()
    for visitor in visitors:
        visitor.check()


@pytest.fixture(scope="session")
def real(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipapp_runner.Running]:
    """llama.cpp's real server behind llamaswap: two chat models that swap, one that embeds, one that ranks."""
    directory = tmp_path_factory.mktemp("real")
    config = real_stage.write(directory, zipapp_runner.free_ports(4))
    with zipapp_runner.running(pyz, directory, "--config", str(config)) as server:
        yield server


@pytest.fixture(scope="session")
def shared(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Stage]:
    models = {
        "alpha": {"name": "Alpha", "description": "The first of them", "aliases": ["first", "a"], "ttl": 300},
        "beta": {},
        "hidden": {"unlisted": True},
        "org/lab:model-1.5": {"description": "With a slash and a colon in its name"},
    }
    with harness.stage(pyz, tmp_path_factory.mktemp("fake"), models) as stage:
        yield stage


@pytest.fixture
def stage(shared: harness.Stage) -> Iterator[harness.Stage]:
    """One test's turn on fake models (`alpha`, `beta` and two odd ones), which replace each other."""
    yield shared
    shared.unload()
    shared.forget()
