"""Imports run one way. Read from the sources, so that imports in functions and for types count too."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamaswap

SOURCES = Path(llamaswap.__file__).parent

# What each room may import, besides itself. The front door (server, cli and what else lies at the top)
# may import every room, and no room may import it. `commands` is part of the door but talks to a server from
# outside: it needs no room, but `check` the store's to look at its file, and must start as quickly as it can.
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "routing": {"errors", "config"},
    "observe": {"errors", "config"},
    "upstream": {"errors", "config", "routing", "observe"},
    "relay": {"errors", "config", "routing", "observe", "upstream"},
    "web": {"errors", "config", "routing", "observe", "upstream", "relay"},
    "commands": {"errors", "config", "observe"},
}
# Third-party imports of those that must not have just any.
THIRD_PARTY = {"errors": set(), "config": {"yaml"}, "routing": set(), "commands": set()}
# At the top of the package, but neither room nor door: facts that anybody may read.
FACTS = {"_build"}


def imported(source: str, package: list[str]) -> Iterator[list[str]]:
    """The dotted names that a module of `package` imports, each as a list."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            if base == ["llamaswap"]:
                for alias in node.names:
                    yield [*base, alias.name]
            else:
                yield base


def arrows_back(room: str, source: str, package: list[str]) -> list[str]:
    """What a module of this room imports and must not."""
    wrong = []
    for name in imported(source, package):
        top = name[0]
        if top == "llamaswap":
            target = name[1] if len(name) > 1 else "__init__"
            at_top = (SOURCES / target).is_dir() or (SOURCES / f"{target}.py").exists()
            if at_top and target not in {room, "__init__", *FACTS, *MAY_IMPORT.get(room, ())}:
                wrong.append(".".join(name))
        elif top not in sys.stdlib_module_names and top not in THIRD_PARTY.get(room, {top}):
            wrong.append(".".join(name))
    return wrong


def modules() -> list[Path]:
    return sorted(SOURCES.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCES).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCES)))
def test_no_arrow_runs_back(path: Path) -> None:
    room = room_of(path)
    if room not in MAY_IMPORT and room not in {*FACTS, "__init__"}:
        return  # the front door
    package = ["llamaswap", *path.relative_to(SOURCES).parent.parts]
    assert arrows_back(room, path.read_text("utf-8"), package) == []


def test_every_room_is_known() -> None:
    rooms = {path.name for path in SOURCES.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert rooms <= MAY_IMPORT.keys()
    assert {"config", "routing"} <= rooms


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("routing", "from llamaswap.upstream.fleet import Fleet"),
        ("routing", "import llamaswap.upstream"),
        ("routing", "from llamaswap import upstream"),
        ("routing", "from .. import upstream"),
        ("routing", "from ..upstream import fleet"),
        ("routing", "def f():\n    import trio"),
        ("routing", "import yaml"),
        ("routing", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from llamaswap.web import app"),
        ("config", "from llamaswap.routing.policy import GroupPolicy"),
        ("config", "import trio.lowlevel"),
        ("errors", "from llamaswap.config.settings import Config"),
        ("observe", "from llamaswap.routing.lifecycle import State"),
        ("relay", "from llamaswap import server"),
        ("upstream", "from llamaswap.relay import pool"),
        ("web", "import llamaswap.cli"),
        ("web", "from llamaswap.commands import client"),
        ("commands", "from llamaswap.cli import main"),
        ("commands", "def f():\n    import trio"),
        ("commands", "import httpx"),
        ("commands", "from llamaswap.upstream.fleet import Fleet"),
    ],
)
def test_the_check_finds_what_it_is_for(room: str, source: str) -> None:
    assert len(arrows_back(room, source, ["llamaswap", room])) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("config", "import yaml\nfrom llamaswap.errors import Problem\nfrom .settings import Config"),
        ("routing", "from . import lifecycle\nfrom ..config.settings import Config\nimport difflib"),
        ("observe", "import trio\nfrom llamaswap.config.settings import Config"),
        ("commands", "import http.client\nfrom llamaswap import config\nfrom llamaswap.errors import ConfigError"),
        ("web", "import trio\nfrom llamaswap import __version__\nfrom llamaswap.relay import relay"),
    ],
)
def test_the_check_lets_pass_what_is_right(room: str, source: str) -> None:
    assert arrows_back(room, source, ["llamaswap", room]) == []
