import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.errors import BadRequest
from llamaswap.relay import jsonspans
from llamaswap.relay.jsonspans import JsonBody, Member, parse


def message(body: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        parse(body)
    assert caught.value.status == 400
    return caught.value.message


def odd(body: bytes) -> bytes:
    """The same object with a byte order mark and a lone surrogate: it takes the other way through `parse`."""
    at = body.index(b"{") + 1
    rest = body[at:]
    comma = b"" if rest.lstrip(b" \t\r\n").startswith(b"}") else b","
    return b"\xef\xbb\xbf" + body[:at].removeprefix(b"\xef\xbb\xbf") + b'"filler":"\\ud800"' + comma + rest


@pytest.mark.parametrize("prepare", [bytes, odd], ids=["usual", "odd"])
@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model":"a"}', "a", False),
        (b'{"model":"a","stream":true}', "a", True),
        (b'{"stream" : true , "model" : "a" }', "a", True),
        (b'\n\t {"model": "a"}\r\n ', "a", False),
        (b'{"model":"a","stream":false}', "a", False),
        (b'{"model":"a","stream":null}', "a", False),
        (b'{"model":"a","stream":"true"}', "a", False),
        (b'{"model":"a","stream":1}', "a", False),
        (b'{"model":"a","stream":true,"stream":false}', "a", False),
        (b'{"model":"a","model":"b"}', "b", False),
        (b'{"model":1,"model":"b"}', "b", False),
        (b'{"mod\\u0065l":"a"}', "a", False),
        (b'{"model":"a\\/b\\"c"}', 'a/b"c', False),
        (b'{"model":"\\ud83d\\ude00"}', "\U0001f600", False),
        (b'{"model":"\\ud800"}', "\ud800", False),
        ('{"model":"größe"}'.encode(), "größe", False),
        ('{"model":"模型","x":"é"}'.encode(), "模型", False),
        ('{"é":"模","model":"a\\u00e9"}'.encode(), "aé", False),
        ('{"é\\n":"模","model":"a"}'.encode(), "a", False),
        (b'{"Model":"x","model":"a","messages":[{"model":"z","stream":true}]}', "a", False),
        (b'{"":"","model":"a"}', "a", False),
        (b'\xef\xbb\xbf{"model":"a"}', "a", False),
        (b'{"model":"a","n":1e999,"m":-0.0,"o":123456789012345678901234567890}', "a", False),
        (b'{"model":"a","n":' + b"9" * 5000 + b',"stream":true}', "a", True),
    ],
)
def test_reads_model_and_stream(prepare, body: bytes, model: str, stream: bool) -> None:
    body = prepare(body)
    for form in (body, bytearray(body), memoryview(body)):
        found = parse(form)
        assert (found.model, found.stream) == (model, stream)


@pytest.mark.parametrize("prepare", [bytes, odd], ids=["usual", "odd"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "no model id could be identified: the JSON body has no 'model'"),
        (b'{"models":"a"}', "no 'model'"),
        (b'{"model":null}', "'model' is null"),
        (b'{"model":""}', "'model' is empty"),
        (b'{"model":1}', "'model' is not a string"),
        (b'{"model":["a"]}', "'model' is not a string"),
        (b'{"model":true}', "'model' is not a string"),
        (b'{"model":"a","model":null}', "'model' is null"),
        (b'{"model":"a"', "not valid JSON"),
        (b'{"model":"a",}', "not valid JSON"),
        (b'{"model" "a"}', "not valid JSON"),
        (b'{"model":}', "not valid JSON"),
        (b'{"model":"a"]', "not valid JSON"),
        (b'{"model":["a"}', "not valid JSON"),
        (b'{model:"a"}', "not valid JSON"),
        (b"{'model':'a'}", "not valid JSON"),
        (b'{"model":"a" "b":1}', "not valid JSON"),
        (b'{"model":"a"} x', "data after the end"),
        (b'{"model":"a"}{"model":"b"}', "data after the end"),
        (b'{"model":"a\nb"}', "control character"),
        (b'{"mo\x01del":"ab"}', "control character"),
        (b'{"model":"a\\x"}', "escape"),
        (b'{"model":"a\\u12"}', "escape"),
        (b'{"model":"a', "not valid JSON"),
        (b'{"model', "not valid JSON"),
        (b'{"model":"a","x":NaN}', "NaN is not a JSON value"),
        (b'{"model":"a","x":[-Infinity]}', "-Infinity is not a JSON value"),
        (b'{"model":"a","x":tru}', "not valid JSON"),
        (b'{"model":"a","x":01}', "not valid JSON"),
        (b'{"model":"a","x":.5}', "not valid JSON"),
        (b'{"model":"a","x":+1}', "not valid JSON"),
        (b'{"model":"a","x":"\xff"}', "not UTF-8"),
        (b'{"model":"a","x":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"model":"a","x":"\xc3"}', "not UTF-8"),
        (b'{"model":"a","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"model":"a","x":' + b'{"a":' * 200_000, "nested too deeply"),
    ],
)
def test_refuses_with_a_reason(prepare, body: bytes, says: str) -> None:
    assert says in message(prepare(body))


@pytest.mark.parametrize(
    "body", [b"[]", b'"model"', b"null", b"1", b"model=a", b"--x\r\n", b"\x00", b'[{"model":"a"}]', b"}"]
)
def test_refuses_what_is_no_object(body: bytes) -> None:
    assert message(body) == "no model id could be identified: the request body is not a JSON object"


@pytest.mark.parametrize("body", [b"", b" \r\n", b"\xef\xbb\xbf"])
def test_says_that_a_body_is_empty(body: bytes) -> None:
    assert "is empty" in message(body)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"a": 1,\n "b": oops}', "byte 15 (line 2, column 7)"),
        (b'{"a": 1,\n "b" 2}', "byte 14 (line 2, column 6)"),
        ('{"ä": "ö", x}'.encode(), "byte 13 (line 1, column 14)"),
        (b'{"a": "b', "byte 6 (line 1, column 7)"),
    ],
)
def test_says_where_it_is_wrong(body: bytes, where: str) -> None:
    text = message(body)
    assert text.endswith(where)
    assert " at at " not in text and "starting at at" not in text


@pytest.mark.parametrize("cut", range(4))
def test_utf8_is_checked_across_chunks(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    monkeypatch.setattr(jsonspans, "UTF8_CHUNK_BYTES", 4)
    good = b'{"model":"a' + b"x" * cut + "é模\U0001f600é".encode() + b'"}'
    assert parse(good).model == good.decode()[10:-2]
    bad = good[:-3] + b'"}'
    assert message(bad) == f"the request body is not UTF-8: byte {len(bad) - 3}"


def spans(body: bytes) -> list[tuple[str, bytes, bytes]]:
    found = parse(body)
    return [(m.key, body[m.start : m.end], body[m.value_start : m.value_end]) for m in found.members(body)]


def test_spans_of_members() -> None:
    body = b' { "a" : [1, {"b":2}] ,"model":"m", "c":{} , "a":"x,}" }\n'
    assert spans(body) == [
        ("a", b' "a" : [1, {"b":2}] ', b'[1, {"b":2}]'),
        ("model", b'"model":"m"', b'"m"'),
        ("c", b' "c":{} ', b"{}"),
        ("a", b' "a":"x,}" ', b'"x,}"'),
    ]
    found = parse(body)
    assert body[found.start] == ord("{") and body[found.end - 1] == ord("}")
    assert body[found.end :] == b"\n"


def test_spans_are_bytes_where_text_is_wide() -> None:
    body = '{"ключ":"значение","\\u0061é":1,"model":"模\U0001f600"}'.encode()
    assert [(key, value.decode()) for key, _, value in spans(body)] == [
        ("ключ", '"значение"'),
        ("aé", "1"),
        ("model", '"模\U0001f600"'),
    ]


def test_an_escaped_key_is_not_taken_for_its_look_alike() -> None:
    # Read as latin-1, the bytes of "é" look like these two characters.
    body = '{"\\u00c3\\u00a9":1,"é":2,"model":"m"}'.encode()
    assert [key for key, _, _ in spans(body)] == ["Ã©", "é", "model"]


def test_walks_arrays() -> None:
    body = b'{"model":"m","x":[ 1 ,"a,]", [2],{} ]}'
    member = parse(body).members(body)[1]
    elements = jsonspans.walk(body, member.value_start, member.value_end)
    assert [body[e.value_start : e.value_end] for e in elements] == [b"1", b'"a,]"', b"[2]", b"{}"]
    assert [e.key for e in elements] == [""] * 4
    assert jsonspans.walk(b"[ ]", 0, 3) == ()


def test_depth_within_the_limit_passes() -> None:
    depth = sys.getrecursionlimit() // 4
    body = b'{"model":"m","x":' + b"[" * depth + b"]" * depth + b"}"
    assert parse(body).model == "m"
    assert parse(odd(body)).model == "m"


def test_repr_shows_what_was_read() -> None:
    assert repr(parse(b'{"model":"m"}')) == "JsonBody(model='m', stream=False)"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(), JSON, max_size=6),
    st.text(min_size=1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_any_json_object_is_read_as_the_standard_library_does(
    document: dict[str, object],
    model: str,
    ascii_only: bool,
    is_odd: bool,
    indent: int | str | None,
    stream: bool,
) -> None:
    document |= {"model": model, "stream": stream}
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    try:
        body = text.encode()
    except UnicodeEncodeError:  # pragma: no cover - hypothesis makes no lone surrogates by default
        return
    if is_odd:
        body = odd(body)
    found = parse(body)
    assert (found.model, found.stream) == (model, stream)
    members = [m for m in found.members(body) if m.key != "filler"]
    assert {m.key: json.loads(body[m.value_start : m.value_end]) for m in members} == document
    all_members = found.members(body)
    assert (
        body[: found.start + 1] + b",".join(body[m.start : m.end] for m in all_members)
        == body[: found.end - 1]
    )


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for body in (data, b'{"model":"m",' + data, b'{"model":"m","x":' + data + b"}"):
        try:
            found = parse(body)
        except BadRequest:
            continue
        assert isinstance(found, JsonBody)
        assert json.loads(body.decode("utf-8-sig"))["model"] == found.model


@given(st.text(alphabet='{}[]",:\\ \n0e1-.tmodel', max_size=24))
def test_both_ways_agree_with_the_standard_library(text: str) -> None:
    for body in (b'{"model":"m",' + text.encode() + b"}", b'{"model":"m","x":' + text.encode()):
        try:
            expected = json.loads(body)
        except ValueError:
            expected = None
        for form in (body, odd(body)):
            try:
                found = parse(form)
            except BadRequest as error:
                assert expected is None or "no model id" in error.message
            else:
                assert expected is not None and expected["model"] == found.model
                assert all(isinstance(m, Member) for m in found.members(form))
