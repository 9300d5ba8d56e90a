"""Whole requests and their answers, the last ones, for `/api/captures/{id}`: in memory only, so much in all.

Secrets are taken out of what is shown. Bodies of media are left out, as llama-swap does, and so are media within
JSON; large bodies are compressed, in a worker thread, and cut at BODY_BYTES.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from msgspec.structs import replace

from llamaswap.observe.answer import Finished, body
from llamaswap.observe.flights import HEAD_BYTES, Headers
from llamaswap.observe.media import may_stream_media, without_media
from llamaswap.observe.redact import shown_headers

BODY_BYTES = 1 << 20  # of one body; more is left out
SHARE = 4  # one capture takes at most this part of the buffer
PACKED_FROM_BYTES = 4096  # what is smaller gains less by compression than it costs
PACK_S = 0.01  # of each batch; what is not compressed by then stays as it is
FIXED_BYTES = 2000  # of a capture besides what it holds, about
HEADER_BYTES = 100  # of one header of the client's, besides its text

_NO_REQUEST_BODY = ("/audio/transcriptions", "/audio/voices", "/images/edits", "/sdapi/v1/img2img")
_NO_ANSWER_BODY = (
    *("/audio/speech", "/images/generations", "/images/edits"),
    *("/sdapi/v1/txt2img", "/sdapi/v1/img2img"),
)
_MEDIA_PATHS = (*_NO_REQUEST_BODY, *_NO_ANSWER_BODY)
_TEXTS = ("application/json", "text/event-stream")  # what models answer who answer no media
_MEDIA = ("audio/", "image/", "video/", "application/octet-stream")


class Capture:
    """One request and its answer, without what is not to be kept of them."""

    __slots__ = ("_header_bytes", "_request_bytes", "_state", "cut", "size")

    def __init__(self, request: Finished, most: int) -> None:
        """`most`: bytes of a body."""
        asked, kept, path = request.request_body, request.kept, request.path
        self._request_bytes = len(asked)
        self.cut = False
        if path.endswith(_NO_REQUEST_BODY):
            asked = b""
        elif len(asked) > most:
            asked = without_media(asked, most + 1)
            asked, self.cut = asked[:most], len(asked) > most
        if request.status != 200 or request.content_type.startswith(_MEDIA) or path.endswith(_NO_ANSWER_BODY):
            kept = b""
        elif request.tail or request.kept_bytes > most:
            kept, self.cut = request.head[:most], True
        request = replace(request, request_body=asked, kept=kept, tail=b"")
        self._state = (request, False)
        """The request, and whether its bodies are compressed; one value, since other threads look at it."""
        self._header_bytes = _header_bytes(request.request_headers)
        self.size = _size(request, self._header_bytes)

    @property
    def compressible(self) -> bool:
        """Whether it is worth the work, and not done."""
        return not self._state[1] and self.size >= PACKED_FROM_BYTES

    def compressed(self) -> Finished:
        """The request, its bodies without media and compressed: the costly half, for another thread."""
        request = _without_media(self._state[0])
        asked = without_media(request.request_body)
        return replace(request, request_body=zlib.compress(asked, 1), kept=zlib.compress(request.head, 1))

    def keep(self, compressed: Finished) -> None:
        self._state = (compressed, True)
        self.size = _size(compressed, self._header_bytes)

    def shown(self, id: int) -> dict[str, object]:
        """The record of `/api/captures/{id}`; `truncated` if a body was cut. Takes milliseconds for large ones."""
        request, is_compressed = self._state
        if is_compressed:
            request = replace(
                request, request_body=zlib.decompress(request.request_body), kept=zlib.decompress(request.head)
            )
        content = body(request)
        headers = shown_headers(request.response_head.passed if request.response_head is not None else ())
        if content is None:
            content = body(replace(request, encoding="")) or b""  # as it was carried, its encoding still named
        else:
            headers.pop("Content-Encoding", None)
            content = without_media(content)
        asked = shown_headers(request.request_headers)
        if "Content-Length" in asked:
            asked["Content-Length"] = str(self._request_bytes)  # requests with the same head share its headers
        record: dict[str, object] = {
            "id": id,
            "req_path": request.path,
            "req_headers": asked,
            "req_body": base64.b64encode(without_media(request.request_body)).decode(),
            "resp_headers": headers,
            "resp_body": base64.b64encode(content).decode(),
        }
        if self.cut:
            record["truncated"] = True
        return record


def _without_media(request: Finished) -> Finished:
    """Its answer without pictures and sound, taken out of the transfer's framing if there are any.

    Runs beside the loop, which has to wait for Python's lock: no more work than needed.
    """
    if request.encoding not in ("", "identity"):
        return request  # compressed, it takes less than it would then
    head = request.head
    if request.chunked:
        if not may_stream_media(head):
            return request
        head = body(request) or b""
    short = without_media(head)
    return request if short is head else replace(request, kept=short, chunked=False)


def _size(request: Finished, header_bytes: int) -> int:
    """What it takes to keep it, in bytes, about."""
    head_bytes = request.response_head.size if request.response_head is not None else 0
    return FIXED_BYTES + header_bytes + head_bytes + request.kept_bytes + len(request.request_body)


def _header_bytes(headers: Headers) -> int:
    return HEADER_BYTES * len(headers) + sum(map(len, chain.from_iterable(headers)))


Captured = Finished | Capture | None
"""What is kept of one request; None: nothing."""


class Captures:
    """The last captures, by id, `limit_bytes` of them in all; 0 keeps none."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._kept: deque[Captured] = deque()
        """Of consecutive ids."""
        self._sizes: deque[int] = deque()
        self._first = 1
        """The id of the first of them."""
        self._body_bytes = min(BODY_BYTES, limit_bytes // SHARE)
        # Of the last request; most are like the one before, and requests with the same head share its headers.
        self._last_path = self._last_type = ""
        self._last_plain = False
        self._last_headers: Headers = ()
        self._last_bytes = FIXED_BYTES

    @property
    def enabled(self) -> bool:
        return self.limit_bytes > 0

    def resize(self, limit_bytes: int) -> None:
        """Another limit, after a reload."""
        self.limit_bytes = limit_bytes
        self._body_bytes = min(BODY_BYTES, limit_bytes // SHARE)
        self._fit()

    def made(self, request: Finished) -> Finished | Capture:
        """What is to be kept of a request: of most, small ones, all of it as it is. Not kept yet."""
        if request.request_headers is not self._last_headers:
            self._measure(request.request_headers)
        kept, path, content_type = request.kept, request.path, request.content_type
        size = self._last_bytes + len(request.request_body) + (len(kept) if type(kept) is bytes else request.kept_bytes)
        if request.response_head is not None:
            size += request.response_head.size
        if size < FIXED_BYTES + PACKED_FROM_BYTES and request.status == 200 and not request.tail:
            if path != self._last_path or content_type != self._last_type:
                self._last_path, self._last_type = path, content_type
                self._last_plain = content_type.startswith(_TEXTS) and not path.endswith(_MEDIA_PATHS)
            if self._last_plain:
                return request
        return Capture(request, self._body_bytes)

    def add(self, first: int, captures: Sequence[Captured]) -> list[int]:
        """Keep them, whose ids begin with `first`, and drop the oldest for them if need be.

        The ids of those whose compression may be worth the work.
        """
        if not self.enabled:
            return []
        if first != self._first + len(self._kept):
            self._kept.clear()
            self._sizes.clear()
            self._first, self.size_bytes = first, 0
        sizes = [
            self._last_bytes + len(capture.request_body) + len(capture.kept)
            if type(capture) is Finished
            and capture.request_headers is self._last_headers
            and type(capture.kept) is bytes
            and (capture.response_head is None or not capture.response_head.size)
            else self._size(capture)
            for capture in captures
        ]
        self._kept += captures
        self._sizes += sizes
        self.size_bytes += sum(sizes)
        large = [id for id, capture in enumerate(captures, first) if type(capture) is Capture]
        if self.size_bytes > self.limit_bytes:
            self._fit()
        return large

    def get(self, id: int) -> Capture | None:
        found = self._found(id)
        return Capture(found, self._body_bytes) if isinstance(found, Finished) else found

    def __contains__(self, id: int) -> bool:
        return self._found(id) is not None

    def __len__(self) -> int:
        return sum(capture is not None for capture in self._kept)

    def compressible(self, ids: Iterable[int]) -> dict[int, Capture]:
        """Those of them that are still kept, and whose compression is worth the work."""
        found = {id: self._found(id) for id in ids}
        return {id: capture for id, capture in found.items() if isinstance(capture, Capture) and capture.compressible}

    def keep(self, id: int, capture: Capture, compressed: Finished) -> None:
        """Keep a capture as `compress_all` made it, unless it is gone meanwhile."""
        if self._found(id) is capture:
            self.size_bytes -= capture.size
            capture.keep(compressed)
            self.size_bytes += capture.size
            self._sizes[id - self._first] = capture.size

    @property
    def keep_bytes(self) -> int:
        """How much of the beginning of an answer is wanted."""
        return max(HEAD_BYTES, self._body_bytes)

    def _size(self, capture: Captured) -> int:
        if isinstance(capture, Finished):
            if capture.request_headers is not self._last_headers:
                self._measure(capture.request_headers)
            return _size(capture, self._last_bytes - FIXED_BYTES)
        return capture.size if capture is not None else 0

    def _measure(self, headers: Headers) -> None:
        self._last_headers, self._last_bytes = headers, FIXED_BYTES + _header_bytes(headers)

    def _found(self, id: int) -> Captured:
        at = id - self._first
        return self._kept[at] if 0 <= at < len(self._kept) else None

    def _fit(self) -> None:
        over, dropped = self.size_bytes - self.limit_bytes, 0
        while over > 0:
            over -= self._sizes.popleft()
            self._kept.popleft()
            dropped += 1
        self._first += dropped
        self.size_bytes = self.limit_bytes + over


def compress_all(captures: Mapping[int, Capture]) -> list[tuple[int, Finished]]:
    """The bodies compressed, of as many as PACK_S allows. Blocks that long."""
    done: list[tuple[int, Finished]] = []
    until = time.perf_counter() + PACK_S
    for id, capture in captures.items():
        if time.perf_counter() >= until:
            break
        done.append((id, capture.compressed()))
    return done
