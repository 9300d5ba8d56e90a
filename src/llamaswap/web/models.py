"""`/v1/models`: what can be asked for, in llama-swap's records. `/api/models`: all that is known of all models."""

from __future__ import annotations

import time
from collections.abc import Mapping

from quart import Blueprint, Response, request

from llamaswap.config.settings import Capabilities, Config, ModelConfig
from llamaswap.observe.modellog import ModelLog
from llamaswap.routing.lifecycle import State
from llamaswap.web.overview import Record, capability_flags, load_status, overview
from llamaswap.web.state import AppState, json_response, plain

_FROM_CAPABILITIES = frozenset({"architecture", "capabilities", "supported_parameters", "context_length"})
"""Metadata keys that give way when `capabilities` is configured."""


def _described(capabilities: Capabilities) -> Record:
    inputs, outputs = capabilities.inputs, capabilities.outputs
    record: Record = {}
    if inputs or outputs:
        record["architecture"] = {
            "input_modalities": list(inputs),
            "output_modalities": list(outputs),
            "modality": f"{'+'.join(inputs)}->{'+'.join(outputs)}",
        }
    record["capabilities"] = capability_flags(capabilities)
    if capabilities.tools:
        record["supported_parameters"] = ["tools", "tool_choice"]
    if capabilities.context > 0:
        record["context_length"] = capabilities.context
    return record


def _record(name: str, model: ModelConfig, status: Record, created: int) -> Record:
    record: Record = {"id": name, "object": "model", "created": created, "owned_by": "llama-swap"}
    for key, text in (("name", model.name.strip()), ("description", model.description.strip())):
        if text:
            record[key] = text
    capabilities = model.capabilities
    own: Record = {}
    for key, value in model.metadata.items():
        if capabilities is None or key not in _FROM_CAPABILITIES:
            own[str(key)] = plain(value)
    if name == model.id:
        own["type"] = "model"
        if model.aliases:
            own["aliases"] = list(model.aliases)
    else:
        own["type"] = "alias"
        own["modelID"] = model.id
    meta: Record = {"llamaswap": own}
    if capabilities is not None:
        record |= _described(capabilities)
        if capabilities.context > 0:
            meta["n_ctx"] = capabilities.context
    record["meta"] = meta
    record["status"] = status
    return record


def listing(config: Config, states: Mapping[str, State], model_log: ModelLog, created: int) -> Record:
    """The answer of `/v1/models`: all listed models sorted by id, aliases as models of their own if
    includeAliasesInList says so."""
    records: dict[str, Record] = {}
    for model in config.models.values():
        if model.unlisted:
            continue
        status = load_status(states.get(model.id, State.STOPPED), model_log.last_error(model.id))
        names = (model.id, *model.aliases) if config.include_aliases_in_list else (model.id,)
        for name in names:
            if name == model.id or name not in config.models:  # an id wins over another model's alias
                records[name] = _record(name, model, status, created)
    return {"object": "list", "data": [records[name] for name in sorted(records)]}


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("models", __name__)

    @bp.get("/v1/models")
    @bp.get("/models")
    async def models() -> Response:
        response = json_response(listing(state.config, state.states(), state.model_log, int(time.time())))
        origin = request.headers.get("Origin")
        if origin:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    @bp.get("/api/models")
    async def all_models() -> Response:
        return json_response({"models": overview(state)})

    return bp
