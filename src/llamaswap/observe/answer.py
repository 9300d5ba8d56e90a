"""What is left of an answer once it is over: its beginning and its end, with the transfer's framing still around them.

Pure. The chunk framing is RFC 9112's, section 7.1.
"""

from __future__ import annotations

import re
import zlib
from typing import Literal

import msgspec

from llamaswap.observe.flights import CANCELLED_STATUS, CLIENT_CLOSED, NO_KIND, Flight, Head, Headers

LEFT = "the client left before the answer was complete"
BROKEN = "the answer broke off"
PIECES = 32  # of an answer, at most: to join a few large ones costs more than it saves
DECODED_BYTES = 16 << 20  # of a compressed answer; a small one may hold gigabytes

Outcome = Literal["ok", "client_error", "upstream_error", "client_gone", "cancelled", "rejected"]
"""`rejected`: there was no room for it in the queue."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]{0,4096})?\r\n")
_LATER_SIZE = re.compile(rb"\r\n(?=[0-9A-Fa-f]{1,15}[ \t]*(?:;[^\r\n]{0,4096})?\r\n)")
_TRAILERS = re.compile(rb"(?:[^\r\n]+\r\n)*\r\n")
_CUT_SIZE = re.compile(rb"[0-9A-Fa-f]{0,15}[ \t]*(?:;[^\r\n]*)?\r?")


class Finished(msgspec.Struct, gc=False):
    """A request that is over, and its answer as it was carried: all that is left of a flight. Never changed.

    Made while the flight is at hand, so that nothing else of it is kept until somebody reads the answer. A struct of
    msgspec's is made, and looked into, in half the time of a named tuple.
    """

    status: int
    content_type: str
    encoding: str
    """Content-Encoding, lower case; empty for none."""
    chunked: bool
    """Whether `head` and `tail` carry HTTP/1.1 chunk framing."""
    kept: bytes | list[bytes]
    """The beginning of the answer's body, in one piece or in several; without a `tail`, all of it."""
    tail: bytes = b""
    """The end, where something between the two was not kept."""
    model: str = ""
    requested: str = ""
    client: str = ""
    path: str = ""
    request_headers: Headers = ()
    request_body: bytes | bytearray = b""
    response_head: Head | None = None
    error: str = ""
    """What went wrong, if that is known without the answer's own words."""
    ended_at: float = 0.0
    """Seconds since the epoch."""
    spent_s: float = 0.0
    """From its beginning to its end."""
    first_byte_s: float | None = None
    """From its beginning to the first byte of the answer's body."""
    queue_s: float = 0.0
    load_s: float = 0.0
    broken: bool = False
    """Whether the answer was broken off."""
    outcome: Outcome = "ok"

    @property
    def head(self) -> bytes:
        """`kept`, in one piece."""
        return self.kept if isinstance(self.kept, bytes) else b"".join(self.kept)

    @property
    def kept_bytes(self) -> int:
        return len(self.kept) if isinstance(self.kept, bytes) else sum(map(len, self.kept))

    def end(self, most: int) -> bytes:
        """The last `most` bytes of the answer's body, or all of it."""
        if self.tail or isinstance(self.kept, bytes):
            return (self.tail or self.head)[-most:]
        parts: list[bytes] = []
        missing = most
        for part in reversed(self.kept):
            parts.append(part)
            missing -= len(part)
            if missing <= 0:
                break
        return b"".join(reversed(parts))[-most:]


def finished(flight: Flight) -> Finished:
    """What a flight that has ended leaves behind."""
    exchange, answer, begun, granted = flight.exchange, flight.answer, flight.begun, flight.granted_at
    kept: bytes | list[bytes] = flight.head
    tail = b""
    if flight.tail:
        if flight.whole:
            kept = [*kept, *flight.tail]
        else:
            tail = b"".join(flight.tail)
    if len(kept) == 1:
        kept = kept[0]  # type: ignore[assignment]  # it is a list still
    elif len(kept) > PIECES:
        kept = b"".join(kept)  # type: ignore[arg-type]
    ended, first, error, status = flight.ended_at or begun, flight.first_byte_at, flight.error, exchange.status
    outcome: Outcome = "ok"
    if flight.cancelled:
        outcome, status = "cancelled", status or CANCELLED_STATUS
    elif flight.gone:
        outcome, status, error = "client_gone", CLIENT_CLOSED, error or LEFT
    elif exchange.broken or status < 200:
        outcome = "upstream_error"
    else:
        meant = flight.hidden_status or status
        if meant >= 400:
            outcome = "client_error" if meant < 500 else "upstream_error"
            if granted is None and meant in (429, 503):
                outcome = "rejected"
    spent_s = ended - begun
    queue_s = (granted or ended) - begun - flight.load_s
    content_type, encoding = answer.kind if answer is not None else NO_KIND
    return Finished(
        status,
        content_type,
        encoding,
        flight.chunked,
        kept,
        tail,
        flight.model,
        flight.requested,
        exchange.client,
        exchange.path,
        exchange.headers,
        flight.body,
        answer,
        error,
        flight.timestamp + spent_s,
        spent_s,
        None if first is None else first - begun,
        queue_s if queue_s > 0 else 0.0,
        flight.load_s,
        exchange.broken,
        outcome,
    )


def body(answer: Finished) -> bytes | None:
    """The beginning of the answer's body (all of it, if there is no tail), without framing or compression.

    None if it cannot be read: an unknown encoding, or a compressed one that is damaged.
    """
    data = answer.head
    if answer.chunked:
        data = dechunk(data) or b""
    return data if answer.encoding in ("", "identity") else decompress(data, answer.encoding)


def decompress(data: bytes, encoding: str) -> bytes | None:
    """gzip or deflate undone, at most DECODED_BYTES of it; what is there of a stream that breaks off.

    None for another encoding, or if it is not what it says.
    """
    if encoding in ("gzip", "x-gzip"):
        ways = [zlib.MAX_WBITS | 16]
    elif encoding == "deflate":
        ways = [zlib.MAX_WBITS, -zlib.MAX_WBITS]  # some servers send it without zlib's header
    else:
        return None
    for way in ways:
        try:
            return zlib.decompressobj(way).decompress(data, DECODED_BYTES)
        except zlib.error:
            continue
    return None


def dechunk(data: bytes, *, from_start: bool = True) -> bytes | None:
    """The payload of a chunked body, of which `data` is all, the beginning, or (without `from_start`) the end.

    An end begins anywhere: the first place counts from which the sizes lead exactly to the last chunk. None if
    `data` is not chunked, or nothing leads there.
    """
    wrong: set[int] = set()
    if from_start:
        return _follow(data, 0, wrong, cut_off=True)
    found = _follow(data, 0, wrong, cut_off=False)
    if found is not None:
        return found
    for match in _LATER_SIZE.finditer(data):
        found = _follow(data, match.end(), wrong, cut_off=False)
        if found is not None:
            return found
    return None


def _follow(data: bytes, at: int, wrong: set[int], *, cut_off: bool) -> bytes | None:
    """The payload from the size line at `at` on; `wrong` are places known to lead nowhere."""
    parts: list[bytes] = []
    seen: list[int] = []
    end = len(data)
    while at not in wrong:
        seen.append(at)
        match = _SIZE.match(data, at)
        if match is None:
            if cut_off and _CUT_SIZE.fullmatch(data, at):
                return b"".join(parts)
            break
        size = int(match[1], 16)
        begin = match.end()
        if size == 0:
            if _TRAILERS.fullmatch(data, begin) or (cut_off and end - begin < 2):
                return b"".join(parts)
            break
        at = begin + size + 2
        if at > end:
            if cut_off:
                parts.append(data[begin : begin + size])
                return b"".join(parts)
            break
        if data[at - 2 : at] != b"\r\n":
            break
        parts.append(data[begin : at - 2])
    wrong.update(seen)
    return None
