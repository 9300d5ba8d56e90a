"""Readiness: how soon it is noticed, and what counts as an answer."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trustme

from llamaswap.upstream import probe
from llamaswap.upstream.probe import NotReady, Probe, Refused, Target, ask

LIMIT_S = 10
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOADING = b"HTTP/1.1 503 Loading\r\nContent-Length: 0\r\n\r\n"
Answer = Callable[[trio.SocketStream, bytes], Awaitable[None]]


@asynccontextmanager
async def server(answer: bytes | Answer, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Answers every request with these bytes, or as told; yields its port."""

    async def handle(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = await stream.receive_some()
            if not data:
                return
            request += data
        try:
            if isinstance(answer, bytes):
                await stream.send_all(answer)
            else:
                await answer(stream, request)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        with trio.fail_after(LIMIT_S):
            yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()
    await listener.aclose()


@pytest.mark.parametrize(
    ("base", "path", "line", "host"),
    [
        ("http://localhost:5800", "/health", "/health", "localhost:5800"),
        ("http://localhost:5800/", "health", "/health", "localhost:5800"),
        ("http://u:p@box:1/v1/", "/ready?full=1&x=%20", "/v1/ready?full=1&x=%20", "box:1"),
        ("http://[::1]:8080/api", "/", "/api/", "[::1]:8080"),
        ("http://box", "/a b/ü", "/a%20b/%C3%BC", "box"),
    ],
)
def test_what_is_asked(base: str, path: str, line: str, host: str) -> None:
    request = Target.of(base, path).request.decode()
    assert request.startswith(f"GET {line} HTTP/1.1\r\nHost: {host}\r\n") and request.endswith("\r\n\r\n")


@pytest.mark.parametrize("base", ["", "localhost:80", "ftp://a/", "http://", "http://a:99999"])
def test_what_is_no_address(base: str) -> None:
    with pytest.raises(ValueError):
        Target.of(base, "/health")


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nmore than anybody reads",
    ],
)
async def test_only_200_is_ready(answer: bytes) -> None:
    async with server(answer) as port:
        await ask(Target.of(f"http://127.0.0.1:{port}", "/health"))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (LOADING, "status 503"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "status 204"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "switch protocols"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "without an answer"),
    ],
)
async def test_all_else_is_not(answer: bytes, says: str) -> None:
    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(answer)
        await stream.send_eof()

    async with server(handle) as port:
        with pytest.raises(NotReady, match=says):
            await ask(Target.of(f"http://127.0.0.1:{port}", "/health"))


async def test_nobody_listens(free_port: Callable[[], int]) -> None:
    with pytest.raises(Refused, match="refused"):
        await ask(Target.of(f"http://localhost:{free_port()}", "/health"))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_localhost_is_both_addresses(host: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("no IPv6 here")
    async with server(OK, host) as port:
        await ask(Target.of(f"http://localhost:{port}", "/health"))


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(NotReady, match="cannot connect"), trio.fail_after(LIMIT_S):
        await ask(Target.of("http://no-such-host.invalid:1", "/health"))


async def test_https_with_a_certificate_that_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    ca = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(theirs)

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(OK)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, theirs, host="127.0.0.1", https_compatible=True)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        target = Target.of(f"https://localhost:{listeners[0].transport_listener.socket.getsockname()[1]}", "/health")
        with trio.fail_after(LIMIT_S):
            with pytest.raises(NotReady, match="certificate is not accepted"):
                await ask(target)
            ca.configure_trust(ours)
            monkeypatch.setattr(probe, "_tls_context", lambda: ours)
            await ask(target)
        nursery.cancel_scope.cancel()


async def until_ready(port: int) -> Probe:
    it = Probe(Target.of(f"http://127.0.0.1:{port}", "/health"))
    await it.until_ready()
    return it


@pytest.mark.parametrize("loads_s", [0.0, 0.3])
async def test_readiness_is_noticed_soon(loads_s: float) -> None:
    begun = trio.current_time()

    async def handle(stream: trio.SocketStream, request: bytes) -> None:
        await stream.send_all(OK if trio.current_time() >= begun + loads_s else LOADING)

    async with server(handle) as port:
        await until_ready(port)
        assert trio.current_time() - begun < loads_s + 0.5


async def test_a_question_that_hangs_delays_nobody_and_may_still_be_answered() -> None:
    asked = 0

    async def first_hangs(stream: trio.SocketStream, request: bytes) -> None:
        nonlocal asked
        asked += 1
        if asked <= 2:
            await trio.sleep_forever()
        await stream.send_all(OK)

    async with server(first_hangs) as port:
        begun = trio.current_time()
        await until_ready(port)
        assert trio.current_time() - begun < 2

    first = trio.Event()

    async def first_answers_late(stream: trio.SocketStream, request: bytes) -> None:
        if first.is_set():
            await trio.sleep_forever()
        first.set()
        await trio.sleep(0.5)
        await stream.send_all(OK)

    async with server(first_answers_late) as port:
        await until_ready(port)


async def test_what_hangs_does_not_outlive_its_deadline() -> None:
    async def never(stream: trio.SocketStream, request: bytes) -> None:
        await trio.sleep_forever()

    async with server(never) as port:
        begun = trio.current_time()
        with trio.move_on_after(0.3):
            await until_ready(port)
        assert trio.current_time() - begun < 1


class Paced:
    """A probe whose questions are answered at once, and when they were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: NotReady, host: str = "127.0.0.1") -> None:
        self.times: list[float] = []
        self.ready = False

        async def instead(target: Target) -> None:
            self.times.append(trio.current_time())
            await trio.lowlevel.checkpoint()
            if not self.ready:
                raise answer

        monkeypatch.setattr(probe, "ask", instead)
        self.probe = Probe(Target.of(f"http://{host}:1", "/health"))


async def test_a_loading_server_is_asked_less_and_less(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    paced = Paced(monkeypatch, NotReady("it answers with status 503"))
    with trio.move_on_after(200):
        await paced.probe.until_ready()
    gaps = [after - before for before, after in zip(paced.times, paced.times[1:], strict=False)]
    assert gaps[0] == pytest.approx(0.01) and gaps[-1] == pytest.approx(1.0)
    assert max(gaps) <= 1.001 and len(gaps) < 500
    assert all(gap <= 0.05001 for gap, at in zip(gaps, paced.times, strict=False) if at - paced.times[0] < 2.4)


async def test_a_port_that_nobody_listens_on_is_tried_often(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    for host, least in (("127.0.0.1", 3000), ("192.0.2.1", 0)):
        paced = Paced(monkeypatch, Refused("refused"), host)
        with trio.move_on_after(100):
            await paced.probe.until_ready()
        assert least < len(paced.times) < (5000 if least else 500)


async def test_output_of_the_process_is_a_reason_to_ask(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    paced = Paced(monkeypatch, NotReady("it answers with status 503"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(paced.probe.until_ready)
        await trio.sleep(100)
        asked = len(paced.times)
        gap = 1.0
        # The line that the server prints about our own question is none.
        await trio.sleep_until(paced.times[-1] + gap + 0.005)
        assert len(paced.times) == asked + 1
        paced.probe.output_seen()
        await trio.sleep(0.3)
        assert len(paced.times) == asked + 1
        # Any other is, once per while.
        paced.ready = True
        said_at = trio.current_time()
        for _ in range(5):
            paced.probe.output_seen()
    assert len(paced.times) == asked + 2 and paced.times[-1] == said_at


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
