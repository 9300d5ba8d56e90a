"""An hour of samples as JSON, and what is asked of it."""

from __future__ import annotations

import json
from typing import Any

from llamaswap.observe.history import MARKS_KEPT, History, rfc3339

START = 1_785_585_600.0  # 2026-08-01T12:00:00Z


def asked(history: History, after: float | None = None) -> dict[str, Any]:
    return dict(json.loads(history.answer(after, {"enabled": True})))


def test_nothing_yet() -> None:
    assert asked(History("a", "b")) == {"enabled": True, "a": [], "b": [], "marks": []}
    assert History("a").answer(None, {}) == b'{"a":[],"marks":[]}'


def test_each_kind_has_its_list_and_every_record_its_time() -> None:
    history = History("a", "b")
    history.add(START, [{"x": 1}], [])
    history.add(START + 5.2504, [{"x": 2}], iter([{"y": 1}, {"y": 2}]))
    assert asked(history)["a"] == [
        {"timestamp": "2026-08-01T12:00:00.000Z", "x": 1},
        {"timestamp": "2026-08-01T12:00:05.250Z", "x": 2},
    ]
    assert [record["y"] for record in asked(history)["b"]] == [1, 2]


def test_after_a_timestamp_comes_what_is_newer() -> None:
    history = History("a")
    for n in range(4):
        history.add(START + n + 0.12345, [{"n": n}])
        history.mark(START + n + 0.9, {"m": n})
    seen = asked(history)["a"][1]["timestamp"]
    assert seen == "2026-08-01T12:00:01.123Z"
    newer = asked(history, START + 1.123)
    assert [record["n"] for record in newer["a"]] == [2, 3]
    assert [record["m"] for record in newer["marks"]] == [1, 2, 3]
    assert asked(history, START + 99) == {"enabled": True, "a": [], "marks": []}


def test_an_hour_is_kept() -> None:
    history = History("a")
    history.mark(START, {})
    for n in range(0, 7200, 5):
        history.add(START + n, [{}])
    assert len(history) == 721
    found = asked(history)
    assert found["a"][0]["timestamp"] == rfc3339(START + 7195 - 3600)
    assert found["marks"] == []


def test_marks_are_bounded() -> None:
    history = History("a")
    for n in range(MARKS_KEPT + 5):
        history.mark(START, {"n": n})
    assert [record["n"] for record in asked(history)["marks"]][::999] == [5, 1004]


def test_a_clock_set_back_starts_afresh() -> None:
    history = History("a")
    history.add(START + 3600, [{"n": 1}])
    history.add(START, [{"n": 2}])
    assert [record["n"] for record in asked(history)["a"]] == [2]


def test_forgetting() -> None:
    history = History("a")
    history.add(START, [{}])
    history.mark(START, {})
    history.clear()
    assert asked(history) == {"enabled": True, "a": [], "marks": []}
