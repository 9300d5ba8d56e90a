"""The parser that finds the end of a chunked body, used for one body after another."""

import pytest

from llamaswap.relay.response import Broken, ChunkParser

LAST_WORDS = [b"", b"X: y", b"Connection: close", b"Proxy-Connection: close", b"Transfer-Encoding: gzip", b"Upgrade: x"]


@pytest.mark.parametrize("trailer", LAST_WORDS)
@pytest.mark.parametrize("next_trailer", LAST_WORDS)
def test_a_parser_is_as_good_as_new_for_the_next_body(trailer: bytes, next_trailer: bytes) -> None:
    used = ChunkParser()
    for last in (trailer, next_trailer, b""):
        used.feed(b"3\r\nabc\r\n")
        assert (used.complete, used.behind) == (False, 0)
        used.feed(b"0\r\n" + (last + b"\r\n" if last else b"") + b"\r\n")
        assert (used.complete, used.behind, used.begun) == (True, 0, 1)
        used.begin()
        assert (used.complete, used.behind, used.begun) == (False, 0, 1)
    with pytest.raises(Broken, match="invalid HTTP"):
        used.feed(b"no size\r\n")


def test_a_second_body_without_a_beginning_is_refused() -> None:
    used = ChunkParser()
    used.feed(b"0\r\n\r\n")
    used.begin()
    used.feed(b"0\r\n\r\n")
    with pytest.raises(Broken, match="beyond the end"):
        used.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
