"""Streams that are moved without waking their tasks."""

from __future__ import annotations

import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing

from llamaswap.relay.engine import Engine
from llamaswap.relay.splice import Pause, Splicer, Stream
from llamaswap.relay.transport import Plain

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="streams are spliced with epoll only")
END = b"0\r\n\r\n"


@asynccontextmanager
async def a_splicer() -> AsyncIterator[Splicer]:
    engine = Engine()
    splicer = Splicer(engine)
    assert not splicer.ready
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            assert splicer.ready
            yield splicer
            assert not len(splicer._engine)
            nursery.cancel_scope.cancel()
    assert not splicer.ready


class Ends:
    """Both ends of a stream under test: the upstream writes to `source`, the client reads `sink`."""

    def __init__(self) -> None:
        self.source, self._from_source = socket.socketpair()
        self._to_sink, self.sink = socket.socketpair()
        for sock in (self._from_source, self._to_sink, self.sink):
            sock.setblocking(False)
        self.fed = b""
        self.noted: list[bytes] = []
        send_now = Plain(self._to_sink).send_now
        self.stream = Stream(self._from_source, send_now, self._feed, lambda: END in self.fed, self.noted.append)

    def _feed(self, data: bytes) -> None:
        self.fed += data
        if b"junk" in data:
            raise ValueError("not HTTP")

    def close(self) -> None:
        for sock in (self.source, self._from_source, self._to_sink, self.sink):
            sock.close()


@contextmanager
def some_ends(count: int = 1) -> Iterator[list[Ends]]:
    ends = [Ends() for _ in range(count)]
    try:
        yield ends
    finally:
        for each in ends:
            each.close()


async def read(sock: socket.socket) -> bytes:
    return await Plain(sock).recv()


async def test_chunks_go_through_while_the_task_sleeps() -> None:
    async with a_splicer() as splicer, trio.open_nursery() as nursery:
        with some_ends(3) as ends:
            reasons: list[Pause] = []

            async def carry(stream: Stream) -> None:
                reasons.append(await splicer.carry(stream))

            for each in ends:
                nursery.start_soon(carry, each.stream)
            for turn in range(3):
                for each in ends:
                    each.source.send(b"chunk %d" % turn)
                for each in ends:
                    assert await read(each.sink) == b"chunk %d" % turn
            assert reasons == []
            assert [each.stream.moved for each in ends] == [21, 21, 21]
            for each in ends:
                each.source.send(b"last" + END)
            await trio.testing.wait_all_tasks_blocked()
            assert reasons == [Pause.COMPLETE] * 3
            # The end is the task's to send: it may have to trim it.
            assert [each.stream.unsent for each in ends] == [b"last" + END] * 3


async def test_a_slow_client_gives_the_stream_back_with_what_it_has_not_taken() -> None:
    async with a_splicer() as splicer:
        with some_ends() as [ends]:
            ends._to_sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sent = b""
            ends.source.setblocking(False)
            while True:
                try:
                    piece = b"%06d" % len(sent) * 2000
                    sent += piece[: ends.source.send(piece)]
                except BlockingIOError:
                    break
            assert await splicer.carry(ends.stream) is Pause.FULL
            taken = b""
            while len(taken) < ends.stream.moved:
                taken += await read(ends.sink)
            assert (taken + ends.stream.unsent) == ends.fed == sent[: len(ends.fed)]


async def test_bulk_goes_through() -> None:
    async with a_splicer() as splicer:
        with some_ends() as [ends]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(splicer.carry, ends.stream)
                for _ in range(3):
                    ends.source.send(b"x" * 20_000)
                    assert len(await read(ends.sink)) == 20_000
                ends.source.send(END)


async def test_an_upstream_that_ends_or_talks_nonsense_wakes_the_task() -> None:
    async with a_splicer() as splicer:
        with some_ends(2) as [one, other]:
            one.source.close()
            assert await splicer.carry(one.stream) is Pause.ENDED
            other.source.send(b"junk")
            with pytest.raises(ValueError, match="not HTTP"):
                await splicer.carry(other.stream)
            # What is not HTTP is not passed on.
            with pytest.raises(BlockingIOError):
                other.sink.recv(1)


async def test_a_client_that_left_is_an_os_error() -> None:
    async with a_splicer() as splicer:
        with some_ends() as [ends]:
            ends.sink.close()
            ends.source.send(b"data")
            with pytest.raises(OSError):
                await splicer.carry(ends.stream)


async def test_cancelled_it_lets_go_and_loses_nothing() -> None:
    async with a_splicer() as splicer:
        with some_ends() as [ends]:
            with trio.CancelScope() as scope:
                scope.cancel()
                await splicer.carry(ends.stream)
            assert scope.cancelled_caught
            assert not len(splicer._engine)
            ends.source.send(b"later" + END)
            assert await splicer.carry(ends.stream) is Pause.COMPLETE
