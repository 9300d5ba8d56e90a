"""Health, what runs, unloading, version: enough to live with."""

from __future__ import annotations

from quart import Blueprint, Response

from llamaswap.errors import ModelNotFound
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
        for _, model in sorted(state.config.models.items())
        if is_running(states[model.id])
    ]


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
        model = state.catalogue.get(name)
        if model is None:
            raise ModelNotFound("model not found")
        await state.fleet.unload([model.id])
        return text_response("OK")

    @bp.get("/api/version")
    async def version() -> Response:
        return json_response({"version": state.version, "commit": state.commit, "build_date": state.build_date})

    return bp
