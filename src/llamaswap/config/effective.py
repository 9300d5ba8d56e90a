"""The configuration that is in force, in the words of the file: defaults filled in, macros and ports put in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from llamaswap.config.diff import key_of
from llamaswap.config.settings import Config, ModelConfig


def effective(config: Config) -> dict[str, Any]:
    """What JSON can carry, secrets included; see `redact`."""
    root: dict[str, Any] = {}
    for field in fields(config):
        if field.name not in ("models", "warnings"):
            _put(root, key_of(field.name), _setting(field.name, getattr(config, field.name)))
    root["models"] = {model.id: _model(model) for model in config.models.values()}
    return root


def _put(root: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        root = root.setdefault(name, {})
    if isinstance(value, dict) and isinstance(root.get(last), dict):
        root[last] |= value
    else:
        root[last] = value


def _setting(name: str, value: Any) -> Any:
    if name in ("max_request_body_bytes", "capture_buffer_bytes"):
        return value / (1 << 20)
    if name == "store_path":
        return value or None
    if name == "groups":
        return {group.id: {k: v for k, v in _plain(group).items() if k != "id"} for group in value.values()}
    return _plain(value)


def _model(model: ModelConfig) -> dict[str, Any]:
    """As under `models`, and the port that `${PORT}` became."""
    filters, capabilities = model.filters, model.capabilities
    return {
        "name": model.name,
        "description": model.description,
        "aliases": list(model.aliases),
        "cmd": model.cmd,
        "cmdStop": model.cmd_stop,
        "proxy": model.proxy,
        "port": model.port,
        "env": list(model.env),
        "checkEndpoint": model.check_endpoint,
        "ttl": model.ttl_s,
        "unloadTimeout": model.unload_timeout_s,
        "unlisted": model.unlisted,
        "useModelName": model.use_model_name,
        "concurrencyLimit": model.concurrency_limit,
        "sendLoadingState": model.send_loading_state,
        "filters": {
            "stripParams": list(filters.strip_params),
            "setParams": _plain(filters.set_params),
            "setParamsByID": _plain(filters.set_params_by_id),
        },
        "metadata": _plain(model.metadata),
        "timeouts": _plain(model.timeouts),
        "compat": {"ignoreWebsockets": model.ignore_websockets},
        "capabilities": None
        if capabilities is None
        else {
            "in": list(capabilities.inputs),
            "out": list(capabilities.outputs),
            "tools": capabilities.tools,
            "reranker": capabilities.reranker,
            "context": capabilities.context,
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, re.Pattern):
        return value.pattern
    if is_dataclass(value) and not isinstance(value, type):
        return {key_of(f.name.removesuffix("_s")): _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
