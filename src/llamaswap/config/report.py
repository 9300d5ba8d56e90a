"""Collecting findings: every problem of a file at once, each with its line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from llamaswap.errors import Problem

Path = tuple[str | int, ...]
"""Where a value sits: keys and list indices from the top of the file."""


def dotted(path: Path) -> str:
    """A path as people write it: `models.qwen.aliases[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, letter case ignored."""
    by_fold = {k.casefold(): k for k in known}
    matches = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[matches[0]] if matches else None


class Report:
    """Problems and warnings of one file, and the lines its keys are on."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        """Line (1-based) of every key that was read."""
        self.tainted: set[int] = set()
        """Lines with a reported unset environment variable: what else seems wrong there follows from it."""
        self._failed: set[Path] = set()
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def line_of(self, path: Path) -> int | None:
        """The line of the key, or of the nearest key around it that has one."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def error(self, path: Path, message: str, line: int | None = None) -> None:
        problem = self._problem(path, message, line)
        self._failed.add(path)
        if problem.line not in self.tainted and problem not in self._problems:
            self._problems.append(problem)

    def warn(self, path: Path, message: str, line: int | None = None) -> None:
        problem = self._problem(path, message, line)
        if problem.line not in self.tainted and problem not in self._warnings:
            self._warnings.append(problem)

    def failed(self, path: Path) -> bool:
        """Whether a problem was reported for exactly this key, so that nothing should be concluded from it."""
        return path in self._failed

    def problems(self) -> list[Problem]:
        """All errors in the order of the file."""
        return sorted(self._problems, key=lambda p: p.line or 0)

    def warnings(self) -> list[Problem]:
        return sorted(self._warnings, key=lambda p: p.line or 0)

    def _problem(self, path: Path, message: str, line: int | None) -> Problem:
        key = dotted(path)
        if key and not message.startswith((key, f"{dotted(path[:-1])}:", f"{dotted(path[:-1])} ")):
            message = f"{key}: {message}"
        return Problem(message, key=key, file=self.file, line=line or self.line_of(path))
