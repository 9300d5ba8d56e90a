"""A tree to plain values by the schema: types are checked, unknown keys warned about."""

from __future__ import annotations

import math
import re
from typing import Any

from llamaswap.config.kinds import (
    Amount,
    Anything,
    Flag,
    Json,
    Key,
    Kind,
    ListOf,
    Macros,
    MapOf,
    Seconds,
    Section,
    Text,
    Whole,
)
from llamaswap.config.report import Path, Report, nearest
from llamaswap.config.schema import home_of
from llamaswap.config.tree import Map, Node, Scalar, Seq

# What Go's yaml.v3 takes for a typed bool besides true and false.
_WORDS = {w: value for words, value in (("y yes on", True), ("n no off", False)) for w in words.split()}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|µs|μs|ms|s|m|h)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

MAX_NUMBER = 10**12  # of any unit; more is a slip, and infinity is no number of seconds


class Bad(Exception):
    """A value of the wrong type; the message says what is right. The value counts as absent."""


def is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.value is None)


def describe(node: Node) -> str:
    """What a value is, for messages."""
    if isinstance(node, Map):
        return "a mapping"
    if isinstance(node, Seq):
        return "a list"
    shown = node.text if len(node.text) <= 40 else f"{node.text[:40]}…"
    if isinstance(node.value, bool):
        return f"the boolean {shown}"
    if isinstance(node.value, int | float):
        return f"the number {shown}"
    return "nothing" if node.value is None else f"the text {shown!r}"


def section(node: Node | None, kind: Section, path: Path, report: Report) -> dict[str, Any]:
    """Key -> value for every key of `kind`, its default where the file has none (or something unfit).

    Keys whose values other modules read (`Macros`, refused and later ones) come as nodes.
    """
    values: dict[str, Any] = {key.name: _default(key) for key in kind.keys}
    if node is None or is_null(node):
        return values
    if not isinstance(node, Map):
        report.error(path, f"must be a mapping of keys, got {describe(node)}")
        return values
    for name, entry in node.entries.items():
        at = (*path, name)
        key = kind.get(name)
        if key is None:
            report.warn(at, _unknown(name, kind), entry.line)
            continue
        if is_null(entry.node):
            continue  # as absent
        report.lines[at] = entry.line
        if key.status in ("later", "refused") or isinstance(key.kind, Macros | Anything):
            values[name] = entry.node
            continue
        try:
            values[name] = decode(entry.node, key.kind, at, report)
        except Bad as bad:
            report.error(at, str(bad))
    return values


def _unknown(name: str, kind: Section) -> str:
    names = [key.name for key in kind.keys if key.status not in ("refused", "ignored")]
    close = nearest(name, names)
    home = None if close else home_of(name)
    hint = f"did you mean {close!r}?" if close else f"it belongs at {home}" if home else ""
    if not hint:
        hint = f"known here: {', '.join(names)}" if len(names) <= 8 else "no known key is like it"
    return f"unknown key {name!r} is ignored; {hint}"


def decode(node: Node, kind: Kind, path: Path, report: Report) -> Any:
    """The value of a node that is not null. Raises Bad for the node itself; reports what is inside it."""
    match kind:
        case Text():
            return _text(node)
        case Whole():
            return _whole(node, kind, path)
        case Seconds():
            return _seconds(node, kind, path)
        case Amount():
            return _amount(node, kind)
        case Flag():
            return _flag(node)
        case ListOf():
            return _list(node, kind, path, report)
        case MapOf():
            return _map(node, kind, path, report)
        case Json():
            if not isinstance(node, Map):
                raise Bad(f"must be a mapping of keys to values, got {describe(node)}")
            return to_json(node, path, report)
        case Section():
            return section(node, kind, path, report)
        case _:
            return node


def _default(key: Key) -> Any:
    if key.default is not None or isinstance(key.kind, Anything | Macros):
        return list(key.default) if isinstance(key.default, list) else key.default
    match key.kind:
        case Text():
            return ""
        case ListOf():
            return []
        case MapOf() | Json():
            return {}
        case Section():
            return {inner.name: _default(inner) for inner in key.kind.keys}
        case _:
            return None


def _text(node: Node) -> str:
    if not isinstance(node, Scalar):
        raise Bad(f"must be text, got {describe(node)}")
    return node.text


def _number(node: Node, what: str) -> int | float:
    if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        if not -MAX_NUMBER <= node.value <= MAX_NUMBER:
            raise Bad(f"must be {what}, got {describe(node)}")
        return node.value
    hint = "; remove the quotes" if isinstance(node, Scalar) and _looks_number(node.text) else ""
    raise Bad(f"must be {what}, got {describe(node)}{hint}")


def _looks_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", text) is not None


def _whole(node: Node, kind: Whole, path: Path) -> int:
    number = _number(node, "a whole number")
    if number != int(number):
        raise Bad(f"must be a whole number, got {describe(node)}")
    if kind.minimum is not None and number < kind.minimum:
        right = f"; use {kind.minimum} to {kind.maximum}" if kind.maximum else ""
        raise Bad(f"{kind.too_small or f'{path[-1]} must be >= {kind.minimum}'}, got {number}{right}")
    if kind.maximum is not None and number > kind.maximum:
        raise Bad(f"must be at most {kind.maximum}, got {number}")
    return int(number)


def _seconds(node: Node, kind: Seconds, path: Path) -> float:
    what = "a number of seconds"
    if kind.words:
        what += " or a duration such as 30s or 1m30s"
        if isinstance(node, Scalar) and isinstance(node.value, str) and not _looks_number(node.text):
            return _checked(_duration(node.text, what), kind, node, path)
    return _checked(float(_number(node, what)), kind, node, path)


def _checked(seconds: float, kind: Seconds, node: Node, path: Path) -> float:
    if kind.minimum is not None and (seconds < kind.minimum or (seconds == kind.minimum and not kind.zero)):
        than = ">=" if kind.zero else ">"
        raise Bad(f"{path[-1]} must be {than} {kind.minimum}, got {describe(node).rpartition(' ')[2]}")
    return seconds


def _duration(text: str, what: str) -> float:
    """Go's time.ParseDuration: numbers with units, added up."""
    body = text.lstrip("+")
    parts = _DURATION.findall(body)
    if not parts or "".join(parts) != body:
        raise Bad(f"must be {what}, got the text {text!r}")
    total = 0.0
    for part in parts:
        unit = part.lstrip("0123456789.")
        total += float(part.removesuffix(unit)) * _UNIT_S[unit]
    return total


def _amount(node: Node, kind: Amount) -> float:
    what = "a number from 0 on" if kind.zero else "a number above 0"
    number = _number(node, what)
    if number < 0 or (number == 0 and not kind.zero):
        raise Bad(f"must be {what}, got {number}")
    return number


def _flag(node: Node) -> bool:
    if isinstance(node, Scalar):
        if isinstance(node.value, bool):
            return node.value
        word = node.text
        if isinstance(node.value, str) and word in (word.lower(), word.upper(), word.capitalize()):
            value = _WORDS.get(word.lower())
            if value is not None:
                return value
    raise Bad(f"must be true or false, got {describe(node)}")


def _list(node: Node, kind: ListOf, path: Path, report: Report) -> list[str]:
    if isinstance(node, Scalar) and kind.commas:
        return [node.text]
    if not isinstance(node, Seq):
        if kind.secret:
            raise Bad("must be a list, one item a line, each after '- '")
        either = "text with commas between the names, or " if kind.commas else ""
        example = f", such as [{node.text}]" if isinstance(node, Scalar) and len(node.text) <= 40 else ""
        raise Bad(f"must be {either}a list{example}; got {describe(node)}")
    items: list[str] = []
    for i, item in enumerate(node.items):
        at = (*path, i)
        report.lines[at] = item.line
        try:
            items.append("" if is_null(item) else _text(item))
        except Bad as bad:
            items.append("")
            report.error(at, str(bad))
    return items


def _map(node: Node, kind: MapOf, path: Path, report: Report) -> dict[str, Any]:
    if not isinstance(node, Map):
        raise Bad(f"must be a mapping from {kind.of} to settings, got {describe(node)}")
    values: dict[str, Any] = {}
    for name, entry in node.entries.items():
        at = (*path, name)
        report.lines[at] = entry.line
        if is_null(entry.node):
            if isinstance(kind.value, Section):
                values[name] = section(None, kind.value, at, report)
            elif isinstance(kind.value, Json):
                values[name] = {}
            continue
        try:
            values[name] = decode(entry.node, kind.value, at, report)
        except Bad as bad:
            report.error(at, str(bad))
    return values


def to_json(node: Node, path: Path, report: Report) -> Any:
    """Plain values that JSON can carry; what it cannot is reported."""
    if isinstance(node, Map):
        values = {}
        for name, entry in node.entries.items():
            report.lines[(*path, name)] = entry.line
            values[name] = to_json(entry.node, (*path, name), report)
        return values
    if isinstance(node, Seq):
        out = []
        for i, item in enumerate(node.items):
            report.lines[(*path, i)] = item.line
            out.append(to_json(item, (*path, i), report))
        return out
    if isinstance(node.value, float) and not math.isfinite(node.value):
        report.error(path, f"must be a value that JSON can carry, got {describe(node)}")
        return None
    return node.value
