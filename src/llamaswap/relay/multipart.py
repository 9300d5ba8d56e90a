"""The `model` field of a multipart/form-data body, found and replaced without copying the files beside it.

Format: RFC 7578 on RFC 2046. Lines end in CRLF; a body whose first delimiter line ends in a bare LF is read
with LF throughout (as Go's reader, which llama-swap uses, does). A part with a file name is a file, not a
field. A field may stand there more than once: the last one counts and all are replaced, as with JSON keys.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from llamaswap.errors import BadRequest

MAX_PARTS = 1000
"""As in Go's reader. A form of an audio or image request has a dozen."""

MAX_NEAR_MISSES = 100
"""Lines in one part that only begin like its delimiter. Clients draw boundaries at random: there are none."""

MAX_PART_HEAD_BYTES = 16 << 10
"""A part's header lines; they hold a field name, a file name and a type."""

# Possessive throughout: a hostile header costs its length, not its square.
_PARAMETER = re.compile(
    r""";[ \t\r\n]*+(?:([^\s;="]++)[ \t]*+=[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\r\n]*+|([^;"]*+)))?+(?=;|$)""",
    re.DOTALL,
).match
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PADDING = re.compile(rb"[ \t]*+").match
_HEADER = re.compile(rb"^content-disposition[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)


class ModelField(NamedTuple):
    """The model that a form names."""

    value: str
    start: int
    """Offset of the value's first byte in the body."""
    end: int
    """Offset behind its last byte."""
    earlier: tuple[tuple[int, int], ...] = ()
    """Spans of duplicates in front of it; they do not count, but are rewritten."""


def find_model(body: bytes | bytearray, content_type: str) -> ModelField:
    """The `model` field of `body`; `content_type` is the request's header and names the boundary.

    Raises BadRequest with what is wrong: no multipart/form-data, no boundary, a malformed or unterminated
    body, no such field, an empty one, one that is no UTF-8.
    """
    delimiter = b"--" + boundary_of(content_type)
    spans: list[tuple[int, int]] = []
    pos, newline = _first_part(body, delimiter)
    parts = 0
    while pos >= 0:
        parts += 1
        if parts > MAX_PARTS:
            raise BadRequest(f"the multipart body has more than {MAX_PARTS} parts")
        head, start = _head(body, pos, newline)
        end, pos = _next_part(body, start, delimiter, newline)
        if _field_name(head) == "model":
            spans.append((start, end))
    if not spans:
        raise BadRequest("no model id could be identified: the form has no 'model' field")
    start, end = spans.pop()
    try:
        value = str(memoryview(body)[start:end], "utf-8")
    except UnicodeDecodeError:
        raise BadRequest("no model id could be identified: the form's 'model' is not UTF-8") from None
    if not value:
        raise BadRequest("no model id could be identified: the form's 'model' is empty")
    return ModelField(value, start, end, tuple(spans))


def rewrite(body: bytes | bytearray, field: ModelField, new_value: str) -> list[memoryview | bytes]:
    """`body` with another model, as segments to send one after the other; its length is the sum of theirs.

    The segments are views into `body`: no byte of a file is copied. While they live, a bytearray cannot be
    resized.
    """
    view, new = memoryview(body), new_value.encode()
    segments: list[memoryview | bytes] = []
    pos = 0
    for start, end in (*field.earlier, (field.start, field.end)):
        segments += (view[pos:start], new)
        pos = end
    segments.append(view[pos:])
    return segments


def boundary_of(content_type: str) -> bytes:
    """The boundary of a Content-Type header. Raises BadRequest if there is none or it is ambiguous."""
    kind, parameters = _parameters(content_type)
    if kind != "multipart/form-data":
        raise BadRequest("no model id could be identified: a multipart/form-data body is expected here")
    if parameters is None or not all(boundary := parameters.get("boundary", [""])) or len(boundary) != 1:
        raise BadRequest("the Content-Type multipart/form-data comes without a usable boundary")
    return boundary[0].encode("latin-1", "replace")


def _parameters(header: str) -> tuple[str, dict[str, list[str]] | None]:
    """A header's value in lower case, and its parameters (lower-case names) or None if they are malformed."""
    kind = header.partition(";")[0]
    parameters: dict[str, list[str]] = {}
    pos = len(kind)
    header = header.rstrip()
    while pos < len(header):
        match = _PARAMETER(header, pos)
        if match is None:
            return kind.strip().lower(), None
        pos = match.end()
        if match[1]:
            value = match[3].strip() if match[2] is None else _ESCAPED.sub(r"\1", match[2])
            parameters.setdefault(match[1].lower(), []).append(value)
    return kind.strip().lower(), parameters


def _field_name(head: bytes) -> str | None:
    """The name of the form field whose header lines these are; None for a file."""
    found = _HEADER.findall(head)
    if len(found) != 1:
        raise BadRequest("the multipart body is malformed: a part needs one Content-Disposition")
    kind, parameters = _parameters(found[0].decode("latin-1"))
    if kind != "form-data" or parameters is None or len(parameters.get("name", ())) != 1:
        raise BadRequest("the multipart body is malformed: a part's Content-Disposition names no field")
    if "filename" in parameters or "filename*" in parameters:
        return None
    return parameters["name"][0]


def _first_part(body: bytes | bytearray, delimiter: bytes) -> tuple[int, bytes]:
    """Where the first part's header lines start (-1: there is no part), and what ends a line."""
    mark = b"\n" + delimiter
    end = len(delimiter) if body.startswith(delimiter) else _behind_mark(body, mark, 0)
    for _ in range(MAX_NEAR_MISSES):
        if end < 0:
            break
        for newline in (b"\r\n", b"\n"):
            after = _behind(body, end, newline)
            if after is not None:
                return after, newline
        end = _behind_mark(body, mark, end)
    raise BadRequest("the multipart body is malformed: the boundary of its Content-Type is not in it")


def _behind_mark(body: bytes | bytearray, mark: bytes, start: int) -> int:
    at = body.find(mark, start)
    return at if at < 0 else at + len(mark)


def _next_part(body: bytes | bytearray, start: int, delimiter: bytes, newline: bytes) -> tuple[int, int]:
    """Where the content that starts at `start` ends, and the header lines behind it start (-1: none do)."""
    mark = newline + delimiter
    # The line break that ends the header lines may be the delimiter's own: content that is not even empty.
    at = body.find(mark, start - len(newline))
    for _ in range(MAX_NEAR_MISSES):
        if at < 0:
            break
        after = _behind(body, at + len(mark), newline)
        if after is not None:
            return max(at, start), after
        at = body.find(mark, at + 1)
    raise BadRequest("the multipart body is unterminated: its closing boundary is missing")


def _behind(body: bytes | bytearray, pos: int, newline: bytes) -> int | None:
    """Where the line behind a delimiter starts, -1 behind the closing one; None if it is none.

    A boundary that only begins the same way (`--abc` in front of `d`) is content.
    """
    if body.startswith(b"--", pos):
        return -1
    padding = _PADDING(body, pos)
    end = padding.end() if padding else pos
    return end + len(newline) if body.startswith(newline, end) else None


def _head(body: bytes | bytearray, pos: int, newline: bytes) -> tuple[bytes, int]:
    """A part's header lines, and where its content starts."""
    end = body.find(newline * 2, pos, pos + MAX_PART_HEAD_BYTES)
    if end < 0:
        raise BadRequest("the multipart body is malformed: a part's header lines do not end")
    return bytes(body[pos:end]), end + 2 * len(newline)
