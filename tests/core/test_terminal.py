"""Tables and quantities for people: aligned, as wide as the terminal, and unable to steer it."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.commands.terminal import (
    Cell,
    Column,
    Screen,
    age,
    clean,
    clock,
    cut,
    display_width,
    duration,
    screen,
    size,
    table,
)

PLAIN, NARROW = Screen(), Screen(30)
COLUMNS = (Column("NAME", gives_way=True), Column("N", right=True), Column("COMMAND", wraps=True))


def test_a_table() -> None:
    rows = [["qwen", 7, "run it"], ["a-longer-name", 1234, "x"]]
    assert table(COLUMNS, rows, PLAIN) == (
        "NAME              N  COMMAND\n"  # the last column is not filled up
        "qwen              7  run it\n"
        "a-longer-name  1234  x\n"
    )


def test_nothing_is_a_dash_and_a_column_of_nothing_is_left_out() -> None:
    assert table(COLUMNS, [["a", None, ""], ["b", 0, ""]], PLAIN) == "NAME  N\na     -\nb     0\n"
    assert table(COLUMNS, [], PLAIN) == "NAME  N  COMMAND\n"


def test_what_gives_way_is_cut_and_what_wraps_goes_on_below() -> None:
    told = table(COLUMNS, [["a-name-that-is-far-too-long", 1, "one two three four"]], NARROW)
    lines = told.splitlines()
    assert all(display_width(line) <= 30 for line in lines), told
    assert lines[1].startswith("a-name-th") and "…" in lines[1]
    assert [line[lines[0].index("COMMAND") :].strip() for line in lines[1:]] == ["one two three", "four"]
    assert "…" not in table(COLUMNS, [["a-name-that-is-far-too-long", 1, "one two three four"]], PLAIN)


def test_what_cannot_give_way_keeps_its_width() -> None:
    told = table((Column("A"), Column("B")), [["x" * 40, "y" * 40]], NARROW)
    assert "x" * 40 in told and "y" * 40 in told


def test_letters_that_are_two_wide_or_none() -> None:
    assert [display_width(text) for text in ("abc", "日本", "e\u0301", "👍", "a\u200bb")] == [3, 4, 1, 2, 2]
    told = table(COLUMNS, [["日本語", 1, "x"], ["abc", 22, "y"]], PLAIN).splitlines()
    assert [display_width(line[: line.rindex("  ")]) for line in told[1:]] == [10, 10]
    assert cut("日本語", 5) == "日本…" and cut("日本語", 4) == "日…" and cut("日本語", 6) == "日本語"


@given(st.text(max_size=30), st.integers(1, 30))
def test_cut_is_never_too_wide(text: str, width: int) -> None:
    assert display_width(cut(text, width)) <= width


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x07b", "x\u202ey", "\x9b2J", "\ud800"])
def test_nobody_steers_the_terminal(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable() and "?" in shown
    assert shown in table((Column("A"),), [[text]], PLAIN)
    assert shown in table((Column("A"),), [[Cell(text, "red")]], Screen(80, colour=True))


def test_lines_become_one() -> None:
    assert clean("server\n  --x\ty") == "server --x y"
    assert clean("as  it is") == "as  it is"


def test_colour_does_not_count() -> None:
    rows = [[Cell("on", "green"), 1, "x"], ["off", 22, Cell("y", "red")]]
    coloured, bare = table(COLUMNS, rows, Screen(80, colour=True)), table(COLUMNS, rows, Screen(80))
    assert "\x1b[32mon\x1b[0m" in coloured and "\x1b" not in bare
    for code in ("\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == bare


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert screen(io.StringIO()) == Screen(None, False)
    assert screen(Terminal(), {}) == Screen(77, True)
    assert screen(Terminal(), {"NO_COLOR": "1"}) == Screen(77, False)
    assert screen(Terminal(), {"NO_COLOR": ""}) == Screen(77, True)
    assert screen(Terminal(), {"TERM": "dumb"}) == Screen(77, False)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, ""), (-1, "0.00s"), (0.004, "0.00s"), (0.42, "0.42s"), (0.999, "1.0s"), (3.14, "3.1s"), (9.94, "9.9s"),
        (9.96, "10s"), (59.4, "59s"), (59.6, "1m"), (250, "4m10s"), (3599.9, "1h"), (7500, "2h05m"), (86400, "1d"),
        (273600, "3d04h"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 * 1024, "10 KiB"), (1_572_864, "1.5 MiB"),
        (1024**2 - 1, "1.0 MiB"), (23 * 1024**3, "23 GiB"), (5 * 1024**5, "5120 TiB"),
    ],
)  # fmt: skip
def test_sizes(count: int | None, told: str) -> None:
    assert size(count) == told


def test_times() -> None:
    now = datetime(2026, 8, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    assert clock("2026-08-01T12:03:07.123456789Z", now) == "14:03:07"
    assert clock("2026-07-31T22:30:00Z", now) == "00:30:00"
    assert clock("2026-07-31T21:30:00Z", now) == "2026-07-31 23:30:00"
    assert (clock(None, now), clock("yesterday", now), clock("2026-08-01T12:00:00", now)) == (
        "", "yesterday", "2026-08-01T12:00:00",
    )  # fmt: skip
    assert age("2026-08-01T12:29:30Z", now) == "30s"
    assert (age(None, now), age("x", now)) == ("", "")
    assert age("2026-08-01T12:29:30Z", now.astimezone(UTC)) == "30s"
