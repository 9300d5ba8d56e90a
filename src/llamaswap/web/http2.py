"""HTTP/2 connections, by Hypercorn's (0.18) protocol with what it gets wrong put right.

- DATA for a stream whose answer is complete ended the whole connection. RFC 9113, 8.1 allows an answer before the
  request's end, so what comes after it is taken in and dropped.
- A request line that is no ASCII ended the connection, the other streams of which may be other people's.
- Connections ended without a word (idle ones), or in the middle of answers (after 1000 requests, at the end of
  the program). Here they end by GOAWAY: no stream begins any more, those that are under way are finished first,
  and the client knows that what was refused was not begun. (GOAWAY while a stream is under way ends it for
  clients made with Python's h2, httpx among them.)
- A stream that the client or the app gave up was never forgotten, nor was its connection idle again; of the app's
  giving up the client heard nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import RawData, Updated
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hyperframe.frame import GoAwayFrame

from llamaswap.upstream.process import first_of

LINGER_S = 0.5  # for the client to close first: our close could destroy bytes that it has not read


class _Ended:
    """In the place of a stream that is over."""

    async def handle(self, event: object) -> None:
        pass


class _Streams(dict[int, Any]):
    def __missing__(self, stream_id: int) -> _Ended:
        return _Ended()


class _Protocol(H2Protocol):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.streams = _Streams()
        self.finished = trio.Event()
        """After `refuse`: the last answer is out."""
        self._leaving = False

    def refuse(self) -> None:
        """Let no stream begin any more."""
        self._leaving = True
        self._look_whether_finished()

    async def say_goodbye(self) -> None:
        """By hand: h2's own close_connection would not let it refuse anything any more."""
        frame = GoAwayFrame(0, last_stream_id=self.connection.highest_inbound_stream_id)
        await self.send(RawData(frame.serialize()))

    def _look_whether_finished(self) -> None:
        if self._leaving and not self.streams and not self.stream_buffers:
            self.finished.set()

    async def _create_stream(self, request: RequestReceived) -> None:
        line = [value for name, value in request.headers if name in (b":method", b":path")]
        if self._leaving:
            self.connection.reset_stream(request.stream_id, ErrorCodes.REFUSED_STREAM)
        elif not b"".join(line).isascii():
            self.connection.reset_stream(request.stream_id, ErrorCodes.PROTOCOL_ERROR)
        else:
            await super()._create_stream(request)

    async def _close_stream(self, stream_id: int) -> None:
        await super()._close_stream(stream_id)
        if self.closed:
            return
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer._complete:
            del self.stream_buffers[stream_id]
            self.priority.remove_stream(stream_id)
            await buffer.close()
            stream = self.connection.streams.get(stream_id)
            if stream is not None and not stream.closed:
                self.connection.reset_stream(stream_id, ErrorCodes.INTERNAL_ERROR)
                await self._flush()
        if not self.streams:
            await self.send(Updated(idle=True))
        self._look_whether_finished()

    async def _send_data(self, stream_id: int) -> None:
        with suppress(KeyError):  # given up just now
            await super()._send_data(stream_id)
        self._look_whether_finished()


class Http2Connection(TCPServer):
    """One connection over a Trio stream; `run` serves it to its end."""

    def __init__(
        self,
        app: ASGIWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        stream: trio.abc.Stream,
        *,
        client: str,
        secure: bool,
        stopping: trio.Event,
    ) -> None:
        """`config.keep_alive_max_requests` must be out of reach; `stopping`: it shall end with its last answer."""
        super().__init__(app, config, context, {}, stream)  # type: ignore[arg-type]
        self._client = client
        self._secure = secure
        self._stopping = stopping
        self._overdue = trio.Event()

    async def run(self) -> None:
        try:
            async with TaskGroup() as tasks:
                self._task_group = tasks
                protocol = _Protocol(
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    ConnectionState({}),
                    self._secure,
                    (self._client, 0),
                    ("127.0.0.1", 0),
                    self.protocol_send,
                )
                self.protocol = protocol  # type: ignore[assignment]
                await protocol.initiate()
                await self.idle_task.restart(tasks, self._idle_timeout)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._end, protocol)
                    await self._read_data()
                    nursery.cancel_scope.cancel()
                await self.idle_task.stop()
        except OSError:
            pass
        finally:
            await self._close()

    async def _idle_timeout(self) -> None:
        await trio.sleep(self.config.keep_alive_timeout)
        self._overdue.set()

    async def _end(self, protocol: _Protocol) -> None:
        await first_of(self._stopping.wait, self._overdue.wait)
        protocol.refuse()
        await protocol.finished.wait()
        await protocol.say_goodbye()
        await trio.sleep(LINGER_S)
        await self.stream.aclose()
