"""What is known of the models, put together for those who look: `/api/models`, events, `/v1/models`."""

from __future__ import annotations

import time

import trio

from llamaswap.config.settings import Capabilities, ModelConfig
from llamaswap.observe.modellog import LastError
from llamaswap.observe.rows import rfc3339
from llamaswap.routing.lifecycle import State
from llamaswap.routing.scheduler import ModelView
from llamaswap.web.state import AppState

Record = dict[str, object]


def capability_flags(capabilities: Capabilities) -> dict[str, bool]:
    """What the model can do, in the names of llama-swap's records."""
    inputs, outputs = capabilities.inputs, capabilities.outputs
    return {
        "vision": "image" in inputs and "text" in outputs,
        "audio_transcriptions": "audio" in inputs and "text" in outputs,
        "audio_speech": "text" in inputs and "audio" in outputs,
        "image_generation": "text" in inputs and "image" in outputs,
        "image_to_image": "image" in inputs and "image" in outputs,
        "function_calling": capabilities.tools,
        "reranker": capabilities.reranker,
    }


def _described(model: ModelConfig) -> Record:
    record: Record = {}
    if model.capabilities is not None:
        record["capabilities"] = capability_flags(model.capabilities)
        if model.capabilities.context > 0:
            record["context_length"] = model.capabilities.context
    return record


def model_status(state: AppState) -> list[Record]:
    """The data of the event `modelStatus`: every model, sorted by id."""
    states = state.states()
    records: list[Record] = []
    for model in state.models():
        record: Record = {
            "id": model.id,
            "name": model.name.strip(),
            "description": model.description.strip(),
            "state": str(states[model.id]),
            "unlisted": model.unlisted,
            "peerID": "",
        }
        if model.aliases:
            record["aliases"] = list(model.aliases)
        records.append(record | _described(model) | _removed(state, model))
    return records


def _removed(state: AppState, model: ModelConfig) -> Record:
    """A model that is no longer in the configuration is there until its requests are answered."""
    return {} if model.id in state.config.models else {"removed": True}


def model_progress(state: AppState) -> list[Record]:
    """The data of the event `modelProgress`: models that have a process or are waited for, sorted by id.

    `elapsed_s` since its start began, `typical_s` as its earlier loads took, `ttl_left_s` until it is unloaded
    if nobody asks for it, `waiting_for` the models that drain or stop first; left out where they do not apply.
    """
    now = trio.current_time()
    records: list[Record] = []
    for view in sorted(state.fleet.views(), key=lambda view: view.id):
        if view.state in (State.STOPPED, State.SHUTDOWN) and not view.queued:
            continue
        record: Record = {"id": view.id, "state": str(view.state), "queued": view.queued}
        elapsed_s = state.fleet.loading_s(view.id)
        if elapsed_s is not None:
            record["elapsed_s"] = round(elapsed_s, 3)
        typical_s = state.model_log.typical_load_s(view.id)
        if typical_s is not None and view.state is not State.READY:
            record["typical_s"] = round(typical_s, 3)
        if view.ttl_deadline is not None:
            record["ttl_left_s"] = round(max(0.0, view.ttl_deadline - now), 3)
        if view.queued and (blockers := state.fleet.waiting_for(view.id)):
            record["waiting_for"] = blockers
        records.append(record)
    return records


def _shown(error: LastError) -> Record:
    return {
        "message": error.message,
        "exit_code": error.exit_code,
        "output": error.output or None,
        "at": rfc3339(int(error.at * 1000)),
    }


def overview(state: AppState) -> list[Record]:
    """The models of `/api/models`: all of them, sorted by id."""
    views = {view.id: view for view in state.fleet.views()}
    return [_overview(state, model, views.get(model.id) or _stopped(model.id)) for model in state.models()]


def _stopped(id: str) -> ModelView:
    return ModelView(id, State.STOPPED, 0, 0, None, None, None)


def _overview(state: AppState, model: ModelConfig, view: ModelView) -> Record:
    now, fleet = trio.current_time(), state.fleet
    elapsed_s, typical_s = fleet.loading_s(model.id), state.model_log.typical_load_s(model.id)
    error = state.model_log.last_error(model.id)
    rss, gpu = state.monitor.model_memory(model.id)
    return {
        "id": model.id,
        "name": model.name.strip(),
        "description": model.description.strip(),
        "aliases": list(model.aliases),
        "unlisted": model.unlisted,
        "state": str(view.state),
        **_described(model),
        "ttl_s": model.ttl_s,
        "ttl_left_s": None if view.ttl_deadline is None else round(max(0.0, view.ttl_deadline - now), 3),
        "in_flight": view.in_flight,
        "queued": view.queued,
        "pid": fleet.pid(model.id),
        "cmd": model.cmd,
        "proxy": model.proxy,
        "ready_since": None if view.ready_at is None else rfc3339(int((time.time() - (now - view.ready_at)) * 1000)),
        "memory": {"rss_bytes": rss, "gpu_bytes": gpu},
        "load": {
            "elapsed_s": None if elapsed_s is None else round(elapsed_s, 3),
            "typical_s": None if typical_s is None else round(typical_s, 3),
        },
        "waiting_for": fleet.waiting_for(model.id) if view.queued else [],
        "last_error": None if error is None else _shown(error),
        "group": state.config.group_of(model.id).id if model.id in state.config.models else "",
        **_removed(state, model),
    }


def load_status(state: State, error: LastError | None) -> Record:
    """llama.cpp's status object. A model that is stopping still counts as loaded: it holds its memory."""
    value = "loading" if state is State.STARTING else "loaded" if state in (State.READY, State.STOPPING) else "unloaded"
    status: Record = {"value": value}
    if value == "unloaded" and error is not None:
        status["failed"] = True
        if error.exit_code is not None:
            status["exit_code"] = error.exit_code
    return status
