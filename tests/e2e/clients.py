"""Clients that trust nobody: answers are taken apart by hand, and only their framing says that they are complete."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

DEADLINE_S = 15.0  # for anything that ought to happen at once, on a busy machine
PATIENCE_S = 60.0  # of a client's socket; whoever waits for a `Call` has deadlines of his own
CHAT = "/v1/chat/completions"
T = TypeVar("T")


def until(wanted: Callable[[], T], what: str | Callable[[], str], timeout_s: float = DEADLINE_S) -> T:
    """What `wanted` returns as soon as that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := wanted()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what if isinstance(what, str) else what()}")
        time.sleep(0.005)
    return found


def stays(wanted: Callable[[], object], seconds: float) -> bool:
    """Whether it is true all that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not wanted():
            return False
        time.sleep(0.02)
    return True


@dataclass
class Answer:
    """What came back, taken apart by hand: `complete` only if the framing says that it is all."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    trouble: str = ""

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def json(self) -> Any:
        assert self.complete, self
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The envelope's error, after a look at the envelope."""
        body = self.json
        assert body["src"] == "llama-swap" and set(body) == {"src", "error"}, body
        assert set(body["error"]) == {"message", "type", "param", "code"}, body
        assert body["error"]["message"] and body["error"]["param"] is None, body
        assert self.header("content-type") == "application/json"
        return dict(body["error"])

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, self.error["code"]

    @property
    def sent(self) -> bytes:
        """The request's body as the fake model got it."""
        return base64.b64decode(self.json["body"])


def request_bytes(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, version: str = "1.1"
) -> bytes:
    lines = {"Host": "127.0.0.1", **(headers or {})}
    if body or method == "POST":
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode() + body


class Broken(Exception):
    """The connection ended before the answer did."""


class Wire:
    """One client connection."""

    def __init__(self, port: int, timeout_s: float = PATIENCE_S, tls: ssl.SSLContext | None = None) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.buffer = b""

    def more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Broken
        self.buffer += data

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def line(self, end: bytes = b"\r\n") -> bytes:
        while end not in self.buffer:
            self.more()
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def ask(self, request: bytes = b"", answer: Answer | None = None, method: str = "POST") -> Answer:
        """Send and read to the end. What the network does is in `Answer.trouble`, never raised."""
        answer = answer or Answer()
        try:
            if request:
                self.sock.sendall(request)
            self.read(answer, method)
        except Broken:
            answer.trouble = "ended early"
        except TimeoutError:
            answer.trouble = "timed out"
        except OSError as error:
            answer.trouble = f"broken: {error!r}"
        return answer

    def read(self, answer: Answer, method: str) -> None:
        lines = self.line(b"\r\n\r\n").decode("latin-1").split("\r\n")
        answer.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        answer.status = int(lines[0].split(" ")[1])
        if method == "HEAD" or answer.status in (204, 304):
            pass
        elif (answer.header("transfer-encoding") or "").lower() == "chunked":
            while size := int(self.line(), 16):
                answer.body += self.take(size)
                assert self.take(2) == b"\r\n"
            assert self.line() == b""
        elif answer.header("content-length") is not None:
            left = int(answer.header("content-length") or 0)
            while left:
                if not self.buffer:
                    self.more()
                part = self.take(min(left, len(self.buffer)))
                left -= len(part)
                answer.body += part
        else:
            with contextlib.suppress(Broken):
                while True:
                    answer.body, self.buffer = answer.body + self.buffer, b""
                    self.more()
        answer.complete = True

    def close(self) -> None:
        self.sock.close()


class Call:
    """A request under way, read by a thread of its own."""

    def __init__(self, wire: Wire, request: bytes, method: str = "POST") -> None:
        self.answer = Answer()
        self._wire = wire
        self._method = method
        self._wire.sock.sendall(request)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._wire.ask(b"", self.answer, self._method)

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self, timeout_s: float = DEADLINE_S) -> Answer:
        """The answer, whatever it is, but no hang."""
        self._thread.join(timeout_s)
        assert self.over, "no answer"
        assert self.answer.trouble != "timed out", self.answer
        self._wire.close()
        return self.answer

    def until_body(self, part: bytes) -> None:
        until(lambda: part in self.answer.body or self.over, f"{part!r} in the answer")
        assert part in self.answer.body, self.answer

    def leave(self, how: str = "close") -> None:
        """Go away: `close` (an orderly end), `reset`, or `half` (send no more, but listen)."""
        sock = self._wire.sock
        with contextlib.suppress(OSError):  # it may be over
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.shutdown({"close": socket.SHUT_RDWR, "reset": socket.SHUT_RD, "half": socket.SHUT_WR}[how])
        self._thread.join(DEADLINE_S)
        assert self.over, "half closed, and not taken for gone"
        sock.close()
