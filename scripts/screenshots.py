"""Takes pictures of every page of the web UI, at three widths and in both themes, to be looked at.

    .venv/bin/python scripts/screenshots.py DIRECTORY [--docs]

Runs llamaswap.pyz with stand-in models (as `--demo` does, some more of them), gives them something to do, and writes
DIRECTORY/<page>-<width>-<theme>.webp. With --docs it writes the two that README.md shows, docs/models.webp and
docs/activity.webp, in their place. Needs the development tools (.venv) and Chromium.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import shlex
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / "tests" / name) for name in ("", "browser"))

import visitor
import zipapp_runner
from playwright.sync_api import Page, expect
from zipapp_runner import ROOT

WIDTHS = {"phone": (390, 844), "tablet": (820, 1100), "wide": (1440, 900)}
THEMES = ("light", "dark")
QUALITY = 80
DOCS = {"models": "models", "activity": "activity"}
DOCS_SIZE = (1200, 760)

ANSWER = """## Swapping models
Only one large model fits into the memory of a GPU at a time. So when a request names another one, the server

1. lets the loaded model **finish** what it has begun,
2. stops it, and *waits* until its memory is free,
3. starts the other and passes the request on as soon as it is ready.

```python
client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="none")
```

| phase | time |
|---|---:|
| stop | 0.4 s |
| load | 3.8 s |

Requests for the same model go together, so that A B A B costs *one* swap and not three."""
FAILURE = "import sys; print('ggml_cuda: out of memory: 18.2 GiB needed, 11.7 GiB free', file=sys.stderr); sys.exit(1)"
QUESTION = "How do you swap two large models that do not fit into one GPU at the same time"
LIVELY = {"models", "activity"}  # pages that show what is under way


def configuration(start_port: int) -> dict[str, Any]:
    def stand_in(says: str, load_s: float = 0.0, words_per_s: float = 30.0) -> str:
        program = ROOT / "src" / "llamaswap" / "demo_model.py"
        argv = [sys.executable, "-I", str(program), "--says", says, "--load-s", f"{load_s:g}"]
        return shlex.join([*argv, "--words-per-s", f"{words_per_s:g}"]) + " --port ${PORT}"

    text = {"in": ["text"], "out": ["text"], "tools": True}
    models: dict[str, Any] = {
        "qwen3-8b": {
            "name": "Qwen3 8B",
            "description": "For everyday questions",
            "aliases": ["gpt-4o-mini", "default"],
            "ttl": 600,
            "capabilities": {**text, "context": 32768},
            "cmd": stand_in(ANSWER, words_per_s=24),
        },
        "qwen3-coder-30b": {
            "name": "Qwen3 Coder 30B",
            "description": "For code, with tools",
            "aliases": ["coder"],
            "ttl": 1800,
            "capabilities": {**text, "context": 131072},
            "cmd": stand_in(ANSWER, load_s=6),
        },
        "gemma-3-27b": {
            "name": "Gemma 3 27B",
            "description": "Sees pictures",
            "capabilities": {"in": ["text", "image"], "out": ["text"], "context": 65536},
            "cmd": shlex.join([sys.executable, "-c", FAILURE]) + " ${PORT}",
        },
        "bge-m3": {"description": "Embeddings, always there", "cmd": stand_in("")},
        "bge-reranker": {"description": "Ranks documents", "capabilities": {"reranker": True}, "cmd": stand_in("")},
        "draft": {"unlisted": True, "cmd": stand_in("")},
    }
    groups = {"side": {"swap": False, "exclusive": False, "persistent": True, "members": ["bge-m3", "bge-reranker"]}}
    return {"startPort": start_port, "models": models, "groups": groups}


def ask(url: str, model: str, path: str = "/v1/chat/completions", **body: Any) -> None:
    request = urllib.request.Request(
        url + path,
        json.dumps({"model": model, **body}).encode(),
        {"Content-Type": "application/json", "User-Agent": "openai-python/3.2"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
    except (urllib.error.HTTPError, OSError):
        return  # failures are to be seen as well


def chat(url: str, model: str, question: str, **more: Any) -> None:
    ask(url, model, messages=[{"role": "user", "content": question}], **more)


def past(url: str) -> None:
    """Requests that are over: quick and slow ones, swaps, one that could not be served."""
    dice = random.Random(7)
    for _ in range(4):
        ask(url, "bge-m3", "/v1/embeddings", input=["one text", "another text"])
    chat(url, "gemma-3-27b", QUESTION)
    chat(url, "coder", QUESTION, stream=True)

    def one(words: int, tokens: int) -> None:
        chat(url, "default", " ".join(QUESTION.split()[:words]), max_tokens=tokens, stream=True)

    with ThreadPoolExecutor(6) as threads:
        for _ in range(36):
            threads.submit(one, dice.randint(3, 15), dice.randint(3, 60))


def present(url: str) -> list[threading.Thread]:
    """Streams that go on for some seconds, and a request that waits for another model."""
    models = ["qwen3-8b", "default", "gpt-4o-mini", "coder"]
    threads = [threading.Thread(target=chat, args=(url, model, QUESTION), kwargs={"stream": True}) for model in models]
    for thread in threads:
        thread.start()
        time.sleep(0.15)
    return threads


def playground(page: Page) -> None:
    if page.locator("article.assistant").count():
        return
    page.get_by_label("Message", exact=True).fill("How does swapping models work?")
    page.keyboard.press("Enter")
    expect(page.locator("article.assistant").last).to_contain_text("one swap", timeout=60_000)


def one_request(page: Page) -> None:
    page.locator("[href*='id=']").first.click()
    expect(page.get_by_role("dialog").get_by_role("tab").first).to_be_visible()


PAGES: dict[str, tuple[str, Callable[[Page], None] | None]] = {
    "models": ("models", None),
    "model": ("models/qwen3-8b", None),
    "requests": ("models/qwen3-8b?tab=requests", None),
    "playground": ("playground?model=qwen3-8b", playground),
    "activity": ("activity", None),
    "request": ("activity?model=qwen3-8b", one_request),
    "logs": ("logs", None),
    "performance": ("performance", None),
    "config": ("config", None),
    "effective": ("config?tab=effective", None),
}


def shoot(me: visitor.Visitor, name: str, file: Path) -> None:
    path, then = PAGES[name]
    me.go(path)
    expect(me.page.locator("main")).not_to_contain_text("Asking for the")
    if then:
        then(me.page)
    me.page.wait_for_timeout(700)  # charts and lists come in
    picture = me.context.new_cdp_session(me.page).send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    file.write_bytes(base64.b64decode(picture["data"]))
    print(f"{file} {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description="takes pictures of the web UI")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--docs", action="store_true", help="only the two that README.md shows, into docs/")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        config = home / "config.yaml"
        config.write_text(json.dumps(configuration(zipapp_runner.free_ports(8)), indent=2))
        flags = ("--config", str(config))
        with zipapp_runner.running(zipapp_runner.up_to_date(), home, *flags) as server, visitor.launch() as browser:
            past(server.url)
            if options.docs:
                views = [("docs", DOCS_SIZE, "light")]
            else:
                views = [(width, size, theme) for width, size in WIDTHS.items() for theme in THEMES]
            for width, (wide, high), theme in views:
                busy: list[threading.Thread] = []
                size = {"width": wide, "height": high}
                scale = {"device_scale_factor": 2} if width != "wide" else {}
                me = visitor.Visitor(browser, server.url, viewport=size, color_scheme=theme, **scale)
                for page in DOCS if options.docs else PAGES:
                    if page in LIVELY and not any(thread.is_alive() for thread in busy):
                        busy += present(server.url)
                    target = ROOT / "docs" / f"{DOCS[page]}.webp" if options.docs else None
                    shoot(me, page, target or options.directory / f"{page}-{width}-{theme}.webp")
                me.leave()
                for thread in busy:
                    thread.join()
                me.check()


if __name__ == "__main__":
    main()
