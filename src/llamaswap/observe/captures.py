"""Whole requests and their answers, the last ones, for `/api/captures/{id}`: in memory only, so much in all.

Secrets are taken out of what is shown. Bodies of media are left out, as llama-swap does; large ones are
compressed, in a worker thread, and cut at BODY_BYTES.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Sequence

from llamaswap.observe.answer import Answer, body
from llamaswap.observe.flights import HEAD_BYTES, Flight
from llamaswap.observe.redact import shown_headers

BODY_BYTES = 1 << 20  # of one body; more is left out
SHARE = 4  # one capture takes at most this part of the buffer
PACKED_FROM_BYTES = 4096  # a smaller body gains less by compression than it costs
PACK_S = 0.01  # of each batch; what is not compressed by then stays as it is
FIXED_BYTES = 2000  # of a capture besides what it holds, about
HEADER_BYTES = 100  # of one header of the upstream's

_NO_REQUEST_BODY = ("/audio/transcriptions", "/audio/voices", "/images/edits", "/sdapi/v1/img2img")
_NO_ANSWER_BODY = (
    *("/audio/speech", "/images/generations", "/images/edits"),
    *("/sdapi/v1/txt2img", "/sdapi/v1/img2img"),
)
_MEDIA = ("audio/", "image/", "video/", "application/octet-stream")


class Capture:
    """One request and its answer. `answer` holds the body as it was carried."""

    __slots__ = (
        "_packed",
        "answer",
        "cut",
        "path",
        "request_body",
        "request_bytes",
        "request_headers",
        "response_head",
        "size",
    )

    def __init__(self, flight: Flight, answer: Answer, most: int) -> None:
        path, request, size = flight.exchange.path, flight.body, len(answer.head)
        self.path = path
        self.request_bytes = len(request)
        self.request_headers = flight.exchange.headers
        self.response_head = flight.answer
        self.cut = False
        if path.endswith(_NO_REQUEST_BODY):
            request = b""
        elif len(request) > most:
            request, self.cut = request[:most], True
        self.request_body = request if type(request) is bytes else bytes(request)
        if answer.status != 200 or answer.content_type.startswith(_MEDIA) or path.endswith(_NO_ANSWER_BODY):
            answer, size = answer._replace(head=b"", tail=b""), 0
        elif answer.tail or size > most:
            size = min(size, most)
            answer, self.cut = answer._replace(head=answer.head[:size], tail=b""), True
        self.answer = answer
        self._packed = False
        self.size = FIXED_BYTES + size + len(self.request_body) + HEADER_BYTES * len(self.request_headers)

    @property
    def packable(self) -> bool:
        return not self._packed and self.size >= PACKED_FROM_BYTES

    def packed(self) -> tuple[bytes, bytes]:
        """The two bodies compressed: the costly half of `pack`, for another thread."""
        return zlib.compress(self.request_body, 1), zlib.compress(self.answer.head, 1)

    def pack(self, request: bytes, answer: bytes) -> None:
        self.size -= len(self.request_body) + len(self.answer.head) - len(request) - len(answer)
        self.request_body, self.answer = request, self.answer._replace(head=answer)
        self._packed = True

    def shown(self, id: int) -> dict[str, object]:
        """The record of `/api/captures/{id}`; `truncated` if a body was cut. Takes milliseconds for large ones."""
        request, answer = self.request_body, self.answer
        if self._packed:
            request, answer = zlib.decompress(request), answer._replace(head=zlib.decompress(answer.head))
        content = body(answer)
        headers = shown_headers(self.response_head.passed if self.response_head is not None else ())
        if content is None:
            content = body(answer._replace(encoding="")) or b""  # as it was carried, its encoding still named
        else:
            headers.pop("Content-Encoding", None)
        asked = shown_headers(self.request_headers)
        if "Content-Length" in asked:
            asked["Content-Length"] = str(self.request_bytes)  # requests with the same head share its headers
        record: dict[str, object] = {
            "id": id,
            "req_path": self.path,
            "req_headers": asked,
            "req_body": base64.b64encode(request).decode(),
            "resp_headers": headers,
            "resp_body": base64.b64encode(content).decode(),
        }
        if self.cut:
            record["truncated"] = True
        return record


class Captures:
    """The last captures, by id, `limit_bytes` of them in all; 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._kept: dict[int, Capture] = {}
        self._body_bytes = min(BODY_BYTES, limit_bytes // SHARE)

    @property
    def enabled(self) -> bool:
        return self.limit_bytes > 0

    def resize(self, limit_bytes: int) -> None:
        """Another limit, after a reload."""
        self.limit_bytes = limit_bytes
        self._body_bytes = min(BODY_BYTES, limit_bytes // SHARE)
        self._fit()

    def make(self, flight: Flight, answer: Answer) -> Capture:
        """A capture of a finished request, its secrets gone; not kept yet."""
        return Capture(flight, answer, self._body_bytes)

    def add(self, id: int, capture: Capture) -> None:
        """Keep it, and drop the oldest for it if need be."""
        self._kept[id] = capture
        self.size_bytes += capture.size
        self._fit()

    def get(self, id: int) -> Capture | None:
        return self._kept.get(id)

    def __contains__(self, id: int) -> bool:
        return id in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def packed(self, capture: Capture, request: bytes, answer: bytes) -> None:
        """Keep a capture's bodies as `pack_all` made them."""
        before = capture.size
        capture.pack(request, answer)
        self.size_bytes += capture.size - before

    @property
    def keep_bytes(self) -> int:
        """How much of the beginning of an answer is wanted."""
        return max(HEAD_BYTES, self._body_bytes)

    def _fit(self) -> None:
        while self.size_bytes > self.limit_bytes:
            oldest = next(iter(self._kept))
            self.size_bytes -= self._kept.pop(oldest).size


def pack_all(captures: Sequence[Capture]) -> list[tuple[Capture, bytes, bytes]]:
    """Their bodies compressed, of as many as PACK_S allows. Blocks that long."""
    done: list[tuple[Capture, bytes, bytes]] = []
    until = time.perf_counter() + PACK_S
    for capture in captures:
        if time.perf_counter() >= until:
            break
        done.append((capture, *capture.packed()))
    return done
