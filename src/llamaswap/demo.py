"""`--demo`: a configuration with two stand-in models, so that swapping can be seen without a model file.

The models are `demo_model.py` run by the same Python, so the demo needs nothing but the program.
"""

from __future__ import annotations

import json
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

FAST = "demo-fast"
SLOW = "demo-slow-loader"
SLOW_LOAD_S = 4.0  # long enough to watch it load, short enough not to bore
_PORTS = 2


def _free_start_port(first: int) -> int:
    """The first port from `first` on with a free one after it; `first` itself if none is found."""
    for start in range(first, min(first + 1000, 65535 - _PORTS)):
        try:
            for port in range(start, start + _PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    return first


def _command(says: str, load_s: float) -> str:
    """The `cmd` of a stand-in. -I: whatever PYTHON* variables or a directory of the user's say."""
    program = Path(__file__).with_name("demo_model.py")
    argv = [sys.executable, "-I", str(program), "--says", says, "--load-s", f"{load_s:g}"]
    return f"{shlex.join(argv)} --port ${{PORT}}"


def DEMO_CONFIG(start_port: int | None = None) -> str:
    """The demo's configuration as YAML text (JSON values, which YAML includes).

    `start_port` numbers `${PORT}`; by default the first free ports from 5800 on.
    """
    fast = _command("Hello from demo-fast: I was loaded the moment you asked.", 0)
    slow = _command("Hello from demo-slow-loader: demo-fast left to make room for me.", SLOW_LOAD_S)

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    return f"""\
# llamaswap --demo: two stand-ins that take each other's place, as two large models on one GPU would.
startPort: {_free_start_port(5800) if start_port is None else start_port}
models:
  {FAST}:
    name: Demo, loads at once
    description: Answers in its own words, to show which model spoke
    aliases: [demo, fast]
    ttl: 60
    cmd: {quoted(fast)}
  {SLOW}:
    name: Demo, takes its time to load
    description: Needs {SLOW_LOAD_S:g} seconds, as a large model would
    aliases: [slow]
    ttl: 60
    # Tells a streaming client what it is waiting for.
    sendLoadingState: true
    cmd: {quoted(slow)}
groups:
  demo:
    swap: true
    exclusive: true
    members: [{FAST}, {SLOW}]
"""


def demo_hint(base_url: str) -> str:
    """What to try, for a person who has just started `--demo`; `base_url` as in http://127.0.0.1:8080."""
    base = base_url.rstrip("/")

    def chat(model: str) -> str:
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Who are you?"}]}
        return f"  curl -N {base}/v1/chat/completions -d '{json.dumps(body)}'"

    return f"""\
llamaswap is ready at {base} with two stand-in models. In another terminal, try:

Ask one model, and see it loaded on demand:
{chat(FAST)}

Ask the other; it takes {SLOW_LOAD_S:g} s to load, and the first makes room for it:
{chat(SLOW)}

See which models there are, which one runs, and what happened:
  curl {base}/v1/models
  curl {base}/running
  curl {base}/logs

Any client of the OpenAI or Anthropic API will do; its base URL is {base}/v1 or {base}.
Idle models leave after a minute; Ctrl-C ends it all.
"""


def demo_model_main(argv: Sequence[str]) -> int:
    """Runs one stand-in with these arguments; returns its exit code. See demo_model.py."""
    from llamaswap.demo_model import main

    return main(argv)
