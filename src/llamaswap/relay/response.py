"""Reading an upstream's responses: what httptools reports of one, and what of its head goes on to the client."""

from __future__ import annotations

import httptools

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
TELLING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"content-type"))
NOT_FORWARDED = HOP_BY_HOP | {b"content-length"}  # which comes back where it frames what the client gets


class Broken(Exception):
    """The upstream broke off, or broke HTTP, after its first byte."""


class ResponseParser:
    """What httptools reports of one response. `parts` stays empty unless `on_body` is asked for."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        """Those that go on to the client."""
        self.telling: list[tuple[bytes, bytes]] = []
        """Lower-case name and value of those that say how the body ends and what it is."""
        self.head_done = False
        self.complete = False
        self.begun = 0
        self.parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_done:
            return  # a trailer
        key = name.lower()
        if key in TELLING:
            self.telling.append((key, value))
        if key not in NOT_FORWARDED:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_done = True

    def is_complete(self) -> bool:
        return self.complete

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Raises Broken on what is not HTTP, bytes after the end of the response included."""
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise Broken(f"invalid HTTP from the upstream: {error}") from error
        if self.begun > 1:
            raise Broken("the upstream sent bytes beyond the end of its response")


class DecodingParser(ResponseParser):
    """The same, with the body taken out of its chunks."""

    def on_body(self, data: bytes) -> None:
        self.parts.append(data)
