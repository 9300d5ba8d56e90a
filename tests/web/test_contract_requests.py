"""What an upstream receives: paths, bodies, headers, whichever way the request came in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakefleet import World, a_world
from upstreams import Request, Response, chat

from llamaswap.config.settings import Filters

JSON_PATHS = {
    **{
        path: path
        for path in (
            "/v1/chat/completions",
            "/v1/responses",
            "/v1/completions",
            "/v1/messages",
            "/v1/messages/count_tokens",
            "/v1/embeddings",
            "/v1/rerank",
            "/v1/reranking",
            "/v1/audio/speech",
            "/v1/audio/voices",
            "/v1/images/generations",
            "/rerank",
            "/reranking",
            "/infill",
            "/completion",
            "/sdapi/v1/txt2img",
            "/sdapi/v1/img2img",
        )
    },
    **{
        "/v" + path: path
        for path in (
            "/chat/completions",
            "/responses",
            "/completions",
            "/messages",
            "/messages/count_tokens",
            "/embeddings",
            "/rerank",
            "/reranking",
        )
    },
    "/audioapi/v1/tasks/run": "/v1/tasks/run",
}


async def ask(
    world: World,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: list[tuple[str, str]] | None = None,
    body: bytes | None = None,
    model: str = "a",
) -> tuple[Request, Response]:
    """One request on a new connection, answered 200."""
    client = await world.client()
    await client.request(method, path, headers or [], body)
    up = await world.up(model).accept()
    request = await up.request()
    await up.answer(b"" if method == "HEAD" else b'{"ok":true}', headers=[("Connection", "close")])
    up.close()
    response = await client.response()
    assert response.status == 200
    client.close()
    return request, response


async def test_json_endpoints(door: str) -> None:
    async with a_world(door) as world:
        for path, upstream_path in JSON_PATHS.items():
            body = b'{ "model" : "a", "n":1.0 }'
            request, response = await ask(world, path=path + "?x=%2F&y", body=body)
            assert (request.method, request.target) == ("POST", upstream_path + "?x=%2F&y")
            assert request.version == "HTTP/1.1"
            assert request.body == body
            assert request.get("content-length") == str(len(body))
            assert response.json == {"ok": True}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_query_endpoints(door: str, method: str) -> None:
    async with a_world(door, {"a": {}, "or/b": {"aliases": ("b b",)}}) as world:
        for path in ("/v1/audio/voices", "/sdapi/v1/loras", "/props"):
            request, response = await ask(world, method, path + "?x=1&model=a")
            assert (request.method, request.target, request.body) == (method, path + "?x=1&model=a", b"")
            assert request.get("content-length") is None
            for query in ("model=or%2Fb", "model=or/b&model=a", "model=b+b", "model=b%20b"):
                request, response = await ask(world, method, f"{path}?{query}", model="or/b")
                assert request.target == f"{path}?{query}"
        assert response.body == b"" if method == "HEAD" else b'{"ok":true}'


FILE = bytes(range(256)) * 3000


def form(model: str, boundary: str = "xx") -> bytes:
    parts = [
        b'Content-Disposition: form-data; name="file"; filename="model"\r\nContent-Type: audio/wav\r\n\r\n' + FILE,
        b'Content-Disposition: form-data; name="model"\r\n\r\n' + model.encode(),
        b'Content-Disposition: form-data; name="language"\r\n\r\nen',
    ]
    edge = b"--" + boundary.encode()
    return b"".join(edge + b"\r\n" + part + b"\r\n" for part in parts) + edge + b"--\r\n"


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/images/edits"])
async def test_multipart(door: str, path: str) -> None:
    async with a_world(door, {"a": {}, "b": {"use_model_name": "whisper"}}) as world:
        headers = [("Content-Type", "multipart/form-data; boundary=xx")]
        request, _ = await ask(world, path=path, headers=headers, body=form("a"))
        assert request.target == path and request.body == form("a")
        assert request.get("content-type") == headers[0][1]
        request, _ = await ask(world, path=path, headers=headers, body=form("b"), model="b")
        assert request.body == form("whisper")
        assert request.get("content-length") == str(len(form("whisper")))


STRANGE = (
    b'\xef\xbb\xbf{"x":1e400,"big":123456789012345678901234567890,"f":1.10,"s":"\\u00e9\\ud800 \xc3\xa9",'
    b'"model":"a","x":2,\n "nested":{"model":"b"}}\n '
)


async def test_untouched_bodies_are_the_very_bytes(door: str) -> None:
    async with a_world(door) as world:
        body = STRANGE.removeprefix(b"\xef\xbb\xbf")
        request, _ = await ask(world, body=body)
        assert request.body == body


async def test_json_is_read_whatever_the_content_type(door: str) -> None:
    async with a_world(door) as world:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            request, _ = await ask(world, headers=[("Content-Type", kind)], body=chat())
            assert request.body == chat() and request.get("content-type") == kind


async def test_edits(door: str) -> None:
    filters = Filters(
        strip_params=("model", "temperature", "top_k"),
        set_params={"seed": 7, "chat_template_kwargs.thinking": False, "model": "no"},
        set_params_by_id={"fast": {"effort": "low"}},
    )
    settings: dict[str, Any] = {"use_model_name": "org/real", "filters": filters, "aliases": ("fast",)}
    async with a_world(door, {"a": settings}) as world:
        body = b'{"temperature": 0.1, "n": 1.10, "model":"a", "s":"\\u00e9", "top_k":3}'
        request, _ = await ask(world, body=body)
        assert b'"n": 1.10' in request.body and b'"s":"\\u00e9"' in request.body
        assert request.json == {
            "n": 1.1,
            "model": "org/real",
            "s": "é",
            "seed": 7,
            "chat_template_kwargs": {"thinking": False},
        }
        request, _ = await ask(world, body=chat("fast"))
        assert request.json == {
            "model": "org/real",
            "messages": [],
            "seed": 7,
            "chat_template_kwargs": {"thinking": False},
            "effort": "low",
        }
        assert request.get("content-length") == str(len(request.body))


async def test_large_bodies(any_door: str) -> None:
    async with a_world(any_door) as world:
        body = json.dumps({"model": "a", "prompt": "é" * (1 << 20)}, ensure_ascii=False).encode()
        request, _ = await ask(world, body=body)
        assert request.body == body


async def test_end_to_end_headers_are_kept(any_door: str) -> None:
    async with a_world(any_door, api_keys=("k",)) as world:
        kept = [
            ("Authorization", "Bearer k"),
            ("X-Api-Key", "other"),
            ("User-Agent", "test/1 (x)"),
            ("X-Twice", "1"),
            ("X-Twice", "2"),
            ("Accept", "text/event-stream, */*;q=0.1"),
            ("Cookie", "a=b; c=d"),
            ("X-Latin", "caf\xe9"),
            ("Origin", "http://x.test"),
        ]
        request, _ = await ask(world, headers=kept, body=chat())
        for name in dict(kept):
            assert request.all(name) == [value for key, value in kept if key == name]
        assert request.get("host") == "example.test"


async def test_names_keep_their_case() -> None:
    async with a_world("front") as world:
        request, _ = await ask(world, headers=[("x-ODD-Name", "1")], body=chat())
        assert ("x-ODD-Name", "1") in request.headers


async def test_hop_by_hop_headers_are_dropped(door: str) -> None:
    async with a_world(door) as world:
        dropped = [
            ("Connection", "keep-alive, X-Hop, x-other"),
            ("Keep-Alive", "timeout=5"),
            ("X-Hop", "1"),
            ("X-Other", "1"),
            ("TE", "trailers"),
            ("Trailer", "X-T"),
            ("Proxy-Authorization", "Basic eA=="),
            ("Proxy-Connection", "keep-alive"),
        ]
        request, _ = await ask(world, headers=[*dropped, ("X-Kept", "1")], body=chat())
        for name, _ in dropped:
            assert request.get(name) is None, name
        assert request.get("x-kept") == "1"
        assert request.get("upgrade") is None and request.get("transfer-encoding") is None


async def test_connection_cannot_name_away_what_frames_the_request(door: str) -> None:
    async with a_world(door) as world:
        headers = [("Connection", "host, content-length, content-type"), ("Content-Type", "application/json")]
        request, _ = await ask(world, headers=headers, body=chat())
        assert request.get("host") == "example.test"
        assert request.body == chat() and request.get("content-type") is None


async def test_forwarded_for(any_door: str) -> None:
    async with a_world(any_door) as world:
        request, _ = await ask(world, body=chat())
        assert request.all("x-forwarded-for") == ["127.0.0.1"]
        request, _ = await ask(world, headers=[("X-Forwarded-For", "10.0.0.1, 10.0.0.2")], body=chat())
        assert request.all("x-forwarded-for") == ["10.0.0.1, 10.0.0.2, 127.0.0.1"]
        twice = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2")]
        request, _ = await ask(world, headers=twice, body=chat())
        assert request.all("x-forwarded-for") == ["10.0.0.1, 10.0.0.2, 127.0.0.1"]


async def test_encoding(any_door: str) -> None:
    async with a_world(any_door) as world:
        request, _ = await ask(world, headers=[("Accept-Encoding", "gzip, br")], body=chat())
        assert request.all("accept-encoding") == ["identity"]
        request, _ = await ask(world, body=chat())
        assert request.all("accept-encoding") == ["identity"]
        request, _ = await ask(world, "GET", "/upstream/a/x", headers=[("Accept-Encoding", "gzip, br")])
        assert request.all("accept-encoding") == ["gzip, br"]
        request, _ = await ask(world, "GET", "/upstream/a/x")
        assert request.all("accept-encoding") == []


async def test_a_proxy_with_a_path(door: str) -> None:
    async with a_world(door, {"a": {"proxy": "http://127.0.0.1:{port}/base/"}}) as world:
        request, _ = await ask(world, body=chat())
        assert request.target == "/base/v1/chat/completions"
        request, _ = await ask(world, "GET", "/upstream/a/%41?x")
        assert request.target == "/base/%41?x"


async def test_chunked_request_bodies_get_a_length(door: str) -> None:
    async with a_world(door) as world:
        client = await world.h1()
        client.expect("POST")
        await client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
            + b"".join(b"1\r\n%c\r\n" % byte for byte in chat())
            + b"0\r\nX-Trailer: 1\r\n\r\n"
        )
        up = await world.up().accept()
        request = await up.request()
        assert request.body == chat() and request.get("transfer-encoding") is None
        assert request.get("x-trailer") is None
        await up.answer()
        assert (await client.response()).status == 200


async def test_connections_are_kept_and_used_again(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        for _ in range(4):
            await client.request("POST", "/v1/embeddings", body=chat())
            up, _ = await world.up().request()
            await up.answer()
            assert (await client.response()).status == 200
        # Over ASGI a client may be faster than the task that puts the connection back.
        assert world.up().accepted == 1 or (any_door != "front" and world.up().accepted < 4)
