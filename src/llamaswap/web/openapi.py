"""`/openapi.json`: the control routes for programs, made of the table in `openapi_routes.py`."""

from __future__ import annotations

import json
from typing import Any

from quart import Blueprint, Response

from llamaswap.relay.endpoints import ENDPOINTS, Endpoint
from llamaswap.web.openapi_routes import JSON, OPERATIONS, TAGS, Operation, Parameter
from llamaswap.web.openapi_shapes import SHAPES
from llamaswap.web.state import AppState

_INTRODUCTION = """Watch and steer llamaswap. Errors are always the same envelope (`Error`), whatever the route; a
request whose `Accept` asks for text or HTML and not for JSON gets them so.

Web pages from elsewhere are refused on the control routes (403), and so is a Host that is neither an address nor
localhost nor in allowedHosts. With apiKeys configured every route here but /health needs one of them."""

SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key is the password; the user does not matter."},
}
_MODEL_ROUTES = "inference"


def document(version: str, *, keys: bool) -> dict[str, Any]:
    """The whole document. `keys`: whether an API key is needed."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, keys)
    for endpoint in ENDPOINTS:
        for method in endpoint.methods:
            if method != "HEAD":
                paths.setdefault(endpoint.route, {})[method.lower()] = _inference(endpoint, method)
    tags = [{"name": name, "description": text} for name, text in TAGS.items()]
    tags.append({"name": _MODEL_ROUTES, "description": "Passed on to the model that the request names."})
    return {
        "openapi": "3.1.0",
        "info": {"title": "llamaswap", "version": version, "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {"schemas": SHAPES, "securitySchemes": SCHEMES},
        **({"security": [{name: []} for name in SCHEMES]} if keys else {}),
    }


def _operation(it: Operation, keys: bool) -> dict[str, Any]:
    answers = {"200": _answer("Done.", it.content, it.answer)}
    if it.or_else:
        answers["200"]["content"][it.or_else] = {"schema": it.answer}
    for status, when in it.also.items():
        if status in it.same_shape:
            answers[str(status)] = _answer(when, it.content, it.answer)
        elif status in it.other_content:
            answers[str(status)] = _answer(when, *it.other_content[status])
        elif status < 400:
            answers[str(status)] = {"description": when}
        else:
            answers[str(status)] = _error(when)
    if keys and not it.public:
        answers["401"] = _error("The API key is missing or wrong.")
    if not it.open:
        answers["403"] = _error("A web page from elsewhere, or a host name that is not configured.")
    if it.body is not None:
        answers["413"] = _error("The body is too large.")
    described: dict[str, Any] = {
        "operationId": _id(it.method, it.path),
        "tags": [it.tag],
        "summary": it.summary,
        **({"description": it.text} if it.text else {}),
        **({"parameters": [_parameter(one) for one in it.parameters]} if it.parameters else {}),
        "responses": dict(sorted(answers.items())),
    }
    if it.body is not None:
        described["requestBody"] = {"required": True, "content": {JSON: {"schema": it.body}}}
    if it.public and keys:
        described["security"] = []
    return described


def _inference(it: Endpoint, method: str) -> dict[str, Any]:
    """A model route, in brief: where the model's name stands, and that the rest is the model's affair."""
    model = {"type": "string", "minLength": 1}
    described: dict[str, Any] = {
        "operationId": _id(method.lower(), it.route),
        "tags": [_MODEL_ROUTES],
        "summary": f"The model's own {it.upstream_path}",
        "responses": {
            "200": {"description": "The model's answer."},
            "default": _error("The model's own error, or llamaswap's: no such model, not started, too many requests."),
        },
    }
    if it.kind == "query":
        described["parameters"] = [{"name": "model", "in": "query", "required": True, "schema": model}]
    else:
        content = JSON if it.kind == "json" else "multipart/form-data"
        schema = {"type": "object", "properties": {"model": model}, "required": ["model"]}
        described["requestBody"] = {"required": True, "content": {content: {"schema": schema}}}
    return described


def _parameter(it: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {"name": it.name, "in": it.place, "schema": it.schema}
    if it.text:
        described["description"] = it.text
    if it.place == "path":
        described["required"] = True
    return described


def _answer(when: str, content: str, schema: Any) -> dict[str, Any]:
    return {"description": when, "content": {content: {"schema": schema}}}


def _error(when: str) -> dict[str, Any]:
    return _answer(when, JSON, {"$ref": "#/components/schemas/Error"})


def _id(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "_").replace("-", "_").strip("/")
    return f"{method}_{words.replace('/', '_')}"


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("openapi", __name__)

    @bp.get("/openapi.json")
    async def openapi() -> Response:
        text = json.dumps(document(state.version, keys=bool(state.config.api_keys)), separators=(",", ":"))
        return Response(text, content_type=JSON)

    return bp
