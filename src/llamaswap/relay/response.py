"""Reading an upstream's responses: what a head says, what of it goes on to the client, and where a chunked body ends.

Heads are remembered: an upstream sends the same one with every answer but for its date and its length, and
parsing it costs more than all else that happens to a short answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import httptools

from llamaswap.observe.flights import Kind

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
TELLING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"content-type"))
NOT_FORWARDED = HOP_BY_HOP | {b"content-length"}  # which comes back where it frames what the client gets
KNOWN_LIMIT, KNOWN_BYTES = 256, 2048  # heads remembered, and the longest of them
DATE_BYTES = 29  # as RFC 9110, 5.6.7 has it: Sun, 06 Nov 1994 08:49:37 GMT
_date_line = re.compile(rb"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\r\n").match
_NEWLINES = b"\r\n"
STRAY_BYTES = 64  # newlines by themselves that are looked at one by one; they come where an end was cut in two
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Header = tuple[bytes, bytes]

_known: dict[bytes, Answer] = {}
"""By their bytes without the date and the digits of Content-Length."""
_latest: tuple[bytes, Answer] | None = None
"""The last one, by all its bytes: streams have no length, and a date is good for a second."""


class Broken(Exception):
    """The upstream broke off, or broke HTTP, after its first byte."""


class Answer:
    """What a final or interim response head says. Immutable once made."""

    __slots__ = (
        *("_date", "_fields", "_mould"),
        *("chunked", "closes", "kind", "length", "plain", "reason", "size", "status"),
    )

    def __init__(self, status: int, reason: bytes, headers: list[Header], length: int, chunked: bool) -> None:
        self.status = status
        self.reason = reason
        self._fields = headers
        self.kind = _kind(headers)
        self.length = length
        """Its Content-Length; -1 if it has none."""
        self.chunked = chunked
        self.closes = False
        """Whether the connection ends with it."""
        self.size = 0
        """Bytes that it alone takes, about; what it shares with others does not count."""
        self.plain = False
        """A final answer of HTTP/1.1 that keeps its connection and says how its body ends."""
        self._date = b""
        self._mould: list[bytes] = []
        """What `wire` writes before and behind the date, once it was asked; shared by all with this head."""

    def again(self, date: bytes, length: int) -> Answer:
        """The same head of another response."""
        twin = Answer.__new__(Answer)
        twin.status, twin.reason, twin.chunked, twin.closes = self.status, self.reason, self.chunked, self.closes
        twin.plain, twin.length, twin._date, twin._mould = self.plain, length, date, self._mould
        twin._fields, twin.kind, twin.size = self._fields, self.kind, 0
        return twin

    @property
    def headers(self) -> list[Header]:
        """Those that go on to the client, X-Accel-Buffering for event streams among them; no framing."""
        date = self._date
        if not date:
            return self._fields
        return [(name, date if name == b"Date" or name == b"date" else value) for name, value in self._fields]

    @property
    def passed(self) -> list[Header]:
        """The same with the Content-Length, if there is one."""
        return [*self.headers, (b"Content-Length", b"%d" % self.length)] if self.length >= 0 else self.headers

    def wire(self) -> bytes:
        """The head as a client of HTTP/1.1 gets it whose connection stays open; only where `plain`."""
        if not self._mould:
            lines = [b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason)]
            lines += [b"%b: %b\r\n" % field for field in self.headers]
            head = b"".join(lines)
            # Behind its own name: another header may carry the same date.
            at = head.lower().find(b"\r\ndate: ") + 8 if self._date else len(head)
            self._mould += (head[:at], head[at + len(self._date) :])
        before, after = self._mould
        if self.chunked:
            return b"%b%b%bTransfer-Encoding: chunked\r\n\r\n" % (before, self._date, after)
        return b"%b%b%bContent-Length: %d\r\n\r\n" % (before, self._date, after, self.length)


def _kind(headers: Sequence[Header]) -> Kind:
    content_type = encoding = ""
    for name, value in headers:
        key = name.lower()
        if key == b"content-type":
            content_type = value.decode("latin-1")
        elif key == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower()
    return Kind(content_type, encoding)


class _HeadParser:
    """What httptools reports of one head."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.telling: list[Header] = []
        self.head_done = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.lower()
        if key in TELLING:
            self.telling.append((key, value))
        if key not in NOT_FORWARDED:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_done = True


def read_answer(raw: bytes) -> Answer:
    """A whole head, its empty line included. Raises Broken."""
    global _latest
    if _latest is not None and _latest[0] == raw:
        return _latest[1]
    key, date, length = _stripped(raw)
    known = _known.get(key)
    if known is not None:
        answer = known.again(date, length)
        _latest = raw, answer
        return answer
    answer = _parse(raw)
    answer.size = len(raw)
    dates = [value for name, value in answer.headers if name.lower() == b"date"]
    if key and (length >= 0) == (answer.length >= 0) and dates == ([date] if date else []):
        answer._date = date
        if len(_known) >= KNOWN_LIMIT:
            _known.clear()
        _known[key] = answer
    return answer


def _stripped(raw: bytes) -> tuple[bytes, bytes, int]:
    """(a head without its date and length, the date, the length or -1); the head b"" if it is not to be remembered.

    Only the two spellings that servers use are looked for; a head with another one is not remembered.
    """
    if len(raw) > KNOWN_BYTES:
        return b"", b"", -1
    date, length = b"", -1
    at = raw.find(b"\r\nDate: ")
    if at < 0:
        at = raw.find(b"\r\ndate: ")
    if at >= 0:
        end = at + 8 + DATE_BYTES
        if not _date_line(raw, at + 8):  # what is left out of the key must not hide another header
            return b"", b"", -1
        date = raw[at + 8 : end]
        raw = raw[: at + 8] + raw[end:]
    at = raw.find(b"\r\nContent-Length: ")
    if at < 0:
        at = raw.find(b"\r\ncontent-length: ")
    if at >= 0:
        end = raw.find(b"\r\n", at + 18)
        digits = raw[at + 18 : end]
        if not digits.isdigit() or len(digits) > 15:
            return b"", b"", -1
        length = int(digits)
        raw = raw[: at + 18] + raw[end:]
    return raw, date, length


def _parse(raw: bytes) -> Answer:
    head = _HeadParser()
    parser = httptools.HttpResponseParser(head)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # its status says so
    except httptools.HttpParserError as error:
        raise Broken(f"invalid HTTP from the upstream: {error}") from error
    if not head.head_done:
        raise Broken("invalid HTTP from the upstream: a head without an end")
    return _understand(head, parser.get_status_code(), parser.get_http_version(), raw)


def _understand(head: _HeadParser, status: int, version: str, raw: bytes) -> Answer:
    named: set[bytes] = set()
    length = -1
    chunked = events = False
    for key, value in head.telling:
        if key == b"content-length":
            length = int(value)
        elif key == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise Broken(f"the upstream answers with Transfer-Encoding {value.decode('latin-1')!r}")
            chunked = True
        elif key == b"connection":
            named |= {token.strip() for token in value.lower().split(b",")}
        else:
            events = value.strip().lower().startswith(b"text/event-stream")
    if chunked and length >= 0:
        raise Broken("the upstream answers with both Content-Length and Transfer-Encoding")
    headers = head.headers
    if named - {b"keep-alive", b"close"}:
        headers = [(name, value) for name, value in headers if name.lower() not in named]
    if events:
        headers = [field for field in headers if field[0].lower() != b"x-accel-buffering"]
        headers.append((b"X-Accel-Buffering", b"no"))
    reason = raw[: raw.find(b"\r\n")].split(b" ", 2)[2:]
    answer = Answer(status, reason[0] if reason else b"", headers, length, chunked)
    answer.closes = version != "1.1" or b"close" in named
    has_body = status >= 200 and status not in (204, 304)
    answer.plain = has_body and not answer.closes and (chunked or length >= 0)
    return answer


class ChunkParser:
    """Finds the end of one chunked body. `parts` stays empty; see `ChunkDecoder`."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)
        self._begin()

    def begin(self) -> None:
        """Another body, after one that was complete with nothing behind it."""
        try:
            self._begin()
        except httptools.HttpParserError:  # trailers of the last one said that nothing follows
            self.parser = httptools.HttpResponseParser(self)
            self._begin()

    def _begin(self) -> None:
        self.complete = False
        self.behind = 0
        """How many bytes of the last `feed` are empty lines behind the end; the client must not get them."""
        self.begun = 0
        self.parser.feed_data(_CHUNKED_HEAD)

    def on_message_begin(self) -> None:
        self.begun += 1

    def is_complete(self) -> bool:
        return self.complete

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Bytes of the body as they come. Raises Broken on bad chunks and on bytes behind the end."""
        if data[:1] in _NEWLINES and 1 < len(data) <= STRAY_BYTES and not data.strip(_NEWLINES):
            for at in range(len(data)):
                if self.complete:
                    self.behind = len(data) - at
                    return
                self.feed(data[at : at + 1])
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise Broken(f"invalid HTTP from the upstream: {error}") from error
        if self.begun > 1:
            raise Broken("the upstream sent bytes beyond the end of its response")
        if self.complete:
            self.behind = max(0, len(data) - len(data.rstrip(_NEWLINES)) - 4)  # the end itself has two


class ChunkDecoder(ChunkParser):
    """The same, with the body taken out of its chunks."""

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
