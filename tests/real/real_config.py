"""The configuration of the tests with real servers: what each chat model says, and how they are grouped."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import tiny_gguf

SAYINGS = {"apples": "red apples grow on old trees", "whales": "blue whales swim far away"}
SIDE = {"embedder": ["--embedding"], "ranker": ["--reranking"]}
UNLOAD_TIMEOUT_S = 2


def write(directory: Path, start_port: int) -> Path:
    """Makes the models in `directory` and a configuration with two chat models that swap, and beside
    them one for embeddings and one that ranks."""
    files = {name: tiny_gguf.chat(directory / f"{name}.gguf", says) for name, says in SAYINGS.items()}
    files["embedder"] = tiny_gguf.bert(directory / "embedder.gguf")
    files["ranker"] = tiny_gguf.bert(directory / "ranker.gguf", rerank=True)
    script = Path(__file__).with_name("llama_server.py")
    models = {}
    for name, file in files.items():
        argv = [sys.executable, str(script), "--model", str(file), *SIDE.get(name, [])]
        models[name] = {"cmd": shlex.join(argv) + " --port ${PORT}", "aliases": [f"{name}-alias"]}
    document = {
        "startPort": start_port,
        "unloadTimeout": UNLOAD_TIMEOUT_S,
        "logToStdout": "both",
        "models": models,
        "groups": {
            "speakers": {"swap": True, "exclusive": False, "members": list(SAYINGS)},
            "side": {"swap": False, "exclusive": False, "members": list(SIDE)},
        },
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(document))
    return path
