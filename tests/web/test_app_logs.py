"""/logs and its streams: history first, then live, gone with the client or the server."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote

import pytest
import trio
import trio.testing
from app_fixtures import calling, make_app, make_state

from llamaswap.web.app import create_app
from llamaswap.web.logs import last_lines


async def test_history() -> None:
    state = make_state()
    state.logs.proxy.write(b"ours\n")
    state.logs.model("a").write(b"theirs\xff\n")
    response = await create_app(state).test_client().get("/logs")
    assert await response.get_data() == b"ours\ntheirs\xff\n"
    assert response.content_type.startswith("text/plain")
    browser = await create_app(state).test_client().get("/logs", headers={"Accept": "text/html,*/*"})
    assert (browser.status_code, browser.headers["Location"]) == (302, "/ui/")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/logs/stream", b"ours\na\nsea\n"),
        ("/logs/stream/proxy", b"ours\n"),
        ("/logs/stream/upstream", b"a\nsea\n"),
        ("/logs/stream/a", b"a\n"),
        ("/logs/stream/org/c:q4", b"sea\n"),
        ("/logs/stream/org/sea", b"sea\n"),
        ("/logs/stream/org%2Fsea", b"sea\n"),
        ("/logs/stream?no-history", b""),
        ("/logs/stream/org/sea?no-history", b""),
        ("/logs/stream/bee", b""),
    ],
)
async def test_stream(path: str, expected: bytes) -> None:
    state = make_state()
    state.logs.proxy.write(b"ours\n")
    state.logs.model("a").write(b"a\n")
    state.logs.model("org/c:q4").write(b"sea\n")
    async with calling(create_app(state), path.replace("%2F", "/")) as call:
        if expected:
            assert await call.receive() == expected
        await trio.testing.wait_all_tasks_blocked()
        assert call.status == 200
        assert call.headers["x-accel-buffering"] == "no"
        assert call.headers["content-type"].startswith("text/plain")
        for log in (state.logs.proxy, state.logs.model("a"), state.logs.model("org/c:q4"), state.logs.model("b")):
            log.write(b"live\n")
        assert set((await call.receive()).splitlines()) == {b"live"}
    monitors = (state.logs.combined, state.logs.proxy, state.logs.upstream, *state.logs._models.values())
    assert [m._subscribers for m in monitors] == [[]] * len(monitors)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("lines=2", b"two\nthree"),
        ("lines=3", b"one\ntwo\nthree"),
        ("lines=1000000", b"one\ntwo\nthree"),
        ("lines=0", b""),
        ("lines=2&no-history", b""),
        ("", b"one\ntwo\nthree"),
    ],
)
async def test_only_what_is_remembered_and_only_the_end_of_it(query: str, expected: bytes) -> None:
    state = make_state()
    state.logs.proxy.write(b"one\ntwo\nthree")
    app = create_app(state)
    response = await app.test_client().get(f"/logs/stream/proxy?{query}&no-follow")
    assert (response.status_code, await response.get_data()) == (200, expected)
    assert state.logs.proxy._subscribers == []
    if "no-history" not in query:
        assert await (await app.test_client().get(f"/logs?{query}")).get_data() == expected
    async with calling(app, f"/logs/stream/proxy?{query}") as call:
        if expected:
            assert await call.receive() == expected
        await trio.testing.wait_all_tasks_blocked()
        state.logs.proxy.write(b"\nfour\n")
        assert await call.receive() == b"\nfour\n"


@pytest.mark.parametrize(("text", "last"), [(b"", b""), (b"\n", b"\n"), (b"a\n\n", b"\n"), (b"a\nb\n", b"b\n")])
def test_the_last_line(text: bytes, last: bytes) -> None:
    assert last_lines(text, 1) == last


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "1000001", "٣", "1" * 5000])
@pytest.mark.parametrize("path", ["/logs", "/logs/stream?no-history", "/logs/stream/a"])
async def test_a_number_of_lines_that_is_none(path: str, value: str) -> None:
    response = await make_app().test_client().get(f"{path}{'&' if '?' in path else '?'}lines={quote(value)}")
    assert response.status_code == 400
    assert "lines must be a whole number from 0" in (await response.get_json())["error"]["message"]


@pytest.mark.parametrize("path", ["/logs/stream/nobody", "/logs/stream/nobody?no-history", "/logs/stream/a/b"])
async def test_unknown_logger(path: str) -> None:
    response = await make_app().test_client().get(path)
    assert response.status_code == 400
    message = (await response.get_json())["error"]["message"]
    assert message == "invalid logger. Use 'proxy', 'upstream' or a model's ID"


async def test_a_model_that_never_ran_has_a_log() -> None:
    state = make_state()
    state.stopping.set()
    response = await create_app(state).test_client().get("/logs/stream/hidden")
    assert (response.status_code, await response.get_data()) == (200, b"")


async def test_a_stream_ends_when_the_server_stops() -> None:
    state = make_state()
    async with calling(create_app(state), "/logs/stream") as call:
        state.logs.proxy.write(b"last words\n")
        assert await call.receive() == b"last words\n"
        await trio.testing.wait_all_tasks_blocked()
        state.stopping.set()
        assert await call.receive() == b""
        assert call.status == 200
        assert state.logs.combined._subscribers == []


async def test_a_stream_ends_when_other_keys_count() -> None:
    state = make_state()
    async with calling(create_app(state), "/logs/stream") as call:
        await trio.testing.wait_all_tasks_blocked()
        state.apply(replace(state.config, api_keys=("k",)), state.catalogue)
        state.logs.proxy.write(b"not for strangers\n")
        assert await call.receive() == b""
    assert state.logs.combined._subscribers == []


async def test_head_does_not_stream() -> None:
    response = await make_app().test_client().head("/logs/stream")
    assert response.status_code == 200
    assert response.headers["X-Accel-Buffering"] == "no"


async def test_nothing_is_held_by_a_stream_that_was_never_read() -> None:
    state = make_state()
    app = create_app(state)
    async with app.test_request_context("/logs/stream"):
        await app.dispatch_request()
    assert state.logs.combined._subscribers == []
