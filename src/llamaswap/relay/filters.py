"""The edits that a model's configuration asks for, spliced into a JSON body.

Order: useModelName, stripParams, setParams, setParamsByID of the id that the client asked for. Keys are
paths as `sjson` (the library that llama-swap's users know them from) reads them: a dot nests, `\\` takes the
next character literally, digits index an array, `-1` appends to one (and strips its last element), a leading
`:` makes digits a key. `model` is out of reach of strip and set.

Only the bytes of edited members change. Everything else, in nested objects too, goes out byte for byte:
blanks, key order, floats, integers of any size, escapes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from llamaswap.config.settings import ModelConfig
from llamaswap.errors import BadRequest
from llamaswap.relay.jsonspans import Body, JsonBody, Member, parse, walk

__all__ = ["Body", "JsonBody", "apply", "compile_plan", "parse", "parse_path"]

PLANS_KEPT = 4096
"""Models whose compiled edits are remembered; more than a configuration has, so reloads leave no pile."""


class _Part(NamedTuple):
    """One step of a path."""

    name: str
    place: int | None
    """The place in an array, if it can be one."""
    append: bool
    """`-1`: behind the last element; when stripping, the last element."""
    key: bytes
    """The name as a JSON key with its colon."""


_Path = tuple[_Part, ...]
_Edit = tuple[_Path, bytes | None]
"""Where, and the JSON to put there; None strips."""


class _Plan(NamedTuple):
    model: ModelConfig
    edits: tuple[_Edit, ...]
    by_id: Mapping[str, tuple[_Edit, ...]]
    """All edits, for the ids that have their own."""


_plans: dict[int, _Plan] = {}


def apply(body: Body, parsed: JsonBody, model: ModelConfig, requested_id: str) -> Body:
    """`body` with the edits of `model`; the very same object if there is nothing to change.

    `parsed` is what `jsonspans.parse` made of `body`, `requested_id` the id or alias that the client named.
    Raises BadRequest where a set path runs into an array by a name that is no index.
    """
    plan = _plans.get(id(model))
    if plan is None or plan.model is not model:
        plan = _remember(model)
    edits = plan.by_id.get(requested_id, plan.edits)
    if not edits:
        return body
    view = memoryview(body)
    root = _Box(view, False, parsed.members(body))
    if not root.items:
        root.lead = view[parsed.start + 1 : parsed.end - 1]
    changed = False
    for path, raw in edits:
        if _strip(root, path) if raw is None else _set(root, path, raw):
            changed = True
    if not changed:
        return body
    out: list[bytes | memoryview] = [view[: parsed.start]]
    root.emit(out)
    out.append(view[parsed.end :])
    return b"".join(out)


# -- what a configuration asks for


def _remember(model: ModelConfig) -> _Plan:
    """Compiled once per model object (a ModelConfig holds mappings, so it has no hash to look it up by)."""
    if len(_plans) >= PLANS_KEPT:
        _plans.clear()
    plan = _plans[id(model)] = compile_plan(model)
    return plan


def compile_plan(model: ModelConfig) -> _Plan:
    """The edits of a model in the order in which they apply, values serialised."""
    filters = model.filters
    edits: list[_Edit] = []
    if model.use_model_name:
        edits.append((parse_path("model"), _dumps(model.use_model_name)))
    edits += ((path, None) for path in map(parse_path, sorted(filters.strip_params)) if _open_to_edits(path))
    edits += _sets(filters.set_params)
    return _Plan(
        model,
        tuple(edits),
        {name: (*edits, *_sets(params)) for name, params in filters.set_params_by_id.items()},
    )


def _sets(params: Mapping[str, Any]) -> list[_Edit]:
    paths = ((parse_path(key), value) for key, value in sorted(params.items()))
    return [(path, _dumps(value)) for path, value in paths if _open_to_edits(path)]


def _open_to_edits(path: _Path) -> bool:
    return bool(path) and path[0].name != "model"


def parse_path(text: str) -> _Path:
    """An sjson path as its steps; empty for an empty text."""
    parts: list[_Part] = []
    name: list[str] = []
    forced = escaped = False
    fresh = True
    for char in text:
        if escaped:
            name.append(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ".":
            parts.append(_part("".join(name), forced))
            name, forced, fresh = [], False, True
            continue
        elif char == ":" and fresh:
            forced = True
        else:
            name.append(char)
        fresh = False
    if text:
        parts.append(_part("".join(name), forced))
    return tuple(parts)


def _part(name: str, forced: bool) -> _Part:
    numeric = not forced and name.isascii() and name.isdecimal()
    return _Part(name, int(name) if numeric else None, not forced and name == "-1", _dumps(name) + b":")


def _dumps(value: Any) -> bytes:
    """Compact JSON. What JSON has no word for (infinities, NaN) becomes null, as in JavaScript."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain).encode()
    except ValueError:
        return _dumps(_finite(value))


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# -- editing


class _Slot:
    """A member that was edited or is new."""

    __slots__ = ("head", "key", "tail", "value")

    def __init__(
        self, key: str, head: bytes | memoryview, value: bytes | _Box, tail: bytes | memoryview = b""
    ) -> None:
        self.key = key
        self.head = head
        """What goes before the value: blanks, the key as written, the colon."""
        self.value = value
        self.tail = tail
        """Blanks behind the value."""


class _Box:
    """An object or array that is being edited; members not touched stay spans of `source`."""

    __slots__ = ("array", "items", "lead", "source")

    def __init__(self, source: memoryview, array: bool, members: tuple[Member, ...]) -> None:
        self.source = source
        self.array = array
        self.items: list[Member | _Slot] = list(members)
        self.lead: bytes | memoryview = b""
        """The blanks of a container that was empty."""

    def find(self, part: _Part) -> list[int]:
        """Where `part` stands: every duplicate of a key, one place in an array, or nothing."""
        if self.array:
            return [part.place] if part.place is not None and part.place < len(self.items) else []
        name = part.name
        return [place for place, item in enumerate(self.items) if item.key == name]

    def replace(self, place: int, value: bytes | _Box) -> bool:
        """False if the very same bytes stand there already."""
        item = self.items[place]
        if isinstance(item, _Slot):
            item.value = value
            return True
        key, start, value_start, value_end, end = item
        source = self.source
        if type(value) is bytes and source[value_start:value_end] == value:
            return False
        self.items[place] = _Slot(key, source[start:value_start], value, source[value_end:end])
        return True

    def open(self, place: int) -> _Box | None:
        """The container that stands there, ready to be edited; None if it is a scalar."""
        item = self.items[place]
        if isinstance(item, Member):
            return _open(self.source, item.value_start, item.value_end)
        if isinstance(item.value, _Box):
            return item.value
        return _open(memoryview(item.value), 0, len(item.value))

    def emit(self, out: list[bytes | memoryview]) -> None:
        out.append(b"[" if self.array else b"{")
        out.append(self.lead)
        source, first = self.source, True
        for item in self.items:
            if not first:
                out.append(b",")
            first = False
            if isinstance(item, Member):
                out.append(source[item.start : item.end])
                continue
            out.append(item.head)
            if isinstance(item.value, _Box):
                item.value.emit(out)
            else:
                out.append(item.value)
            out.append(item.tail)
        out.append(b"]" if self.array else b"}")


def _open(source: memoryview, start: int, end: int) -> _Box | None:
    if source[start] not in b"{[":
        return None
    box = _Box(source, source[start] == 0x5B, walk(source, start, end))
    if not box.items:
        box.lead = source[start + 1 : end - 1]
    return box


def _set(box: _Box, path: _Path, raw: bytes) -> bool:
    """Puts `raw` at `path`, containers on the way made where missing; False if it stood there already."""
    part, rest = path[0], path[1:]
    places = box.find(part)
    changed = False
    for place in places:
        if not rest:
            changed |= box.replace(place, raw)
        elif (child := box.open(place)) is None:
            changed |= box.replace(place, _build(rest, raw))
        elif _set(child, rest, raw):
            changed |= box.replace(place, child)
    if places:
        return changed
    if not box.array:
        box.items.append(_Slot(part.name, part.key, _build(rest, raw)))
        return True
    if part.place is None and not part.append:
        raise BadRequest(f"setParams of this model needs an object, not an array, around '{part.name}'")
    missing = 0 if part.place is None else part.place - len(box.items)
    box.items += (_Slot("", b"", b"null") for _ in range(missing))
    box.items.append(_Slot("", b"", _build(rest, raw)))
    return True


def _build(path: _Path, raw: bytes) -> bytes:
    """`raw` inside new containers, one for each step of `path`."""
    for part in reversed(path):
        if part.place is not None or part.append:
            raw = b"[" + b"null," * (part.place or 0) + raw + b"]"
        else:
            raw = b"{" + part.key + raw + b"}"
    return raw


def _strip(box: _Box, path: _Path) -> bool:
    """Removes what stands at `path`; False if nothing does."""
    part, rest = path[0], path[1:]
    places = box.find(part)
    if box.array and part.append and box.items:
        places = [len(box.items) - 1]
    changed = False
    for place in reversed(places):
        if not rest:
            del box.items[place]
            changed = True
        elif (child := box.open(place)) is not None and _strip(child, rest):
            box.replace(place, child)
            changed = True
    return changed
