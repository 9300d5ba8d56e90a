"""What a reload changes: pure comparison of two configurations.

Both have their `${PORT}`s filled in, the newer one loaded with the `keep_ports` of the older, so that a
model's command differs only if somebody changed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

from llamaswap.config.settings import Config, ModelConfig

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "groups": "routing.router.settings.groups",
        "priorities": "routing.scheduler.settings.fifo.priority",
        "max_wait_s": "routing.scheduler.settings.fifo.maxWait",
        "send_loading_state": "sendLoadingState",
        "include_aliases_in_list": "includeAliasesInList",
        "api_keys": "apiKeys",
        "ignore_paths": "upstream.ignorePaths",
        "preload": "hooks.on_startup.preload",
        "log_level": "logLevel",
        "log_time_format": "logTimeFormat",
        "log_to_stdout": "logToStdout",
        "start_port": "startPort",
        "max_request_body_bytes": "maxRequestBodyMiB",
        "allowed_hosts": "allowedHosts",
        "store_path": "store.path",
        "capture_buffer_bytes": "captureBuffer",
        "session_id_headers": "ui.activity.session_id",
        "global_ttl_s": "globalTTL",
        "unload_timeout_s": "unloadTimeout",
        "health_check_timeout_s": "healthCheckTimeout",
    }
)
"""Field of Config -> its key in the file, for all but the models and the warnings."""

RESTART_KEYS = frozenset({"logToStdout", "store.path"})
"""What is opened once, at start; everything else a reload applies. `startPort` counts for new models."""


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """Ids are sorted; every model of the newer configuration is in exactly one of the first four."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """A running process of the older cannot serve the newer: it drains, and restarts on demand."""
    updated: tuple[str, ...] = ()
    """Differ in what a running process need not be restarted for."""
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    """Keys outside of the models whose values differ."""
    preload: tuple[str, ...] = ()
    """Models that are on the preload list now and were not before."""

    restart_needed: tuple[str, ...] = ()
    """Keys that are in force with other values than the newer configuration's, until llamaswap is restarted."""

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.updated or self.removed or self.settings)


def diff(old: Config, new: Config, started: Config | None = None) -> ConfigDiff:
    """What `new` does differently from `old`. `started`: what the server was started with, if that is not `old`."""
    both = sorted(old.models.keys() & new.models.keys())
    same = [id for id in both if same_process(old.models[id], new.models[id])]
    return ConfigDiff(
        added=tuple(sorted(new.models.keys() - old.models.keys())),
        changed=tuple(id for id in both if id not in same),
        updated=tuple(id for id in same if old.models[id] != new.models[id]),
        unchanged=tuple(id for id in same if old.models[id] == new.models[id]),
        removed=tuple(sorted(old.models.keys() - new.models.keys())),
        settings=_settings(old, new),
        preload=tuple(id for id in new.preload if id not in old.preload),
        restart_needed=tuple(key for key in _settings(started or old, new) if key in RESTART_KEYS),
    )


def _settings(old: Config, new: Config) -> tuple[str, ...]:
    """The keys of those that differ, sorted."""
    names = [field.name for field in fields(Config) if field.name not in ("models", "warnings")]
    return tuple(sorted(key_of(name) for name in names if getattr(old, name) != getattr(new, name)))


def same_process(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether a running process of one serves the other as well.

    Everything else (names, filters, limits, times, cmdStop) is applied to the process that runs; how a
    command is written (line breaks, comments) does not matter, what it says does.
    """
    return (
        one.argv == other.argv
        and one.env == other.env
        and one.proxy == other.proxy
        and one.port == other.port
        and one.check_endpoint == other.check_endpoint
    )


def key_of(field: str) -> str:
    """The key in the file of a field of Config; in camel case as it stands, where the table has none."""
    if field in KEYS:
        return KEYS[field]
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)
