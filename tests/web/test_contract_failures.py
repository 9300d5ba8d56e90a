"""Upstreams that fail, and how much of it a client sees."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from fakefleet import World, a_world
from upstreams import Client, Connection, H2Client, Incomplete, chat

from llamaswap.config.settings import Timeouts

LARGE = json.dumps({"model": "a", "prompt": "x" * (12 << 20)}).encode()
"""More than the kernel's buffers take."""
BODIES = {"small": chat(), "large": json.dumps({"model": "a", "prompt": "x" * (1 << 20)}).encode()}


async def served_once(world: World, client: Client) -> Connection:
    """One request went well, and its connection to the upstream is idle."""
    await client.request("POST", "/v1/embeddings", body=chat())
    up = await world.up().accept()
    await up.request()
    await up.answer(b"first")
    assert (await client.response()).body == b"first"
    await world.idle()
    return up


# -- stale keep-alive connections


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["idle", "asked"])
@pytest.mark.parametrize("body", BODIES)
async def test_a_stale_connection_is_replaced_silently(any_door: str, how: str, when: str, body: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await served_once(world, client)
        async with trio.open_nursery() as nursery:
            if when == "idle":
                getattr(up, how)()
                nursery.start_soon(client.request, "POST", "/v1/embeddings", (), BODIES[body])
            else:
                nursery.start_soon(client.request, "POST", "/v1/embeddings", (), BODIES[body])
                await up.head()
                getattr(up, how)()
            second = await world.up().accept()
            assert (await second.request()).body == BODIES[body]
            await second.answer(b"second")
            response = await client.response()
        assert (response.status, response.body) == (200, b"second")
        assert world.launcher.started == ["a"]


async def test_a_fresh_connection_is_not_retried(any_door: str) -> None:
    """The upstream saw the request and may have acted on it."""
    async with a_world(any_door) as world:
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        up = await world.up().accept()
        await up.request()
        up.close()
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        assert world.launcher.started == ["a"] and world.up().accepted == 1


async def test_stale_and_then_nothing(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        up = await served_once(world, client)
        await client.request("POST", "/v1/embeddings", body=chat())
        await up.head()
        up.close()
        (await world.up().accept()).close()
        assert (await client.response()).code == "bad_gateway"
        assert world.up().accepted == 2


# -- dead processes


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("exit_first", [True, False])
async def test_a_dead_process_is_restarted_and_asked_again(any_door: str, body: str, exit_first: bool) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), BODIES[body])
            up = await world.up().accept()
            await up.head()
            if exit_first:
                world.launcher.processes["a"].crashed.set()
                await trio.testing.wait_all_tasks_blocked()
                up.close()
            else:
                up.close()
                await trio.testing.wait_all_tasks_blocked()
                world.launcher.processes["a"].crashed.set()
            again = await world.up().accept()
            assert (await again.request()).body == BODIES[body]
            await again.answer(b"after all")
            assert (await client.response()).body == b"after all"
        assert world.launcher.started == ["a", "a"]


async def test_once_is_enough(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        for _ in range(2):
            up = await world.up().accept()
            await up.request()
            world.launcher.processes["a"].crashed.set()
            up.close()
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        assert world.launcher.started == ["a", "a"]


async def test_a_crash_while_idle_is_not_noticed_by_anybody(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        up = await served_once(world, client)
        world.launcher.processes["a"].crashed.set()
        up.close()
        await trio.testing.wait_all_tasks_blocked()
        await client.request("POST", "/v1/embeddings", body=chat())
        second = await world.up().accept()
        await second.request()
        await second.answer(b"second")
        assert (await client.response()).body == b"second"
        assert world.launcher.started == ["a", "a"]


async def test_the_new_process_may_fail_to_start(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        up = await world.up().accept()
        await up.request()
        world.launcher.held.add("a")
        world.launcher.processes["a"].crashed.set()
        up.close()
        await world.until(lambda: len(world.launcher.started) == 2)
        world.launcher.processes["a"].failed.set()
        response = await client.response()
        assert (response.status, response.code) == (502, "start_failed")


async def test_who_refuses_connections_is_restarted(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        up = await served_once(world, client)
        up.close()
        world.up().refuse()
        world.launcher.held.add("a")
        await client.request("POST", "/v1/embeddings", body=chat())
        await world.until(lambda: len(world.launcher.started) == 2)
        await world.nursery.start(world.up().run)
        world.launcher.processes["a"].ready.set()
        second = await world.up().accept()
        assert (await second.request()).body == chat()
        await second.answer(b"second")
        assert (await client.response()).body == b"second"


async def test_who_refuses_again_is_given_up(door: str) -> None:
    async with a_world(door) as world:
        world.up().refuse()
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")
        assert world.launcher.started == ["a", "a"]


async def test_without_a_health_check_the_port_is_waited_for(door: str) -> None:
    async with a_world(door, {"a": {"check_endpoint": "none"}}) as world:
        world.up().refuse()
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        await world.until(lambda: world.busy() == 1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await world.nursery.start(world.up().run)
        up, _ = await world.up().request()
        await up.answer(b"bound")
        assert (await client.response()).body == b"bound"
        assert world.launcher.started == ["a"]


async def test_a_start_that_fails(any_door: str) -> None:
    async with a_world(any_door) as world:
        world.launcher.held.add("a")
        clients = [await world.client() for _ in range(3)]
        for client in clients:
            await client.request("POST", "/v1/chat/completions", body=chat())
        await world.until(lambda: world.busy() == 3)
        world.launcher.processes["a"].failed.set()
        for client in clients:
            response = await client.response()
            assert (response.status, response.code) == (502, "start_failed")
            assert "exited with code 7" in response.message and "no room" in response.message


async def test_unloaded_while_it_waits(any_door: str) -> None:
    async with a_world(any_door) as world:
        world.launcher.held.add("a")
        client = await world.client()
        await client.request("POST", "/v1/chat/completions", body=chat())
        await world.until(lambda: world.busy() == 1)
        await world.fleet.unload(None)
        response = await client.response()
        assert (response.status, response.code) == (503, "model_unloaded")


async def test_shutting_down(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        await world.fleet.shutdown(0)
        await client.request("POST", "/v1/chat/completions", body=chat())
        response = await client.response()
        assert (response.status, response.code) == (503, "shutting_down")


# -- time


@pytest.mark.parametrize("body", BODIES)
async def test_no_head_in_time(any_door: str, body: str) -> None:
    async with a_world(any_door, {"a": {"timeouts": Timeouts(response_header_s=0.15)}}) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), BODIES[body])
            up = await world.up().accept()
            await up.request()
            response = await client.response()
        assert (response.status, response.code) == (504, "gateway_timeout")
        await up.gone()
        assert world.launcher.started == ["a"]


async def test_the_body_takes_its_time(door: str) -> None:
    """responseHeader counts from the end of the request to the head, not to the end."""
    async with a_world(door, {"a": {"timeouts": Timeouts(response_header_s=0.1)}}) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), LARGE)
            up = await world.up().accept()
            await up.head()
            await trio.sleep(0.2)
            up.buffer[:0] = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(LARGE)
            await up.request()
            await up.start_chunked()
            await client.head()
            await trio.sleep(0.2)
            await up.chunk(b"late")
            assert await client.data() == b"late"
            await up.send(b"0\r\n\r\n")
            assert await client.data() == b""


# -- answers before the whole request


@pytest.mark.parametrize("then", ["stays", "close", "reset"])
async def test_an_early_answer(any_door: str, then: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), LARGE)
            up = await world.up().accept()
            await up.head()
            await up.answer(b"too large", status="413 Too Large", headers=[("Connection", "close")])
            if then != "stays":
                getattr(up, then)()
            response = await client.response()
        assert (response.status, response.body) == (413, b"too large")
        await world.idle()
        if then == "stays":
            await up.gone()
        await client.request("GET", "/health")
        assert (await client.response()).status == 200


async def test_an_answer_during_the_request(any_door: str) -> None:
    async with a_world(any_door) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), LARGE)
            up = await world.up().accept()
            await up.head()
            await up.start_chunked()
            await up.chunk(b"already")
            assert (await client.head()).status == 200
            assert await client.data() == b"already"
            up.buffer[:0] = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(LARGE)
            assert (await up.request()).body == LARGE
            await up.chunk(b"all")
            assert await client.data() == b"all"
            up.reset()
            with pytest.raises(Incomplete):
                await client.data()


async def test_gone_within_a_large_request(door: str) -> None:
    async with a_world(door) as world:
        client = await world.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "POST", "/v1/chat/completions", (), LARGE)
            up = await world.up().accept()
            await up.head()
            up.reset()
            response = await client.response()
        assert (response.status, response.code) == (502, "bad_gateway")


# -- bodies that are too large for us


@pytest.mark.parametrize("said", [True, False])
async def test_too_large_for_us(any_door: str, said: bool) -> None:
    async with a_world(any_door, max_request_body_bytes=1000) as world:
        client = await world.client()
        if isinstance(client, H2Client):
            await client.open("POST", "/v1/embeddings", [("Content-Length", "500000")] if said else [])
            await client.send_body(b"x" * 500000, end=True)
        else:
            client.expect("POST")
            framing = b"Content-Length: 5000000\r\n" if said else b"Transfer-Encoding: chunked\r\n"
            await client.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n")
            if not said:
                await client.send(b"800\r\n" + b"x" * 2048 + b"\r\n")
        response = await client.response()
        assert (response.status, response.code) == (413, "invalid_request")
        assert world.up().accepted == 0


async def test_the_largest_that_is_not(any_door: str) -> None:
    async with a_world(any_door, max_request_body_bytes=len(chat())) as world:
        client = await world.client()
        await client.request("POST", "/v1/embeddings", body=chat())
        up, request = await world.up().request()
        assert request.body == chat()
        await up.answer()
        assert (await client.response()).status == 200
