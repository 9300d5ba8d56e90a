"""/api/config over a fake of what reloads."""

from __future__ import annotations

import json
from typing import Any

from app_fixtures import make_app

from llamaswap.errors import BadRequest


class FakeReloader:
    def __init__(self) -> None:
        self.reloads = 0
        self.problem = ""

    async def show(self) -> dict[str, Any]:
        return {"path": "config.yaml", "text": "é"}

    async def reload_now(self) -> dict[str, object]:
        self.reloads += 1
        if self.problem:
            raise BadRequest(self.problem)
        return {"ok": True}


async def test_the_configuration_is_shown() -> None:
    client = make_app(reloader=FakeReloader()).test_client()
    answer = await client.get("/api/config")
    assert answer.status_code == 200 and answer.content_type == "application/json"
    assert json.loads(await answer.get_data()) == {"path": "config.yaml", "text": "é"}


async def test_it_is_reloaded_and_errors_are_told() -> None:
    reloader = FakeReloader()
    client = make_app(reloader=reloader).test_client()
    answer = await client.post("/api/config/reload")
    assert (answer.status_code, await answer.get_json()) == (200, {"ok": True})
    reloader.problem = "the configuration was not reloaded: config.yaml:3: no"
    answer = await client.post("/api/config/reload")
    assert answer.status_code == 400
    assert (await answer.get_json())["error"]["message"] == reloader.problem


async def test_reading_does_not_reload_and_other_sites_may_not() -> None:
    reloader = FakeReloader()
    client = make_app(reloader=reloader).test_client()
    assert (await client.get("/api/config/reload")).status_code == 405
    for method in (client.get, client.post):
        path = "/api/config" if method == client.get else "/api/config/reload"
        assert (await method(path, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert reloader.reloads == 0


async def test_without_a_configuration_to_show() -> None:
    client = make_app().test_client()
    assert (await client.get("/api/config")).status_code == 404
    assert (await client.post("/api/config/reload")).status_code == 404
