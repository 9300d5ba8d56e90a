"""What an answer's ends tell of its tokens, in every format, whole or cut, framed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llamaswap.observe.answer import Finished
from llamaswap.observe.entry import ERROR_CHARS
from llamaswap.observe.rows import NO_TOKENS, UNKNOWN, Tokens
from llamaswap.relay.usage import read

JSON, EVENTS = "application/json", "text/event-stream; charset=utf-8"
TIMINGS = {
    "cache_n": 5,
    "prompt_n": 7,
    "prompt_ms": 70.0,
    "prompt_per_second": 100.5,
    "predicted_n": 3,
    "predicted_ms": 60.0,
    "predicted_per_second": 50.25,
}
CHAT = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def answer(body: bytes | dict[str, Any], content_type: str = JSON, **changes: Any) -> Finished:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return replace(Finished(200, content_type, "", False, data), **changes)


def events(*data: Any) -> bytes:
    lines = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return b"".join(b"data: %b\n\n" % line.encode() for line in lines)


def chunks(data: bytes, *sizes: int, end: bytes = b"0\r\n\r\n") -> bytes:
    """`data` in chunks of these sizes, the last one over and over."""
    out, at, left = [], 0, list(sizes)
    while at < len(data):
        size = left.pop(0) if len(left) > 1 else left[0]
        part = data[at : at + size]
        out.append(b"%x\r\n%b\r\n" % (len(part), part))
        at += size
    return b"".join(out) + end


def tokens(of: Finished) -> Tokens:
    found, error = read(of)
    assert error == ""
    return found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"choices": [], "usage": CHAT}, Tokens(input_tokens=12, output_tokens=3)),
        (
            {"usage": CHAT | {"prompt_tokens_details": {"cached_tokens": 4}}},
            Tokens(cache_tokens=4, input_tokens=12, output_tokens=3),
        ),
        (
            {
                "output": [],
                "usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 2}, "output_tokens": 1},
                "user": None,
                "metadata": {},
            },
            Tokens(cache_tokens=2, input_tokens=9, output_tokens=1),
        ),
        (
            {"type": "message", "usage": {"input_tokens": 9, "cache_read_input_tokens": 30, "output_tokens": 1}},
            Tokens(cache_tokens=30, input_tokens=9, output_tokens=1),
        ),
        ({"usage": {"prompt_tokens": 6, "total_tokens": 6}}, Tokens(input_tokens=6, output_tokens=0)),
        ({"results": [], "usage": {"total_tokens": 6}}, Tokens(input_tokens=6, output_tokens=0)),
        ({"content": "x", "timings": TIMINGS}, Tokens(5, UNKNOWN, UNKNOWN, 7, 3, 100.5, 50.25)),
        ({"usage": CHAT, "timings": TIMINGS}, Tokens(5, UNKNOWN, UNKNOWN, 7, 3, 100.5, 50.25)),
        (
            {"timings": TIMINGS | {"draft_n": 8, "draft_n_accepted": 6}, "usage": CHAT},
            Tokens(5, 8, 6, 7, 3, 100.5, 50.25),
        ),
        (
            {"usage": CHAT, "timings": {"predicted_n": 4, "predicted_per_second": 9.5}},
            Tokens(input_tokens=12, output_tokens=4, tokens_per_second=9.5),
        ),
        (
            {
                "usage": CHAT | {"prompt_tokens_details": {"cached_tokens": 2}},
                "metrics": {
                    "time_to_first_token_ms": 50.0,
                    "mean_itl_ms": 8.0,
                    "speculative_decoding": {"num_accepted_draft_tokens": 138, "num_draft_tokens": 160},
                },
            },
            Tokens(2, 160, 138, 12, 3, 200.0, 125.0),
        ),
        ({"choices": []}, NO_TOKENS),
        ({"usage": None}, NO_TOKENS),
        ({"usage": {"seconds": 5}}, NO_TOKENS),
        ({"usage": {"prompt_tokens": "12", "completion_tokens": True}}, NO_TOKENS),
        ({"usage": {"prompt_tokens": -3, "completion_tokens": 10**40}}, NO_TOKENS),
        ({"usage": {"prompt_tokens": float("nan"), "completion_tokens": 2.0}}, Tokens(output_tokens=2)),
        ({"usage": {"prompt_tokens": 1, "prompt_tokens_details": [1]}}, Tokens(input_tokens=1)),
        ({"timings": {"prompt_n": 1, "prompt_per_second": float("inf")}}, Tokens(input_tokens=1)),
    ],
)
@pytest.mark.parametrize("form", ["json", "indented", "events", "chunked", "split"])
def test_every_format_in_every_form(body: dict[str, Any], expected: Tokens, form: str) -> None:
    match form:
        case "json":
            found = tokens(answer(body))
        case "indented":
            found = tokens(answer(json.dumps(body, indent=2).encode()))
        case "events":
            found = tokens(answer(events({"x": 1}, body, "[DONE]"), EVENTS))
        case "chunked":
            found = tokens(answer(chunks(json.dumps(body).encode(), 1 << 20), chunked=True))
        case _:
            found = tokens(answer(chunks(json.dumps(body).encode(), 7), chunked=True))
    assert found == expected


def test_the_last_usage_counts() -> None:
    body = events({"usage": {"completion_tokens": 1}}, {"usage": {"completion_tokens": 2}}, {"usage": None}, "[DONE]")
    assert tokens(answer(body, EVENTS)).output_tokens == 2


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (
            [{"timings": TIMINGS}, {"metrics": {"mean_itl_ms": 10.0}}],
            Tokens(5, UNKNOWN, UNKNOWN, 7, 3, 100.5, 100.0),
        ),
        ([{"usage": CHAT}, {"usage": {"seconds": 3}}, "[DONE]"], Tokens(input_tokens=12, output_tokens=3)),
        (
            [{"usage": CHAT}, {"usage": None, "timings": {"predicted_per_second": 2.5}}],
            Tokens(input_tokens=12, output_tokens=3, tokens_per_second=2.5),
        ),
        (
            [{"type": "response.completed", "response": {"usage": CHAT}, "timings": {"predicted_per_second": 2.5}}],
            Tokens(input_tokens=12, output_tokens=3, tokens_per_second=2.5),
        ),
        ([{"usage": CHAT}, {"usage": {}}], Tokens(input_tokens=12, output_tokens=3)),
        ([{"usage": CHAT}, {"usage": None}], Tokens(input_tokens=12, output_tokens=3)),
        (
            [{"usage": {**CHAT, "cache_read_input_tokens": 4}}, {"timings": {"prompt_n": 8, "predicted_n": 2}}],
            Tokens(cache_tokens=4, input_tokens=8, output_tokens=2),
        ),
        ([{"usage": CHAT}, {"text": 'data: {"usage":{"prompt_tokens":1}}'}], Tokens(input_tokens=12, output_tokens=3)),
    ],
)
def test_what_several_events_tell_is_put_together(stream: list[Any], expected: Tokens) -> None:
    assert tokens(answer(events(*stream), EVENTS)) == expected
    assert tokens(answer(chunks(events(*stream), 10**6), EVENTS, chunked=True)) == expected


@pytest.mark.parametrize("odd", [b'"a":"\xff"', b'"\xff":0', b'"a":"\\ud800"'])
def test_text_that_is_no_utf8(odd: bytes) -> None:
    body = b'{"text":"\xff","usage":{%b,"prompt_tokens":12,"completion_tokens":3}}' % odd
    expected = Tokens(input_tokens=12, output_tokens=3)
    assert tokens(answer(body)) == tokens(answer(b"data: %b\n\n" % body, EVENTS)) == expected


def test_pieces_are_as_good_as_the_whole() -> None:
    body = json.dumps({"text": "x" * 5000, "usage": CHAT}).encode()
    stream = events({"usage": {"input_tokens": 9}}, "x" * 9000, {"usage": {"output_tokens": 3}})
    for data, kind in ((body, JSON), (stream, EVENTS)):
        for size in (1, 7, 4096, 5000):
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert tokens(answer(data, kind, kept=pieces)) == tokens(answer(data, kind))
    assert read(answer(b"", kept=[])) == (NO_TOKENS, "")


def test_what_a_model_writes_is_not_its_usage() -> None:
    said = json.dumps({"usage": {"completion_tokens": 99}, "timings": TIMINGS})
    body = {"usage": CHAT, "choices": [{"message": {"content": said}}]}
    assert tokens(answer(body)) == Tokens(input_tokens=12, output_tokens=3)


def test_a_schema_with_a_usage_of_its_own() -> None:
    body = {"usage": CHAT, "tools": [{"parameters": {"usage": {"type": "string"}}}]}
    assert tokens(answer(body)).output_tokens == 3


def test_responses_tell_it_in_a_large_last_event() -> None:
    completed = {"output": ["x" * 50_000], "usage": {"input_tokens": 4, "output_tokens": 5}, "tools": ["y" * 9000]}
    body = events({"type": "response.created"}, {"type": "response.completed", "response": completed})
    assert tokens(answer(body, EVENTS)).output_tokens == 5


def test_anthropic_tells_the_input_first_and_the_output_last() -> None:
    start = {"message": {"usage": {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 1}}}
    body = events({"type": "message_start"} | start, *["..."] * 50, {"usage": {"output_tokens": 42}})
    expected = Tokens(cache_tokens=3, input_tokens=8, output_tokens=42)
    assert tokens(answer(body, EVENTS)) == expected
    for size in (5, 64, 1000):
        framed = chunks(body, size)
        assert tokens(answer(framed, EVENTS, chunked=True)) == expected
    framed = chunks(body + b" " * 100 + events({"usage": {"output_tokens": 43}}), 30)
    cut = answer(framed[:600], EVENTS, chunked=True, tail=framed[-151:])
    assert tokens(cut) == expected._replace(output_tokens=43)


def test_anthropic_input_in_both_places() -> None:
    start = {"message": {"usage": {"input_tokens": 0, "output_tokens": 1}}}
    body = events(start, {"usage": {"input_tokens": 8, "output_tokens": 2}})
    assert tokens(answer(body, EVENTS))[3:5] == (8, 2)
    body = events({"message": {"usage": {"input_tokens": 8}}}, {"usage": {"input_tokens": 0, "output_tokens": 0}})
    assert tokens(answer(body, EVENTS))[3:5] == (8, 0)


def test_embeddings_after_their_usage() -> None:
    """As llama-server writes them."""
    body = b'{"usage":{"prompt_tokens":6,"total_tokens":6},"data":[%b]}' % (b"0.125," * 40_000 + b"0")
    expected = Tokens(input_tokens=6, output_tokens=0)
    assert tokens(answer(body)) == expected
    assert tokens(answer(body[:8192], tail=body[-65536:])) == expected
    assert tokens(answer(chunks(body, 10, 5000), chunked=True)) == expected


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(0, 3000), st.booleans())
def test_however_it_is_framed_and_cut(sizes: list[int], keep: int, trailers: bool) -> None:
    """Only the first bytes and the last are there, and the last begin anywhere."""
    words = [f"word {n} \r\n{n:x}\r\n" for n in range(60)]
    body = events(*[{"delta": word} for word in words], {"usage": CHAT}, "[DONE]")
    framed = chunks(body, *sizes, end=b"0\r\nX-Took: 5\r\n\r\n" if trailers else b"0\r\n\r\n")
    need = len(chunks(body[-100:], min(sizes))) + 400
    cut = answer(framed[:100], EVENTS, chunked=True, tail=framed[-(need + keep) :])
    assert tokens(cut) == Tokens(input_tokens=12, output_tokens=3)


@pytest.mark.parametrize(
    ("encoding", "encoded"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda data: zlib.compress(data)[2:-4]),
        ("identity", bytes),
    ],
)
def test_compressed_answers(encoding: str, encoded: Any) -> None:
    body = encoded(json.dumps({"usage": CHAT}).encode())
    assert tokens(answer(body, encoding=encoding)).input_tokens == 12
    assert tokens(answer(chunks(body, 9), encoding=encoding, chunked=True)).input_tokens == 12
    if encoding != "identity":
        assert tokens(answer(body, encoding=encoding, tail=b"?")) == NO_TOKENS, "its middle is missing"
        assert tokens(answer(b"{}" + body, encoding=encoding)) == NO_TOKENS


def test_other_content_is_not_looked_at() -> None:
    body = json.dumps({"usage": CHAT}).encode()
    assert tokens(answer(body, "audio/mpeg")) == NO_TOKENS
    assert tokens(answer(body, encoding="br")) == NO_TOKENS


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, {"error": {"message": " too long ", "type": "x"}}, "too long"),
        (500, {"error": "no memory"}, "no memory"),
        (500, {"error": {}, "message": "m"}, "m"),
        (422, {"detail": "d"}, "d"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        (500, {"error": ""}, "500 Internal Server Error"),
        (500, [1], "500 Internal Server Error"),
        (599, {}, "HTTP 599"),
        (0, {}, ""),
        (500, {"error": "x" * 600}, "x" * ERROR_CHARS),
        (500, {"error": "\ud800"}, "\\ud800"),
    ],
)
def test_errors(status: int, body: Any, message: str) -> None:
    data = json.dumps(body).encode()
    assert read(answer(data, status=status)) == (NO_TOKENS, message)
    assert read(answer(chunks(data, 3), status=status, chunked=True)) == (NO_TOKENS, message)
    assert read(answer(gzip.compress(data), "", status=status, encoding="gzip")) == (NO_TOKENS, message)


def test_errors_in_plain_text() -> None:
    for text, message in (
        (b" no such page\n", "no such page"),
        ("é".encode() * 3000, "é" * ERROR_CHARS),
        (b"", "404 Not Found"),
    ):
        assert read(answer(text, "text/plain; charset=utf-8", status=404)) == (NO_TOKENS, message)
    assert read(answer(b"<html>", "text/html", status=404)) == (NO_TOKENS, "404 Not Found")


@pytest.mark.parametrize("status", [201, 202, 206, 307])
def test_other_successes_are_no_errors(status: int) -> None:
    tokens, error = read(answer(json.dumps({"usage": {"completion_tokens": 3}}).encode(), status=status))
    assert (tokens.output_tokens, error) == (3, "")


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b'data: {"choices":[]}\n\ndata: {"error":{"code":500,"message":"out of memory"}}\n\n', "out of memory"),
        (b'data: {"choices":[]}\n\ndata: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n', "x"),
        (b'data: {}\n\nerror: {"code":500,"message":"older llama.cpp"}\n\n', "older llama.cpp"),
        (
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
            "Overloaded",
        ),
        (b'data: {"error":{}, "message": ""}\n\n', ""),
        (b'data: {"error":{"code": 1}}\n\n', "the stream ended with an error"),
        (b'data: {"choices":[{"delta":{"content":"\\"error\\": no"}}]}\n\ndata: [DONE]\n\n', ""),
        (b'data: {"error":null,"choices":[]}\n\n', ""),
        (b'data: {"error":{"message":"x"}}\n\ndata: {"choices":[]}\n\n', ""),
    ],
)
def test_errors_within_a_stream(stream: bytes, message: str) -> None:
    assert read(answer(stream, "text/event-stream"))[1] == message
    lines = stream.splitlines(keepends=True)  # upstreams write whole lines or whole events
    framed = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"
    assert read(answer(framed, "text/event-stream", chunked=True))[1] == message
    long = b"data: {}\n\n" * 2000 + stream
    assert read(answer(chunks(long, 900), "text/event-stream", chunked=True))[1] == message


def test_an_error_beside_text_that_looks_like_an_event() -> None:
    stream = events({"error": {"message": "boom"}, "text": 'data: {"x"'})
    assert read(answer(stream, EVENTS))[1] == read(answer(chunks(stream, 999), EVENTS, chunked=True))[1] == "boom"
    assert read(answer(stream + b'data: {"cut', EVENTS))[1] == "boom"


def test_errors_that_are_no_json() -> None:
    for data in (b"", b"<html>", b"\xff", b"[" * 100_000, b'{"error": "' + b"x" * 70_000 + b'"}'):
        assert read(answer(data, status=502))[1] == "502 Bad Gateway"


JUNK = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [
                b'"usage":{',
                b'"timings" : {',
                b'"metrics":',
                b"{" * 50,
                b"}",
                b'"prompt_n":1',
                b"\r\n",
                b"ff\r\n",
                b"0\r\n\r\n",
                b"data: ",
                b'"output_tokens":',
                b"1e999",
                b",",
                b"\x1f\x8b\x08",
                b"null",
                b'{"error":',
            ]
        ),
    ),
    max_size=25,
).map(b"".join)


@given(JUNK, JUNK, st.booleans(), st.sampled_from(["", "gzip", "deflate", "br"]), st.sampled_from([200, 500]))
def test_nothing_makes_it_raise(head: bytes, tail: bytes, chunked: bool, encoding: str, status: int) -> None:
    found, error = read(Finished(status, JSON, encoding, chunked, head, tail))
    assert all(value >= 0 or value == UNKNOWN for value in found)
    assert len(error) <= ERROR_CHARS
