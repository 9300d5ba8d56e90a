"""One try of one request on one upstream connection, response carried to the client.

The body bytes of a response go to an HTTP/1.1 client as the upstream framed them, its chunks included;
only the head is rewritten.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

import trio

from llamaswap.errors import BadGateway, GatewayTimeout, SwapError
from llamaswap.relay.complaint import message_of
from llamaswap.relay.exchange import ClientGone, Exchange, Framing
from llamaswap.relay.loading import LoadingFrames
from llamaswap.relay.pool import Pool
from llamaswap.relay.response import Answer, Broken, ChunkDecoder, ChunkParser, read_answer
from llamaswap.relay.ride import Ride
from llamaswap.relay.splice import Pause, Stream
from llamaswap.relay.transport import Data, Plain, Transport
from llamaswap.upstream.fleet import Upstream

HEAD_LIMIT = 65536  # bytes of a response head
ERROR_BYTES = 65536  # of an error answer that is told within a stream
ERROR_TEXT_BYTES = 500  # of one that is no JSON
EXIT_NOTICE_S = 0.25  # a dying process closes its sockets a moment before its exit is seen
END_NOTICE_S = 0.02  # the same, before a response that ends with its connection counts as whole


class Outcome(Enum):
    DONE = "done"
    """The client has a response, whole or visibly broken."""
    NO_ANSWER = "no answer"
    """The connection ended before the first response byte; nothing reached the client."""
    REFUSED = "refused"
    """Nothing listens at the upstream's address."""


class Attempt:
    """Send `segments` (head and body, framed) on `connection`, or a new one, and carry the answer."""

    def __init__(
        self,
        ex: Exchange,
        upstream: Upstream,
        pool: Pool,
        connection: Transport | None,
        segments: Sequence[Data],
    ) -> None:
        self._ex = ex
        self._flight = ex.flight
        self._upstream = upstream
        self._pool = pool
        self._connection = connection
        self._unsent = list(reversed(segments))
        self._buffer = b""
        self._parser: ChunkParser | None = None
        self._answered = False
        self._left = -1  # body bytes to come where a Content-Length says so
        self._chunked = False
        self._raw = False
        self._bodiless = False
        self._joining = ex.started  # after loading frames: our head is out already
        self._error_status = 0  # of an answer that has to be told within a stream
        self._error_body = b""
        self._reusable = True
        self._complete = False
        self._patience: trio.CancelScope | None = None

    async def carry(self, received: bytes = b"") -> Outcome:
        """Run to the end. Raises ClientGone, or a SwapError if nothing has reached the client.

        `received` was read of the answer already. Cancelled or failed, the connection is closed, which tells
        the upstream to stop working.
        """
        self._buffer = received
        return await self._guarded(self._stages)

    async def carry_on(self, ride: Ride) -> None:
        """The rest of an answer that has begun. As `carry`, but that only ClientGone is raised."""
        self._answered = self._chunked = self._raw = True
        self._reusable = not ride.spent
        parser = self._parser = ride.parser

        async def rest() -> Outcome:
            if ride.trouble is not None:
                raise ride.trouble
            if ride.unsent:
                await self._ex.send_raw(ride.unsent)
            if parser is not None and not parser.complete:
                assert self._connection is not None
                return await self._carry_body(self._connection)
            self._complete = True
            await self._ex.finish(raw=True)
            return Outcome.DONE

        await self._guarded(rest)

    async def _guarded(self, stages: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            return await stages()
        except Broken as broken:
            self._reusable = False
            # After loading frames a failure before the response's head can still be told in the stream.
            if (self._joining and not self._answered) or (not self._joining and self._ex.take_back()):
                raise BadGateway(str(broken)) from broken
            await self._ex.abort()
            return Outcome.DONE
        finally:
            connection = self._connection
            if connection is not None:
                if self._complete and self._reusable and not self._unsent:
                    self._pool.give(self._upstream, connection)
                else:
                    connection.close()

    async def _stages(self) -> Outcome:
        if self._connection is None:
            try:
                self._connection = await self._pool.connect(self._upstream)
            except ConnectionRefusedError:
                return Outcome.REFUSED
        connection = self._connection
        if self._upstream.model.timeouts.response_header_s > 0:
            self._patience = trio.CancelScope()  # its deadline is set when the request is out
        if len(self._unsent) > 1:
            return await self._converse(connection)
        await self._send_request(connection)
        return await self._answer(connection)

    async def _converse(self, connection: Transport) -> Outcome:
        """With a large body: the upstream may answer before it has read it all, and may never read the rest."""
        outcome = Outcome.NO_ANSWER
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_request, connection)
            try:
                outcome = await self._answer(connection)
            except (Broken, SwapError, ClientGone) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return outcome

    async def _send_request(self, connection: Transport) -> None:
        try:
            while self._unsent:
                await connection.send(self._unsent[-1])
                self._unsent.pop()
        except OSError:
            # It may have answered (413, 401) and closed before it read everything.
            self._reusable = False
        if self._patience is not None:
            self._patience.deadline = trio.current_time() + self._upstream.model.timeouts.response_header_s

    async def _answer(self, connection: Transport) -> Outcome:
        if self._patience is None:
            answered = await self._read_head(connection)
        else:
            answered = False
            with self._patience:
                answered = await self._read_head(connection)
            if self._patience.cancelled_caught:
                limit_s = self._upstream.model.timeouts.response_header_s
                raise GatewayTimeout(f"{self._upstream.model.id} sent no response head within {limit_s:g} s")
        return await self._carry_body(connection) if answered else Outcome.NO_ANSWER

    async def _read_head(self, connection: Transport) -> bool:
        """Read up to the end of the final response head and announce it; False: nothing came."""
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if self._buffer:
                    _check_beginning(self._buffer)
                try:
                    data = await connection.recv()
                except OSError:
                    data = b""
                if not data:
                    if self._buffer:
                        raise Broken("the upstream closed the connection within its response head")
                    return False
                self._buffer = self._buffer + data if self._buffer else data
                continue
            end += 4
            answer = read_answer(self._buffer[:end])
            if answer.status >= 200:
                break
            if answer.status < 100 or answer.status == 101:
                raise Broken(f"the upstream answers with status {answer.status}")
            self._buffer = self._buffer[end:]  # an interim response; the final one follows
        self._buffer = self._buffer[end:]
        self._answered = True
        self._announce(answer)
        return True

    def _announce(self, answer: Answer) -> None:
        """Settle how the body ends on both sides and give the client's head to the exchange."""
        ex, status = self._ex, answer.status
        self._reusable = self._reusable and not answer.closes
        self._bodiless = ex.method == "HEAD" or status in (204, 304)
        self._chunked = answer.chunked
        self._raw = answer.chunked and ex.raw and not self._joining
        if answer.chunked:
            # Decode chunks only for those who cannot take them as they are.
            self._parser = ChunkParser() if self._raw else ChunkDecoder()
        elif answer.length >= 0:
            self._left = answer.length
        elif not self._bodiless:
            self._reusable = False  # the body ends with the connection
        if self._joining:
            if status != 200:
                self._error_status = status
                if self._flight is not None:
                    self._flight.hidden_status = status
            return
        headers = answer.headers
        if answer.length >= 0:
            headers = [*headers, (b"Content-Length", b"%d" % answer.length)]
        if self._flight is not None:
            self._flight.answer = answer
            self._flight.chunked = self._raw
        framing = Framing.CHUNKED
        if self._bodiless:
            framing = Framing.NONE
        elif self._left >= 0:
            framing = Framing.LENGTH
        ex.start(status, headers, framing, answer.reason)

    async def _carry_body(self, connection: Transport) -> Outcome:
        ex = self._ex
        data, self._buffer = self._buffer, b""
        if self._bodiless or self._left == 0:
            self._complete = True
            self._reusable = self._reusable and not data
            data = b""
        if not data and not self._complete:
            await ex.flush()  # the head goes out before the first token is made
        if self._raw and isinstance(connection, Plain) and not self._bodiless and self._pool.splicer.ready:
            send_now = ex.raw_sink()
            if send_now is not None:
                await self._carry_chunks(connection, data, send_now)
                data = b""
        until_close = self._left < 0 and not self._bodiless and not self._chunked
        while True:
            if data:
                out = self._take(data)
                if self._error_status:
                    self._error_body += out[: ERROR_BYTES - len(self._error_body)]
                elif self._raw:
                    self._note(out)
                    await ex.send_raw(out)
                elif out:
                    self._note(out)
                    await ex.send(out)
                else:
                    await ex.flush()  # framing only, so far
            if self._complete:
                break
            try:
                data = await connection.recv()
            except OSError as error:
                raise Broken("the upstream broke the connection within its response") from error
            if not data:
                if not until_close or not await self._ended_well():
                    raise Broken("the upstream closed the connection within its response")
                self._complete = True
        if self._error_status:
            event, message = self._error_event()
            if self._flight is not None:
                self._flight.error = message
            self._note(event)
            await ex.send(event)
        await ex.finish(raw=self._raw)
        return Outcome.DONE

    async def _carry_chunks(self, connection: Plain, data: bytes, send_now: Callable[[bytes], int]) -> None:
        """What most tokens go through: chunks as they came, between plain sockets, in as few steps as can be."""
        ex, parser = self._ex, self._parser
        assert parser is not None
        if data:
            parser.feed(data)
            self._note(data)
            await ex.send_raw(self._without_newlines(data) if parser.complete else data)
        note = self._flight.add if self._flight is not None else _unnoted
        stream = Stream(connection.sock, send_now, parser.feed, parser.is_complete, note)
        while not parser.complete:
            try:
                pause = await self._pool.splicer.carry(stream)
            except OSError as error:
                raise ClientGone from error
            finally:
                ex.bytes_sent += stream.moved
                stream.moved = 0
            if pause is Pause.ENDED:
                raise Broken("the upstream ended the connection within its response")
            unsent = stream.unsent
            await ex.send_raw(self._without_newlines(unsent) if parser.complete else unsent)
        self._complete = True

    def _note(self, data: bytes) -> None:
        """The client gets these bytes of the body."""
        if data and self._flight is not None:
            self._flight.add(data)

    def _take(self, data: bytes) -> bytes:
        """Account for body bytes as they came; what the client gets for them. Raises Broken."""
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._complete = True
                if self._left < 0:
                    self._reusable = False
                    data = data[: self._left]
                    self._left = 0
            return data
        if not self._chunked:
            return data
        parser = self._parser
        assert parser is not None
        parser.feed(data)
        if parser.complete:
            self._complete = True
            data = self._without_newlines(data)
        if self._raw:
            return data
        decoded = b"".join(parser.parts)
        parser.parts.clear()
        return decoded

    def _error_event(self) -> tuple[bytes, str]:
        """An error answer for a client whose stream has begun: one event, whose data is a JSON object; its message."""
        try:
            told = json.loads(self._error_body.decode())
        except (ValueError, RecursionError):
            told = None
        if isinstance(told, dict) and told.get("error"):  # what clients look for
            message = message_of(told) or f"HTTP {self._error_status}"
            return b"data: " + b" ".join(self._error_body.splitlines()) + b"\n\n", message
        text = self._error_body[:ERROR_TEXT_BYTES].decode("utf-8", "replace").strip()
        said = f": {text}" if text else ""
        error = BadGateway(f"{self._upstream.model.id} answered {self._error_status}{said}")
        return LoadingFrames.failed(error), str(error)

    def _without_newlines(self, data: bytes) -> bytes:
        """The end of a chunked body, as the parser was last fed with it; empty lines behind it are not the client's."""
        assert self._parser is not None
        behind = self._parser.behind
        if not behind:
            return data
        self._reusable = False
        return data[:-behind]

    async def _ended_well(self) -> bool:
        """Whether a response that its connection's end completes was not cut off by a crash."""
        if self._upstream.alive:
            with trio.move_on_after(END_NOTICE_S):
                await self._upstream.exited.wait()
        return self._upstream.alive


def _unnoted(_: bytes) -> None:
    """For streams that nobody accounts for."""


def _check_beginning(buffer: bytes) -> None:
    """Whether what has come of a response head can become one. Raises Broken."""
    if len(buffer) > HEAD_LIMIT:
        raise Broken("the upstream's response head is larger than 64 KiB")
    if not b"HTTP/1.".startswith(buffer[:7]) or b"\n\n" in buffer:
        raise Broken("the upstream does not speak HTTP/1.1")
