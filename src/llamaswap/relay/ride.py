"""A request that travels without a task: its model was ready, a connection idle, and everything fits one packet.

Most requests are like that, and a task would cost them more than everything else together. The part here is the
upstream's side of it, in plain functions; `web/lane.py` has the client's. Whatever takes waiting, or is in any way
unusual, goes to a task: `Relay.resume` takes a ride on from wherever it is.
"""

from __future__ import annotations

from llamaswap.config.settings import ModelConfig
from llamaswap.relay.exchange import Exchange
from llamaswap.relay.pool import Pool
from llamaswap.relay.response import Broken, ChunkParser, read_answer
from llamaswap.relay.transport import Data, Plain
from llamaswap.upstream.fleet import Lease


class Ride:
    """One request, sent; its answer is to come on `connection`."""

    __slots__ = (
        "body",
        "complete",
        "connection",
        "exchange",
        "lease",
        "loading",
        "model",
        "parser",
        "received",
        "spare",
        "spent",
        "target",
        "trouble",
        "unsent",
    )

    def __init__(
        self,
        exchange: Exchange,
        model: ModelConfig,
        target: bytes,
        body: Data,
        loading: bool,
        lease: Lease,
        connection: Plain,
    ) -> None:
        self.exchange = exchange
        self.model = model
        self.target = target
        self.body = body
        """As the upstream gets it."""
        self.loading = loading
        """Whether the client is told about a loading model, should it come to that."""
        self.lease = lease
        self.connection = connection
        self.received = b""
        """What has come of an answer that a task has to read. Empty with a task: the connection has ended."""
        self.parser: ChunkParser | None = None
        """Of a chunked body."""
        self.spare: ChunkParser | None = None
        """One that is done with its last body: half as dear as a new one."""
        self.complete = False
        """Whether the whole answer has come."""
        self.trouble: Broken | None = None
        """What is wrong with an answer that has begun."""
        self.spent = False
        """Whether the connection cannot be used again."""
        self.unsent = b""
        """What the client did not take at once of an answer that has begun."""

    def accept(self, data: bytes) -> bytes | None:
        """The first bytes of the answer -> what the client gets for them; None if a task must read them.

        Then `received` has them, and nothing else has changed.
        """
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self.received = data
            return None
        parser: ChunkParser | None = None
        body = data[end:]
        try:
            answer = read_answer(data[:end])
            if answer.chunked:
                parser = self.spare
                if parser is None:
                    parser = ChunkParser()
                else:
                    self.spare = None
                    parser.begin()
                parser.feed(body)
                complete = parser.complete
                usual = answer.plain and not parser.behind
            else:
                complete = True
                usual = answer.plain and len(body) == answer.length
        except Broken:
            usual = complete = False
        if not usual:
            self.received = data
            return None
        self.parser, self.complete = parser, complete
        ex = self.exchange
        ex.started = True
        ex.status = answer.status
        ex.bytes_sent = len(body)
        flight = ex.flight
        if flight is not None:
            flight.answer = answer
            flight.chunked = answer.chunked
            if body:
                flight.add(body)
        return answer.wire() + body

    def take(self, data: bytes) -> bool:
        """More of a chunked body -> whether the client may get it as it is; if not, `trouble` or `unsent` says why."""
        parser, ex = self.parser, self.exchange
        assert parser is not None
        try:
            parser.feed(data)
        except Broken as error:
            self.trouble = error
            return False
        if ex.flight is not None:
            ex.flight.add(data)
        if parser.complete:
            if parser.behind:
                self.unsent, self.spent = data[: -parser.behind], True
                return False
            self.complete = True
        return True

    def end(self, pool: Pool) -> None:
        """The whole answer has come: let go of the model and keep the connection."""
        pool.give(self.lease.upstream, self.connection)
        self.lease.release()

    def drop(self) -> None:
        """Nobody wants the answer any more: the upstream is told by its connection's end."""
        self.connection.close()
        self.lease.release()
