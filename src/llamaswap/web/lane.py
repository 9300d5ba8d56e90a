"""The express lane: requests that need no waiting, served while their connection's task sleeps.

A connection between two requests rests here. A request whose head is known, whose body has come with it, whose
model is ready and for which an upstream connection is idle, is sent on and answered in plain functions, called when
one of the two sockets can be read. Everything else wakes the task: with the bytes that have come, or with a `Ride`
to go on with. Both sockets are watched throughout, so a client that leaves is noticed at once.
"""

from __future__ import annotations

import socket
from typing import Protocol

import outcome
from trio.lowlevel import Abort, RaiseCancelT, Task, current_task, reschedule, wait_task_rescheduled

from llamaswap.relay.engine import Engine
from llamaswap.relay.exchange import ClientGone, Exchange
from llamaswap.relay.pool import Pool
from llamaswap.relay.response import ChunkParser
from llamaswap.relay.ride import Ride
from llamaswap.relay.transport import RECV_BYTES, Plain
from llamaswap.web.connection import WATCH_LIMIT, Connection
from llamaswap.web.http1 import awaits_body, known_request
from llamaswap.web.http_exchange import HttpExchange


class Departures(Protocol):
    """What the lane needs of the dispatcher."""

    def depart(self, ex: Exchange, body: bytes) -> Ride | None:
        """Send it on its way if that takes no waiting; else nothing has happened."""
        ...

    def settle(self, ex: Exchange, *, gone: bool) -> None:
        """It is over."""
        ...


class Seat:
    """One connection's place in the lane."""

    __slots__ = (
        "_connection",
        "_departures",
        "_engine",
        "_fd",
        "_held",
        "_pool",
        "_ride",
        "_sock",
        "_spare",
        "_task",
    )

    def __init__(self, connection: Connection, transport: Plain, departures: Departures, pool: Pool) -> None:
        self._connection = connection
        self._sock = transport.sock
        self._fd = transport.sock.fileno()
        self._departures = departures
        self._pool = pool
        self._engine: Engine = pool.engine
        self._task: Task | None = None
        self._ride: Ride | None = None
        self._held = b""
        """A head whose body is still to come."""
        self._spare: ChunkParser | None = None
        """For the next stream."""

    async def rest(self) -> Ride | None:
        """Sleep while all goes its usual way.

        Returns a ride that has to be gone on with, or None if something came for the connection to read: it is in
        its buffer, or the end of the connection. Raises ClientGone if the client left a request that was under way.
        Cancelled, it gives up what is under way.
        """
        self._task = current_task()
        self._engine.watch(self._fd, self._on_client)
        try:
            ride: Ride | None = await wait_task_rescheduled(self._abort)
        finally:
            self._drop()
        return ride

    def _abort(self, _: RaiseCancelT) -> Abort:
        self._forget()
        return Abort.SUCCEEDED

    def _wake(self, result: outcome.Value[Ride | None] | outcome.Error) -> None:
        self._forget()
        assert self._task is not None
        reschedule(self._task, result)

    def _forget(self) -> None:
        """Nothing is called any more."""
        self._engine.forget(self._fd)
        if self._ride is not None:
            self._ride.connection.unwatch()

    def _on_client(self) -> None:
        data = _received(self._sock)
        if data is None:
            return
        if self._ride is not None:
            self._meanwhile(data)
            return
        if self._held:
            data, self._held = self._held + data, b""
            self._connection.expect("")
        elif awaits_body(data):
            self._held = data
            self._connection.expect("body")
            return
        try:
            if data and self._depart(data):
                return
        except Exception as error:
            self._fail(error)
            return
        self._connection.buffer += data
        self._wake(outcome.Value(None))

    def _meanwhile(self, data: bytes) -> None:
        """Something came from the client before it had its answer."""
        if not data:
            self._wake(outcome.Error(ClientGone()))
            return
        buffer = self._connection.buffer
        buffer += data
        if len(buffer) >= WATCH_LIMIT:
            self._engine.forget(self._fd)  # enough; what follows can wait in the kernel

    def _depart(self, data: bytes) -> bool:
        request = known_request(data)
        if request is None:
            return False
        head, body = request
        connection = self._connection
        ex = HttpExchange(connection, head)
        ex.body_read = True
        ride = self._departures.depart(ex, body)
        if ride is None:
            return False
        connection.exchange = ex
        self._ride = ride
        ride.spare, self._spare = self._spare, None
        ride.connection.watch(self._engine, self._on_upstream)
        return True

    def _on_upstream(self) -> None:
        """The beginning of the answer, which is all of it for most."""
        ride = self._ride
        assert ride is not None
        data = _received(ride.connection.sock)
        if data is None:
            return
        try:
            wire = ride.accept(data) if data else None
            if wire is None:
                self._hand_over(ride)
                return
            sent = self._send(wire)
            if sent < len(wire):
                ride.unsent = wire[sent:]
                ride.exchange.bytes_sent -= len(ride.unsent)  # counted when it goes
                self._hand_over(ride)
            elif ride.complete:
                self._arrive(ride)
            else:
                ride.connection.watch(self._engine, self._on_chunk)
        except Exception as error:
            self._fail(error)

    def _on_chunk(self) -> None:
        """More of a stream."""
        ride = self._ride
        assert ride is not None
        data = _received(ride.connection.sock)
        if data is None:
            return
        try:
            if not data or not ride.take(data):
                self._hand_over(ride)
                return
            sent = self._send(data)
            ride.exchange.bytes_sent += sent
            if sent < len(data):
                ride.unsent = data[sent:]
                self._hand_over(ride)
            elif ride.complete:
                self._arrive(ride)
        except Exception as error:
            self._fail(error)

    def _hand_over(self, ride: Ride) -> None:
        self._wake(outcome.Value(ride))
        self._ride = None

    def _fail(self, error: Exception) -> None:
        """The client's socket is broken. Or this is a bug, which is its connection's then, not everybody's."""
        self._wake(outcome.Error(ClientGone() if isinstance(error, OSError) else error))

    def _send(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def _arrive(self, ride: Ride) -> None:
        """The answer is complete."""
        connection, ex = self._connection, ride.exchange
        self._ride = None
        self._spare = ride.parser or ride.spare
        ride.end(self._pool)
        assert isinstance(ex, HttpExchange)
        ex.finished = True
        self._departures.settle(ex, gone=False)
        connection.exchange = None
        connection.since = connection.host.tick
        if connection.buffer:
            self._wake(outcome.Value(None))
        elif connection.host.closing:
            connection.scope.cancel()

    def _drop(self) -> None:
        """The request under way, if there is one, is over without its answer."""
        ride, self._ride = self._ride, None
        if ride is not None:
            ride.drop()
            self._departures.settle(ride.exchange, gone=True)


def _received(sock: socket.socket) -> bytes | None:
    """What has come; b"" if the other side has ended or broken the connection, None if it was nothing."""
    try:
        return sock.recv(RECV_BYTES)
    except BlockingIOError:
        return None
    except OSError:
        return b""
