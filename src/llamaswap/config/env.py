"""`${env.NAME}`: the process environment's values, put into the text before it is read as YAML.

Being text, a value may give a key its type (`startPort: ${env.PORT}`) or even a list. Inside quotes it
is escaped as those quotes need, so that it arrives as it is. YAML comments are left alone.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping

import yaml

from llamaswap.config import tree
from llamaswap.config.report import Report

PATTERN = re.compile(r"\$\{env\.([a-zA-Z_][a-zA-Z0-9_]*)\}")
LOOKALIKE = re.compile(r"\$\{env\.[^}\n]*\}")


def not_set(name: str) -> str:
    return f"environment variable '{name}' is not set; set it before starting, or remove ${{env.{name}}}"


def substitute(text: str, environ: Mapping[str, str], report: Report) -> str:
    """`text` with every `${env.NAME}` outside comments replaced; what is unset or unfit is reported.

    The number and place of line ends stay as they are.
    """
    matches = list(PATTERN.finditer(text))
    if not matches:
        return text
    # A word of the same length in its place parses wherever a value may stand, flow lists included.
    blank = PATTERN.sub(lambda m: "e" * len(m[0]), text)
    starts, ends, styles, parsed_to = _scalars(blank)
    out: list[str] = []
    done = 0
    unfit: set[int] = set()
    for match in matches:
        at = match.start()
        style = ""
        if at < parsed_to:
            i = bisect.bisect_right(starts, at) - 1
            if i < 0 or at >= ends[i]:
                continue  # in a comment
            style = styles[i]
        elif re.search(r"(^|\s)#", text[text.rfind("\n", 0, at) + 1 : at]):
            continue  # behind a syntax error; it will be reported
        value = _value(match[1], environ, text, at, style, report, unfit)
        if value is not None:
            out += (text[done:at], value)
            done = match.end()
    report.tainted |= unfit
    return "".join(out) + text[done:]


def _value(
    name: str, environ: Mapping[str, str], text: str, at: int, style: str, report: Report, unfit: set[int]
) -> str | None:
    line_start = text.rfind("\n", 0, at) + 1
    line = text.count("\n", 0, at) + 1
    value = environ.get(name)
    if value is None:
        if style == "|" and text[line_start:at].lstrip().startswith("#"):
            return None  # a comment of a command, which is dropped; anything else is reported later
        report.error((), not_set(name), line)
        unfit.add(line)
        return name
    bad = next((c for c in "\n\r\0" if c in value), None)
    if bad is not None or tree.unprintable(value):
        what = "newlines or null bytes" if bad is not None else "control characters"
        report.error((), f"environment variable '{name}' contains {what}; its value must be one line", line)
        unfit.add(line)
        return name
    if style == '"':
        return value.replace("\\", "\\\\").replace('"', '\\"')
    return value.replace("'", "''") if style == "'" else value


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
    except yaml.YAMLError:
        return starts, ends, styles, ends[-1] if ends else 0
    return starts, ends, styles, len(text)
