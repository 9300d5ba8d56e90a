"""The rarer things: HTTP/2's own, upstreams behind TLS, large uploads, proxies that cannot be reached."""

from __future__ import annotations

import ssl
import tracemalloc

import pytest
import trio
import trio.testing
import trustme
from fakefleet import a_world
from upstreams import Connection, H1Client, Incomplete, chat

UPLOAD_BYTES = 24 << 20


# -- HTTP/2


@pytest.mark.parametrize("door", ["h2", "front-h2"])
async def test_cookies_are_one_header_again(door: str) -> None:
    """RFC 9113, 8.2.3: HTTP/2 clients may send one field per cookie, HTTP/1.1 knows one."""
    async with a_world(door) as world:
        client = await world.client()
        cookies = [("Cookie", "a=1"), ("X-Other", "x"), ("Cookie", "b=2"), ("Cookie", "c=3")]
        await client.request("POST", "/v1/embeddings", cookies, chat())
        up, request = await world.up().request()
        assert request.all("cookie") == ["a=1; b=2; c=3"]
        await up.answer()
        assert (await client.response()).status == 200


@pytest.mark.parametrize("door", ["h2", "front-h2"])
async def test_who_goes_on_sending_gets_the_answer(door: str) -> None:
    """413 while megabytes are still to come; the connection lives on."""
    async with a_world(door, max_request_body_bytes=1000) as world:
        client = await world.h2()
        await client.open("POST", "/v1/embeddings")
        await client.send_body(b"x" * (8 << 20), end=True)
        response = await client.head()
        assert response.status == 413
        assert b"larger than" in await client.data()
        assert await client.data() == b""
        await client.request("GET", "/health")
        assert (await client.response()).body == b"OK"


@pytest.mark.parametrize("door", ["h2", "front-h2"])
async def test_the_connection_ends_under_requests(door: str) -> None:
    async with a_world(door) as world:
        client = await world.h2()
        ups: list[Connection] = []
        for _ in range(5):
            await client.request("POST", "/v1/chat/completions", body=chat())
            up, _ = await world.up().request()
            ups.append(up)
        client.close()
        for up in ups:
            await up.gone()
        await world.idle()


@pytest.mark.parametrize(
    "junk", [b"\0" * 100, b"\0\0\5\4\0\0\0\0\0hello", b"\0\0\1\1\5\0\0\0\2\x82", b"\0\0\1\1\5\0\0\0\x65\xff"]
)
async def test_http2_nonsense_ends_that_connection_only(junk: bytes) -> None:
    async with a_world("front-h2") as world:
        client, other = await world.h2(), await world.h2()
        await client.request("GET", "/health")
        assert (await client.response()).body == b"OK"
        await client.stream.send_all(junk)
        with pytest.raises(Incomplete):
            while True:
                await client.data()
        await other.request("GET", "/health")
        assert (await other.response()).body == b"OK"


# -- uploads


@pytest.mark.parametrize("rename", [False, True])
async def test_an_upload_is_held_once(door: str, rename: bool) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n'
    head += b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = head + bytes(UPLOAD_BYTES) + b"\r\n--b--\r\n"
    async with a_world(door, {"a": {"use_model_name": "other" if rename else ""}}) as world:
        client = await world.h1()
        tracemalloc.start()
        try:
            async with trio.open_nursery() as nursery:
                kind = [("Content-Type", "multipart/form-data; boundary=b")]
                nursery.start_soon(send_in_pieces, client, "/v1/audio/transcriptions", kind, body)
                up = await world.up().accept()
                size = int((await up.head()).get("content-length") or 0)
                assert size == len(body) + 4 * rename
                left = size - len(up.buffer)
                while left:
                    left -= len(await up.stream.receive_some(65536))
                await up.answer()
                client.expect("POST")
                assert (await client.response()).status == 200
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1.5 * UPLOAD_BYTES


async def send_in_pieces(client: H1Client, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers)
    await client.send(f"POST {path} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode())
    view = memoryview(body)
    for at in range(0, len(view), 1 << 18):
        await client.stream.send_all(view[at : at + (1 << 18)])


# -- upstreams elsewhere


class TlsUpstream:
    """A scripted upstream behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.port = 0
        self._send, self._receive = trio.open_memory_channel[trio.SSLStream[trio.SocketStream]](10)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        accepted = []
        try:
            while True:
                stream = trio.SSLStream(await listener.accept(), self._context, server_side=True, https_compatible=True)
                accepted.append(stream)
                try:
                    await stream.do_handshake()
                except trio.BrokenResourceError:
                    continue
                self._send.send_nowait(stream)
        finally:
            listener.socket.close()
            for stream in accepted:
                stream.transport_stream.socket.close()

    async def accept(self) -> trio.SSLStream[trio.SocketStream]:
        return await self._receive.receive()


async def read_request(stream: trio.abc.Stream) -> bytes:
    data = b""
    while not data.endswith(chat()):
        data += await stream.receive_some()
    return data


async def test_an_upstream_behind_tls(door: str) -> None:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(ours)
    trust = ssl.create_default_context()
    async with trio.open_nursery() as nursery:
        server = TlsUpstream(ours)
        await nursery.start(server.run)
        async with a_world(door, {"a": {"proxy": f"https://localhost:{server.port}/base"}}) as world:
            client = await world.client()
            await client.request("POST", "/v1/embeddings", body=chat())
            response = await client.response()
            assert (response.status, response.code) == (502, "bad_gateway")
            assert "TLS" in response.message

            authority.configure_trust(trust)
            world.pool._tls = trust
            stream: trio.SSLStream[trio.SocketStream] | None = None
            for number in range(3):
                await client.request("POST", "/v1/embeddings", body=chat())
                stream = stream or await server.accept()
                assert (await read_request(stream)).startswith(b"POST /base/v1/embeddings HTTP/1.1\r\n")
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
                assert (await client.response()).body == b"%d" % number
                await trio.testing.wait_all_tasks_blocked()
            assert stream is not None
            stream.transport_stream.socket.close()  # stale
            await client.request("POST", "/v1/chat/completions", body=chat(stream=True)[:-1] + b" }")
            stream = await server.accept()
            while b" }" not in await stream.receive_some():
                pass
            await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            assert (await client.head()).status == 200
            assert await client.data() == b"abc"
            stream.transport_stream.socket.close()
            with pytest.raises(Incomplete):
                await client.data()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("proxy", ["http://", "nonsense", "http://localhost:99999", "http://[::1", "ftp:/x"])
async def test_a_proxy_that_is_no_url(door: str, proxy: str) -> None:
    async with a_world(door, {"a": {"proxy": proxy}}) as world:
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")


async def test_connections_that_say_close_are_not_kept(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        for _ in range(2):
            await client.request("POST", "/v1/embeddings", body=chat())
            up = await world.up().accept()
            await up.request()
            await up.answer(headers=[("Connection", "Close")])
            assert (await client.response()).status == 200
            await up.gone()


async def test_a_restarted_process_gets_new_connections(any_door: str) -> None:
    """What was kept belongs to the process that is gone, whoever listens on its port now."""
    async with a_world(any_door) as world:
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        first, _ = await world.up().request()
        await first.answer()
        await client.response()
        await world.idle()
        await world.fleet.unload(None)
        await client.request("POST", "/v1/embeddings", body=chat())
        second, _ = await world.up().request()
        assert second is not first
        await second.answer()
        assert (await client.response()).status == 200


async def test_two_models_do_not_share_connections(any_door: str) -> None:
    async with a_world(any_door, {"a": {}, "b": {}}) as world:
        client = await world.client()
        for model in "abab":
            await client.request("POST", "/v1/embeddings", body=chat(model))
            up, request = await world.up(model).request()
            assert request.json["model"] == model
            await up.answer(model.encode())
            assert (await client.response()).body == model.encode()
        assert world.launcher.started == ["a", "b", "a", "b"]


async def test_expect_over_hypercorn() -> None:
    async with a_world("asgi") as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert (await client.stream.receive_some()).startswith(b"HTTP/1.1 100")
        await client.send(b"[]")
        assert (await client.response()).status == 400


async def test_many_at_once(any_door: str) -> None:
    """Every answer to the one who asked."""
    async with a_world(any_door, {"a": {"concurrency_limit": 100}, "b": {"concurrency_limit": 100}}) as world:

        async def serve(model: str) -> None:
            async with trio.open_nursery() as nursery:
                while True:
                    up = await world.up(model).accept()
                    nursery.start_soon(answer, up)

        async def answer(up: Connection) -> None:
            while await up.readable():
                request = await up.request()
                said = f"{request.json['model']}{request.json['n']}".encode()
                if request.json["n"] % 2:
                    await up.answer(said)
                else:
                    await up.start_chunked()
                    for byte in said:
                        await up.chunk(bytes([byte]))
                    await up.send(b"0\r\n\r\n")

        async def ask(number: int) -> None:
            client = await world.client()
            for round_ in range(4):
                model = "ab"[(number + round_) % 2]
                await client.request("POST", "/v1/chat/completions", body=chat(model, n=number * 10 + round_))
                response = await client.response()
                assert (response.status, response.body) == (200, f"{model}{number * 10 + round_}".encode())
            client.close()

        async with trio.open_nursery() as servers:
            for model in "ab":
                servers.start_soon(serve, model)
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(ask, number)
            servers.cancel_scope.cancel()
