"""An inference server that costs next to nothing, so that what is measured is what stands in front of it.

    python benchmarks/upstream.py --port N [--bind-delay-s 0.3]

One thread, one selector, nothing but the standard library. GET is answered as a health check, POST
as a chat completion of 0.6 KB, or, with `"stream": true`, of `x_chunks` events `x_interval_us` apart,
each sent by itself and stamped with the time (`"t"`, ns since 1970). It reads these fields with a
regular expression from the first bytes of the body: the load generator writes them there.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import re
import select
import selectors
import socket
import time

FIELDS = 400  # bytes of the body in which the fields stand
BACKLOG = 1024

USAGE = (
    b'"usage":{"prompt_tokens":25,"completion_tokens":10,"total_tokens":35},"timings":{"prompt_n":25,'
    b'"prompt_ms":13,"prompt_per_second":1923.1,"predicted_n":10,"predicted_ms":17,"predicted_per_second":588.2}'
)
PLAIN = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"%s"},"finish_reason":"stop"}],%s}' % (b"x" * 300, USAGE)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","t":%d,"model":"m","choices":[{"index":0,'
    b'"delta":{"content":"token "},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"stop"}],%s}\n\ndata: [DONE]\n\n' % USAGE
)


def whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


ANSWER, HEALTH, END = whole(PLAIN), whole(b'{"status":"ok"}'), chunk(LAST) + b"0\r\n\r\n"


class Connection:
    """One client; `left` counts the events still to be sent of the stream it is in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.given: list[bytes] = []
        self.have = 0
        self.need = -1  # of head and body together; -1 before the head is whole
        self.unsent = b""
        self.left = 0
        self.interval_s = 0.0
        self.due_s = 0.0
        self.open = True


class Upstream:
    def __init__(self, port: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.flat_out: list[Connection] = []  # streams without pauses, served in turn
        self.paced: list[tuple[float, int, Connection]] = []

    def run(self) -> None:
        fd = self.selector.fileno()  # epoll's or kqueue's
        while True:
            wait_s = None
            if self.flat_out:
                wait_s = 0.0
            elif self.paced:
                wait_s = max(0.0, self.paced[0][0] - time.monotonic())
            # select() waits by the microsecond, epoll only by the millisecond
            select.select([fd], [], [], wait_s)
            for key, events in self.selector.select(0):
                if key.data is None:
                    self.accept()
                elif events & selectors.EVENT_WRITE:
                    self.flush(key.data)
                else:
                    self.read(key.data)
            now = time.monotonic()
            while self.paced and self.paced[0][0] <= now:
                self.event(heapq.heappop(self.paced)[2])
            for connection in [c for c in self.flat_out if not c.unsent]:
                self.event(connection)

    def accept(self) -> None:
        try:
            sock = self.listener.accept()[0]
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.selector.register(sock, selectors.EVENT_READ, Connection(sock))

    def close(self, connection: Connection) -> None:
        if connection.open:
            connection.open, connection.left = False, 0
            self.selector.unregister(connection.sock)
            connection.sock.close()
            if connection in self.flat_out:
                self.flat_out.remove(connection)

    def read(self, c: Connection) -> None:
        try:
            data = c.sock.recv(262_144)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close(c)
            return
        c.given.append(data)
        c.have += len(data)
        if c.need < 0:
            joined = b"".join(c.given)
            c.given = [joined]
            end = joined.find(b"\r\n\r\n")
            if end < 0:
                return
            length = re.search(rb"\r\ncontent-length: *(\d+)", joined[:end], re.IGNORECASE)
            c.need = end + 4 + (int(length[1]) if length else 0)
        if c.have >= c.need:
            request = b"".join(c.given)
            c.given, c.have, c.need = [], 0, -1
            self.answer(c, request)

    def answer(self, c: Connection, request: bytes) -> None:
        if request.startswith(b"GET"):
            self.send(c, HEALTH)
            return
        body = request.index(b"\r\n\r\n") + 4
        fields = request[body : body + FIELDS]
        if not re.search(rb'"stream": *true', fields):
            self.send(c, ANSWER)
            return
        count = re.search(rb'"x_chunks": *(\d+)', fields)
        interval = re.search(rb'"x_interval_us": *(\d+)', fields)
        c.left = int(count[1]) if count else 10
        c.interval_s = int(interval[1]) / 1e6 if interval else 0.0
        c.due_s = time.monotonic()
        self.send(c, STREAM_HEAD)
        if c.interval_s:
            self.event(c)
        else:
            self.flat_out.append(c)

    def event(self, c: Connection) -> None:
        """One event of a stream, and what follows it."""
        if not c.open:
            return
        if c.left == 0:
            if not c.interval_s:
                self.flat_out.remove(c)
            self.send(c, END)
            return
        c.left -= 1
        self.send(c, chunk(EVENT % time.time_ns()))
        if c.interval_s and c.open:
            c.due_s += c.interval_s
            heapq.heappush(self.paced, (c.due_s, id(c), c))

    def send(self, c: Connection, data: bytes) -> None:
        if c.unsent:
            c.unsent += data
            return
        try:
            sent = c.sock.send(data)
        except BlockingIOError:
            sent = 0
        except ConnectionError:
            self.close(c)
            return
        if sent < len(data):
            c.unsent = data[sent:]
            self.selector.modify(c.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, c)

    def flush(self, c: Connection) -> None:
        data, c.unsent = c.unsent, b""
        self.send(c, data)
        if c.open and not c.unsent:
            self.selector.modify(c.sock, selectors.EVENT_READ, c)


def main() -> None:
    parser = argparse.ArgumentParser(description="an inference server that costs next to nothing")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bind-delay-s", type=float, default=0.0, help="as a model that loads")
    options = parser.parse_args()
    time.sleep(options.bind_delay_s)
    gc.disable()
    Upstream(options.port).run()


if __name__ == "__main__":
    main()
