"""The control routes: what they answer, who may call them, what an error looks like."""

from __future__ import annotations

import logging
from base64 import b64encode

import pytest
import trio
import trio.testing
from app_fixtures import CONFIG, FakeFleet, calling, make_app, make_config, make_state
from quart import Response

from llamaswap.config.settings import ModelConfig
from llamaswap.routing.lifecycle import State
from llamaswap.web.app import create_app


@pytest.mark.parametrize("path", ["/health", "/wol-health"])
async def test_health(path: str) -> None:
    client = make_app().test_client()
    response = await client.get(path)
    assert (response.status_code, await response.get_data()) == (200, b"OK")
    assert response.content_type.startswith("text/plain")
    head = await client.head(path)
    assert head.status_code == 200


@pytest.mark.parametrize(("path", "target"), [("/", "/ui"), ("/upstream", "/ui/models")])
async def test_redirects(path: str, target: str) -> None:
    response = await make_app().test_client().get(path)
    assert (response.status_code, response.headers["Location"]) == (302, target)


async def test_version() -> None:
    response = await make_app().test_client().get("/api/version")
    assert await response.get_json() == {
        "version": "1.2.3",
        "commit": "abc",
        "build_date": "2026-01-02T03:04:05Z",
    }


async def test_running() -> None:
    states = {"b": State.READY, "a": State.STARTING, "org/c:q4": State.STOPPING, "hidden": State.SHUTDOWN}
    response = await make_app(states=states).test_client().get("/running")
    assert await response.get_json() == {
        "running": [
            {
                "model": "a",
                "state": "starting",
                "cmd": "server\n  --x",
                "proxy": "http://localhost:5800",
                "ttl": 0,
                "name": "Model A",
                "description": " first ",
            },
            {
                "model": "b",
                "state": "ready",
                "cmd": "server --port 5801",
                "proxy": "http://localhost:5801",
                "ttl": 60,
                "name": "",
                "description": "",
            },
            {
                "model": "org/c:q4",
                "state": "stopping",
                "cmd": "",
                "proxy": "http://localhost:5802",
                "ttl": 0,
                "name": "",
                "description": "",
            },
        ]
    }


async def test_a_removed_model_is_there_until_it_has_ended() -> None:
    state = make_state(states={"old": State.STOPPING})
    assert isinstance(state.fleet, FakeFleet)
    state.fleet.gone["old"] = ModelConfig(id="old", cmd="server")
    client = create_app(state).test_client()
    [running] = (await (await client.get("/running")).get_json())["running"]
    assert (running["model"], running["state"]) == ("old", "stopping")
    models = {model["id"]: model for model in (await (await client.get("/api/models")).get_json())["models"]}
    assert models["old"]["removed"] is True and models["old"]["group"] == ""
    assert "removed" not in models["a"] and set(models) == {"old", *state.config.models}
    assert "old" not in {model["id"] for model in (await (await client.get("/v1/models")).get_json())["data"]}
    assert (await client.post("/api/models/load/old")).status_code == 404
    assert (await client.post("/api/models/unload/old")).status_code == 200
    assert state.fleet.unloaded == [["old"]]


async def test_nothing_running_is_an_empty_list() -> None:
    response = await make_app().test_client().get("/running")
    assert await response.get_json() == {"running": []}


@pytest.mark.parametrize(
    ("method", "path", "asked", "answer"),
    [
        ("GET", "/unload", None, b"OK"),
        ("POST", "/api/models/unload", None, b'{"msg": "ok"}'),
        ("POST", "/api/models/unload/a", ["a"], b"OK"),
        ("POST", "/api/models/unload/bee", ["b"], b"OK"),
        ("POST", "/api/models/unload/org/c:q4", ["org/c:q4"], b"OK"),
        ("POST", "/api/models/unload/org/sea", ["org/c:q4"], b"OK"),
        ("POST", "/api/models/unload/ghost", ["hidden"], b"OK"),
    ],
)
async def test_unload(method: str, path: str, asked: list[str] | None, answer: bytes) -> None:
    state = make_state()
    response = await create_app(state).test_client().open(path, method=method)
    assert (response.status_code, await response.get_data()) == (200, answer)
    assert isinstance(state.fleet, FakeFleet)
    assert state.fleet.unloaded == [asked]


async def test_unload_of_an_unknown_model() -> None:
    state = make_state()
    response = await create_app(state).test_client().post("/api/models/unload/nobody")
    assert response.status_code == 404
    assert (await response.get_json())["error"]["message"] == "model not found"
    assert isinstance(state.fleet, FakeFleet)
    assert state.fleet.unloaded == []


async def test_unload_waits_and_a_leaving_client_ends_only_the_wait() -> None:
    state = make_state(states={"a": State.READY})
    fleet = state.fleet
    assert isinstance(fleet, FakeFleet)
    fleet.stopped = trio.Event()
    async with calling(create_app(state), "/unload") as call:
        await trio.testing.wait_all_tasks_blocked()
        assert fleet.waiting == 1
        assert call.status is None
    assert fleet.unloaded == [None]
    assert fleet.waiting == 0


# --- errors


@pytest.mark.parametrize("path", ["/nothing", "/v1/models/a", "/health/", "/api", "/ui/x.js"])
async def test_unknown_paths(path: str) -> None:
    response = await make_app().test_client().get(path)
    assert response.status_code == 404
    assert await response.get_json() == {
        "src": "llama-swap",
        "error": {
            "message": "404 page not found",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        },
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/running", "GET, HEAD"),
        ("GET", "/api/models/unload", "POST"),
        ("DELETE", "/api/models/unload/a", "POST"),
        ("PUT", "/ui", "GET, HEAD"),
    ],
)
async def test_wrong_methods(method: str, path: str, allow: str) -> None:
    response = await make_app().test_client().open(path, method=method)
    assert response.status_code == 405
    assert response.headers["Allow"] == allow
    assert (await response.get_json())["error"]["code"] == "invalid_request"


async def test_errors_in_the_form_asked_for() -> None:
    client = make_app().test_client()
    html = await client.get("/nothing", headers={"Accept": "text/html"})
    assert "<h1>llama-swap</h1>" in await html.get_data(as_text=True)
    text = await client.get("/nothing", headers={"Accept": "text/plain"})
    assert await text.get_data() == b"llama-swap: 404 page not found"
    for both in ("text/plain, application/json", "text/plain, */*"):
        assert (await client.get("/nothing", headers={"Accept": both})).content_type == "application/json"


async def test_the_unforeseen_is_logged_and_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()

    @app.get("/api/broken")
    async def broken() -> Response:
        raise ZeroDivisionError("secret detail")

    with caplog.at_level(logging.ERROR, "llamaswap"):
        response = await app.test_client().get("/api/broken")
    assert response.status_code == 500
    body = await response.get_data(as_text=True)
    assert "secret" not in body and "Traceback" not in body
    assert (await response.get_json())["error"]["type"] == "server_error"
    (record,) = caplog.records
    assert record.exc_info and record.exc_info[0] is ZeroDivisionError


async def test_a_group_of_errors_is_told_as_well(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app()

    @app.get("/api/broken")
    async def broken() -> Response:
        async with trio.open_nursery():
            raise ZeroDivisionError

    response = await app.test_client().get("/api/broken")
    assert response.status_code == 500
    assert (await response.get_json())["src"] == "llama-swap"


# --- access

KEYED = make_config(*CONFIG.models.values(), api_keys=("sk-1", "sk-2"), allowed_hosts=("swap.example.org",))
CONTROL = [
    ("GET", "/running"),
    ("GET", "/unload"),
    ("POST", "/api/models/unload"),
    ("POST", "/api/models/unload/a"),
    ("GET", "/logs"),
    ("GET", "/api/version"),
    ("GET", "/nothing"),
]


@pytest.mark.parametrize(("method", "path"), [*CONTROL, ("GET", "/v1/models"), ("GET", "/models")])
async def test_keys_are_asked_for(method: str, path: str) -> None:
    state = make_state(KEYED)
    client = create_app(state).test_client()
    refused = await client.open(path, method=method)
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="llama-swap"'
    assert (await refused.get_json())["error"]["message"] == "unauthorized: invalid or missing API key"
    assert isinstance(state.fleet, FakeFleet)
    assert state.fleet.unloaded == []
    basic = "Basic " + b64encode(b"me:sk-2").decode()
    for headers in ({"Authorization": "Bearer sk-1"}, {"x-api-key": "sk-2"}, {"Authorization": basic}):
        assert (await client.open(path, method=method, headers=headers)).status_code != 401


@pytest.mark.parametrize("path", ["/health", "/wol-health", "/", "/favicon.ico", "/upstream", "/ui", "/ui/models"])
async def test_public_routes_ask_for_no_key(path: str) -> None:
    headers = {"Host": "anything.example", "Sec-Fetch-Site": "cross-site"}
    response = await make_app(KEYED).test_client().get(path, headers=headers)
    assert response.status_code in (200, 302)


@pytest.mark.parametrize("path", ["//running", "//unload", "/ui/../unload", "/health/../unload", "/./running"])
async def test_odd_spellings_open_no_door(path: str) -> None:
    state = make_state(KEYED)
    async with calling(create_app(state), path) as call:
        await call.receive()
        assert call.status in (401, 404)
    assert isinstance(state.fleet, FakeFleet)
    assert state.fleet.unloaded == []


async def test_no_password_dialogue_over_our_own_page() -> None:
    headers = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    response = await make_app(KEYED).test_client().get("/running", headers=headers)
    assert response.status_code == 401
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize(("method", "path"), CONTROL)
@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Sec-Fetch-Site": "cross-site", "Host": "127.0.0.1:8080"}]
)
async def test_other_pages_may_not_steer(method: str, path: str, headers: dict[str, str]) -> None:
    state = make_state()
    response = await create_app(state).test_client().open(path, method=method, headers=headers)
    assert response.status_code == 403
    assert (await response.get_json())["error"]["type"] == "authentication_error"


async def test_old_browsers_may_not_unload_for_other_pages() -> None:
    """They send no Sec-Fetch-Site; /unload is a GET, but changes something."""
    state = make_state()
    headers = {"Host": "192.168.1.7:8080", "Origin": "http://evil.example"}
    client = create_app(state).test_client()
    assert (await client.get("/unload", headers=headers)).status_code == 403
    assert isinstance(state.fleet, FakeFleet) and state.fleet.unloaded == []
    assert (await client.get("/running", headers=headers)).status_code == 200
    assert isinstance(state.fleet, FakeFleet)
    assert state.fleet.unloaded == []


async def test_a_configured_host_may() -> None:
    headers = {"Host": "swap.example.org", "Authorization": "Bearer sk-1"}
    assert (await make_app(KEYED).test_client().get("/running", headers=headers)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/chat/completions"])
async def test_open_preflight(path: str) -> None:
    headers = {"Origin": "https://x", "Access-Control-Request-Headers": "authorization, x y"}
    response = await make_app(KEYED).test_client().options(path, headers=headers)
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert response.headers["Access-Control-Allow-Headers"] == "authorization"
    assert await response.get_data() == b""


@pytest.mark.parametrize("path", ["/unload", "/api/models/unload", "/nothing", "/health"])
async def test_closed_preflight(path: str) -> None:
    response = await make_app(KEYED).test_client().options(path, headers={"Origin": "https://x"})
    assert response.status_code == 204
    assert not [name for name, _ in response.headers if name.lower().startswith("access-control")]


async def test_settings_that_would_cut_streams_are_off() -> None:
    app = make_app(make_config(ModelConfig(id="m")))
    assert app.config["RESPONSE_TIMEOUT"] is None
    assert app.config["BODY_TIMEOUT"] is None
