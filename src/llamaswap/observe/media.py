"""Pictures and sound within JSON: OpenAI, Anthropic and others put them there as base64. Captures do without.

Pure. Looked for by where they stand, not by what they look like: to search for long runs of base64 takes ten times as
long.
"""

from __future__ import annotations

import re

LEAST_BYTES = 1024  # of base64; what is shorter may stay
LOOKED_AT_BYTES = 64  # of what might be base64

_IN_ADDRESS = b";base64,"  # of a data: URL
# Anthropic's and OpenAI's input, OpenAI's images, images of the Responses API, and those that it makes bit by bit.
_KEYS = (b'"data"', b'"b64_json"', b'"result"', b'"partial_image_b64"')
_opens = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*"').match
_base64 = re.compile(rb"(?:[A-Za-z0-9+/_-]|\\/)+").fullmatch


def without_media(body: bytes) -> bytes:
    """`body` with a note in place of every long base64 text; the very same object if there is none.

    JSON stays JSON, and events stay events.
    """
    spans = sorted(_spans(body))
    if not spans:
        return body
    parts: list[bytes] = []
    at = 0
    for begin, end in spans:
        if begin < at:
            continue  # a data: URL that is the value of such a key
        parts += (body[at:begin], b"[%d bytes of base64 left out]" % (end - begin))
        at = end
    parts.append(body[at:])
    return b"".join(parts)


def _spans(body: bytes) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for mark in (_IN_ADDRESS, *_KEYS):
        at = body.find(mark)
        while at >= 0:
            begin = end = at + len(mark)
            opens = None if mark is _IN_ADDRESS else _opens(body, begin)
            if opens is not None or mark is _IN_ADDRESS:
                begin = opens.end() if opens is not None else begin
                end = body.find(b'"', begin)
                if end < 0:
                    end = len(body)  # it was cut
                if end - begin >= LEAST_BYTES and _base64(body, begin, begin + LOOKED_AT_BYTES):
                    spans.append((begin, end))
            at = body.find(mark, end)
    return spans
