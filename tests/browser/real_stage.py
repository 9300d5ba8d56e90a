"""The configuration of tests/real, as somebody would write it who uses the web UI."""

from __future__ import annotations

import json
from pathlib import Path

import real_config

SAYINGS = real_config.SAYINGS
ENDLESS = {"ignore_eos": True, "n_predict": 50_000}
"""Sent along with a chat, it has a model speak for half a minute at least (see tests/real)."""


def write(directory: Path, start_port: int) -> Path:
    path = real_config.write(directory, start_port)
    document = json.loads(path.read_text())
    models = document["models"]
    models["apples"] |= {"name": "Apples", "description": "Knows about apples", "aliases": ["fruit"]}
    models["whales"] |= {"description": "Knows about whales"}
    models["ranker"] |= {"capabilities": {"reranker": True}}
    document["logToStdout"] = "proxy"
    path.write_text(json.dumps(document, indent=1))
    return path
