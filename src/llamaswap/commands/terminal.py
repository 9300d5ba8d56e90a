"""Tables and words for people: aligned, as wide as the terminal, coloured only where that is wanted. Pure functions."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TextIO

Colour = Literal["", "red", "green", "yellow", "dim", "bold"]
_CODES = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}

LEAST_WIDTH = 8  # of a column that gives way
GAP = "  "
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Screen:
    """What is written to: `width` in columns, None where lines may be of any length (a file, a pipe)."""

    width: int | None = None
    colour: bool = False

    def paint(self, text: str, colour: Colour) -> str:
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colour and self.colour else text


def screen(stream: TextIO | None = None, environ: Mapping[str, str] = os.environ) -> Screen:
    """The screen behind `stream` (standard output). NO_COLOR (no-color.org) and TERM=dumb are honoured."""
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        return Screen()
    colour = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Screen(shutil.get_terminal_size().columns, colour)


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    right: bool = False
    """Aligned to the right: numbers."""
    gives_way: bool = False
    """May be cut short where the table is too wide."""
    wraps: bool = False
    """The last column only: what is too wide goes on below itself."""


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    colour: Colour = ""


def cell(value: Cell | str | int | None) -> Cell:
    """A value as a cell; None is a dash."""
    if isinstance(value, Cell):
        return Cell(clean(value.text), value.colour)
    return Cell("-", "dim") if value is None or value == "" else Cell(clean(str(value)))


def clean(text: str) -> str:
    """One line that cannot steer a terminal: line breaks become blanks, other control characters `?`."""
    if text.isprintable():
        return text
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in joined)


def display_width(text: str) -> int:
    """How many columns of a terminal it takes: combining marks none, East Asian wide letters and emoji two."""
    if text.isascii():
        return len(text)
    return sum(_letter_width(c) for c in text)


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in ("W", "F") else 1


def cut(text: str, width: int) -> str:
    """At most `width` columns of it; an ellipsis says that there was more."""
    if display_width(text) <= width:
        return text
    kept, used = "", 0
    for letter in text:
        used += _letter_width(letter)
        if used > width - 1:
            break
        kept += letter
    return kept + ELLIPSIS


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str | int | None]], on: Screen) -> str:
    """The lines of a table with its head, each ending in a line feed. Columns that hold nothing at all are left out."""
    cells = [[cell(value) for value in row] for row in rows]
    used = [i for i in range(len(columns)) if not rows or any(row[i] not in (None, "") for row in rows)]
    columns = [columns[i] for i in used]
    cells = [[row[i] for i in used] for row in cells]
    widths = [max(display_width(text) for text in (c.title, *(row[i].text for row in cells))) for i, c in
              enumerate(columns)]  # fmt: skip
    if on.width is not None:
        widths = _fitted(columns, widths, on.width)
    head = _line(columns, [Cell(c.title, "bold") for c in columns], widths, on)
    lines = [head, *(line for row in cells for line in _row(columns, row, widths, on))]
    return "".join(f"{line}\n" for line in lines)


def _fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Widths that fit, as far as columns give way: the widest first."""
    fitted = list(widths)
    over = sum(fitted) + len(GAP) * (len(fitted) - 1) - room
    while over > 0:
        giving = [i for i, c in enumerate(columns) if (c.gives_way or c.wraps) and fitted[i] > _least(c)]
        if not giving:
            break
        widest = max(giving, key=lambda i: fitted[i])
        fitted[widest] -= 1
        over -= 1
    return fitted


def _least(column: Column) -> int:
    return max(LEAST_WIDTH, len(column.title))


def _row(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], on: Screen) -> list[str]:
    last = row[-1]
    if not columns[-1].wraps or on.width is None or display_width(last.text) <= widths[-1]:
        return [_line(columns, row, widths, on)]
    parts = textwrap.wrap(last.text, widths[-1], break_on_hyphens=False) or [""]
    indent = " " * (sum(widths[:-1]) + len(GAP) * (len(widths) - 1))
    first = _line(columns, [*row[:-1], Cell(parts[0], last.colour)], widths, on)
    return [first, *(indent + on.paint(part, last.colour) for part in parts[1:])]


def _line(columns: Sequence[Column], row: Sequence[Cell], widths: Sequence[int], on: Screen) -> str:
    parts = []
    for i, (column, it, width) in enumerate(zip(columns, row, widths, strict=True)):
        text = cut(it.text, width) if on.width is not None else it.text
        pad = " " * (width - display_width(text))
        painted = on.paint(text, it.colour)
        last = i == len(columns) - 1
        parts.append(pad + painted if column.right else painted + ("" if last else pad))
    return GAP.join(parts)


# -- quantities


def duration(seconds: float | None) -> str:
    """`0.42s`, `3.1s`, `42s`, `4m10s`, `2h05m`, `3d04h`; empty for None."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2f}s" if seconds < 0.995 else f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return _two(whole // 60, "m", whole % 60, "s")
    if whole < 86400:
        return _two(whole // 3600, "h", whole % 3600 // 60, "m")
    return _two(whole // 86400, "d", whole % 86400 // 3600, "h")


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small:02}{small_unit}" if small else f"{large}{unit}"


def size(count: int | None) -> str:
    """Bytes in binary units: `512 B`, `1.5 MiB`, `23 GiB`; empty for None."""
    if count is None:
        return ""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1023.5:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if unit != "B" and amount < 9.95 else f"{amount:.0f} {unit}"


def moment(timestamp: str | None) -> datetime | None:
    """An RFC 3339 time as an aware one; None if there is none, or it is not one."""
    if not timestamp:
        return None
    try:
        found = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return found if found.tzinfo else None


def clock(timestamp: str | None, now: datetime) -> str:
    """A time of today as `14:03:07`, an older one with its date, in `now`'s zone."""
    found = moment(timestamp)
    if found is None:
        return timestamp or ""
    local = found.astimezone(now.tzinfo)
    return f"{local:%H:%M:%S}" if local.date() == now.date() else f"{local:%Y-%m-%d %H:%M:%S}"


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago it was."""
    found = moment(timestamp)
    return duration((now - found).total_seconds()) if found else ""
