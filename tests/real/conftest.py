"""The built zipapp in front of llama.cpp's real server, with models made for the occasion."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import real_config
import zipapp_runner


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipapp_runner.Running]:
    """llamaswap.pyz running real_config; ended, with its models, after the last test."""
    directory = tmp_path_factory.mktemp("real models")
    config = real_config.write(directory, zipapp_runner.free_ports(4))
    with zipapp_runner.running(zipapp_runner.up_to_date(), directory, "--config", str(config)) as server:
        yield server
