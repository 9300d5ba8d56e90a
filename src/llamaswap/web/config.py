"""The configuration: as it was read, as it is in force, and reading it again."""

from __future__ import annotations

from quart import Blueprint, Response

from llamaswap.errors import NotFound
from llamaswap.web.state import AppState, ConfigControl, json_response


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("config", __name__)

    def reloader() -> ConfigControl:
        if state.reloader is None:
            raise NotFound("this server has no configuration to show")
        return state.reloader

    @bp.get("/api/config")
    async def show() -> Response:
        return json_response(await reloader().show())

    @bp.post("/api/config/reload")
    async def reload() -> Response:
        return json_response(await reloader().reload_now())

    return bp
