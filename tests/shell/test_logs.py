"""Log memory and its readers: bounded, in order, and never in a writer's way."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config.settings import Config
from llamaswap.observe.logs import HISTORY_BYTES, SUBSCRIBER_BYTES, LogMonitor, Logs, setup_logging
from llamaswap.observe.ring import ByteRing


def test_history_is_bounded_and_starts_at_a_line() -> None:
    monitor = LogMonitor()
    for number in range(20_000):
        monitor.write(b"line %06d\n" % number)
    history = monitor.history()
    assert HISTORY_BYTES - 12 <= len(history) <= HISTORY_BYTES
    assert history.startswith(b"line ")
    assert history.endswith(b"line 019999\n")


@pytest.mark.parametrize("size", [HISTORY_BYTES + 1, 3 * HISTORY_BYTES])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_one_endless_line_keeps_its_end(size: int, end: bytes) -> None:
    monitor = LogMonitor()
    monitor.write(b"x" * size + end)
    assert len(monitor.history()) == HISTORY_BYTES
    assert monitor.history().endswith(b"x" + end)


@given(st.lists(st.binary(max_size=40), max_size=60), st.integers(1, 50))
def test_a_ring_holds_a_suffix_of_what_was_written(chunks: list[bytes], limit: int) -> None:
    ring = ByteRing(limit)
    for chunk in chunks:
        ring.append(chunk)
        assert len(ring) <= limit + limit // 4
    everything = b"".join(chunks)
    data, dropped = ring.take()
    assert len(data) <= limit
    assert everything.endswith(data)
    assert dropped + len(data) == len(everything)
    assert ring.take() == (b"", 0)
    if everything and len(everything) <= limit:
        assert data == everything
    if everything and limit >= 4:  # a cut may skip the rest of a character
        assert data


def test_a_cut_respects_characters() -> None:
    monitor = LogMonitor()
    monitor.write("é".encode() * HISTORY_BYTES + b"x")
    monitor.history().decode()


def test_where_writes_arrive() -> None:
    logs = Logs(to_stdout="none")
    logs.model("a").write(b"from a\n")
    logs.model("b").write(b"from b\n")
    logs.proxy.write(b"ours\n")
    assert logs.model("a").history() == b"from a\n"
    assert logs.upstream.history() == b"from a\nfrom b\n"
    assert logs.proxy.history() == b"ours\n"
    assert logs.combined.history() == b"from a\nfrom b\nours\n"
    assert logs.get("proxy") is logs.proxy
    assert logs.get("upstream") is logs.upstream
    assert logs.get("a") is logs.model("a")
    assert logs.get("nobody") is None


async def test_a_reader_gets_history_then_live() -> None:
    monitor = LogMonitor()
    monitor.write(b"old\n")
    with monitor.subscribe() as sub, monitor.subscribe(history=False) as late:
        assert await sub.receive() == b"old\n"
        monitor.write(b"new\n")
        monitor.write(b"newer\n")
        assert await sub.receive() == b"new\nnewer\n"
        assert await late.receive() == b"new\nnewer\n"
    assert monitor._subscribers == []


async def test_a_waiting_reader_is_woken(nursery: trio.Nursery) -> None:
    monitor = LogMonitor()
    got: list[bytes] = []

    async def read() -> None:
        with monitor.subscribe() as sub:
            async for chunk in sub:
                got.append(chunk)
                if chunk == b"end":
                    sub.close()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    monitor.write(b"one")
    await trio.testing.wait_all_tasks_blocked()
    monitor.write(b"end")
    await trio.testing.wait_all_tasks_blocked()
    assert got == [b"one", b"end"]


async def test_a_cancelled_receive_loses_nothing() -> None:
    monitor = LogMonitor()
    with monitor.subscribe() as sub:
        with trio.CancelScope() as scope:
            scope.cancel()
            await sub.receive()
        monitor.write(b"x")
        with trio.CancelScope() as scope:
            scope.cancel()
            await sub.receive()
        assert await sub.receive() == b"x"


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    monitor = LogMonitor()
    with monitor.subscribe() as sub:
        monitor.write(b"begun, ")
        assert await sub.receive() == b"begun, "
        line = b"0123456789abcde\n"
        count = 10 * SUBSCRIBER_BYTES // len(line)
        for _ in range(count):
            monitor.write(line)
        monitor.write(b"last\n")
        data = await sub.receive()
        assert data.endswith(line + b"last\n")
        assert len(data) < SUBSCRIBER_BYTES + 100
        note, _, rest = data.removeprefix(b"\n").partition(b"\n")
        skipped = int(note.split(b" bytes")[0].split()[-1])
        assert note == b"[WARN] %d bytes of log skipped: this reader fell behind" % skipped
        assert skipped + len(rest) == count * len(line) + 5
        assert rest.startswith(line)


async def test_close_ends_a_waiting_reader(nursery: trio.Nursery) -> None:
    monitor = LogMonitor()
    sub = monitor.subscribe()
    ended = trio.Event()

    async def read() -> None:
        with pytest.raises(trio.EndOfChannel):
            await sub.receive()
        ended.set()

    nursery.start_soon(read)
    await trio.testing.wait_all_tasks_blocked()
    sub.close()
    sub.close()
    await ended.wait()


@pytest.fixture
def logs() -> Iterator[Logs]:
    loggers = [logging.getLogger(name) for name in ("llamaswap", "hypercorn")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield Logs(to_stdout="none")
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", b"[DEBUG] d\n[INFO] i 1\n[WARN] w\n[ERROR] e\n"),
        ("info", b"[INFO] i 1\n[WARN] w\n[ERROR] e\n"),
        ("warn", b"[WARN] w\n[ERROR] e\n"),
        ("error", b"[ERROR] e\n"),
        ("chatty", b"[INFO] i 1\n[WARN] w\n[ERROR] e\n"),
    ],
)
def test_levels(logs: Logs, level: str, expected: bytes) -> None:
    setup_logging(Config(log_level=level), logs)
    logger = logging.getLogger("llamaswap.upstream")
    logger.debug("d")
    logger.info("i %d", 1)
    logger.warning("w")
    logger.error("e")
    assert logs.proxy.history() == expected
    assert logs.combined.history() == expected
    direct = Logs(to_stdout="none")
    setup_logging(Config(log_level=level), direct)
    for number, text in ((10, "d"), (20, "i 1"), (30, "w"), (40, "e")):
        direct.log(number, text)
    assert direct.proxy.history() == expected


def test_setup_again_replaces(logs: Logs) -> None:
    setup_logging(Config(), logs)
    setup_logging(Config(log_level="error"), logs)
    logging.getLogger("llamaswap").info("no")
    logging.getLogger("llamaswap").error("once")
    assert logs.proxy.history() == b"[ERROR] once\n"


def test_a_message_cannot_pass_for_a_line_of_ours(logs: Logs) -> None:
    logs.log(logging.INFO, "unknown model 'x\n[ERROR] forged\x1b[2J\r\udcff'")
    assert logs.proxy.history() == b"[INFO] unknown model 'x\n    [ERROR] forged\\x1b[2J\\x0d\\udcff'\n"


def test_tracebacks_and_wrong_arguments(logs: Logs) -> None:
    setup_logging(Config(), logs)
    logger = logging.getLogger("llamaswap.web")
    try:
        raise ValueError("because")
    except ValueError:
        logger.exception("it failed")
    text = logs.proxy.history().decode()
    assert text.startswith("[ERROR] it failed\n    Traceback")
    assert text.endswith("ValueError: because\n")
    # Not through the logger: pytest's own handler raises on such a record.
    (handler,) = logging.getLogger("llamaswap").handlers
    handler.handle(logging.LogRecord("llamaswap", logging.INFO, "", 1, "%d tries", ("no",), None))
    assert "[INFO] %d tries (log line with wrong arguments: " in logs.proxy.history().decode()


async def test_other_threads_may_log(logs: Logs) -> None:
    setup_logging(Config(), logs)
    with logs.proxy.subscribe() as sub:
        await trio.to_thread.run_sync(logging.getLogger("llamaswap").info, "from a thread")
        assert await sub.receive() == b"[INFO] from a thread\n"


def test_a_loop_that_starts_later_is_found(logs: Logs) -> None:
    setup_logging(Config(), logs)
    logs.log(logging.INFO, "before")

    async def main() -> None:
        logs.log(logging.INFO, "begun")
        with logs.proxy.subscribe(history=False) as sub:
            await trio.to_thread.run_sync(logs.log, logging.INFO, "from a thread")
            assert await sub.receive() == b"[INFO] from a thread\n"

    trio.run(main)
    logs.log(logging.INFO, "after")
    assert logs.proxy.history().splitlines()[-1] == b"[INFO] after"
