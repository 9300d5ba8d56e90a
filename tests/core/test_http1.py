"""Reading request heads and chunked bodies: where messages end, and what is not let in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.errors import BadRequest, HeadTooLarge, MethodNotAllowed, NotImplementedHere, SwapError
from llamaswap.web.http1 import (
    HEAD_LIMIT,
    ChunkedBody,
    ExpectationFailed,
    RequestHead,
    VersionNotSupported,
    take_head,
)


def take(raw: bytes) -> RequestHead:
    """The head of `raw`, which must be all of it."""
    buffer = bytearray(raw)
    head = take_head(buffer)
    assert head is not None and not buffer
    return head


def get(*lines: bytes, first: bytes = b"GET / HTTP/1.1", host: bool = True) -> bytes:
    return b"\r\n".join([first, *([b"Host: x"] if host else []), *lines, b"", b""])


def test_a_head() -> None:
    head = take(get(b"X-Two:  b \t", b"X-Empty:", first=b"POST /a%2Fb?c=d&%20 HTTP/1.1"))
    assert (head.method, head.target, head.http10) == ("POST", b"/a%2Fb?c=d&%20", False)
    assert head.headers == [(b"Host", b"x"), (b"X-Two", b"b"), (b"X-Empty", b"")]
    assert head.keep_alive and not head.chunked and not head.websocket and not head.expects_continue
    assert head.length == 0


@pytest.mark.parametrize(
    "method",
    ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "PURGE", "SEARCH"],
)
def test_methods(method: str) -> None:
    assert take(get(first=method.encode() + b" / HTTP/1.1")).method == method


def test_the_asterisk() -> None:
    assert take(get(first=b"OPTIONS * HTTP/1.1")).target == b"*"


@pytest.mark.parametrize(
    ("lines", "attribute", "value"),
    [
        ([b"Content-Length: 12"], "length", 12),
        ([b"content-length:   0012  "], "length", 12),
        ([b"Transfer-Encoding: Chunked"], "chunked", True),
        ([b"Connection: close"], "keep_alive", False),
        ([b"Connection: foo, CLOSE"], "keep_alive", False),
        ([b"Connection: foo", b"Connection: close"], "keep_alive", False),
        ([b"Connection: keep-alive"], "keep_alive", True),
        ([b"Connection: closed"], "keep_alive", True),
        ([b"Expect: 100-Continue"], "expects_continue", True),
        ([b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket"], "websocket", True),
        ([b"Upgrade: websocket"], "websocket", False),
        ([b"Connection: Upgrade", b"Upgrade: h2c"], "websocket", False),
    ],
)
def test_what_headers_mean(lines: list[bytes], attribute: str, value: object) -> None:
    assert getattr(take(get(*lines)), attribute) == value


def test_a_post_is_no_websocket() -> None:
    lines = b"Connection: Upgrade", b"Upgrade: websocket"
    assert not take(get(*lines, first=b"POST / HTTP/1.1")).websocket
    assert not take(get(*lines, first=b"GET / HTTP/1.0")).websocket


def test_http10() -> None:
    head = take(get(b"Connection: keep-alive", b"Expect: 100-continue", first=b"GET / HTTP/1.0", host=False))
    assert head.http10 and not head.keep_alive and not head.expects_continue


REFUSED: dict[str, tuple[bytes, type[SwapError]]] = {
    "no host": (get(host=False), BadRequest),
    "two hosts": (get(b"Host: y"), BadRequest),
    "two equal hosts": (get(b"host: x"), BadRequest),
    "two hosts in 1.0": (get(b"Host: y", first=b"GET / HTTP/1.0"), BadRequest),
    "length and chunked": (get(b"Content-Length: 5", b"Transfer-Encoding: chunked"), BadRequest),
    "chunked and length": (get(b"Transfer-Encoding: chunked", b"Content-Length: 5"), BadRequest),
    "two lengths": (get(b"Content-Length: 5", b"Content-Length: 5"), BadRequest),
    "two lengths in one": (get(b"Content-Length: 5, 5"), BadRequest),
    "signed length": (get(b"Content-Length: +5"), BadRequest),
    "negative length": (get(b"Content-Length: -5"), BadRequest),
    "hex length": (get(b"Content-Length: 0x5"), BadRequest),
    "empty length": (get(b"Content-Length:"), BadRequest),
    "huge length": (get(b"Content-Length: 18446744073709551617"), BadRequest),
    "gzip, chunked": (get(b"Transfer-Encoding: gzip, chunked"), NotImplementedHere),
    "chunked twice": (get(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), SwapError),
    "chunked, chunked": (get(b"Transfer-Encoding: chunked, chunked"), SwapError),
    "identity": (get(b"Transfer-Encoding: identity"), SwapError),
    "xchunked": (get(b"Transfer-Encoding: xchunked"), SwapError),
    "vertical tab": (get(b"Transfer-Encoding: \x0bchunked"), SwapError),
    "chunked in 1.0": (get(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.0"), BadRequest),
    "blank before colon": (get(b"Transfer-Encoding : chunked"), BadRequest),
    "folded": (get(b"X: a", b" b"), BadRequest),
    "bare CR": (get(b"X: a\rY: b"), BadRequest),
    "bare LF": (get(b"X: a\nY: b"), BadRequest),
    "NUL": (get(b"X: a\0b"), BadRequest),
    "no colon": (get(b"X"), BadRequest),
    "no name": (get(b": x"), BadRequest),
    "blank line first": (b"\r\n" * 40 + get(), BadRequest),
    "leading blank": (b" " + get(), BadRequest),
    "two blanks": (get(first=b"GET  / HTTP/1.1"), BadRequest),
    "tab": (get(first=b"GET\t/ HTTP/1.1"), BadRequest),
    "trailing blank": (get(first=b"GET / HTTP/1.1 "), BadRequest),
    "junk behind the version": (get(first=b"GET / HTTP/1.1x"), BadRequest),
    "blank in the target": (get(first=b"GET /a b HTTP/1.1"), BadRequest),
    "lower case method": (get(first=b"get / HTTP/1.1"), BadRequest),
    "unknown method": (get(first=b"FROB / HTTP/1.1"), BadRequest),
    "HTTP/0.9": (get(first=b"GET /"), SwapError),
    "written 0.9": (get(first=b"GET / HTTP/0.9"), VersionNotSupported),
    "2.0": (get(first=b"GET / HTTP/2.0"), VersionNotSupported),
    "1.2": (get(first=b"GET / HTTP/1.2"), VersionNotSupported),
    "3.0": (get(first=b"GET / HTTP/3.0"), VersionNotSupported),
    "RTSP": (get(first=b"GET / RTSP/1.0"), SwapError),
    "ICE": (get(first=b"SOURCE / ICE/1.0"), SwapError),
    "CONNECT": (get(first=b"CONNECT x:443 HTTP/1.1"), MethodNotAllowed),
    "absolute": (get(first=b"GET http://y/ HTTP/1.1"), BadRequest),
    "asterisk": (get(first=b"GET * HTTP/1.1"), BadRequest),
    "no slash": (get(first=b"GET x HTTP/1.1"), BadRequest),
    "expectation": (get(b"Expect: 200-ok"), ExpectationFailed),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", BadRequest),
    "response": (b"HTTP/1.1 200 OK\r\n\r\n", SwapError),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    raw, error = REFUSED[name]
    with pytest.raises(error):
        take(raw)


def test_every_split() -> None:
    raw = b"\r\n" + get(b"X: y", first=b"POST /x HTTP/1.1")
    for at in range(len(raw)):
        buffer = bytearray(raw[:at])
        assert take_head(buffer) is None and buffer == raw[:at]
        buffer += raw[at:] + b"rest"
        head = take_head(buffer)
        assert head is not None and head.target == b"/x" and buffer == b"rest"


def test_size() -> None:
    room = HEAD_LIMIT - len(get(b"X: "))
    assert take(get(b"X: " + b"a" * room)).headers[1][1] == b"a" * room
    with pytest.raises(HeadTooLarge):
        take(get(b"X: " + b"a" * (room + 1)))
    with pytest.raises(HeadTooLarge):
        take_head(bytearray(b"GET /" + b"a" * HEAD_LIMIT))


# -- chunked bodies

CHUNKED = get(b"Transfer-Encoding: chunked", first=b"POST / HTTP/1.1")
BODY = b'3\r\nabc\r\n6;x="y"\r\n\r\n\r\n\r\n\r\n1\r\n\n\r\n0\r\nTrailer: t\r\n\r\n'
DECODED = b"abc" + b"\r\n" * 3 + b"\n"


def feed(head: RequestHead, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The decoded body, and what was left over."""
    reader = ChunkedBody(head)
    decoded = b""
    for index, piece in enumerate(pieces):
        more, used = reader.feed(piece)
        decoded += more
        if head.complete:
            return decoded, piece[used:] + b"".join(pieces[index + 1 :])
        assert used == len(piece)
    return decoded, b""


def test_chunks_split_anywhere() -> None:
    for follows in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n"):
        raw = BODY + follows
        for at in range(len(raw) + 1):
            head = take(CHUNKED)
            assert feed(head, [raw[:at], raw[at:]]) == (DECODED, follows), at
            assert head.complete
        assert feed(take(CHUNKED), [raw[i : i + 1] for i in range(len(raw))]) == (DECODED, follows)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 300), max_size=6))
def test_any_chunks_any_split(chunks: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" + b"next"
    edges = sorted({min(cut, len(raw)) for cut in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in pairwise(edges)]
    assert feed(take(CHUNKED), pieces) == (b"".join(chunks), b"next")


@pytest.mark.parametrize(
    "raw",
    [
        b"x\r\n",
        b"-1\r\n",
        b"1\nab",
        b"1\r\nab\r\n",
        b"\r\n",
        b" 1\r\n",
        b"0x1\r\n",
        b"1 \r\na\r\n",
        b"f" * 17 + b"\r\n",
    ],
)
def test_malformed_chunks(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedBody(take(CHUNKED)).feed(raw + b"\r\n\r\n")


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
def test_chunks_after_an_upgrade_that_is_ignored(upgrade: bytes) -> None:
    head = take(
        get(b"Connection: Upgrade", b"Upgrade: " + upgrade, b"Transfer-Encoding: chunked", first=b"POST /x HTTP/1.1")
    )
    assert (head.method, head.target, head.chunked, len(head.headers)) == ("POST", b"/x", True, 4)
    assert feed(head, [BODY + b"next"]) == (DECODED, b"next")


def test_trailers_are_no_headers() -> None:
    head = take(CHUNKED)
    feed(head, [BODY])
    assert [name for name, _ in head.headers] == [b"Host", b"Transfer-Encoding"]


def test_endless_trailers_are_refused() -> None:
    reader = ChunkedBody(take(CHUNKED))
    with pytest.raises(SwapError):
        reader.feed(b"0\r\n")
        for _ in range(200):
            reader.feed(b"X: " + b"a" * 1000 + b"\r\n")


def test_endless_chunk_extensions_are_refused() -> None:
    reader = ChunkedBody(take(CHUNKED))
    with pytest.raises(SwapError):
        reader.feed(b"5;")
        for _ in range(200):
            reader.feed(b"a" * 1000)


def test_many_small_chunks_are_not() -> None:
    head = take(CHUNKED)
    assert feed(head, [b"1;ext=1\r\na\r\n"] * 20000 + [b"0\r\n\r\n"]) == (b"a" * 20000, b"")
