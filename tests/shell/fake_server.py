"""A server that answers what a test tells it to, over real sockets, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, Any]
"""Status and body: bytes as they are, else JSON."""


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]


@dataclass
class FakeServer:
    answers: dict[str, Answer] = field(default_factory=dict)
    """`METHOD /path`, decoded and without its query -> what it gets; else a 404 as the real server's."""
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def targets(self) -> list[str]:
        return [f"{it.method} {it.target}" for it in self.asked]


def refusal(status: int, message: str, code: str = "x") -> Answer:
    """An error as every route of the real server tells it."""
    return status, {"src": "llama-swap", "error": {"message": message, "type": "t", "param": None, "code": code}}


@contextlib.contextmanager
def fake_server(tls: ssl.SSLContext | None = None) -> Iterator[FakeServer]:
    it = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            it.asked.append(Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            key = f"{self.command} {unquote(self.path.partition('?')[0])}"
            status, body = it.answers.get(key, refusal(404, "404 page not found", "not_found"))
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            markup = raw.startswith(b"<")
            kind = "text/html" if markup else "text/plain; charset=utf-8" if raw is body else "application/json"
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        it.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield it
        finally:
            server.shutdown()
            thread.join()
