"""YAML text to a tree whose values know their line.

Scalars are resolved as YAML 1.2's core schema does (`on`, `no`, `22:22` and dates are text), duplicate
keys are refused, anchors and merge keys (`<<`) work as in Go's yaml.v3, whose files we must read.
The tree is built from parse events, so that a hostile file (deep nesting, aliases of aliases of
aliases) is refused before it costs time or memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from llamaswap.config.report import Path, Report

MAX_DEPTH = 100  # levels of nesting; real files have about ten
MAX_WEIGHT = 200_000  # values after aliases are followed; a thousand models have about 50 000
_WEIGHT_CHARS = 64  # so much text weighs as much as one value

ScalarValue = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    value: ScalarValue
    text: str
    """As written (after YAML's escapes), which is what a key that takes text gets."""
    line: int
    literal: bool = False
    """A `|` block: line n of the text is line `line + n` of the file."""
    weight: int = 1


class Entry(NamedTuple):
    line: int
    """Of the key."""
    node: Node


@dataclass(frozen=True, slots=True)
class Map:
    entries: dict[str, Entry]
    line: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Seq:
    items: tuple[Node, ...]
    line: int
    weight: int = 1


Node = Scalar | Map | Seq

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = {".nan", ".NaN", ".NAN"}
_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_MAX_HEX = 1000  # digits; a number of more could not be written down as a decimal again
_TAG = "tag:yaml.org,2002:"


def resolve(text: str) -> ScalarValue:
    """The value of a plain scalar by YAML 1.2's core schema (section 10.3.2)."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    try:
        if _INT.fullmatch(text):
            if text[:2] not in ("0o", "0x"):
                return int(text)
            return int(text, 0) if len(text) <= _MAX_HEX else text
    except ValueError:  # more digits than Python converts
        return text
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INF.fullmatch(text):
        return float("-inf") if text[0] == "-" else float("inf")
    return float("nan") if text in _NAN else text


def unprintable(text: str) -> re.Match[str] | None:
    """The first character that YAML (1.2, section 5.1) does not allow in a file."""
    return _UNPRINTABLE.search(text)


class _Refused(Exception):
    def __init__(self, line: int, message: str, path: Path = ()) -> None:
        super().__init__(message)
        self.line, self.message, self.path = line, message, path


def events(text: str) -> Iterator[Any]:
    """libyaml's events (the scanner that Go's yaml.v3 is a port of), or PyYAML's own without it."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return iter(yaml.parse(text, Loader=loader))


def parse(text: str, report: Report) -> Node | None:
    """The tree of the first document; None, with problems reported, where there is none to build.

    `text` has `\\n` line ends only. An empty document is a null scalar.
    """
    bad = unprintable(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        report.error((), f"character U+{ord(bad[0]):04X} is not allowed in YAML; remove it", line)
        return None
    try:
        return _Composer(text, report).document()
    except _Refused as refused:
        report.error(refused.path, refused.message, refused.line)
    except yaml.YAMLError as error:
        at, message = explain(error, text, report)
        report.error((), message, at)
    return None


def explain(error: yaml.YAMLError, text: str, report: Report) -> tuple[int | None, str]:
    """(line, message) of a syntax error, in words that help."""
    context_mark = getattr(error, "context_mark", None)
    mark = getattr(error, "problem_mark", None) or context_mark
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    line: int | None = mark.line + 1 if mark else None
    began: int | None = context_mark.line + 1 if context_mark else None
    message = f"not valid YAML: {problem}"
    if context:
        message += f" {context}"
        if began and began != line:
            message += f" that began on line {report.in_file(began)[1]}"
    lines = text.split("\n")
    for number in (line, began):
        if number and number <= len(lines) and re.match(r"[ ]*\t", lines[number - 1]):
            return number, f"{message}; the line is indented with a tab, YAML takes only spaces"
    if "mapping values are not allowed" in problem:
        message += "; check the indentation, and quote a value that contains ': '"
    elif "could not find expected ':'" in problem:
        message += "; a key needs a colon and a space after it"
    return line, message


@dataclass
class _Composer:
    text: str
    report: Report
    anchors: dict[str, Node] = field(default_factory=dict)
    open_anchors: set[str] = field(default_factory=set)
    merged: int = 0

    def document(self) -> Node | None:
        self.stream = events(self.text)
        next(self.stream)  # stream start
        start = next(self.stream)
        if isinstance(start, yaml.StreamEndEvent):
            return Scalar(None, "", 1)
        node = self.node(next(self.stream), (), 0)
        next(self.stream)  # document end
        rest = next(self.stream)
        if not isinstance(rest, yaml.StreamEndEvent):
            line = rest.start_mark.line + 1
            self.report.warn((), "only the first YAML document of the file is read; the rest is ignored", line)
        return node

    def node(self, event: Any, path: Path, depth: int) -> Node:
        line = event.start_mark.line + 1
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested more than {MAX_DEPTH} levels deep", path)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, line, path)
        anchor = event.anchor
        if anchor:
            self.open_anchors.add(anchor)
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, line, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(line, path, depth)
        else:
            node = self.mapping(line, path, depth)
        if anchor:
            self.open_anchors.discard(anchor)
            self.anchors[anchor] = node
        if node.weight > MAX_WEIGHT:
            raise _Refused(line, "too large: its aliases (*name) unfold to more than this program reads", path)
        return node

    def alias(self, name: str | None, line: int, path: Path) -> Node:
        name = name or ""
        if name in self.open_anchors:
            raise _Refused(line, f"alias *{name} stands inside its own anchor &{name}", path)
        if name not in self.anchors:
            # Not its name: it may be a secret that nobody quoted.
            raise _Refused(line, "unknown anchor: no &name before this *name; quote a text that begins with *", path)
        return self.anchors[name]

    def scalar(self, event: Any, line: int, path: Path) -> Scalar:
        text: str = event.value
        value: ScalarValue = resolve(text) if event.implicit[0] and event.tag != "!" else text
        tag = event.tag
        if tag and tag.startswith(_TAG) and not event.implicit[0]:
            value = self.tagged(tag.removeprefix(_TAG), text, line, path)
        return Scalar(value, text, line, event.style == "|", 1 + len(text) // _WEIGHT_CHARS)

    def tagged(self, tag: str, text: str, line: int, path: Path) -> ScalarValue:
        value = resolve(text)
        if tag in ("str", "binary", "timestamp"):
            return text
        if tag == "float" and type(value) is int:
            return float(value)
        fits = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(tag)
        if fits is None:
            return text
        if type(value) is not fits:
            raise _Refused(line, f"the tag !!{tag} does not fit the value {text!r}", path)
        return value

    def sequence(self, line: int, path: Path, depth: int) -> Seq:
        items: list[Node] = []
        while not isinstance(event := next(self.stream), yaml.SequenceEndEvent):
            items.append(self.node(event, (*path, len(items)), depth + 1))
        return Seq(tuple(items), line, 1 + sum(item.weight for item in items))

    def mapping(self, line: int, path: Path, depth: int) -> Map:
        own: dict[str, Entry] = {}
        merges: list[tuple[int, Node]] = []
        merge_line = 0
        while not isinstance(event := next(self.stream), yaml.MappingEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style
            key = self.node(event, path, depth + 1)
            key_line = event.start_mark.line + 1
            if not isinstance(key, Scalar):
                raise _Refused(key_line, "a key must be text, not a list or a mapping", path)
            name = key.text
            node = self.node(next(self.stream), (*path, name), depth + 1)
            if name in own or (is_merge and merge_line):
                before = merge_line if is_merge else own[name].line
                message = f"key {name!r} is given twice, on {self.report.both(before, key_line)}; keep one"
                self.report.lines[(*path, name)] = key_line
                self.report.error((*path, name), message, key_line)
            if is_merge:
                merge_line = key_line
                merges.append((key_line, node))
            else:
                own[name] = Entry(key_line, node)
        for key_line, node in merges:
            self.merge(own, node, key_line, path)
        return Map(own, line, 1 + sum(1 + entry.node.weight for entry in own.values()))

    def merge(self, into: dict[str, Entry], node: Node, line: int, path: Path) -> None:
        """`<<`: keys of the merged mappings, where the mapping itself or an earlier one has none."""
        sources = node.items if isinstance(node, Seq) else (node,)
        for source in sources:
            if not isinstance(source, Map):
                raise _Refused(line, "<< takes a mapping or a list of mappings, such as <<: *name", path)
            self.merged += 1 + len(source.entries)
            if self.merged > MAX_WEIGHT:
                raise _Refused(line, "too large: its merge keys (<<) unfold to more than this program reads", path)
            for name, entry in source.entries.items():
                into.setdefault(name, entry)
