"""How a line of the proxy log looks: `[INFO] message`, after a time if `logTimeFormat` names one.

The names and layouts are those of Go's `time` package, as llama-swap users write them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

TimeFormat = Callable[[int], str]
"""Nanoseconds since the epoch -> text in local time."""

_Moment = tuple[time.struct_time, int]


def _hms(t: time.struct_time) -> str:
    return f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"


def _day(t: time.struct_time) -> str:
    return _DAYS[t.tm_wday][:3]


def _month(t: time.struct_time) -> str:
    return _MONTHS[t.tm_mon - 1]


def _offset(t: time.struct_time, colon: str = "") -> str:
    sign = "-" if t.tm_gmtoff < 0 else "+"
    minutes = abs(t.tm_gmtoff) // 60
    return f"{sign}{minutes // 60:02d}{colon}{minutes % 60:02d}"


def _iso_zone(t: time.struct_time) -> str:
    return _offset(t, ":") if t.tm_gmtoff else "Z"


def _stamp(t: time.struct_time) -> str:
    return f"{_month(t)} {t.tm_mday:2d} {_hms(t)}"


def _date(t: time.struct_time) -> str:
    return f"{t.tm_mday:02d} {_month(t)} {t.tm_year}"


def _short_date(t: time.struct_time) -> str:
    return f"{t.tm_mday:02d} {_month(t)} {t.tm_year % 100:02d} {t.tm_hour:02d}:{t.tm_min:02d}"


def _kitchen(t: time.struct_time) -> str:
    return f"{t.tm_hour % 12 or 12}:{t.tm_min:02d}{'PM' if t.tm_hour >= 12 else 'AM'}"


def _iso(t: time.struct_time) -> str:
    return f"{t.tm_year:04d}-{t.tm_mon:02d}-{t.tm_mday:02d}T{_hms(t)}"


def _iso_nano(t: time.struct_time, ns: int) -> str:
    fraction = f"{ns:09d}".rstrip("0")
    return f"{_iso(t)}{'.' if fraction else ''}{fraction}{_iso_zone(t)}"


_LAYOUTS: dict[str, Callable[[time.struct_time, int], str]] = {
    "ansic": lambda t, _: f"{_day(t)} {_stamp(t)} {t.tm_year}",
    "unixdate": lambda t, _: f"{_day(t)} {_stamp(t)} {t.tm_zone} {t.tm_year}",
    "rubydate": lambda t, _: f"{_day(t)} {_month(t)} {t.tm_mday:02d} {_hms(t)} {_offset(t)} {t.tm_year}",
    "rfc822": lambda t, _: f"{_short_date(t)} {t.tm_zone}",
    "rfc822z": lambda t, _: f"{_short_date(t)} {_offset(t)}",
    "rfc850": lambda t, _: (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d}-{_month(t)}-{t.tm_year % 100:02d} {_hms(t)} {t.tm_zone}"
    ),
    "rfc1123": lambda t, _: f"{_day(t)}, {_date(t)} {_hms(t)} {t.tm_zone}",
    "rfc1123z": lambda t, _: f"{_day(t)}, {_date(t)} {_hms(t)} {_offset(t)}",
    "rfc3339": lambda t, _: f"{_iso(t)}{_iso_zone(t)}",
    "rfc3339nano": _iso_nano,
    "kitchen": lambda t, _: _kitchen(t),
    "stamp": lambda t, _: _stamp(t),
    "stampmilli": lambda t, ns: f"{_stamp(t)}.{ns // 1_000_000:03d}",
    "stampmicro": lambda t, ns: f"{_stamp(t)}.{ns // 1_000:06d}",
    "stampnano": lambda t, ns: f"{_stamp(t)}.{ns:09d}",
}

TIME_FORMATS = tuple(_LAYOUTS)


def time_format(name: str) -> TimeFormat | None:
    """The format called `name` (case and blanks around it ignored), or None for any other name."""
    layout = _LAYOUTS.get(name.strip().lower())
    if layout is None:
        return None

    def text(ns: int) -> str:
        seconds, rest = divmod(ns, 1_000_000_000)
        return layout(time.localtime(seconds), rest)

    return text


_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def level_number(name: str) -> int:
    """`logLevel` as stdlib's number; an unknown name means info."""
    return _LEVELS.get(name.strip().lower(), logging.INFO)


def level_name(number: int) -> str:
    if number >= logging.ERROR:
        return "ERROR"
    if number >= logging.WARNING:
        return "WARN"
    return "INFO" if number >= logging.INFO else "DEBUG"


# A message may quote a client (a model name, a path): it must not steer the reader's terminal, and
# a line it brings along must not pass for one of ours, so continuation lines are indented.
_CONTROLS = {c: f"\\x{c:02x}" for c in (*range(0x20), 0x7F, *range(0x80, 0xA0)) if c != 0x09}
_CONTROLS[0x0A] = "\n    "


def format_line(level: int, message: str, ns: int, when: TimeFormat | None) -> bytes:
    """One log line, newline included. Never raises, whatever the text holds."""
    if not message.isprintable():
        message = message.rstrip("\n").translate(_CONTROLS)
    prefix = f"{when(ns)} " if when is not None else ""
    return f"{prefix}[{level_name(level)}] {message}\n".encode("utf-8", "backslashreplace")
