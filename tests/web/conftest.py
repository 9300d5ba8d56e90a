from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BOTH = ["front", "asgi"]
"""Our own listener, and Hypercorn alone with the ASGI middleware."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `door` runs through both ways in; `any_door` adds HTTP/2 by each of them."""
    given: set[str] = set()
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0]
        given |= set(names.split(",") if isinstance(names, str) else names)
    if "door" in metafunc.fixturenames and "door" not in given:
        metafunc.parametrize("door", BOTH)
    if "any_door" in metafunc.fixturenames:
        metafunc.parametrize("any_door", [*BOTH, "h2", "front-h2"])
