"""Pictures and sound within JSON: OpenAI, Anthropic and others put them there as base64. Captures do without.

Pure. Looked for by where they stand, not by what they look like: to search for long runs of base64 takes ten times as
long.
"""

from __future__ import annotations

import re

LEAST_BYTES = 1024  # of base64; what is shorter may stay
SURE_BYTES = 4096  # of base64 in a row: the rest up to the quote is only glanced at
GLANCED_BYTES = 64
ESCAPE_BYTES = 6  # \u002B

_IN_ADDRESS = b";base64,"  # of a data: URL, which may stand in the middle of a text
# Anthropic's and OpenAI's input; OpenAI's images; those of the Responses API, whole and bit by bit, and its sound;
# llama-server's and Ollama's.
_KEYS = (
    *(b'"data"', b'"b64_json"', b'"result"', b'"partial_image_b64"', b'"delta"'),
    *(b'"multimodal_data"', b'"images"'),
)
_IN_STREAMS = (_IN_ADDRESS, b"b64_json", b"image_b64", b"audio.delta", b"image_generation")
_opens = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*(?:\[[ \t\r\n]*)?"').match
_goes_on = re.compile(rb'"[ \t\r\n]*,[ \t\r\n]*"').match
# With what JSON may write in place of / + = and of line ends.
_run = re.compile(rb"[A-Za-z0-9+/=_-]*(?:\\(?:[/nr]|u00(?:2[BbFf]|3[Dd]))[A-Za-z0-9+/=_-]*)*").match


def without_media(body: bytes | bytearray, most: int | None = None) -> bytes:
    """`body` with a note in place of every long base64 text; the very same object if it is bytes and there is none.

    JSON stays JSON, and events stay events. `most`: as many bytes are wanted, more may come; takes milliseconds per
    megabyte of them, next to nothing for media.
    """
    parts: list[bytes | bytearray] = []
    at, missing = 0, len(body) if most is None else most
    while spans := sorted(_spans(body, at, at + missing)):
        for begin, end in spans:
            if begin < at:
                continue  # a data: URL that is the value of such a key
            parts += (body[at:begin], b"[%d bytes of base64 left out]" % (end - begin))
            missing -= begin - at
            at = end
        if missing <= 0:
            break
    if at == 0 and isinstance(body, bytes) and missing >= len(body):
        return body
    parts.append(body[at : at + max(0, missing)])
    return b"".join(parts)


def may_stream_media(body: bytes) -> bool:
    """Whether a stream, still in its transfer's framing, is worth a closer look: next to none of them is."""
    return any(mark in body for mark in _IN_STREAMS)


def _spans(body: bytes | bytearray, start: int, stop: int) -> list[tuple[int, int]]:
    """Where base64 is that begins between the two; some of it may be told twice."""
    spans: list[tuple[int, int]] = []
    at = body.find(_IN_ADDRESS, start, stop)
    while at >= 0:
        begin = at + len(_IN_ADDRESS)
        end = _end(body, begin)
        if end - begin >= LEAST_BYTES:
            spans.append((begin, end))
        at = body.find(_IN_ADDRESS, end, stop)
    for key in _KEYS:
        at = body.find(key, start, stop)
        while at >= 0:
            end = at + len(key)
            opens = _opens(body, end)
            while opens is not None:
                begin = opens.end()
                end = _end(body, begin)
                whole = end == len(body) or body[end : end + 1] == b'"'  # else it is a text that begins like base64
                if whole and end - begin >= LEAST_BYTES:
                    spans.append((begin, end))
                opens = _goes_on(body, end) if whole else None
            at = body.find(key, end, stop)
    return spans


def _end(body: bytes | bytearray, begin: int) -> int:
    """Where the base64 ends that begins there."""
    match = _run(body, begin, begin + SURE_BYTES)
    end = match.end() if match is not None else begin
    if end - begin < SURE_BYTES - ESCAPE_BYTES:
        return end
    quote = body.find(b'"', end)
    if quote < 0:
        quote = len(body)  # it was cut
    elif body[quote - 1 : quote] == b"\\":
        quote -= 1  # of a text within the text
    match = _run(body, max(end, quote - GLANCED_BYTES), quote)
    if match is None or match.end() != quote:
        match = _run(body, begin)
    return match.end() if match is not None else end
