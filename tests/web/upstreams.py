"""A model's server of which a test decides every byte, and clients that believe nothing.

Both ends sit in the test's own task: it sends a request, takes it at the other end, answers, reads. The
clients parse with h11 and h2, which have nothing in common with the parser under test.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import h2.config
import h2.connection
import h2.events
import h11
import trio

Pairs = Iterable[tuple[str, str]]
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)


class Incomplete(Exception):
    """The response ended in a way that no client takes for its end."""


@dataclass
class Request:
    """What an upstream received."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection of the proxy to a scripted upstream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def head(self) -> Request:
        """The next request without its body."""
        while b"\r\n\r\n" not in self.buffer:
            data = await self.stream.receive_some()
            assert data, f"the proxy closed the connection after {bytes(self.buffer)!r}"
            self.buffer += data
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        self.buffer[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        pairs = [line.split(": ", 1) for line in lines]
        return Request(method, target, version, [(name, value) for name, value in pairs])

    async def request(self) -> Request:
        """The next request, whole."""
        request = await self.head()
        assert request.get("transfer-encoding") is None
        size = int(request.get("content-length") or 0)
        while len(self.buffer) < size:
            data = await self.stream.receive_some()
            assert data, "the proxy closed the connection within a body"
            self.buffer += data
        request.body = bytes(self.buffer[:size])
        del self.buffer[:size]
        return request

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, body: bytes = b"{}", status: str = "200 OK", headers: Pairs = ()) -> None:
        lines = [f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in headers), f"Content-Length: {len(body)}"]
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def start_chunked(self, kind: str = "text/event-stream", status: str = "200 OK") -> None:
        await self.send(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def readable(self) -> bool:
        """Wait for data; False if there will be none."""
        socket = self.stream.socket
        if socket.fileno() < 0:
            return False
        try:
            return bool(await socket.recv(1, trio.socket.MSG_PEEK))
        except GONE:
            return False

    async def gone(self) -> None:
        """Return when the proxy has closed its end."""
        while True:
            try:
                if not await self.stream.receive_some():
                    return
            except GONE:
                return

    def close(self) -> None:
        self.stream.socket.close()

    def reset(self) -> None:
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.stream.socket.close()


class Server:
    """A listening upstream; tests take its connections one by one."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._send, self._receive = trio.open_memory_channel[Connection](1000)
        self._connections: list[Connection] = []
        self._listener: trio.SocketListener | None = None
        self._scope = trio.CancelScope()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        scope = self._scope
        try:
            with scope:
                (self._listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
                self.port = self._listener.socket.getsockname()[1]
                task_status.started()
                while True:
                    connection = Connection(await self._listener.accept())
                    self.accepted += 1
                    self._connections.append(connection)
                    self._send.send_nowait(connection)
        finally:
            if self._listener is not None:
                self._listener.socket.close()
            if not scope.cancel_called:
                self.drop()

    async def accept(self) -> Connection:
        return await self._receive.receive()

    async def request(self) -> tuple[Connection, Request]:
        """The next request on a new connection or on one that was kept."""
        found: Connection | None = None
        async with trio.open_nursery() as nursery:

            async def first(kept: Connection | None) -> None:
                nonlocal found
                connection = kept or await self.accept()
                if connection.buffer or await connection.readable():
                    found = connection
                    nursery.cancel_scope.cancel()

            nursery.start_soon(first, None)
            for connection in self._connections[: self.accepted - self.waiting()]:
                nursery.start_soon(first, connection)
        assert found is not None
        return found, await found.request()

    def refuse(self) -> None:
        """Listen no more, until `run` again; connections stay."""
        self._scope.cancel()
        self._scope = trio.CancelScope()

    def drop(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()

    def waiting(self) -> int:
        """Connections that were made and not taken yet."""
        return self._receive.statistics().current_buffer_used


@dataclass
class Response:
    status: int
    headers: list[tuple[str, str]]
    version: str = "1.1"
    reason: str = ""
    body: bytes = b""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, found
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The envelope's code."""
        assert self.json["src"] == "llama-swap"
        return str(self.json["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class Client(Protocol):
    """One request at a time over HTTP/1.1 or HTTP/2."""

    async def request(self, method: str, path: str, headers: Pairs = (), body: bytes | None = None) -> None: ...

    async def head(self) -> Response: ...

    async def data(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises Incomplete."""
        ...

    async def response(self) -> Response: ...

    def close(self) -> None: ...


class _Reading:
    async def head(self) -> Response:
        raise NotImplementedError  # pragma: no cover

    async def data(self) -> bytes:
        raise NotImplementedError  # pragma: no cover

    async def body(self) -> bytes:
        parts = []
        while piece := await self.data():
            parts.append(piece)
        return b"".join(parts)

    async def response(self) -> Response:
        response = await self.head()
        response.body = await self.body()
        return response


class H1Client(_Reading):
    """HTTP/1.1 over any Trio stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.interim: list[int] = []
        self._parser = h11.Connection(h11.CLIENT)
        self._left = b""
        self._body = b""
        self.ended = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def request(self, method: str, path: str, headers: Pairs = (), body: bytes | None = None) -> None:
        fields = [("Host", "example.test"), *headers]
        if body is not None:
            fields.append(("Content-Length", str(len(body))))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        self.expect(method)
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))

    def expect(self, method: str = "GET") -> None:
        """The next response answers a request of this method, sent by hand."""
        self._parser = h11.Connection(h11.CLIENT)
        self._parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        self._parser.send(h11.EndOfMessage())
        if self._left:
            self._parser.receive_data(self._left)
            self._left = b""

    async def _event(self) -> Any:
        while True:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                raise Incomplete(str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            try:
                data = await self.stream.receive_some(65536)
            except GONE as error:
                raise Incomplete(repr(error)) from error
            self.ended = not data
            self._parser.receive_data(data)

    async def head(self) -> Response:
        while True:
            event = await self._event()
            if isinstance(event, h11.InformationalResponse):
                self.interim.append(event.status_code)
                continue
            if not isinstance(event, h11.Response):
                raise Incomplete(f"no response: {event!r}")
            headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers.raw_items()]
            return Response(event.status_code, headers, event.http_version.decode(), event.reason.decode("latin-1"))

    async def data(self) -> bytes:
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage), event
        self._left = bytes(self._parser.trailing_data[0])
        return b""

    async def closed(self) -> bool:
        """Wait for the server's end of the connection; whether it was an orderly one."""
        assert not self._left, self._left
        try:
            data = await self.stream.receive_some(65536)
        except GONE:
            return False
        assert not data, data
        return True

    def close(self) -> None:
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        assert isinstance(stream, trio.SocketStream)
        stream.socket.close()

    def reset(self) -> None:
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.stream.socket.close()


class H2Client(_Reading):
    """HTTP/2 over any Trio stream, one request at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._id = 0
        self._events: list[h2.events.Event] = []
        self._started = False

    async def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def request(self, method: str, path: str, headers: Pairs = (), body: bytes | None = None) -> None:
        await self.open(method, path, headers, end=body is None)
        if body is not None:
            await self.send_body(body, end=True)

    async def open(self, method: str, path: str, headers: Pairs = (), *, end: bool = False) -> None:
        if not self._started:
            self._h2.initiate_connection()
            self._started = True
        self._id = self._h2.get_next_available_stream_id()
        self._events.clear()
        fields = [(":method", method), (":scheme", "http"), (":authority", "example.test"), (":path", path)]
        fields += [(name.lower(), value) for name, value in headers]
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields]
        self._h2.send_headers(self._id, encoded, end_stream=end)
        await self._flush()

    async def send_body(self, data: bytes, *, end: bool = False) -> None:
        view = memoryview(data)
        while view:
            room = min(self._h2.local_flow_control_window(self._id), self._h2.max_outbound_frame_size)
            if room == 0:
                await self._receive()
                continue
            self._h2.send_data(self._id, bytes(view[:room]))
            view = view[room:]
            await self._flush()
        if end:
            self._h2.end_stream(self._id)
            await self._flush()

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some(65536)
        except GONE as error:
            raise Incomplete(repr(error)) from error
        if not data:
            raise Incomplete("the connection ended")
        for event in self._h2.receive_data(data):
            if getattr(event, "stream_id", None) == self._id:
                self._events.append(event)
            if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self._flush()

    async def _event(self, *kinds: type) -> Any:
        while True:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, h2.events.StreamReset):
                    raise Incomplete(f"RST_STREAM {event.error_code}")
                if isinstance(event, kinds):
                    return event
            await self._receive()

    async def head(self) -> Response:
        event = await self._event(h2.events.ResponseReceived)
        fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
        return Response(int(fields[0][1]), fields[1:], "2")

    async def data(self) -> bytes:
        while True:
            event = await self._event(h2.events.DataReceived, h2.events.StreamEnded)
            if isinstance(event, h2.events.StreamEnded):
                return b""
            if event.data:
                return bytes(event.data)

    async def leave(self) -> None:
        """Cancel the stream, keep the connection."""
        self._h2.reset_stream(self._id, 8)
        await self._flush()

    close = H1Client.close


async def connect(port: int, *, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    if tls is None:
        return stream
    secured = trio.SSLStream(stream, tls, server_hostname="localhost", https_compatible=True)
    await secured.do_handshake()
    return secured


def chat(model: str = "a", **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [], **more}).encode()


def frames(data: bytes) -> list[Any]:
    """The JSON of server-sent events."""
    events: Sequence[bytes] = [event for event in data.split(b"\n\n") if event.strip()]
    assert all(event.startswith(b"data: ") for event in events), data
    return [json.loads(event[6:]) for event in events if event != b"data: [DONE]"]
