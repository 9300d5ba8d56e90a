"""Fixtures for tests of the built zipapp."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import zipapp_runner


@pytest.fixture(scope="session")
def pyz() -> Path:
    """The program in one file, built from this tree."""
    return zipapp_runner.up_to_date()
