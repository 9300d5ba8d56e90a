"""Who may ride: the rules of the configuration hold in the express lane as they do elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakefleet import a_world
from test_lane import PATH, TOGETHER, ask, boarded, raw_request
from upstreams import chat

from llamaswap.config.settings import Config, Filters, Timeouts


@pytest.mark.parametrize(
    "raw",
    [
        raw_request(chat()).replace(b"HTTP/1.1", b"HTTP/1.0"),
        raw_request(chat()).replace(b"Host", b"Connection: close\r\nHost"),
        b"\r\n" + raw_request(chat()),
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\n\r\n" % (len(chat()), chat()),
        raw_request(chat()) + b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nX: 1\r\n\r\n",
        raw_request(b"{"),
        raw_request(chat("nobody")),
        raw_request(chat(), "/v1/audio/transcriptions"),
        raw_request(chat(), "/nowhere").replace(b"example.test", b"localhost"),
    ],
)
async def test_what_does_not_ride(raw: bytes) -> None:
    """It is answered all the same, however often it comes."""
    async with a_world() as world:
        await boarded(world)
        for _ in range(3):
            client = await world.h1()
            client.expect("POST")
            await client.send(raw)
            if b'"model": "a"' in raw and (b"/chat" in raw):
                up, _ = await world.up().request()
                await up.answer(b"fine")
                assert (await client.response()).body == b"fine"
            else:
                assert (await client.response()).status in (400, 404)
        assert not world.rides


@pytest.mark.parametrize(
    "settings", [{"timeouts": Timeouts(response_header_s=5.0)}, {"concurrency_limit": 1}, {"ttl_s": 1.0}]
)
async def test_settings_of_a_model(settings: dict[str, Any]) -> None:
    """A time limit for heads needs a task; the others are kept by those who ride, too."""
    async with a_world(models={"a": settings}) as world:
        client, up = await boarded(world)
        await ask(world, client)
        if "concurrency_limit" in settings:
            upstream = world.rides[-1].lease.upstream
            world.pool.give(upstream, await world.pool.connect(upstream))  # so that another could ride
            for _ in range(2):
                other = await world.h1()
                await other.request("POST", PATH, body=chat())
                response = await other.response()
                assert (response.status, response.code) == (429, "concurrency_limit")
        await up.answer()
        assert (await client.response()).status == 200
        assert len(world.rides) == ("timeouts" not in settings)
        assert world.fleet.view("a").in_flight == 0


async def test_bodies_that_are_too_large() -> None:
    async with a_world(max_request_body_bytes=100) as world:
        client, _ = await boarded(world)
        await client.request("POST", PATH, body=chat(prompt="x" * 200))
        response = await client.response()
        assert response.status == 413
        assert not world.rides


async def test_edits() -> None:
    models = {
        "a": {"use_model_name": "real", "filters": Filters(set_params={"n": 5}, strip_params=frozenset({"top_k"}))}
    }
    async with a_world(models=models) as world:
        client = await world.h1()
        for _ in range(3):
            await client.request("POST", PATH, body=chat(top_k=1, user="u"))
            up, request = await world.up().request()
            assert request.json == {"model": "real", "messages": [], "user": "u", "n": 5}
            await up.answer()
            assert (await client.response()).status == 200
        assert len(world.rides) == 2


async def test_two_models_on_one_connection() -> None:
    async with a_world(models={"a": {"aliases": ("other",)}, "b": {}}, groups=TOGETHER) as world:
        client, up_a = await boarded(world, "a")
        _, up_b = await boarded(world, "b")
        for _ in range(4):
            for model, up in (("a", up_a), ("b", up_b)):
                assert await ask(world, client, model) is up
                await up.answer(model.encode())
                assert (await client.response()).body == model.encode()
        assert [ride.model.id for ride in world.rides] == ["a", "b"] * 4
        assert (world.up("a").accepted, world.up("b").accepted) == (1, 1)


async def test_models_that_replace_each_other() -> None:
    """Nobody rides to a model that is not there."""
    async with a_world(models={"a": {}, "b": {}}) as world:
        client = await world.h1()
        for model in "abab":
            for _ in range(2):
                up = await ask(world, client, model)
                await up.answer(model.encode())
                assert (await client.response()).body == model.encode()
        assert [ride.model.id for ride in world.rides] == list("abab")
        assert world.launcher.started == list("abab")


async def test_nobody_overtakes_who_waits() -> None:
    """A request that waits for another model has been waiting too long: the ride waits for it."""
    async with a_world(models={"a": {}, "b": {}}, max_wait_s=0.0) as world:
        client, up = await boarded(world)
        await ask(world, client)
        waits = await world.h1()
        await waits.request("POST", PATH, body=chat("b"))
        await world.until(lambda: world.fleet.view("b").queued == 1)
        late = await world.h1()
        await late.request("POST", PATH, body=chat("a"))
        await world.until(lambda: world.busy() == 3)
        await up.answer()
        assert (await client.response()).status == 200
        up_b, _ = await world.up("b").request()
        await up_b.answer(b"b")
        assert (await waits.response()).body == b"b"
        up_a, _ = await world.up("a").request()
        await up_a.answer(b"a")
        assert (await late.response()).body == b"a"
        assert world.launcher.started == ["a", "b", "a"]
        assert len(world.rides) == 1


async def test_keys() -> None:
    """Only who has one rides, and only as long as it is one."""
    async with a_world(api_keys=("k1", "k2")) as world:
        client, up = await boarded(world, headers=[("Authorization", "Bearer k1")])

        async def status(key: str) -> int:
            await client.request("POST", PATH, [("Authorization", f"Bearer {key}")], chat())
            if key in world.dispatcher._keys:
                await world.up().request()
                await up.answer()
            return (await client.response()).status

        assert [await status(key) for key in ("k1", "k2", "no", "k2", "no", "k1")] == [200, 200, 401, 200, 401, 200]
        rides = len(world.rides)
        assert rides >= 3
        await client.request("POST", PATH, body=chat())
        assert (await client.response()).status == 401
        world.dispatcher.apply(replace(Config(), api_keys=("k2", "k3")))
        assert [await status(key) for key in ("k1", "k2", "k1", "k3", "k3")] == [401, 200, 401, 200, 200]
        assert len(world.rides) == rides + 2
