"""Health, what runs, loading and unloading, version: enough to live with."""

from __future__ import annotations

import json

from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest, ModelNotFound
from llamaswap.web.state import AppState, is_running, json_response, redirect, text_response


def running(state: AppState) -> list[dict[str, object]]:
    """The records of `/running`: every model that has a process, sorted by id."""
    states = state.states()
    return [
        {
            "model": model.id,
            "state": str(states[model.id]),
            "cmd": model.cmd,
            "proxy": model.proxy,
            "ttl": int(model.ttl_s) if model.ttl_s == int(model.ttl_s) else model.ttl_s,
            "name": model.name,
            "description": model.description,
        }
        for model in state.models()
        if is_running(states[model.id])
    ]


def _wanted_to_wait() -> bool:
    """`?wait=`: true unless it says no."""
    text = request.args.get("wait", "1").lower()
    if text in ("1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise BadRequest("wait: must be 0 (return at once) or 1 (return when the model is ready)")


async def _model_of_body() -> str:
    """The `model` of a JSON object, whatever the content type says. Raises BadRequest."""
    try:
        body = json.loads(await request.get_data())
    except (ValueError, RecursionError):
        raise BadRequest('the body must be a JSON object such as {"model": "<id>"}') from None
    name = body.get("model") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name:
        raise BadRequest("model: must be the id of a model, as a string in a JSON object")
    return name


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("control", __name__)

    @bp.get("/health")
    @bp.get("/wol-health")
    async def health() -> Response:
        return text_response("OK")

    @bp.get("/")
    async def root() -> Response:
        return redirect("/ui")

    @bp.get("/upstream")
    async def upstream() -> Response:
        return redirect("/ui/models")

    @bp.get("/running")
    async def running_models() -> Response:
        return json_response({"running": running(state)})

    @bp.get("/unload")
    async def unload() -> Response:
        await state.fleet.unload(None)
        return text_response("OK")

    @bp.post("/api/models/unload")
    async def unload_all() -> Response:
        await state.fleet.unload(None)
        return json_response({"msg": "ok"})

    @bp.post("/api/models/unload/<path:name>")
    async def unload_one(name: str) -> Response:
        model = state.catalogue.get(name) or state.fleet.removed().get(name)
        if model is None:
            raise ModelNotFound("model not found")
        await state.fleet.unload([model.id])
        return text_response("OK")

    @bp.post("/api/models/load/<path:name>")
    async def load(name: str) -> Response:
        model_id = state.catalogue.resolve(name).id
        if _wanted_to_wait():
            load_s = await state.fleet.preload(model_id)
            return json_response({"model": model_id, "state": "ready", "load_s": round(load_s, 3)})
        state.fleet.begin_load(model_id)
        response = json_response({"model": model_id, "state": str(state.states()[model_id])})
        response.status_code = 202
        return response

    @bp.post("/models/load")
    async def load_as_llama_server() -> Response:
        model_id = state.catalogue.resolve(await _model_of_body()).id
        if _wanted_to_wait():
            await state.fleet.preload(model_id)
        else:
            state.fleet.begin_load(model_id)
        return json_response({"success": True})

    @bp.post("/models/unload")
    async def unload_as_llama_server() -> Response:
        model_id = state.catalogue.resolve(await _model_of_body()).id
        await state.fleet.unload([model_id])
        return json_response({"success": True})

    @bp.get("/api/version")
    async def version() -> Response:
        return json_response({"version": state.version, "commit": state.commit, "build_date": state.build_date})

    return bp
