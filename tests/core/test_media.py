"""Base64 within JSON is left out of captures; everything else stays, byte for byte."""

from __future__ import annotations

import base64
import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.observe.media import LEAST_BYTES, without_media

PICTURE = base64.b64encode(bytes(range(256)) * 8).decode()
NOTE = f"[{len(PICTURE)} bytes of base64 left out]"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda data: {"image_url": {"url": f"data:image/png;base64,{data}"}},
        lambda data: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        lambda data: {"data": [{"b64_json": data}, {"b64_json": data}]},
        lambda data: {"output": [{"type": "image_generation_call", "result": data}]},
        lambda data: {"data": f"data:image/png;base64,{data}"},
    ],
)
def test_every_way_of_sending_it(wrapped: Any) -> None:
    before = {"model": "m", "messages": [{"role": "user", "content": "see: ü"}, wrapped(PICTURE)], "stream": True}
    after = {**before, "messages": [before["messages"][0], wrapped(NOTE)]}  # type: ignore[index]
    for options in ({}, {"indent": 1}, {"separators": (",", ":")}):
        assert without_media(json.dumps(before, **options).encode()) == json.dumps(after, **options).encode()  # type: ignore[arg-type]
    assert json.loads(without_media(json.dumps(before).replace("/", "\\/").encode()))["model"] == "m"


NOISE = base64.b64encode(random.Random(1).randbytes(9000)).decode()
SURROUNDINGS = [
    '<img src="%s" alt="x">',
    "![a](%s) What is in this picture?",
    "url(%s);\n next",
    "%s",
    '"%s"',
    "'%s' \\",
]


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("data", [PICTURE, NOISE, "A" * 4093 + "/+/=", "/" * 5000])
@pytest.mark.parametrize("escaped", [("", ""), ("/", "\\/"), ("+", "\\u002B"), ("=", "\\u003d")])
def test_within_a_text(surroundings: str, data: str, escaped: tuple[str, str]) -> None:
    text = surroundings % f"data:image/png;base64,{data}"
    raw = json.dumps({"text": text, "more": "x"})
    if escaped[0]:
        raw = raw.replace(*escaped)
    found = json.loads(without_media(raw.encode()))
    note = re.fullmatch(
        re.escape(surroundings % "data:image/png;base64,#").replace("\\#", r"\[(\d+) bytes .*\]"), found["text"]
    )
    assert note is not None and int(note[1]) >= len(data) and found["more"] == "x"


@pytest.mark.parametrize("key", ["images", "multimodal_data"])
def test_lists_of_them(key: str) -> None:
    body = json.dumps({key: [PICTURE, "short", PICTURE], "x": [key, "y"]})
    assert json.loads(without_media(body.encode())) == {key: [NOTE, "short", NOTE], "x": [key, "y"]}


@pytest.mark.parametrize("most", [0, 1, 100, 3000, 5000, 10**9])
def test_no_more_than_is_wanted(most: int) -> None:
    address = f"data:image/png;base64,{NOISE}"
    body = json.dumps(
        [{"text": "a" * 1000, "url": address}, {"data": NOISE, "text": "b" * 3000}, {"url": address}]
    ).encode()
    whole, part = without_media(body), without_media(bytearray(body), most)
    assert whole.startswith(part[:most]) and len(part) >= min(most, len(whole))
    assert NOISE[:99].encode() not in part


def test_what_was_cut_in_the_middle() -> None:
    assert without_media(b'{"url": "data:image/png;base64,' + PICTURE.encode()) == (
        b'{"url": "data:image/png;base64,' + NOTE.encode()
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"data": "short"}',
        b'{"data": [1, 2, 3], "result": {"data": null}}',
        b'{"data": "%b"}' % (b"a text with blanks " * 200),
        b'{"content": "%b"}' % (b"x" * 5000),
        b'{"url": "data:image/png;base64,%b"}' % (b"A" * (LEAST_BYTES - 1)),
        b'{"result": "%b(80)\\nA table of 80 columns"}' % (b"-" * 3000),
        b'{"data": "%b text"}' % (b"A" * 9000),
    ],
)
def test_what_stays(body: bytes) -> None:
    assert without_media(body) is body


@given(
    st.recursive(
        st.text() | st.just(PICTURE) | st.none(),
        lambda of: st.lists(of) | st.dictionaries(st.sampled_from(["data", "b64_json", "result", "url", "x"]), of),
    )
)
def test_json_stays_json(value: Any) -> None:
    after = json.loads(without_media(json.dumps(value).encode()))
    assert re.sub(r"\[\d+ bytes of base64 left out\]", PICTURE, json.dumps(after)) == json.dumps(value)
