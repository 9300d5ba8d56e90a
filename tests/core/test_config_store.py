"""The keys of what is remembered: store, metricsMaxInMemory, captureBuffer."""

from __future__ import annotations

import pytest

from llamaswap.config import loads
from llamaswap.config.diff import diff
from llamaswap.config.settings import StoreLimits
from llamaswap.errors import ConfigError


def problems(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        loads(text)
    return [(problem.line, problem.message) for problem in caught.value.problems]


def test_without_keys_it_is_kept_in_memory() -> None:
    config = loads("")
    assert (config.store_path, config.metrics_max_in_memory, config.capture_buffer_bytes) == ("", 1000, 5 << 20)
    assert config.store_limits(in_memory=True) == StoreLimits(keep_days=0, keep_activity=1000)
    assert loads("metricsMaxInMemory: 7").store_limits(in_memory=True).keep_activity == 7


@pytest.mark.parametrize("text", ["metricsMaxInMemory: 0", "metricsMaxInMemory: -5", "metricsMaxInMemory:"])
def test_as_many_as_usual(text: str) -> None:
    """llama-swap takes anything below one for its default."""
    assert loads(text).metrics_max_in_memory == 1000


def test_a_file_has_limits_of_its_own() -> None:
    config = loads("store: {path: ' x.db '}\nmetricsMaxInMemory: 7")
    assert config.store_path == "x.db"
    assert config.store_limits(in_memory=False) == StoreLimits(90, 1_000_000, 100, 100_000, 100_000)
    text = "store: {path: x, keepDays: 0.5, keepActivity: 0, keepLoads: 3, keepStates: 4, keepLogLines: 5}"
    assert loads(text).store_limits(in_memory=False) == StoreLimits(0.5, 0, 3, 4, 5)


def test_macros_in_the_path() -> None:
    assert loads("macros: {d: /srv}\nstore: {path: '${d}/x.db'}").store_path == "/srv/x.db"


@pytest.mark.parametrize("text", ["store:", "store: {}", "store: {path: }"])
def test_no_path_is_no_mistake(text: str) -> None:
    config = loads(text)
    assert config.store_path == "" and config.warnings == ()


def test_limits_without_a_file_are_a_warning() -> None:
    [warning] = loads("store:\n  keepDays: 5").warnings
    assert warning.line == 2 and "no effect without store.path" in str(warning)


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("store:\n  path: ''", 2, "store.path must not be empty"),
        ("store:\n  path: '  '", 2, "store.path must not be empty"),
        ("store:\n  path: [a]", 2, "must be text"),
        ("store: x.db", 1, "must be a mapping"),
        ("store: {path: x, keepDays: -1}", 1, "must be a number from 0 on"),
        ("store: {path: x, keepActivity: -1}", 1, "keepActivity must be >= 0"),
        ("store: {path: x, keepLoads: 1.5}", 1, "must be a whole number"),
        ("captureBuffer: -1", 1, "must be a number from 0 on, got -1"),
        ("captureBuffer: much", 1, "must be a number from 0 on"),
        ("metricsMaxInMemory: many", 1, "must be a whole number"),
    ],
)
def test_mistakes(text: str, line: int, phrase: str) -> None:
    [(found, message)] = problems(text)
    assert found == line
    assert phrase in message


def test_captures() -> None:
    assert loads("captureBuffer: 0").capture_buffer_bytes == 0
    assert loads("captureBuffer: 1.5").capture_buffer_bytes == 3 << 19


def test_only_the_path_needs_a_restart() -> None:
    old, new = (
        loads("store: {path: a}"),
        loads("store: {path: b, keepDays: 1}\ncaptureBuffer: 1\nmetricsMaxInMemory: 2"),
    )
    found = diff(old, new)
    assert found.settings == ("captureBuffer", "metricsMaxInMemory", "store", "store.path")
    assert found.restart_needed == ("store.path",)
    # Another reload does not change what is in force; to take it back does.
    assert diff(new, new, old).restart_needed == ("store.path",)
    assert diff(new, old, old).restart_needed == ()
