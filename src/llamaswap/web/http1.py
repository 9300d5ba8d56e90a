"""Reading HTTP/1.1 requests: exact message ends, and the checks that llhttp leaves to its user.

httptools gives no offsets and runs pipelined messages together, so the head is cut by hand at its empty
line and only that is fed to the parser; bodies with a Content-Length never see it, and a chunked body is
fed up to each CRLFCRLF, the only place where it can end.
"""

from __future__ import annotations

import re
from typing import Any

import httptools

from llamaswap.errors import BadRequest, HeadTooLarge, MethodNotAllowed, NotImplementedHere, SwapError

HEAD_LIMIT = 65536  # bytes; as large as a head full of cookies gets
TELLING = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))
LEADING_LIMIT = 64  # bytes of empty lines before a request line (RFC 9112, 2.2)
SILENT_LIMIT = 65536  # bytes of a chunked body that carry no data: trailers and chunk extensions

HELD_BYTES = 60_000  # of a body that is waited for: what one read brings
KNOWN_LIMIT, KNOWN_BYTES = 256, 4096  # heads remembered, and the longest of them
LENGTH_DIGITS = 15  # of a Content-Length that is nothing special

_known: dict[bytes, RequestHead] = {}
"""Heads that were parsed and found good, less the digits of their Content-Length: a client sends the same one
with every request, and parsing it costs more than all else between its last byte and the upstream."""
_latest: tuple[bytes, bytes, RequestHead] | None = None
"""The last that `known_request` found, what is before and what is behind those digits: likely the next one's too."""

_OTHER_VERSION = re.compile(rb"[!-~]+ [!-~]+ HTTP/(?!1\.[01])([0-9]\.[0-9])\r\n")


class VersionNotSupported(SwapError):
    status, code = 505, "internal_error"


class ExpectationFailed(SwapError):
    status, code = 417, "invalid_request"


class RequestHead:
    """One request head, and the parser that stays parked at its body."""

    __slots__ = (
        "chunked",
        "complete",
        "expects_continue",
        "head_done",
        "headers",
        "http10",
        "keep_alive",
        "length",
        "memo",
        "method",
        "parser",
        "parts",
        "path",
        "query",
        "target",
        "telling",
        "websocket",
    )

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.telling: list[tuple[bytes, bytes]] = []
        """Lower-case name and value of those that this module has to understand."""
        self.method = ""
        self.target = b""
        self.path = self.query = ""
        """`target` before and behind its question mark."""
        self.parts: list[bytes] = []
        self.head_done = self.complete = False
        self.http10 = self.chunked = self.expects_continue = self.websocket = False
        self.keep_alive = True
        self.length = 0
        self.memo: dict[Any, Any] | None = None
        """For what follows from the head, if it is one that is remembered."""
        self.parser = httptools.HttpRequestParser(self)

    def again(self, length: int) -> RequestHead:
        """The same head of another request, whose body has `length` bytes."""
        twin = RequestHead.__new__(RequestHead)
        twin.headers, twin.telling, twin.method, twin.target = self.headers, self.telling, self.method, self.target
        twin.path, twin.query = self.path, self.query
        twin.http10, twin.keep_alive, twin.expects_continue = self.http10, self.keep_alive, self.expects_continue
        twin.parts, twin.parser, twin.length, twin.memo = [], self.parser, length, self.memo
        twin.head_done, twin.complete, twin.chunked, twin.websocket = True, False, False, False
        return twin

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer, which nobody here forwards
        value = value.rstrip(b" \t")
        self.headers.append((name, value))
        key = name.lower()
        if key in TELLING:
            self.telling.append((key, value))

    def on_headers_complete(self) -> None:
        self.head_done = True

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


def take_head(buffer: bytearray) -> RequestHead | None:
    """Cut the first request head off `buffer`; None if it is not all there yet.

    Raises HeadTooLarge, BadRequest, NotImplementedHere, MethodNotAllowed, VersionNotSupported or
    ExpectationFailed; the connection cannot be used after any of them.
    """
    start = 0
    if buffer and buffer[0] in b"\r\n":
        while buffer[start : start + 2] == b"\r\n":
            start += 2
            if start > LEADING_LIMIT:
                raise BadRequest("empty lines where a request should begin")
    end = buffer.find(b"\r\n\r\n", start)
    if end < 0:
        if len(buffer) - start > HEAD_LIMIT:
            raise HeadTooLarge(f"the request head is larger than {HEAD_LIMIT // 1024} KiB")
        return None
    end += 4
    if end - start > HEAD_LIMIT:
        raise HeadTooLarge(f"the request head is larger than {HEAD_LIMIT // 1024} KiB")
    raw = bytes(buffer[start:end])
    del buffer[:end]
    key, _, length = _without_length(raw)
    known = _known.get(key)
    if known is not None:
        return known.again(length)
    head = _parse(raw)
    if key and not head.chunked and not head.websocket:
        if len(_known) >= KNOWN_LIMIT:
            _known.clear()
        head.memo = {}
        _known[key] = head
    return head


def known_request(data: bytes) -> tuple[RequestHead, bytes] | None:
    """A whole request, if `data` is exactly that and its head is one that is remembered and asks for nothing special.

    (head, body): HTTP/1.1, the connection stays open, the body is behind the head. The head is shared, its `length`
    another request's.
    """
    global _latest
    if _latest is not None:
        before, behind, known = _latest
        if data.startswith(before):
            at = len(before)
            end = data.find(b"\r", at, at + LENGTH_DIGITS + 1)
            if data.startswith(behind, end) and data[at:end].isdigit():
                length, end = int(data[at:end]), end + len(behind)
                return (known, data[end:]) if 0 < length == len(data) - end else None
    end = data.find(b"\r\n\r\n") + 4
    key, at, length = _without_length(data[:end])
    found = _known.get(key)
    if found is None or len(data) != end + length or not length:
        return None
    if found.http10 or found.expects_continue or not found.keep_alive:
        return None
    _latest = key[:at], key[at:], found
    return found, data[end:]


def awaits_body(data: bytes) -> bool:
    """Whether `data` is a whole head, one as `known_request` takes, and nothing of its body: many send it apart."""
    if not data.endswith(b"\r\n\r\n"):
        return False
    key, _, length = _without_length(data)
    known = _known.get(key)
    if known is None or not 0 < length <= HELD_BYTES:
        return False
    return not known.http10 and not known.expects_continue and known.keep_alive


def _without_length(raw: bytes) -> tuple[bytes, int, int]:
    """A head without the digits of its Content-Length, where they stood, and their number; b"" if it is not to be
    remembered.

    Only the two spellings that clients use are looked for; a head with another one is not remembered.
    """
    if len(raw) > KNOWN_BYTES:
        return b"", 0, 0
    at = raw.find(b"\r\nContent-Length: ")
    if at < 0:
        at = raw.find(b"\r\ncontent-length: ")
        if at < 0:
            return (b"", 0, 0) if b"ENGTH" in raw.upper() else (raw, 0, 0)
    at += len(b"\r\nContent-Length: ")
    end = raw.find(b"\r\n", at)
    digits = raw[at:end]
    if not digits.isdigit() or len(digits) > LENGTH_DIGITS:
        return b"", 0, 0
    return raw[:at] + raw[end:], at, int(digits)


def _parse(raw: bytes) -> RequestHead:
    head = RequestHead()
    upgrade = False
    try:
        head.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        upgrade = True
    except httptools.HttpParserError as error:
        other = _OTHER_VERSION.match(raw)
        if other:
            raise VersionNotSupported(f"HTTP/{other[1].decode()} is not supported; use HTTP/1.1") from error
        raise BadRequest(f"not an HTTP/1.1 request: {error}") from error
    if not head.head_done:
        raise BadRequest("not an HTTP/1.1 request")
    _check(head, raw, upgrade)
    return head


def _check(head: RequestHead, raw: bytes, upgrade: bool) -> None:
    method = head.parser.get_method()
    version = head.parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise VersionNotSupported(f"HTTP/{version} is not supported; use HTTP/1.1")
    line = raw[: raw.index(b"\r\n")]
    if line != b"%b %b HTTP/%b" % (method, head.target, version.encode()):
        raise BadRequest("the request line must be METHOD SP target SP HTTP/1.1")
    head.method = method.decode("ascii")
    head.http10 = version == "1.0"
    if head.method == "CONNECT":
        raise MethodNotAllowed("CONNECT", ("GET", "POST"))
    if head.target[:1] != b"/" and not (head.target == b"*" and head.method == "OPTIONS"):
        raise BadRequest("the request target must be a path")
    head.path, _, head.query = head.target.decode("latin-1").partition("?")
    hosts = 0
    named_length = False
    connection = b""
    upgrades_to = b""
    for key, value in head.telling:
        if key == b"host":
            hosts += 1
        elif key == b"content-length":
            head.length = int(value)  # llhttp let only digits pass, and only one such header
            named_length = True
        elif key == b"transfer-encoding":
            if value.lower() != b"chunked" or head.chunked:
                raise NotImplementedHere(f"Transfer-Encoding {value.decode('latin-1')!r} is not supported; use chunked")
            head.chunked = True
        elif key == b"connection":
            connection += b"," + value.lower()
        elif key == b"upgrade":
            upgrades_to = value.lower()
        elif key == b"expect":
            if value.lower() != b"100-continue":
                raise ExpectationFailed(f"Expect: {value.decode('latin-1')} is not supported")
            head.expects_continue = not head.http10
    if hosts > 1 or (hosts == 0 and not head.http10):
        raise BadRequest("a request needs one Host header")
    if hosts == 0:
        head.headers.append((b"Host", b"localhost"))  # the upstream speaks HTTP/1.1, which needs one
    if head.chunked and (head.http10 or named_length):
        raise BadRequest("Transfer-Encoding cannot stand in HTTP/1.0 or beside Content-Length")
    tokens = [token.strip() for token in connection.split(b",")] if connection else []
    # HTTP/1.0 connections end with their response: nothing is gained by keeping them.
    head.keep_alive = not head.http10 and b"close" not in tokens
    head.websocket = upgrades_to == b"websocket" and b"upgrade" in tokens and head.method == "GET" and not head.http10
    if upgrade and head.chunked:
        # The parser is parked before a body that only it could read; other upgrades (h2c) are ignored.
        head.parser = httptools.HttpRequestParser(head)
        head.head_done = False
        kept, head.headers = head.headers, []
        plain = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        target = head.target
        head.parser.feed_data(plain)
        head.headers, head.target = kept, target
        head.complete = False  # the first parser took the head for the whole message


class ChunkedBody:
    """Finds where a chunked body ends in a byte stream, and takes it out of its chunks."""

    __slots__ = ("_head", "_silent", "_tail")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._tail = b""
        self._silent = 0

    def feed(self, data: bytes) -> tuple[bytes, int]:
        """Decoded bytes, and how many of `data` belong to this body. Raises BadRequest, HeadTooLarge."""
        head = self._head
        behind = len(self._tail)
        joined = self._tail + data
        position = behind
        at = 0
        while not head.complete:
            at = joined.find(b"\r\n\r\n", at)
            if at < 0:
                self._give(joined[position:])
                position = len(joined)
                break
            end = at + 4
            if end > position:
                self._give(joined[position:end])
                position = end
            at += 2  # the next one may begin within this one
        self._tail = joined[max(0, len(joined) - 3) :]
        decoded = b"".join(head.parts)
        head.parts.clear()
        self._silent = 0 if decoded else self._silent + len(data)
        if self._silent > SILENT_LIMIT and not head.complete:
            raise HeadTooLarge(f"more than {SILENT_LIMIT // 1024} KiB of trailers or chunk extensions")
        return decoded, position - behind

    def _give(self, data: bytes) -> None:
        if not data:
            return
        try:
            self._head.parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BadRequest(f"the chunked body is malformed: {error}") from error
