"""Requests that are refused before a model is asked: who may, what for, and how it is said."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from fakefleet import World, a_world
from upstreams import Response, chat

MODELS = {"llama-3-8b": {}, "llama-3-70b": {}, "qwen": {"aliases": ("coder",)}, "secret": {"unlisted": True}}


async def ask(
    world: World, method: str = "POST", path: str = "/v1/embeddings", body: bytes | None = None, **headers: str
) -> Response:
    client = await world.client()
    await client.request(method, path, [(k.replace("_", "-"), v) for k, v in headers.items()], body)
    response = await client.response()
    # Whatever it was, the connection can be used again.
    await client.request("GET", "/health")
    assert (await client.response()).body == b"OK"
    client.close()
    return response


def a_form(*fields: tuple[str, str]) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields]
    return "".join(parts).encode() + b"--b--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"a"',
        b"null",
        b"1",
        b"{",
        b"{} x",
        b"{}",
        b'{"model":null}',
        b'{"model":1}',
        b'{"model":""}',
        b'{"model":["a"]}',
        b'{"Model":"qwen"}',
        b'{"model":"qwen"',
        b'{"model":"qwen",}',
        b"model=qwen",
        b"\xff\xfe{\0}\0",
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"model":"qwen","n":' + b"9" * 1000000,
    ],
)
async def test_what_is_no_request_is_400(door: str, body: bytes) -> None:
    async with a_world(door, MODELS) as world:
        response = await ask(world, body=body)
        assert (response.status, response.code) == (400, "bad_request")
        assert response.json["error"]["type"] == "invalid_request_error"
        assert response.json["error"]["param"] is None
        assert response.message


async def test_a_post_without_any_body(any_door: str) -> None:
    async with a_world(any_door, MODELS) as world:
        assert (await ask(world)).status == 400


async def test_an_unknown_model_is_404_with_its_neighbours(any_door: str) -> None:
    async with a_world(any_door, MODELS) as world:
        response = await ask(world, body=chat("llama-3-7b"))
        assert (response.status, response.code) == (404, "model_not_found")
        assert "llama-3-7b" in response.message and "llama-3-8b" in response.message
        assert "qwen" not in response.message
        response = await ask(world, body=chat("secre"))
        assert "secret" not in response.message
        response = await ask(world, "GET", "/props?model=qwem")
        assert response.status == 404 and "qwen" in response.message
        response = await ask(
            world,
            path="/v1/audio/transcriptions",
            body=a_form(("model", "qwem")),
            Content_Type="multipart/form-data; boundary=b",
        )
        assert response.status == 404 and "qwen" in response.message
        response = await ask(world, body=chat("caf\u00e9\ud800" + "x" * 100000))
        assert response.status == 404 and len(response.body) < 2000


@pytest.mark.parametrize("query", ["", "?", "?model=", "?Model=qwen", "?x=model=qwen"])
async def test_no_model_in_the_query(door: str, query: str) -> None:
    async with a_world(door, MODELS) as world:
        response = await ask(world, "GET", "/props" + query)
        assert (response.status, response.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data; boundary=b", a_form(("file", "x"))),
        ("multipart/form-data; boundary=b", a_form()),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=model\r\n\r\nqwen"),
        ("multipart/form-data; boundary=c", a_form(("model", "qwen"))),
        ("multipart/form-data", a_form(("model", "qwen"))),
        ("application/json", chat("qwen")),
        ("", a_form(("model", "qwen"))),
        ("multipart/form-data; boundary=b", b""),
    ],
)
async def test_bad_forms(door: str, kind: str, body: bytes) -> None:
    async with a_world(door, MODELS) as world:
        response = await ask(world, path="/v1/audio/transcriptions", body=body, Content_Type=kind)
        assert (response.status, response.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("accept", "kind", "body"),
    [
        (None, "application/json", b""),
        ("*/*", "application/json", b""),
        ("application/json, text/plain, */*", "application/json", b""),
        ("text/plain", "text/plain; charset=utf-8", b"llama-swap: "),
        ("text/html,application/xhtml+xml", "text/html; charset=utf-8", b"<html><body><h1>llama-swap</h1><p>"),
    ],
)
async def test_errors_by_accept(door: str, accept: str | None, kind: str, body: bytes) -> None:
    async with a_world(door, MODELS) as world:
        headers = {} if accept is None else {"Accept": accept}
        response = await ask(world, body=chat("<b>&nope"), **headers)
        assert response.status == 404
        assert response.get("content-type") == kind
        assert response.get("content-length") == str(len(response.body))
        if kind == "application/json":
            assert response.json["error"]["code"] == "model_not_found"
        else:
            assert response.body.startswith(body)
        if "html" in kind:
            assert b"&lt;b&gt;&amp;nope" in response.body and b"<b>" not in response.body


async def test_the_limit(any_door: str) -> None:
    async with a_world(any_door, {"a": {"concurrency_limit": 2}, "b": {}}) as world:
        clients = [await world.client() for _ in range(2)]
        ups = []
        for client in clients:
            await client.request("POST", "/v1/embeddings", body=chat())
            up, _ = await world.up().request()
            ups.append(up)
        for headers in ({}, {"Accept": "text/plain"}):
            response = await ask(world, body=chat(), **headers)
            assert (response.status, response.get("retry-after")) == (429, "1")
            assert response.json["error"]["type"] == "rate_limit_error"
            assert response.code == "concurrency_limit"
        for up, client in zip(ups, clients, strict=True):
            await up.answer(b"served")
            assert (await client.response()).body == b"served"
        await world.idle()


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/chat/completions", "/props", "/v/messages"])
async def test_wrong_methods(any_door: str, path: str) -> None:
    async with a_world(any_door, MODELS) as world:
        for method in ("PUT", "DELETE", "PATCH", "POST" if path == "/props" else "GET"):
            response = await ask(world, method, path)
            assert (response.status, response.code) == (405, "invalid_request")
            assert response.get("allow") == ("GET, HEAD" if path == "/props" else "POST")


# -- keys


def basic(text: str) -> str:
    return "Basic " + b64encode(text.encode()).decode()


RIGHT = [
    {"Authorization": "Bearer key-1"},
    {"Authorization": "bearer   key-2"},
    {"X-Api-Key": "key-1"},
    {"Authorization": basic("anyone:key-1")},
    {"Authorization": basic(":key-2")},
    {"Authorization": "Bearer wrong", "X-Api-Key": "key-1"},
    {"Authorization": "Bearer key-1", "X-Api-Key": "wrong"},
]
WRONG = [
    {},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer key"},
    {"Authorization": "Bearer key-1x"},
    {"Authorization": "key-1"},
    {"Authorization": "Token key-1"},
    {"Authorization": basic("key-1")},
    {"Authorization": basic("key-1:")},
    {"Authorization": "Basic !!!"},
    {"X-Api-Key": ""},
    {"X-Api-Key": "KEY-1"},
    {"Cookie": "key-1"},
]


@pytest.mark.parametrize("headers", RIGHT)
async def test_right_keys(door: str, headers: dict[str, str]) -> None:
    async with a_world(door, api_keys=("key-1", "key-2")) as world:
        client = await world.client()
        await client.request("POST", "/v1/embeddings", list(headers.items()), chat())
        up, request = await world.up().request()
        for name, value in headers.items():
            assert request.get(name) == value  # passed on unchanged
        await up.answer()
        assert (await client.response()).status == 200


@pytest.mark.parametrize("headers", WRONG)
async def test_wrong_keys(any_door: str, headers: dict[str, str]) -> None:
    async with a_world(any_door, api_keys=("key-1", "key-2")) as world:
        client = await world.client()
        for method, path in (
            ("POST", "/v1/embeddings"),
            ("GET", "/props?model=a"),
            ("GET", "/upstream/a/x"),
            ("PUT", "/props"),
        ):
            await client.request(method, path, list(headers.items()), chat() if method == "POST" else None)
            response = await client.response()
            assert (response.status, response.code) == (401, "unauthorized")
            assert response.json["error"]["type"] == "authentication_error"
            assert response.get("www-authenticate") == 'Basic realm="llama-swap"'
        assert world.launcher.started == []


# -- other pages


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/props", "/upstream/a/x"])
async def test_preflight(any_door: str, path: str) -> None:
    async with a_world(any_door, api_keys=("k",)) as world:
        response = await ask(
            world,
            "OPTIONS",
            path,
            Origin="http://page.test",
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="authorization, x-custom, b@d",
        )
        assert (response.status, response.body) == (204, b"")
        assert response.get("access-control-allow-origin") == "*"
        assert response.get("access-control-allow-methods") == "GET, POST, PUT, PATCH, DELETE, OPTIONS"
        assert response.get("access-control-allow-headers") == "authorization, x-custom"
        assert response.get("access-control-max-age") == "86400"
        assert response.get("content-length") is None
        assert world.launcher.started == []


async def test_answers_carry_the_upstreams_cors_headers_only(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        for extra in ([], [("Access-Control-Allow-Origin", "http://x.test")]):
            await client.request("POST", "/v1/embeddings", [("Origin", "http://page.test")], chat())
            up, _ = await world.up().request()
            await up.answer(headers=extra)
            response = await client.response()
            assert response.all("access-control-allow-origin") == [value for _, value in extra]


async def test_errors_of_the_app_behind(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        await client.request("GET", "/v1/models")
        assert {model["id"] for model in (await client.response()).json["data"]} == {"a"}
        await client.request("POST", "/v1/models", body=json.dumps({"x": 1}).encode())
        assert (await client.response()).status in (403, 405)
