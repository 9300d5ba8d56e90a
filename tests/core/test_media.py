"""Base64 within JSON is left out of captures; everything else stays, byte for byte."""

from __future__ import annotations

import base64
import json
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
