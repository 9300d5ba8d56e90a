"""What happens to models, and the log's warnings, reach the store; past loads reach the model log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from llamaswap.errors import StartFailed
from llamaswap.observe.keeper import LINE_CHARS, Keeper, LogKeeper
from llamaswap.observe.modellog import ModelLog
from llamaswap.observe.store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.close()


async def test_states_and_loads(store: Store) -> None:
    keeper = Keeper(store)
    keeper.started("m")
    keeper.ready("m", 1.5)
    keeper.stopped("m", "swap", "other")
    keeper.stopped("m", "ttl", None)
    keeper.failed("m", StartFailed("no such file"))
    keeper.crashed("m", -9, "bye")
    keeper.crashed("m", None, "")
    assert [entry[2:] for entry in reversed(await store.states(10))] == [
        ("starting", ""),
        ("ready", ""),
        ("stopped", "swap for other"),
        ("stopped", "ttl"),
        ("failed", "no such file"),
        ("crashed", "exit code -9"),
        ("crashed", "no longer accepted connections"),
    ]
    assert [seconds for _, seconds in await store.loads("m", 10)] == [1.5]


async def test_what_earlier_runs_learned(tmp_path: Path) -> None:
    first = Store(str(tmp_path / "x.db"))
    for seconds in (30.0, 2.0, 4.0):
        Keeper(first).ready("m", seconds)
    first.close()
    second = Store(str(tmp_path / "x.db"))
    model_log = ModelLog()
    Keeper(second).recall(model_log)
    assert model_log.typical_load_s("m") == 4.0
    assert model_log.typical_load_s("other") is None
    second.close()


async def test_warnings_of_any_thread(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("llamaswap"), "propagate", False)  # pytest refuses the odd line
    log = logging.getLogger("llamaswap.test")
    with LogKeeper(store):
        log.info("not this")
        log.warning("one %d", 1)
        await trio.to_thread.run_sync(log.error, "two")
        try:
            raise ValueError("why")
        except ValueError:
            log.exception("three")
        log.warning("%d", "four")
        log.error("x" * (LINE_CHARS + 1))
        await trio.testing.wait_all_tasks_blocked()
    log.warning("too late")
    lines = [(level, line) for _, level, line in await store.log_lines(10)]
    assert sorted(lines)[:3] == [("error", "three: ValueError('why')"), ("error", "two"), ("error", "x" * LINE_CHARS)]
    assert ("warn", "one 1") in lines and len(lines) == 5
    assert any("wrong arguments" in line for _, line in lines)
