"""The OpenAPI document: every route is in it and none is invented, and what it promises is what is answered."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from app_fixtures import CONFIG, make_app, make_config

from llamaswap.relay.endpoints import ENDPOINTS
from llamaswap.routing.lifecycle import State
from llamaswap.web.openapi import SCHEMES, document
from llamaswap.web.openapi_routes import OPERATIONS
from llamaswap.web.openapi_shapes import SHAPES

NOT_THE_API = {"/", "/upstream", "/favicon.ico"}
"""The UI, and redirects to it."""


def routes(paths: Any) -> set[tuple[str, str]]:
    """(method, path), path parameters without their names."""
    return {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, methods in paths.items() for method in methods}


def test_every_route_and_no_other() -> None:
    there: set[tuple[str, str]] = set()
    for rule in make_app().url_map.iter_rules():
        if rule.rule not in NOT_THE_API and not rule.rule.startswith("/ui"):
            path = re.sub(r"<[^>]*>", "{}", rule.rule)
            there |= {(method, path) for method in rule.methods or () if method not in ("HEAD", "OPTIONS")}
    there |= {(method, e.route) for e in ENDPOINTS for method in e.methods if method != "HEAD"}
    assert routes(document("1", keys=False)["paths"]) == there


async def test_it_is_served() -> None:
    response = await make_app().test_client().get("/openapi.json")
    assert response.status_code == 200 and response.content_type == "application/json"
    assert await response.get_json() == document("1.2.3", keys=False)


async def test_keys() -> None:
    config = make_config(*CONFIG.models.values(), api_keys=("k",))
    client = make_app(config).test_client()
    assert (await client.get("/openapi.json")).status_code == 401
    told = await (await client.get("/openapi.json", headers={"x-api-key": "k"})).get_json()
    assert told["security"] == [{name: []} for name in SCHEMES]
    assert told["paths"]["/health"]["get"]["security"] == []
    for path, methods in told["paths"].items():
        for operation in methods.values():
            listed = operation["responses"].keys()
            assert listed & {"401", "default"} or path in ("/health", "/wol-health")


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        here = {value["$ref"]} if "$ref" in value else set()
        return here.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list | tuple) else set()


def test_the_document_holds_together() -> None:
    told = document("1", keys=True)
    assert references(told) == {f"#/components/schemas/{name}" for name in SHAPES}
    ids = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)
    for name, shape in SHAPES.items():
        jsonschema.Draft202012Validator.check_schema(dict(shape)), name
    for operation in OPERATIONS:
        placed = {one.name for one in operation.parameters if one.place == "path"}
        assert placed == set(re.findall(r"\{(\w+)\}", operation.path))
        for status in (*operation.same_shape, *operation.other_content):
            assert status in operation.also


def validator(told: Any, schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": told["components"]})


@pytest.mark.parametrize("path", [it.path for it in OPERATIONS if it.method == "get" and "{" not in it.path])
async def test_answers_are_as_described(path: str) -> None:
    if path == "/api/events":
        return  # never ends
    states = {"a": State.READY, "b": State.STARTING}
    told = document("1", keys=False)
    query = "?no-follow" if path == "/logs/stream" else ""
    response = await make_app(states=states).test_client().get(path + query)
    described = told["paths"][path]["get"]["responses"][str(response.status_code)]["content"]
    (content, media), = described.items()  # fmt: skip
    assert response.content_type.partition(";")[0] == content
    value = await response.get_json() if content == "application/json" else (await response.get_data()).decode()
    validator(told, media["schema"]).validate(value)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/models/load/none", 404),
        ("POST", "/api/models/load/a?wait=x", 400),
        ("POST", "/api/models/unload/none", 404),
        ("POST", "/models/load", 400),
        ("GET", "/api/captures/7", 404),
        ("GET", "/api/captures/x", 400),
        ("POST", "/api/inflight/7/cancel", 404),
        ("GET", "/api/metrics/activity?limit=0", 400),
        ("GET", "/logs/stream/none", 400),
    ],
)
async def test_errors_are_as_described(method: str, path: str, status: int) -> None:
    told = document("1", keys=False)
    response = await make_app().test_client().open(path, method=method)
    assert response.status_code == status
    templates = {re.sub(r"\{\w+\}", "[^/]+", template): template for template in told["paths"]}
    template = next(it for pattern, it in templates.items() if re.fullmatch(pattern, path.partition("?")[0]))
    described = told["paths"][template][method.lower()]["responses"][str(status)]["content"]["application/json"]
    validator(told, described["schema"]).validate(await response.get_json())
