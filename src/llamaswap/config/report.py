"""Collecting findings: every problem of a file at once, each with its line and key."""

from __future__ import annotations

import bisect
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
    """Problems and warnings of one configuration, and the lines its keys are on.

    Where several files make it up, their lines are counted on, as if they were one file; what is
    reported names the file and the line in it.
    """

    def __init__(self, file: str) -> None:
        self._files = [file]
        self._firsts = [1]
        """The lines that each file begins with."""
        self.lines: dict[Path, int] = {}
        """Line (1-based) of every key that was read."""
        self.tainted: set[int] = set()
        """Lines with a reported unset environment variable: what else seems wrong there follows from it."""
        self._failed: set[Path] = set()
        self._problems: list[tuple[int, Problem]] = []
        self._warnings: list[tuple[int, Problem]] = []

    def next_file(self, file: str, first_line: int) -> None:
        """From this line on it is another file; call it before anything in it is reported."""
        self._files.append(file)
        self._firsts.append(first_line)

    def in_file(self, line: int) -> tuple[str, int]:
        """The file that a line is in, and its number there."""
        i = max(0, bisect.bisect_right(self._firsts, line) - 1)
        return self._files[i], line - self._firsts[i] + 1

    def both(self, first: int, second: int) -> str:
        """Two lines, for people; their files as well, where there is more than one."""
        if len(self._files) == 1:
            return f"lines {first} and {second}"
        return f"{self.place(first)} and {self.place(second)}"

    def place(self, line: int) -> str:
        """`file:line`, for people."""
        file, number = self.in_file(line)
        return f"{file}:{number}"

    def line_of(self, path: Path) -> int | None:
        """The line of the key, or of the nearest key around it that has one."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def error(self, path: Path, message: str, line: int | None = None) -> None:
        self._failed.add(path)
        self._add(self._problems, path, message, line)

    def warn(self, path: Path, message: str, line: int | None = None) -> None:
        self._add(self._warnings, path, message, line)

    def failed(self, path: Path) -> bool:
        """Whether a problem was reported for exactly this key, so that nothing should be concluded from it."""
        return path in self._failed

    def problems(self) -> list[Problem]:
        """All errors in the order of the files."""
        return [problem for _, problem in sorted(self._problems, key=lambda found: found[0])]

    def warnings(self) -> list[Problem]:
        return [problem for _, problem in sorted(self._warnings, key=lambda found: found[0])]

    def _add(self, to: list[tuple[int, Problem]], path: Path, message: str, line: int | None) -> None:
        line = line or self.line_of(path)
        if line in self.tainted:
            return
        key = dotted(path)
        if key and not message.startswith((key, f"{dotted(path[:-1])}:", f"{dotted(path[:-1])} ")):
            message = f"{key}: {message}"
        file, number = self.in_file(line) if line else (self._files[0], None)
        found = (line or 0, Problem(message, key=key, file=file, line=number))
        if found not in to:
            to.append(found)
