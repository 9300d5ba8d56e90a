"""One client connection of the front: its requests one after another, each an `Exchange`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from llamaswap.errors import RequestCancelled, RequestTimeout, SwapError
from llamaswap.relay.exchange import ClientGone
from llamaswap.relay.ride import Ride
from llamaswap.relay.transport import Transport
from llamaswap.web.http1 import RequestHead, take_head
from llamaswap.web.http_exchange import DRAIN_BYTES, HttpExchange

if TYPE_CHECKING:
    from llamaswap.web.lane import Seat

HEAD_S = 10  # a request head must be complete by then
IDLE_S = 75  # keep-alive between requests, as nginx has it
BODY_STALL_S = 60  # without a byte of a body that was announced
WATCH_LIMIT = 65536  # pipelined bytes kept while a request is served
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, 3.4
DRAIN_S = 2.0  # and no longer than this
ERROR_SEND_S = 2.0  # to say why a connection is closed


class Host(Protocol):
    """What a connection needs of the front that owns it."""

    tick: int
    """Seconds, coarse: the front's sweeper counts them, so that no request has to read a clock."""
    closing: bool

    async def serve(self, ex: HttpExchange) -> None:
        """Answer a request. Raises nothing but Cancelled."""

    def watch(self, connection: Connection) -> None:
        """Call `start_watcher` of it in a moment."""

    def seat(self, connection: Connection) -> Seat | None:
        """Its place in the express lane, if it can have one."""

    async def resume(self, ride: Ride) -> None:
        """Answer a request that came out of the lane. Raises nothing but Cancelled."""

    async def take_over(self, connection: Connection) -> None:
        """Serve a connection that opened with HTTP/2's preface, to its end."""


class Connection:
    """Reads requests and hands them to `host.serve` until either side ends it.

    `run` returns with the transport closed. The sweeper reads `overdue` and cancels `scope`.
    """

    def __init__(self, host: Host, transport: Transport, client: str, secure: bool = False) -> None:
        self.host = host
        self.transport = transport
        self.client = client
        self.secure = secure
        self.buffer = bytearray()
        self.scope = trio.CancelScope()
        self.exchange: HttpExchange | None = None
        self.watched = False
        self._watcher: trio.CancelScope | None = None
        self._watcher_done = trio.Event()
        self._reading = ""  # head | body, while a client owes us one
        self.since = host.tick
        """The host's tick at which the present wait began."""
        self._seat = host.seat(self)
        self._timed_out = False
        self._cancelled = False
        self._progress = (0, 0)
        self._stalled_since = host.tick

    async def run(self) -> None:
        try:
            with self.scope:
                await self._requests()
            if self._timed_out:
                await self._refuse(RequestTimeout(f"the request's {self._reading} did not arrive in time"))
            elif self._cancelled and self.exchange is not None and not self.exchange.started:
                await self._refuse(RequestCancelled())
        except (OSError, ClientGone):
            pass  # it left, which is its right
        finally:
            ex = self.exchange
            if ex is not None and ex.started and not ex.finished and not ex.raw:
                self.transport.reset()  # cut off by us: nothing else tells HTTP/1.0 that the body is not whole
            else:
                self.transport.close()

    def expect(self, what: str) -> None:
        """From now on the client owes us this (head or body), or nothing."""
        self._reading, self.since = what, self.host.tick

    @property
    def idle(self) -> bool:
        """Between two requests."""
        return self.exchange is None and self._reading != "body"

    def overdue(self) -> bool:
        """Called by the sweeper: whether the client owes us bytes for too long. Ends the wait if so."""
        waited = self.host.tick - self.since
        if self._reading:
            limit = HEAD_S if self._reading == "head" else BODY_STALL_S
            self._timed_out = waited > limit
            return self._timed_out
        return self.exchange is None and (waited > IDLE_S or self.host.closing)

    def stalled_s(self) -> int:
        """Called once a second by the sweeper: for how long the client has taken none of its response."""
        unsent = self.transport.unsent()
        progress = (unsent, self.exchange.bytes_sent if self.exchange is not None else 0)
        if unsent == 0 or progress != self._progress:
            self._progress = progress
            self._stalled_since = self.host.tick
        return self.host.tick - self._stalled_since

    async def _requests(self) -> None:
        while True:
            ride = await self._seat.rest() if self._seat is not None and not self.buffer else None
            if ride is not None:
                assert self.exchange is not None
                await self.host.resume(ride)
                ride = None  # whose body may be large
                if not await self._may_go_on(self.exchange):
                    return
                continue
            try:
                head = await self._next_head()
            except SwapError as error:
                self._reading = ""
                await self._refuse(error)
                return
            if head is None:
                return
            ex = self.exchange = HttpExchange(self, head)
            await self.host.serve(ex)
            if not await self._may_go_on(ex):
                return

    async def _may_go_on(self, ex: HttpExchange) -> bool:
        """After a request: whether another may follow on the connection. If not, it has been ended in order."""
        await self.unwatch()
        self.since = self.host.tick
        if not ex.finished or not ex.keep_alive or (not ex.body_read and not await self._drained(ex)):
            await self._close_gently(ex)
            return False
        self.exchange = None
        return not self.host.closing

    def cancel(self) -> None:
        """End the request that is being served, and the connection with it."""
        self._cancelled = True
        self.scope.cancel()

    def watch(self) -> None:
        """Notice if the client leaves from now on, after a moment in which most answers are over."""
        self.watched = True
        self.host.watch(self)

    async def unwatch(self) -> None:
        """The opposite; returns when nobody else reads from the transport."""
        self.watched = False
        if self._watcher is not None:
            self._watcher.cancel()
            await self._watcher_done.wait()
            self._watcher = None

    @property
    def guarded(self) -> bool:
        return self._watcher is not None

    def start_watcher(self, nursery: trio.Nursery) -> None:
        """Called by the host, once it has waited, if `watched` still is."""
        self._watcher, self._watcher_done = trio.CancelScope(), trio.Event()
        nursery.start_soon(self._watch, self._watcher, self._watcher_done)

    async def _watch(self, scope: trio.CancelScope, done: trio.Event) -> None:
        """Read ahead, which is the only way to see the end behind pipelined bytes; cancel all if it comes."""
        try:
            with scope:
                while not scope.cancel_called and len(self.buffer) < WATCH_LIMIT:
                    try:
                        data = await self.transport.recv()
                    except OSError:
                        data = b""
                    if not data:
                        if self.watched:
                            self.scope.cancel()
                        return
                    self.buffer += data
        finally:
            done.set()

    async def _next_head(self) -> RequestHead | None:
        self.since = self.host.tick
        while True:
            if self.buffer:
                if PREFACE.startswith(self.buffer[: len(PREFACE)]):
                    if len(self.buffer) >= len(PREFACE):
                        self._reading = ""
                        await self.host.take_over(self)
                        return None
                    head = None
                else:
                    head = take_head(self.buffer)
                if head is not None:
                    self._reading = ""
                    return head
                if not self._reading:
                    self.expect("head")
            data = await self.transport.recv()
            if not data:
                return None
            self.buffer += data

    async def receive_body(self, limit: int) -> bytes:
        """More of a body that is owed. Raises ClientGone."""
        self.expect("body")
        try:
            data = await self.transport.recv(limit)
        except OSError as error:
            raise ClientGone from error
        if not data:
            raise ClientGone
        self._reading = ""
        return data

    async def _refuse(self, error: SwapError) -> None:
        """Say why and close: what follows on the connection cannot be told apart from the broken part."""
        with trio.move_on_after(ERROR_SEND_S, shield=True):
            ex = self.exchange
            if ex is None:
                head = RequestHead()
                head.method = "GET"
                head.keep_alive = False
                ex = HttpExchange(self, head)
            ex.keep_alive = False
            await ex.fail(error)
            await self._close_gently(ex)

    async def _close_gently(self, ex: HttpExchange) -> None:
        """Let the client read our answer before the bytes it still sends make the kernel reset it."""
        unread = not ex.body_read or bool(self.buffer)
        if ex.finished and (unread or self.secure):
            with trio.move_on_after(DRAIN_S):
                await self.transport.send_eof()
                left = DRAIN_BYTES * 16 if unread else 0
                while left > 0 and (data := await self.transport.recv()):
                    left -= len(data)

    async def _drained(self, ex: HttpExchange) -> bool:
        """Read past the body of a request that was answered without it."""
        with trio.move_on_after(DRAIN_S):
            try:
                await ex.read_body(DRAIN_BYTES)
            except (SwapError, ClientGone):
                return False
            return True
        return False
