"""The store: what goes in comes out, limits hold, odd files are refused, a killed process loses a moment."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from llamaswap.config.settings import StoreLimits
from llamaswap.errors import ConfigError
from llamaswap.observe import store as store_module
from llamaswap.observe import store_file as store_file_module
from llamaswap.observe.rows import Row
from llamaswap.observe.store import Store, StoreFailed
from llamaswap.observe.store_file import AT_ONCE, examine
from llamaswap.observe.store_query import PageQuery, latest, page, stats
from llamaswap.observe.store_schema import APPLICATION_ID, MIGRATIONS, migrate

ROOMY = StoreLimits(keep_activity=0)
NOW_MS = 1_800_000_000_000


def row(**changes: Any) -> Row:
    plain = Row(
        NOW_MS,
        "m",
        "alias",
        "127.0.0.1",
        "/v1/chat/completions",
        "application/json",
        200,
        *(-1, -1, -1, 12, 3, -1.0, -1.0),
        50,
        10.5,
        0.0,
        0.0,
        "",
        "",
    )
    return plain._replace(**changes)


@contextmanager
def opened(path: Path | str = "", limits: StoreLimits = ROOMY) -> Iterator[Store]:
    store = Store(str(path), limits)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(params=["memory", "file"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "" if request.param == "memory" else str(tmp_path / "x.db")


async def ids(store: Store) -> list[int]:
    return [id for id, _ in await store.read(latest, 10**6)]


async def test_what_goes_in_comes_out(where: str) -> None:
    first, second = row(error_msg="böse", metadata='{"a":"b"}'), row(ttfb_ms=None, prompt_per_second=1.5)
    told: list[Any] = []
    with opened(where) as store:
        store.on_stored.append(lambda id, rows: told.append((id, list(rows))))
        store.add_row(first, "tag")
        store.add_row(second)
        assert await store.read(latest, 10) == [(1, first), (2, second)]
        store.add_row(first)
        assert await ids(store) == [1, 2, 3]
    assert told == [(1, [(first, "tag"), (second, None)]), (3, [(first, None)])]


async def test_more_rows_than_one_statement_takes(where: str) -> None:
    many = 2 * AT_ONCE + 5
    with opened(where) as store:
        for number in range(many):
            store.add_row(row(duration_ms=number))
        found = await store.read(latest, many)
        assert [(id, kept.duration_ms) for id, kept in found] == [(n + 1, n) for n in range(many)]


async def test_the_rest_comes_out_newest_first(where: str) -> None:
    with opened(where) as store:
        store.record_load("a", 1.5)
        store.record_load("a", 2.5)
        store.record_load("b", 9.0)
        store.record_state("a", "ready")
        store.record_state("b", "stopped", "ttl")
        store.record_log("warn", "one \ud800")
        store.record_log("error", "two")
        assert [seconds for _, seconds in await store.loads("a", 10)] == [2.5, 1.5]
        assert [entry[1:] for entry in await store.states(10)] == [("b", "stopped", "ttl"), ("a", "ready", "")]
        assert [entry[1:] for entry in await store.states(10, "a")] == [("a", "ready", "")]
        assert [entry[1:] for entry in await store.log_lines(1)] == [("error", "two")]
        assert [entry[1:] for entry in await store.log_lines(9)] == [("error", "two"), ("warn", "one \\ud800")]
        assert store.past_loads(1) == {"a": [2.5], "b": [9.0]}


async def test_limits(where: str) -> None:
    limits = StoreLimits(keep_activity=10, keep_loads=2, keep_states=3, keep_log_lines=4)
    with opened(where, limits) as store:
        for batch in (25, 3, 40):
            for _ in range(batch):
                store.add_row(row())
            await store.flush()
        assert await ids(store) == list(range(59, 69))
        for n in range(5):
            for model in ("a", "b"):
                store.record_load(model, n)
            store.record_state("a", str(n))
            store.record_log("warn", str(n))
            await store.flush()
        assert store.past_loads(100) == {"a": [3.0, 4.0], "b": [3.0, 4.0]}
        assert [state for _, _, state, _ in await store.states(100)] == ["4", "3", "2"]
        assert [line for _, _, line in await store.log_lines(100)] == ["4", "3", "2", "1"]
        store.reconfigure(StoreLimits(keep_activity=4))
        store.add_row(row())
        assert await ids(store) == [66, 67, 68, 69]


async def test_what_is_old_goes(where: str) -> None:
    with opened(where, StoreLimits(keep_days=1, keep_activity=0)) as store:
        for days in (5, 3, 0.5):
            store.add_row(row(timestamp_ms=store_module._now_ms() - int(days * 86_400_000)))
        store.record_log("warn", "today's")
        await store.flush()
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            with trio.fail_after(5):
                while len(await ids(store)) > 1:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert await ids(store) == [3]
        assert len(await store.log_lines(10)) == 1
        store.add_row(row())
        assert await ids(store) == [3, 4]


async def test_ids_go_on_after_a_restart_even_if_nothing_was_kept(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with opened(file) as store:
        for _ in range(5):
            store.add_row(row())
        store.record_load("m", 3.0)
        store.close()
    connection = sqlite3.connect(file)
    connection.execute("DELETE FROM activity")
    connection.commit()
    connection.close()
    with opened(file) as store:
        store.add_row(row())
        assert await ids(store) == [6]
        assert store.past_loads(9) == {"m": [3.0]}


async def test_two_at_one_file_disturb_nobody(tmp_path: Path) -> None:
    """As when a new server starts before the old one has ended."""
    with opened(tmp_path / "x.db") as one, opened(tmp_path / "x.db") as other:
        for store in (one, other, one):
            store.add_row(row())
            await store.flush()
        assert await ids(one) == await ids(other) == [1, 2, 3]


async def test_a_batch_is_written_by_itself(where: str) -> None:
    stored: list[int] = []
    last = trio.Event()

    def hear(first: int, rows: object) -> None:
        stored.append(first)
        if first == 4:
            last.set()

    with opened(where) as store:
        store.on_stored.append(hear)
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            for _ in range(3):  # somebody who reads writes as well, and that must not stop the rest
                store.add_row(row())
                await store.flush()
            store.add_row(row())
            with trio.fail_after(5):
                await last.wait()
            nursery.cancel_scope.cancel()
    assert stored == [1, 2, 3, 4]


async def test_in_memory_only_the_last_rows_ever_reach_the_database() -> None:
    with opened("", StoreLimits(keep_activity=3)) as store:
        heard: list[int] = []
        store.on_stored.append(lambda first, rows: heard.append(first))
        for _ in range(2):
            store.add_row(row())
        assert await ids(store) == [1, 2]
        for _ in range(5):
            store.add_row(row())
            await store.flush()
        assert heard == [1, 3, 4, 5, 6, 7]
        assert await ids(store) == [5, 6, 7]
        store.add_row(row())
        assert await ids(store) == [6, 7, 8]


async def test_cancelled_it_loses_nothing(where: str) -> None:
    with opened(where) as store:
        store.add_row(row())
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.flush()
        store.add_row(row())
        assert await ids(store) == [1, 2]


async def test_closing_writes_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with opened(file) as store:
        store.add_row(row())
    assert not file.with_name("x.db-wal").exists()
    with opened(file) as store:
        assert await ids(store) == [1]
        store.close()
        store.add_row(row())
        await store.flush()
        with pytest.raises(StoreFailed):
            await store.read(latest, 1)


async def test_a_disk_that_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WAITING_ROWS", 3)
    with opened(tmp_path / "x.db") as store:
        writer = store._database._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have a full disk
        long = row(error_msg="x" * 100_000)
        tags: list[object] = []
        store.on_stored.append(lambda first, rows: tags.extend(tag for _, tag in rows))
        for _ in range(2):
            store.add_row(long, "a capture")
            store.add_row(long, "a capture")
            await store.flush(again=True)
        assert len(caplog.records) == 1 and "full" in caplog.text
        writer.execute("PRAGMA max_page_count = 1000000")
        await store.flush(again=True)
        assert len(caplog.records) == 2 and "1 requests are missing" in caplog.text
        assert await ids(store) == [1, 2, 3]
        assert tags == [None] * 3, "what waits for hours is the rows alone"


async def test_a_disk_that_has_room_again_is_written_to_though_nothing_happens_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RETRY_S", 0.01)
    with opened(tmp_path / "x.db") as store:
        writer = store._database._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        refused, stored = trio.Event(), trio.Event()
        monkeypatch.setattr(store_module.log, "error", lambda *_: refused.set())
        store.on_stored.append(lambda first, rows: stored.set())
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await nursery.start(store.run)
                store.add_row(row(error_msg="x" * 100_000))
                await refused.wait()
                writer.execute("PRAGMA max_page_count = 1000000")
                await stored.wait()
                nursery.cancel_scope.cancel()


async def test_who_reads_does_not_wait_for_a_file_that_somebody_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file_module, "BUSY_S", 0.05)
    with opened(tmp_path / "x.db") as store:
        store.add_row(row())
        assert await ids(store) == [1]
        with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.add_row(row())
            await store.flush()
            tried: list[str] = []
            store._database._writer.set_trace_callback(tried.append)
            async with store._flushing:  # as while it is tried again
                assert await ids(store) == [1] and not tried
            other.execute("COMMIT")
            await store.flush(again=True)
            assert await ids(store) == [1, 2] and tried


async def test_what_is_lost_at_the_end_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_file_module, "BUSY_S", 0.0)
    store = Store(str(tmp_path / "x.db"))
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            store.add_row(row())
        store.close()
    assert "3 finished requests could not be saved" in caplog.text


def problem(path: Path | str, *, seen_by_looking: bool = True) -> str:
    with pytest.raises(ConfigError) as caught:
        Store(str(path))
    [found] = caught.value.problems
    assert found.key == "store.path"
    if seen_by_looking:
        with pytest.raises(ConfigError) as before:
            examine(str(path))
        assert before.value.problems == caught.value.problems, "one who only looks is told the same"
    return found.message


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    assert "is a directory, not a file" in problem(tmp_path)
    assert "is not writable: there is no directory" in problem(tmp_path / "none" / "x.db")
    (tmp_path / "text").write_text("hello " * 1000)
    assert f"{str(tmp_path / 'text')!r} is damaged or no database" in problem(tmp_path / "text")
    foreign = tmp_path / "foreign"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE activity (id INTEGER)")
    connection.close()
    before = foreign.read_bytes()
    assert "is the database of another program" in problem(foreign)
    assert foreign.read_bytes()[100:] == before[100:], "nothing was put into it"


def test_who_only_looks_leaves_no_trace(tmp_path: Path) -> None:
    file = tmp_path / "with space #1?.db"
    examine(str(file))
    assert not list(tmp_path.iterdir())
    store = Store(str(file))
    store.close()
    examine(str(file))
    assert list(tmp_path.iterdir()) == [file]


def test_odd_places(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "there is no directory" in problem(tmp_path / "file" / "x.db")
    (tmp_path / "dangling").symlink_to(tmp_path / "none" / "x.db")
    assert f"there is no directory {str(tmp_path / 'none')!r}" in problem(tmp_path / "dangling")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be used: " in problem(tmp_path / "loop")
    assert "cannot be used: " in problem(tmp_path / ("x" * 300))
    assert "cannot be used: " in problem(f"{tmp_path}/x\0y")
    (tmp_path / "link").symlink_to(tmp_path / "real.db")
    Store(str(tmp_path / "link")).close()
    examine(str(tmp_path / "link"))
    assert (tmp_path / "real.db").is_file()


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is no regular file" in problem(tmp_path / "pipe")


async def test_damage_that_is_met_later_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path / "x.db"))
    try:

        def query(connection: sqlite3.Connection) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        for _ in range(2):
            with pytest.raises(StoreFailed, match="malformed"):
                await store.read(query)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "move it away" in caplog.text
    finally:
        store.close()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a directory in which nobody can make a file")
def test_a_place_that_cannot_be_written() -> None:
    assert "is not writable" in problem("/proc/self/x.db")


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    Store(str(file)).close()
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    assert "was written by a newer version of llamaswap" in problem(file)


def test_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    Store(str(file)).close()
    whole = file.read_bytes()
    file.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    assert "is damaged" in problem(file)
    file.write_bytes(whole)
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE states")
    connection.close()
    assert "has no table 'states'" in problem(file)


def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaswap.observe.store_file.BUSY_S", 0.0)
    file = tmp_path / "x.db"
    Store(str(file)).close()
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    assert "is in use by another program" in problem(file, seen_by_looking=False)
    examine(str(file))  # by this server, mostly
    connection.close()


def test_migrations_run_in_order_and_only_once() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    first, second = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"), ("ALTER TABLE a ADD COLUMN y DEFAULT 2",)
    for steps in ((first,), (first, second), (first, second)):
        migrate(connection, steps)
    assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, 2)]
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (first, second, ("CREATE TABLE b (x)", "nonsense")))
    assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]
    connection.close()


def test_killed_it_has_all_but_the_last_moment(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    script = Path(__file__).with_name("store_child.py")
    last_ms = 0
    with subprocess.Popen([sys.executable, script, file], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for count, line in enumerate(child.stdout):
            last_ms = int(line)
            if count == 400:
                os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    with opened(file) as store:
        times_ms = [kept.timestamp_ms for _, kept in store._database.read(latest, 10**6)]
    assert len(times_ms) > 50 and sorted(times_ms) == times_ms
    assert last_ms - times_ms[-1] < 250


SPEEDS = [5.0, 1.0, 4.0, 2.0, 3.0]


async def test_stats(where: str) -> None:
    with opened(where) as store:
        nothing = await store.read(stats, "")
        assert nothing == {
            "total_requests": 0,
            "total_input_tokens": 0,
            "total_output_tokens": 0,
            "total_cache_tokens": 0,
            "prompt_histogram": None,
            "gen_histogram": None,
        }
        for speed in SPEEDS:
            store.add_row(row(tokens_per_second=speed, prompt_per_second=7.0, cache_tokens=2))
        store.add_row(row(model="other", input_tokens=-1, output_tokens=-1, tokens_per_second=100.0))
        found = await store.read(stats, "m")
        assert {key: value for key, value in found.items() if key.startswith("total")} == {
            "total_requests": 5,
            "total_input_tokens": 60,
            "total_output_tokens": 15,
            "total_cache_tokens": 10,
        }
        histogram = found["gen_histogram"]
        assert histogram["bins"] == [1, 1, 1, 1, 1]
        assert (histogram["min"], histogram["max"], histogram["binSize"]) == (1.0, 5.0, 0.8)
        assert histogram["p50"] == 3.0
        assert histogram["p95"] == pytest.approx(4.8)
        assert histogram["p99"] == pytest.approx(4.96)
        same = found["prompt_histogram"]
        assert same == {"bins": [5], "min": 7.0, "max": 7.0, "binSize": 0.0, "p50": 7.0, "p95": 7.0, "p99": 7.0}
        whole = await store.read(stats, "")
        assert (whole["total_requests"], whole["total_input_tokens"]) == (6, 60)
        assert whole["gen_histogram"]["max"] == 100.0
        assert await store.read(stats, "nobody") == nothing


async def test_many_values_make_more_bins() -> None:
    with opened() as store:
        for value in range(1, 501):
            store.add_row(row(tokens_per_second=float(value)))
        histogram = (await store.read(stats, ""))["gen_histogram"]
        assert len(histogram["bins"]) == 10 and sum(histogram["bins"]) == 500
        assert histogram["p50"] == 250.5


@pytest.mark.parametrize(
    ("query", "expected", "total"),
    [
        (PageQuery(), [5, 4, 3, 2, 1], 5),
        (PageQuery(limit=2), [5, 4], 5),
        (PageQuery(limit=2, page=3), [1], 5),
        (PageQuery(limit=2, page=9), [], 5),
        (PageQuery(descending=False), [1, 2, 3, 4, 5], 5),
        (PageQuery(sort="duration"), [5, 2, 4, 1, 3], 5),
        (PageQuery(sort="duration", descending=False), [3, 1, 4, 2, 5], 5),
        (PageQuery(sort="model", descending=False), [1, 3, 5, 2, 4], 5),
        (PageQuery(models=("b",)), [4, 2], 2),
        (PageQuery(models=("b", "a", "none")), [5, 4, 3, 2, 1], 5),
        (PageQuery(models=("' OR 1=1 --",)), [], 0),
        (PageQuery(start_ms=2000, end_ms=4000), [4, 3, 2], 3),
        (PageQuery(min_id=2, max_id=3), [3, 2], 2),
        (PageQuery(min_id=2, models=("a",), limit=1), [5], 2),
        (PageQuery(status="ok"), [3, 1], 2),
        (PageQuery(status="error"), [5, 4, 2], 3),
        (PageQuery(status="2xx"), [3, 2, 1], 3),
        (PageQuery(status="4xx"), [4], 1),
        (PageQuery(status="502"), [5], 1),
        (PageQuery(status="200", models=("b",)), [2], 1),
    ],
)
async def test_pages(query: PageQuery, expected: list[int], total: int) -> None:
    with opened() as store:
        for n, (model, took, status, error) in enumerate(
            [
                ("a", 20, 200, ""),
                ("b", 30, 200, "broke off"),
                ("a", 10, 201, ""),
                ("b", 20, 499, ""),
                ("a", 40, 502, "x"),
            ],
            1,
        ):
            store.add_row(
                row(timestamp_ms=n * 1000, model=model, duration_ms=took, resp_status_code=status, error_msg=error)
            )
        rows, count = await store.read(page, query)
        assert [id for id, _ in rows] == expected
        assert count == total
