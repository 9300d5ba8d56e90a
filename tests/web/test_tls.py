"""TLS on the front: HTTP/1.1 and HTTP/2 by ALPN, and orderly ends."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from fakefleet import World, a_world
from upstreams import H1Client, H2Client, Incomplete, chat, connect
from websockets.sync.client import connect as ws_connect
from websockets.sync.server import ServerConnection, serve

from llamaswap.server import tls_context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture(scope="module")
def context(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    return tls_context(Path(chain), Path(key))


def trusting(authority: trustme.CA, *protocols: str) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    if protocols:
        trust.set_alpn_protocols(list(protocols))
    return trust


async def served(world: World, client: H1Client | H2Client) -> None:
    for number in range(2):
        await client.request("POST", "/v1/embeddings", body=chat(n=number))
        up, request = await world.up().request()
        assert request.json["n"] == number
        await up.answer(b"x" * 300000)
        assert len((await client.response()).body) == 300000
        await client.request("GET", "/health")
        assert (await client.response()).body == b"OK"


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("x", "http/1.1")])
async def test_http1(authority: trustme.CA, context: ssl.SSLContext, protocols: tuple[str, ...]) -> None:
    async with a_world(tls=context, trust=trusting(authority, *protocols)) as world:
        await served(world, await world.h1())


async def test_http2(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority, "h2", "http/1.1")) as world:
        client = await world.h2()
        assert isinstance(client.stream, trio.SSLStream)
        assert client.stream.selected_alpn_protocol() == "h2"
        await served(world, client)


async def test_http2_by_prior_knowledge(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        await served(world, await world.h2())


@pytest.mark.parametrize("http2", [False, True])
async def test_streams_and_leaving(authority: trustme.CA, context: ssl.SSLContext, http2: bool) -> None:
    trust = trusting(authority, "h2" if http2 else "http/1.1")
    async with a_world(tls=context, trust=trust) as world:
        client = await (world.h2() if http2 else world.h1())
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        for number in range(3):
            await up.chunk(b"%d" % number)
            assert await client.data() == b"%d" % number
        if not http2:
            await world.until(lambda: any(c.guarded for c in world.front._connections))
        client.close()
        await up.gone()
        await world.idle()


@pytest.mark.parametrize("http2", [False, True])
async def test_broken_streams(authority: trustme.CA, context: ssl.SSLContext, http2: bool) -> None:
    trust = trusting(authority, "h2" if http2 else "http/1.1")
    async with a_world(tls=context, trust=trust) as world:
        client = await (world.h2() if http2 else world.h1())
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        if not http2:
            await world.until(lambda: any(c.guarded for c in world.front._connections))
        up.close()
        with pytest.raises(Incomplete):
            await client.data()
        await world.idle()


async def test_large_bodies_both_ways(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        client = await world.h1()
        body = chat(prompt="x" * (3 << 20))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/embeddings", (), body)
            up, request = await world.up().request()
            assert request.body == body
            nursery.start_soon(up.answer, b"y" * (3 << 20))
            assert (await client.response()).body == b"y" * (3 << 20)


async def ended(stream: trio.abc.Stream) -> bytes:
    """Everything up to close_notify; an end without one raises."""
    received = b""
    while data := await stream.receive_some(65536):
        received += data
    return received


async def strict(world: World) -> trio.SSLStream[trio.SocketStream]:
    """A client that takes a connection that just ends for an attack, as OpenSSL 3 does."""
    assert world.trust is not None
    stream = await trio.open_tcp_stream("127.0.0.1", world.port)
    secured = trio.SSLStream(stream, world.trust, server_hostname="localhost")
    await secured.do_handshake()
    world.clients.append(H1Client(secured))
    return secured


async def test_connections_end_with_close_notify(authority: trustme.CA, context: ssl.SSLContext) -> None:
    """A body that ends with the connection is whole only if TLS says so."""
    async with a_world(tls=context, trust=trusting(authority)) as world:
        stream = await strict(world)
        await stream.send_all(b"GET /props?model=a HTTP/1.0\r\n\r\n")
        up, _ = await world.up().request()
        await up.start_chunked()
        await up.send(b"4\r\nbody\r\n0\r\n\r\n")
        assert (await ended(stream)).endswith(b"\r\n\r\nbody")
        stream = await strict(world)
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await ended(stream)).endswith(b"OK")
        stream = await strict(world)
        await stream.send_all(b"nonsense\r\n\r\n")
        assert (await ended(stream)).startswith(b"HTTP/1.1 400 ")


async def test_a_broken_body_ends_without_close_notify(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        stream = await strict(world)
        await stream.send_all(b"GET /props?model=a HTTP/1.0\r\n\r\n")
        up, _ = await world.up().request()
        await up.start_chunked()
        await up.send(b"4\r\nbody\r\n")
        await stream.receive_some()
        up.close()
        with pytest.raises(trio.BrokenResourceError):
            await ended(stream)


async def test_refusals_reach_who_still_sends(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority), max_request_body_bytes=10) as world:
        client = await world.h1()
        client.expect("POST")
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, head + b"x" * 3000000)
            assert (await client.response()).status == 413


@pytest.mark.parametrize("hello", [b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""])
async def test_no_tls(authority: trustme.CA, context: ssl.SSLContext, hello: bytes) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        plain = await connect(world.port)
        client = H1Client(plain)
        world.clients.append(client)
        await client.send(hello)
        if hello:
            try:
                while await plain.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        client.close()
        await served(world, await world.h1())


async def test_who_does_not_trust_us(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", world.port)
            secured = trio.SSLStream(stream, ssl.create_default_context(), server_hostname="localhost")
            with pytest.raises(trio.BrokenResourceError):
                await secured.do_handshake()
            stream.socket.close()
        await served(world, await world.h1())


async def test_closing(authority: trustme.CA, context: ssl.SSLContext) -> None:
    async with a_world(tls=context, trust=trusting(authority)) as world:
        idle, busy = await world.h1(), await world.h1()
        await busy.request("POST", "/v1/embeddings", body=chat())
        up, _ = await world.up().request()
        world.front.close()
        await idle.closed()
        await up.answer(b"in time")
        response = await busy.response()
        assert (response.body, response.get("connection")) == (b"in time", "close")


@pytest.fixture
def echo_port() -> Iterator[int]:
    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


async def test_websockets(authority: trustme.CA, context: ssl.SSLContext, echo_port: int) -> None:
    trust = trusting(authority)
    models = {"a": {"proxy": f"http://127.0.0.1:{echo_port}"}}
    async with a_world("front", models, tls=context, trust=trust) as world:

        def talk() -> int | None:
            with ws_connect(f"wss://localhost:{world.port}/upstream/a/ws", ssl=trust, max_size=None) as client:
                for message in ("hello", b"x" * (5 << 20)):
                    client.send(message)
                    assert client.recv() == message
            return client.close_code

        assert await trio.to_thread.run_sync(talk, abandon_on_cancel=True) == 1000
        await world.idle()


# -- HTTP/2 without TLS


async def test_prior_knowledge_in_pieces() -> None:
    async with a_world("front-h2") as world:
        client = await world.h2()
        stream = client.stream
        pieces: list[bytes] = []

        class Collecting:
            async def send_all(self, data: bytes) -> None:
                pieces.append(data)

        client.stream = Collecting()  # type: ignore[assignment]
        await client.request("GET", "/health")
        client.stream = stream
        raw = b"".join(pieces)
        for index in range(len(raw)):
            await stream.send_all(raw[index : index + 1])
            await trio.lowlevel.checkpoint()
        assert (await client.response()).body == b"OK"


async def test_a_long_http2_connection_is_not_idle() -> None:
    """Neither the sweeper nor the beginning of the end cuts a stream that goes on."""
    async with a_world("front-h2") as world:
        client = await world.h2()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up, _ = await world.up().request()
        await up.start_chunked()
        await client.head()
        for _ in range(200):
            world.front.sweep()
        world.front.close()
        await trio.testing.wait_all_tasks_blocked()
        await up.chunk(b"still")
        assert await client.data() == b"still"
        await up.send(b"0\r\n\r\n")
        assert await client.data() == b""


async def test_http2_streams_side_by_side() -> None:
    """Many requests on one connection; one that fails leaves the others alone."""
    async with a_world("front-h2") as world:
        client = await world.h2()
        await client.request("POST", "/v1/chat/completions", body=chat())
        first, _ = await world.up().request()
        await first.start_chunked()
        await client.head()
        await client.request("POST", "/v1/embeddings", body=b"[]")
        assert (await client.response()).status == 400
        await client.request("POST", "/v1/embeddings", body=chat())
        second, _ = await world.up().request()
        first.reset()
        await second.answer(b"second")
        assert (await client.response()).body == b"second"
