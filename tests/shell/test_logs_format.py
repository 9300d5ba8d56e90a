"""The fifteen time formats, against what Go prints for the same moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from llamaswap.observe.logformat import TIME_FORMATS, format_line, time_format

# 2026-03-07 16:05:09.012345600 in New York, the time zone abbreviation of which is EST then.
NS = 1_772_917_509_012_345_600

GO = {
    "ansic": "Sat Mar  7 16:05:09 2026",
    "unixdate": "Sat Mar  7 16:05:09 EST 2026",
    "rubydate": "Sat Mar 07 16:05:09 -0500 2026",
    "rfc822": "07 Mar 26 16:05 EST",
    "rfc822z": "07 Mar 26 16:05 -0500",
    "rfc850": "Saturday, 07-Mar-26 16:05:09 EST",
    "rfc1123": "Sat, 07 Mar 2026 16:05:09 EST",
    "rfc1123z": "Sat, 07 Mar 2026 16:05:09 -0500",
    "rfc3339": "2026-03-07T16:05:09-05:00",
    "rfc3339nano": "2026-03-07T16:05:09.0123456-05:00",
    "kitchen": "4:05PM",
    "stamp": "Mar  7 16:05:09",
    "stampmilli": "Mar  7 16:05:09.012",
    "stampmicro": "Mar  7 16:05:09.012345",
    "stampnano": "Mar  7 16:05:09.012345600",
}


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield monkeypatch
    monkeypatch.undo()
    time.tzset()


def test_all_names_are_there() -> None:
    assert set(TIME_FORMATS) == set(GO)


@pytest.mark.parametrize("name", sorted(GO))
def test_as_go_prints_it(zone: pytest.MonkeyPatch, name: str) -> None:
    layout = time_format(f" {name.upper()} ")
    assert layout is not None
    assert layout(NS) == GO[name]
    assert format_line(30, "m", NS, layout) == f"{GO[name]} [WARN] m\n".encode()


def test_utc_and_whole_seconds(zone: pytest.MonkeyPatch) -> None:
    zone.setenv("TZ", "UTC0")
    time.tzset()
    for name in ("rfc3339", "rfc3339nano"):
        layout = time_format(name)
        assert layout is not None
        assert layout(NS // 10**9 * 10**9) == "2026-03-07T21:05:09Z"


def test_midnight_and_noon(zone: pytest.MonkeyPatch) -> None:
    kitchen = time_format("kitchen")
    assert kitchen is not None
    start = NS - (16 * 3600 + 5 * 60 + 9) * 10**9
    assert kitchen(start) == "12:00AM"
    assert kitchen(start + 12 * 3600 * 10**9) == "12:00PM"


@pytest.mark.parametrize("name", ["", "rfc9999", "2006"])
def test_other_names_mean_none(name: str) -> None:
    assert time_format(name) is None
    assert format_line(20, "m", NS, None) == b"[INFO] m\n"
