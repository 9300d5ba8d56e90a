"""Heads that are remembered: a request by one of them must be read as if it were the first."""

from hypothesis import given
from hypothesis import strategies as st

from llamaswap.web.http1 import known_request, take_head

START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
BEFORE = [b"", b"X-A: 1\r\n", b"X-A: 12\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n"]
NAMES = [b"Content-Length: ", b"content-length: ", b"Content-length: ", b"Content-Length:"]
BEHIND = [b"", b"X-B: 1\r\n", b"X-B: 10\r\n"]
PIECES = st.tuples(st.sampled_from(BEFORE), st.sampled_from(NAMES), st.sampled_from(BEHIND))
REQUESTS = st.lists(
    st.tuples(PIECES, st.integers(0, 120), st.sampled_from([-1, 0, 0, 0, 1]), st.sampled_from([b"", b"0", b"00"])),
    min_size=1,
    max_size=12,
)


@given(REQUESTS)
def test_a_known_head_is_read_as_if_it_were_new(
    requests: list[tuple[tuple[bytes, bytes, bytes], int, int, bytes]],
) -> None:
    for (before, name, behind), length, more, zeros in requests:
        head = START + before + name + zeros + b"%d\r\n" % length + behind + b"\r\n"
        data = head + b"b" * max(0, length + more)
        found = known_request(data)
        parsed = take_head(bytearray(data))
        assert parsed is not None and parsed.length == length
        whole = length > 0 and len(data) == len(head) + length
        if found is None:
            continue
        known, body = found
        assert whole and body == b"b" * length
        assert (known.method, known.path, known.query) == ("POST", "/v1/chat/completions", "")
        assert [(n, v) for n, v in known.headers if n.lower() != b"content-length"] == [
            (n, v) for n, v in parsed.headers if n.lower() != b"content-length"
        ]
        assert known.keep_alive and not known.expects_continue and not known.chunked


def test_the_last_head_is_known_at_once_and_the_others_still() -> None:
    one = START + b"X-A: 1\r\nContent-Length: %d\r\n\r\n"
    other = START + b"X-A: 2\r\nContent-Length: %d\r\nX-B: 1\r\n\r\n"
    for head in (one, other):
        assert take_head(bytearray(head % 3 + b"abc"))
    for head in (one, one, other, one, other, other):
        for body in (b"a", b"b" * 10, b"c" * 999):
            found = known_request(head % len(body) + body)
            assert found is not None and found[1] == body
            assert (found[0].headers[1][1]) == (b"1" if head is one else b"2")
            assert known_request(head % len(body) + body + b"x") is None
            assert known_request(head % len(body) + body[1:]) is None
