"""`/v1/models`: what can be asked for. The record is llama-swap's."""

from __future__ import annotations

import time
from collections.abc import Mapping

from quart import Blueprint, Response, request

from llamaswap.config.settings import Capabilities, Config, ModelConfig
from llamaswap.routing.lifecycle import State
from llamaswap.web.state import AppState, is_running, json_response, plain

Record = dict[str, object]

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
    record["capabilities"] = {
        "vision": "image" in inputs and "text" in outputs,
        "audio_transcriptions": "audio" in inputs and "text" in outputs,
        "audio_speech": "text" in inputs and "audio" in outputs,
        "image_generation": "text" in inputs and "image" in outputs,
        "image_to_image": "image" in inputs and "image" in outputs,
        "function_calling": capabilities.tools,
        "reranker": capabilities.reranker,
    }
    if capabilities.tools:
        record["supported_parameters"] = ["tools", "tool_choice"]
    if capabilities.context > 0:
        record["context_length"] = capabilities.context
    return record


def _record(name: str, model: ModelConfig, state: State, created: int) -> Record:
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
    record["status"] = {"value": "loaded" if is_running(state) else "unloaded"}
    return record


def listing(config: Config, states: Mapping[str, State], created: int) -> Record:
    """The answer of `/v1/models`: all listed models sorted by id, aliases as models of their own if
    includeAliasesInList says so."""
    records: dict[str, Record] = {}
    for model in config.models.values():
        if model.unlisted:
            continue
        state = states.get(model.id, State.STOPPED)
        names = (model.id, *model.aliases) if config.include_aliases_in_list else (model.id,)
        for name in names:
            if name == model.id or name not in config.models:  # an id wins over another model's alias
                records[name] = _record(name, model, state, created)
    return {"object": "list", "data": [records[name] for name in sorted(records)]}


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("models", __name__)

    @bp.get("/v1/models")
    @bp.get("/models")
    async def models() -> Response:
        response = json_response(listing(state.config, state.states(), int(time.time())))
        origin = request.headers.get("Origin")
        if origin:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    return bp
