"""`/upstream/<model>/...`: every method, every path, untouched."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fakefleet import a_world
from upstreams import chat

from llamaswap.config.settings import Filters

MODELS: dict[str, dict[str, Any]] = {
    "a": {"aliases": ("al ias",), "use_model_name": "other", "filters": Filters(set_params={"x": 1})},
    "org/a": {},
    "org/a/b": {},
    "caf\u00e9": {},
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_methods(any_door: str, method: str) -> None:
    async with a_world(any_door, MODELS) as world:
        client = await world.client()
        body = None if method in ("GET", "OPTIONS") else chat()
        await client.request(method, "/upstream/a/v1/things?x=1", [("X-A", "b")], body)
        up, request = await world.up().request()
        assert (request.method, request.target, request.body) == (method, "/v1/things?x=1", body or b"")
        assert (request.get("x-a"), request.get("host")) == ("b", "example.test")
        if method in ("GET", "OPTIONS"):
            assert request.get("content-length") is None
        await up.answer(b"whatever", status="207 Multi-Status", headers=[("X-B", "c")])
        response = await client.response()
        assert (response.status, response.body, response.get("x-b")) == (207, b"whatever", "c")


@pytest.mark.parametrize(
    ("path", "model", "target"),
    [
        ("a/", "a", "/"),
        ("a/%2F%20%C3%A9/..%2f?a=%26&b", "a", "/%2F%20%C3%A9/..%2f?a=%26&b"),
        ("a//x//", "a", "//x//"),
        ("a/../x/./y", "a", "/../x/./y"),
        ("a/;p=1/@:!$&'()*+,=~", "a", "/;p=1/@:!$&'()*+,=~"),
        ("al%20ias/x", "a", "/x"),
        ("org/a/x", "org/a", "/x"),
        ("org/a/b", "org/a/b", None),
        ("org/a/b/", "org/a/b", "/"),
        ("org/a/b/b", "org/a/b", "/b"),
        ("org/a/bb", "org/a", "/bb"),
        ("org%2Fa/x", "org/a", "/x"),
        ("org%2fa%2Fb/x", "org/a/b", "/x"),
        ("caf%C3%A9/x", "caf\u00e9", "/x"),
        ("%61/%61", "a", "/%61"),
        ("a/?", "a", "/"),
    ],
)
async def test_paths(any_door: str, path: str, model: str, target: str | None) -> None:
    async with a_world(any_door, MODELS) as world:
        client = await world.client()
        await client.request("GET", "/upstream/" + path)
        if target is None:
            response = await client.response()
            assert (response.status, response.get("location")) == (301, f"/upstream/{path}/")
            return
        up, request = await world.up(model).request()
        assert request.target == target
        await up.answer()
        assert (await client.response()).status == 200
        assert world.launcher.started == [model]


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("DELETE", 308)])
async def test_the_missing_slash(any_door: str, method: str, status: int) -> None:
    async with a_world(any_door, MODELS) as world:
        client = await world.client()
        for path, location in (("a", "a/"), ("org%2Fa?x=%20", "org%2Fa/?x=%20")):
            await client.request(method, "/upstream/" + path, body=b"body" if method == "POST" else None)
            response = await client.response()
            assert (response.status, response.get("location")) == (status, "/upstream/" + location)
        assert world.launcher.started == []


@pytest.mark.parametrize("path", ["nope/x", "A/x", "/x", "org/x", "ax/y", "%/x", "%ff/x", "a%2F/x"])
async def test_unknown_models(any_door: str, path: str) -> None:
    async with a_world(any_door, MODELS) as world:
        client = await world.client()
        await client.request("GET", "/upstream/" + path)
        response = await client.response()
        assert (response.status, response.message) == (404, "model not found")


async def test_nothing_is_edited(door: str) -> None:
    async with a_world(door, MODELS) as world:
        client = await world.client()
        for path in ("/upstream/a/v1/chat/completions", "/upstream/a/v1/audio/transcriptions"):
            await client.request("POST", path, [("Content-Type", "application/json")], b'{"model":"zzz"')
            up, request = await world.up().request()
            assert request.body == b'{"model":"zzz"'
            await up.answer()
            assert (await client.response()).status == 200


async def test_ignored_paths_start_nothing(any_door: str) -> None:
    patterns = (re.compile(r".*\.(js|ico)$"),)
    async with a_world(any_door, MODELS, ignore_paths=patterns) as world:
        client = await world.client()
        for path in ("favicon.ico", "x/y.js", "x.js?v=1"):
            await client.request("GET", "/upstream/a/" + path)
            response = await client.response()
            assert (response.status, response.code) == (409, "conflict")
        assert world.launcher.started == []
        world.launcher.held.add("a")
        first = await world.client()
        await first.request("GET", "/upstream/a/x.jsx")
        await world.until(lambda: world.launcher.started == ["a"])
        await client.request("GET", "/upstream/a/favicon.ico")  # it starts, but it is not ready
        assert (await client.response()).status == 409
        world.launcher.processes["a"].ready.set()
        up, _ = await world.up().request()
        await up.answer()
        assert (await first.response()).status == 200
        await client.request("GET", "/upstream/a/favicon.ico")
        up, _ = await world.up().request()
        await up.answer(b"icon")
        assert (await client.response()).body == b"icon"


async def test_streams(any_door: str) -> None:
    async with a_world(any_door, MODELS) as world:
        client = await world.client()
        await client.request("GET", "/upstream/a/events")
        up, _ = await world.up().request()
        await up.start_chunked()
        assert (await client.head()).get("x-accel-buffering") == "no"
        await up.chunk(b"data: 1\n\n")
        assert await client.data() == b"data: 1\n\n"
        await up.send(b"0\r\n\r\n")
        assert await client.data() == b""


async def test_no_loading_frames(door: str) -> None:
    async with a_world(door, {"a": {"send_loading_state": True}}) as world:
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", "/upstream/a/v1/chat/completions", body=chat(stream=True))
        await world.until(lambda: world.launcher.started == ["a"])
        world.launcher.processes["a"].ready.set()
        up, _ = await world.up().request()
        await up.answer(b"plain")
        assert (await client.response()).body == b"plain"
