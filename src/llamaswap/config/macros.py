"""`${name}`: reusable values, put into the tree before it is decoded.

Macros are replaced in the reverse of their declaration, so that a macro may use those before it. A
value that is exactly one macro takes the macro's type; inside other text the macro becomes text,
formatted as Go does (llama-swap's files rely on it).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from llamaswap.config import env
from llamaswap.config.report import Path, Report, nearest
from llamaswap.config.tree import Entry, Map, Node, Scalar, ScalarValue, Seq

PATTERN = re.compile(r"\$\{([a-zA-Z0-9_-]+)\}")
_NAME = re.compile(r"[a-zA-Z0-9_-]+")
MAX_NAME = 63
RESERVED = ("PID", "PORT", "MODEL_ID")
_GO_EXPONENT = 6  # strconv.FormatFloat(v, 'g', -1, 64) turns to exponents at a million
MAX_TEXT = 1 << 20  # characters; macros that double each other reach it after twenty steps

Macro = tuple[str, ScalarValue]


class TooLong(Exception):
    """A substitution would make a text longer than MAX_TEXT."""


def as_text(value: ScalarValue) -> str:
    """A scalar as it is written into text: Go's `%v`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return ""
    return _go_float(value) if isinstance(value, float) else str(value)


def _go_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, numerals, _ = Decimal(repr(value)).normalize().as_tuple()
    digits = "".join(map(str, numerals))
    exponent = Decimal(repr(value)).adjusted() if value else 0
    if -4 <= exponent < _GO_EXPONENT:
        return f"{Decimal(repr(value)).normalize():f}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{'-' if sign else ''}{digits[0]}{fraction}e{exponent:+03d}"


def read(node: Node | None, path: Path, report: Report, prefix: str = "") -> list[Macro]:
    """The macros of a `macros:` section in order, unfit ones reported and left out.

    `prefix` goes before each message, e.g. `model m: `.
    """
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return []
    if not isinstance(node, Map):
        report.error(path, "must be a mapping of macro names to values")
        return []
    macros: list[Macro] = []
    for name, entry in node.entries.items():
        at = (*path, name)
        report.lines[at] = entry.line
        problem = _problem(name, entry.node)
        if problem:
            report.error(at, prefix + problem)
        elif isinstance(entry.node, Scalar):
            macros.append((name, entry.node.value))
    return macros


def _problem(name: str, node: Node) -> str | None:
    if len(name) > MAX_NAME:
        return f"macro name '{name}' exceeds the maximum length of {MAX_NAME} characters"
    if not _NAME.fullmatch(name):
        return f"macro name '{name}' contains invalid characters; use letters, digits, '_' and '-'"
    if name in RESERVED:
        return f"macro name '{name}' is reserved; choose another"
    if not isinstance(node, Scalar) or node.value is None:
        got = {Map: "a mapping", Seq: "a list"}.get(type(node), "nothing")
        return f"macro '{name}' must be a scalar type (text, a number, true or false), got {got}"
    if isinstance(node.value, str) and f"${{{name}}}" in node.value:
        return f"macro '{name}' contains self-reference; a macro may use only macros declared before it"
    return None


def merge(globals_: Sequence[Macro], own: Sequence[Macro], model_id: str) -> list[Macro]:
    """The macros a model sees, in order: `MODEL_ID`, the global ones (overridden in place), its own."""
    mine = dict(own)
    shared = [(name, mine.pop(name, value)) for name, value in globals_]
    return [("MODEL_ID", model_id), *shared, *((n, v) for n, v in own if n in mine)]


def expand(text: str, macros: Sequence[Macro]) -> ScalarValue:
    """`text` with the macros put in, the last declared first. Raises TooLong."""
    if "${" not in text:
        return text
    for name, value in reversed(macros):
        slug = f"${{{name}}}"
        if text == slug:
            if not isinstance(value, str):
                return value
            text = value
        elif slug in text:
            new = as_text(value)
            if len(text) + text.count(slug) * (len(new) - len(slug)) > MAX_TEXT:
                raise TooLong(name)
            text = text.replace(slug, new)
    return text


def substitute(node: Node, macros: Sequence[Macro], path: Path, report: Report) -> Node:
    """A copy of the tree with the macros put into its values and into the keys below it."""
    if isinstance(node, Seq):
        items = tuple(substitute(n, macros, (*path, i), report) for i, n in enumerate(node.items))
        return Seq(items, node.line)
    if isinstance(node, Map):
        entries: dict[str, Entry] = {}
        for key, entry in node.entries.items():
            name = as_text(_expand(key, macros, path, report))
            if name in entries:
                lines = report.both(entries[name].line, entry.line)
                report.error((*path, name), f"two keys become {name!r}, on {lines}; keep one", entry.line)
            entries[name] = Entry(entry.line, substitute(entry.node, macros, (*path, key), report))
        return Map(entries, node.line)
    if not isinstance(node.value, str) or "${" not in node.value:
        return node
    value = _expand(node.value, macros, path, report)
    if value == node.value:
        return node
    return Scalar(value, as_text(value), node.line, node.literal)


def _expand(text: str, macros: Sequence[Macro], path: Path, report: Report) -> ScalarValue:
    try:
        return expand(text, macros)
    except TooLong as error:
        report.error(path, f"macro '{error}' makes the value longer than {MAX_TEXT} characters")
        return ""


def check_unresolved(
    node: Node, path: Path, report: Report, *, name: str, known: Sequence[Macro], allowed: tuple[str, ...] = ()
) -> None:
    """Report every macro that is still in the tree; `name` is the value's name in messages."""
    for scalar, text, at, where in _texts(node, path, name):
        seen: set[str] = set(allowed)
        for match in PATTERN.finditer(text):
            if match[1] not in seen:
                seen.add(match[1])
                line = scalar.line + 1 + text.count("\n", 0, match.start()) if scalar and scalar.literal else None
                hint = _hint(match[1], known)
                report.error(at, f"unknown macro '${{{match[1]}}}' found in {where}{hint}", line)
        for match in env.LOOKALIKE.finditer(text):
            exact = env.PATTERN.fullmatch(match[0])
            if exact:
                report.error(at, env.not_set(exact[1]))
            else:
                report.warn(at, f"{match[0]} is left as it is; an environment variable is written ${{env.NAME}}")


def _texts(node: Node, path: Path, name: str) -> Iterator[tuple[Scalar | None, str, Path, str]]:
    if isinstance(node, Scalar):
        if isinstance(node.value, str) and "${" in node.value:
            yield node, node.value, path, name
    elif isinstance(node, Seq):
        for i, item in enumerate(node.items):
            yield from _texts(item, (*path, i), f"{name}[{i}]")
    else:
        for key, entry in node.entries.items():
            if "${" in key:
                yield None, key, (*path, key), f"a key of {name}"
            yield from _texts(entry.node, (*path, key), f"{name}.{key}")


def _hint(name: str, known: Sequence[Macro]) -> str:
    if name == "PID":
        return "; ${PID} is only available in cmdStop"
    if name == "PORT":
        return "; ${PORT} is only available in a model whose cmd uses it"
    if name == "MODEL_ID":
        return "; ${MODEL_ID} is only available inside a model"
    names = [n for n, _ in known]
    if name in names:
        return f"; '{name}' is declared after the macro that uses it, declare it before"
    close = nearest(name, names)
    return f"; did you mean ${{{close}}}?" if close else "; declare it under macros"
