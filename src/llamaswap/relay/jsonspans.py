"""What routing needs of a JSON request body, and where its members stand in bytes for those that are edited.

Of nearly every body msgspec reads the two members that matter and only checks the rest: nothing is built of a
conversation of megabytes. What it does not take is read once more by the standard library's C scanner, which knows
where a mistake is. That reads the bytes as latin-1, in which every byte is one character: offsets in the text are
offsets in the body, and a body with emoji in it takes no four bytes a character. Whether the bytes are UTF-8 is
checked apart; a string that is really read (a key, the model) is decoded as UTF-8 then.

What the scanner does not take either is a `BadRequest`: no UTF-8, no JSON (RFC 8259; `NaN` is none), nesting deeper
than the interpreter's recursion limit.
"""

from __future__ import annotations

import json
import json.decoder
import re
from codecs import utf_8_decode
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, cast

import msgspec

from llamaswap.errors import BadRequest

Body = bytes | bytearray | memoryview

UTF8_CHUNK_BYTES = 1 << 16
"""Decoded at a time when checking UTF-8: fits the cache, twice as fast as the whole at once."""

_BOM = "\xef\xbb\xbf"
_OPENING, _CLOSING = b"{}"
_BLANKS = b" \t\n\r"
_WS = r"[ \t\n\r]*+"
_blank = cast("Callable[[str, int], re.Match[str]]", re.compile(_WS).match)
_head = re.compile(rf'{_WS}"([^"\\\x00-\x1f]*+)"{_WS}:{_WS}').match
_colon = re.compile(rf"{_WS}:{_WS}").match


class _NotJson(ValueError):
    """No JSON; `pos` is a byte offset."""

    def __init__(self, msg: str, pos: int) -> None:
        self.msg, self.pos = msg, pos
        super().__init__(msg)


def _refuse_constant(name: str) -> NoReturn:
    raise BadRequest(f"the request body is not valid JSON: {name} is not a JSON value")


# The C functions under json.loads; typeshed does not list them. Integers become floats, nobody looks at them: int()
# refuses those of more than 4300 digits.
_scan: Callable[[str, int], tuple[Any, int]]
_scan = cast(Any, json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant)).scan_once
_scanstring: Callable[[str, int], tuple[str, int]] = cast(Any, json.decoder).scanstring


class Member(NamedTuple):
    """One member of an object, or element of an array (`key` is empty then). Offsets are bytes.

    `start` is just behind the `{`, `[` or comma before it, `end` is at the comma or bracket behind it:
    the blanks around a member belong to it.
    """

    key: str
    start: int
    value_start: int
    value_end: int
    end: int


# Half the time of Member(...), and there is one for every member of every edited body.
_member = cast("Callable[[type[Member], tuple[str, int, int, int, int]], Member]", tuple.__new__)


class JsonBody:
    """What is known of a JSON request body. Immutable; holds none of the body's bytes."""

    __slots__ = ("_members", "end", "model", "start", "stream")

    def __init__(self, model: str, stream: bool, start: int, end: int) -> None:
        self.model = model
        """The value of `model`; the last one if there are several."""
        self.stream = stream
        """Whether `stream` is true."""
        self.start = start
        """Offset of the object's `{`."""
        self.end = end
        """Offset behind the object's `}`."""
        self._members: tuple[Member, ...] | None = None

    def members(self, body: Body) -> tuple[Member, ...]:
        """The top-level members in order, duplicates included. `body` is the body this was parsed from."""
        found = self._members
        if found is None:
            found = self._members = walk(body, self.start, self.end)
        return found

    def __repr__(self) -> str:
        return f"JsonBody(model={self.model!r}, stream={self.stream!r})"


class _Asked(msgspec.Struct, gc=False):
    """The members that are read."""

    model: str
    stream: Any = None


_asked = msgspec.json.Decoder(_Asked).decode


def parse(body: Body) -> JsonBody:
    """Validates a request body and reads what routing needs of it.

    Raises BadRequest if it is no JSON object or names no model; the message says what is wrong and where.
    """
    if not (isinstance(body, bytes) and body.isascii()):
        _require_utf8(body)
    try:
        asked = _asked(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _parse_odd(body)
    if not asked.model:
        return _parse_odd(body)
    start, end = 0, len(body)
    if body[0] != _OPENING or body[-1] != _CLOSING:
        text = bytes(body)
        start, end = end - len(text.lstrip(_BLANKS)), len(text.rstrip(_BLANKS))
    return JsonBody(asked.model, asked.stream is True, start, end)


def _parse_odd(body: Body) -> JsonBody:
    """The same for a byte order mark, lone surrogates, and all that is refused."""
    text = str(body, "latin-1")
    start = 0
    if not text.startswith("{"):
        start = _blank(text, 3 if text.startswith(_BOM) else 0).end()
        if not text.startswith("{", start):
            raise BadRequest(_no_object(text, start))
    try:
        values, end = _scan(text, start)
        if end != len(text) and _blank(text, end).end() != len(text):
            raise _NotJson("data after the end of the object", _blank(text, end).end())
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None
    except StopIteration as error:
        raise _invalid(text, "expected a value", error.value) from None
    except (json.JSONDecodeError, _NotJson) as error:
        raise _invalid(text, error.msg, error.pos) from None
    model = values.get("model")
    if type(model) is not str or not model:
        raise BadRequest(_no_model(model, "model" in values))
    parsed = JsonBody(model, values.get("stream") is True, start, end)
    if not model.isascii():
        last = [m for m in parsed.members(body) if m.key == "model"][-1]
        parsed.model = _scanstring(str(body[last.value_start : last.value_end], "utf-8"), 1)[0]
    return parsed


def walk(body: Body, start: int, end: int) -> tuple[Member, ...]:
    """The members of the object or array whose brackets are at `start` and `end - 1`, valid JSON already.

    Raises BadRequest only where the stack is too small for it.
    """
    try:
        return tuple(_walk(str(memoryview(body)[start:end], "latin-1"), 0, start)[0])
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None


def _walk(text: str, pos: int, base: int) -> tuple[list[Member], int]:
    """Members of the container that opens at `pos`, and the offset behind it.

    `base` is added to the members' offsets, not to the one returned. Raises as the scanner does.
    """
    members: list[Member] = []
    append = members.append
    closing = "}" if text[pos] == "{" else "]"
    pos += 1
    first = _blank(text, pos).end()
    if text.startswith(closing, first):
        return members, first + 1
    while True:
        key = ""
        if closing == "}":
            if match := _head(text, pos):
                value_start = match.end()
                key = match[1]
                if not key.isascii():
                    key = key.encode("latin-1").decode()
            else:
                key, value_start = _odd_key(text, pos)
        else:
            value_start = _blank(text, pos).end()
        _, value_end = _scan(text, value_start)
        end, after = value_end, text[value_end : value_end + 1]
        if after != "," and after != closing:
            end = _blank(text, value_end).end()
            after = text[end : end + 1]
            if after != "," and after != closing:
                raise _NotJson(f"expected ',' or '{closing}'", end)
        append(_member(Member, (key, base + pos, base + value_start, base + value_end, base + end)))
        pos = end + 1
        if after == closing:
            return members, pos


def _odd_key(text: str, pos: int) -> tuple[str, int]:
    """A key with escapes in it, and where its value starts; or the error of what is no key."""
    pos = _blank(text, pos).end()
    if not text.startswith('"', pos):
        raise _NotJson("expected a key in double quotes", pos)
    key, end = _scanstring(text, pos + 1)
    if not text.isascii():
        key, _ = _scanstring(text[pos:end].encode("latin-1").decode(), 1)
    match = _colon(text, end)
    if match is None:
        raise _NotJson("expected ':'", _blank(text, end).end())
    return key, match.end()


def _require_utf8(body: Body) -> None:
    """Raises BadRequest where the bytes are no UTF-8, by chunks: no second copy of a large body."""
    view, pos, size = memoryview(body), 0, len(body)
    while pos < size:
        stop = pos + UTF8_CHUNK_BYTES
        try:
            pos += utf_8_decode(view[pos:stop], "strict", stop >= size)[1]
        except UnicodeDecodeError as error:
            raise BadRequest(f"the request body is not UTF-8: byte {pos + error.start}") from None


def _no_object(text: str, start: int) -> str:
    if start == len(text):
        return "no model id could be identified: the request body is empty; a JSON object is expected"
    return "no model id could be identified: the request body is not a JSON object"


def _no_model(model: object, present: bool) -> str:
    if model == "":
        reason = "'model' is empty"
    elif not present:
        reason = "the JSON body has no 'model'"
    elif model is None:
        reason = "'model' is null"
    else:
        reason = "'model' is not a string"
    return f"no model id could be identified: {reason}"


def _invalid(text: str, msg: str, pos: int) -> BadRequest:
    line = text.count("\n", 0, pos) + 1
    column = pos - text.rfind("\n", 0, pos)
    what = msg[:1].lower() + msg[1:].removesuffix(" at")
    where = f"byte {pos} (line {line}, column {column})"
    return BadRequest(f"the request body is not valid JSON: {what} at {where}")
