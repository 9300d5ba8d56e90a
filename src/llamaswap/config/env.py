"""`${env.NAME}`: the process environment's values, put into the text before it is read as YAML.

Being text, a value may give a key its type (`startPort: ${env.PORT}`) or even a list. Inside quotes it
is escaped as those quotes need, so that it arrives as it is. YAML comments are left alone.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from llamaswap.config import tree
from llamaswap.config.report import Path, Report

PATTERN = re.compile(r"\$\{env\.([a-zA-Z_][a-zA-Z0-9_]*)\}")
LOOKALIKE = re.compile(r"\$\{env\.[^}\n]*\}")


def not_set(name: str) -> str:
    return f"environment variable '{name}' is not set; set it before starting, or remove ${{env.{name}}}"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A variable that cannot be put in; `token` stands in its place in the text."""

    token: str
    message: str
    line: int


def substitute(text: str, environ: Mapping[str, str]) -> tuple[str, list[Unfit]]:
    """`text` with every `${env.NAME}` outside comments replaced, and what could not be.

    The number and place of line ends stay as they are.
    """
    matches = list(PATTERN.finditer(text))
    if not matches:
        return text, []
    # A word of the same length in its place parses wherever a value may stand, flow lists included.
    blank = PATTERN.sub(lambda m: "e" * len(m[0]), text)
    starts, ends, styles, parsed_to = _scalars(blank)
    out: list[str] = []
    unfit: list[Unfit] = []
    done = 0
    for match in matches:
        at, name = match.start(), match[1]
        before = text[text.rfind("\n", 0, at) + 1 : at]
        style = ""
        if at < parsed_to:
            i = bisect.bisect_right(starts, at) - 1
            if i < 0 or at >= ends[i]:
                continue  # in a comment
            style = styles[i]
        elif re.search(r"(^|\s)#", before):
            continue  # behind a syntax error, which will be reported
        value = environ.get(name)
        if value is None and style == "|" and before.lstrip().startswith("#"):
            continue  # a comment of a command, which is dropped; anything else is reported later
        problem = not_set(name) if value is None else _problem(name, value)
        if value is None or problem:
            token = f"unset{len(unfit)}{name}"
            unfit.append(Unfit(token, problem, text.count("\n", 0, at) + 1))
            value = token
        elif style == '"':
            value = value.replace("\\", "\\\\").replace('"', '\\"')
        elif style == "'":
            value = value.replace("'", "''")
        out += (text[done:at], value)
        done = match.end()
    return "".join(out) + text[done:], unfit


def report_unfit(unfit: list[Unfit], root: tree.Node | None, report: Report) -> None:
    """Report each at the key it stands in, and let nothing else be said about its line."""
    places = {u.token: path for path, text in _texts(root, ()) for u in unfit if u.token in text} if root else {}
    for u in unfit:
        report.error(places.get(u.token, ()), u.message, u.line)
    report.tainted.update(u.line for u in unfit)


def _texts(node: tree.Node, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(node, tree.Scalar):
        yield path, node.text
    elif isinstance(node, tree.Seq):
        for i, item in enumerate(node.items):
            yield from _texts(item, (*path, i))
    else:
        for name, entry in node.entries.items():
            yield path, name
            yield from _texts(entry.node, (*path, name))


def _problem(name: str, value: str) -> str:
    if any(c in value for c in "\n\r\0"):
        return f"environment variable '{name}' contains newlines or null bytes; its value must be one line"
    if tree.unprintable(value):
        return f"environment variable '{name}' contains control characters; its value must be plain text"
    return ""


def _scalars(text: str) -> tuple[list[int], list[int], list[str], int]:
    """Start, end and quoting of every scalar, and how far the text could be parsed."""
    starts: list[int] = []
    ends: list[int] = []
    styles: list[str] = []
    try:
        for event in tree.events(text):
            start, end = event.start_mark, event.end_mark
            if isinstance(event, yaml.ScalarEvent) and start and end and end.index > start.index:
                starts.append(start.index)
                ends.append(end.index)
                styles.append(event.style or "")
    except (yaml.YAMLError, UnicodeError):
        return starts, ends, styles, ends[-1] if ends else 0
    return starts, ends, styles, len(text)
