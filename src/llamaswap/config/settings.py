"""The configuration as the rest of the program sees it: frozen, complete, every default filled in.

`load.py` makes these from YAML. Durations carry `_s` (seconds). `diff.py` says what a reload makes of
differences.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llamaswap.errors import Problem

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`models.<id>.timeouts`; 0 means no limit."""

    connect_s: float = 30.0
    keepalive_s: float = 30.0
    response_header_s: float = 0.0
    tls_handshake_s: float = 10.0
    expect_continue_s: float = 1.0
    idle_conn_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Filters:
    """`models.<id>.filters`. Keys are sjson paths: a dot nests, `\\.` is a literal dot."""

    strip_params: tuple[str, ...] = ()
    """Sorted, without `model`."""
    set_params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    set_params_by_id: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: EMPTY)
    """Keyed by the id or alias that the client asked for."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    inputs: tuple[str, ...] = ()
    """Of text, audio, image."""
    outputs: tuple[str, ...] = ()
    tools: bool = False
    reranker: bool = False
    context: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One `models.<id>`, after macros, with globals applied."""

    id: str
    cmd: str = ""
    """As written, macros substituted; shown by /running."""
    argv: tuple[str, ...] = ()
    """`cmd` split as a POSIX shell would; empty if there is no cmd (start then fails)."""
    cmd_stop: str = ""
    """May hold `${PID}`; empty: SIGTERM to the process group."""
    proxy: str = ""
    """Base URL of the upstream, e.g. http://localhost:5800."""
    port: int | None = None
    """What `${PORT}` became, if cmd uses it."""
    aliases: tuple[str, ...] = ()
    """Keys of setParamsByID included."""
    env: tuple[str, ...] = ()
    """`NAME=value` each."""
    check_endpoint: str = "/health"
    """A path (may carry a query), or `none`: ready as soon as it is spawned."""
    ttl_s: float = 0.0
    """Idle seconds until unload; 0 never. globalTTL applied."""
    unload_timeout_s: float = 10.0
    """From asking to stop to SIGKILL. Global applied."""
    health_check_timeout_s: float = 120.0
    unlisted: bool = False
    use_model_name: str = ""
    name: str = ""
    description: str = ""
    concurrency_limit: int = 10
    """Most requests waiting and running at once; default applied."""
    filters: Filters = Filters()
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    send_loading_state: bool = False
    """Global applied."""
    timeouts: Timeouts = Timeouts()
    ignore_websockets: bool = False
    capabilities: Capabilities | None = None


DEFAULT_GROUP_ID = "(default)"


@dataclass(frozen=True, slots=True)
class Group:
    id: str
    swap: bool = True
    """Members replace each other."""
    exclusive: bool = True
    """Loading a member unloads other groups' models."""
    persistent: bool = False
    """Other groups never unload its members."""
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Performance:
    """Watching the machine: `performance`."""

    disabled: bool = False
    every_s: float = 5.0
    """Between two samples."""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is remembered (`store`); 0 is no limit."""

    keep_days: float = 0.0
    keep_activity: int = 1000
    """Rows, as the other three."""
    keep_loads: int = 100
    """Of each model."""
    keep_states: int = 10_000
    keep_log_lines: int = 10_000


DEFAULT_SESSION_ID_HEADERS = ("X-Session-ID", "X-Litellm-Session-Id")
DEFAULT_IGNORE_PATHS = (r".*\.(js|json|css|png|gif|jpg|jpeg|ico|txt)$",)


@dataclass(frozen=True, slots=True)
class Config:
    models: Mapping[str, ModelConfig] = field(default_factory=lambda: EMPTY)
    """By id, sorted."""
    groups: Mapping[str, Group] = field(default_factory=lambda: EMPTY)
    """By id; models in none belong to the implicit `(default)` group (swap and exclusive)."""
    priorities: Mapping[str, int] = field(default_factory=lambda: EMPTY)
    """Model id -> priority, higher first; unlisted 0."""
    max_wait_s: float = 30.0
    """A request that has waited so long is served next (routing.scheduler.settings.fifo.maxWait)."""
    send_loading_state: bool = False
    include_aliases_in_list: bool = False
    api_keys: tuple[str, ...] = ()
    ignore_paths: tuple[re.Pattern[str], ...] = ()
    preload: tuple[str, ...] = ()
    """Model ids, aliases resolved, unknown dropped."""
    log_level: str = "info"
    """debug, info, warn or error."""
    log_time_format: str = ""
    """One of schema.TIME_FORMATS, or empty: no time."""
    log_to_stdout: str = "proxy"
    """proxy, upstream, both or none."""
    start_port: int = 5800
    max_request_body_bytes: int = 1 << 30
    """Larger request bodies are refused with 413 (maxRequestBodyMiB)."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names, besides addresses and localhost, under which control routes may be called."""
    global_ttl_s: float = 0.0
    unload_timeout_s: float = 10.0
    health_check_timeout_s: float = 120.0
    """These three are already applied to the models."""
    performance: Performance = Performance()
    store_path: str = ""
    """The file for what is remembered; empty: it is kept in memory."""
    store: StoreLimits = StoreLimits()
    capture_buffer_bytes: int = 5 << 20
    """For captured requests; 0: none are (captureBuffer)."""
    metrics_max_in_memory: int = 1000
    """Rows of /api/metrics, and of the activity while it is kept in memory."""
    session_id_headers: tuple[str, ...] = DEFAULT_SESSION_ID_HEADERS
    """Request headers by which the UI tells sessions apart (ui.activity.session_id)."""
    warnings: tuple[Problem, ...] = ()
    """Findings that do not stop it: unknown keys, keys of later versions."""

    def store_limits(self, *, in_memory: bool) -> StoreLimits:
        """Of the store as it is; a reload can name another path, which only the next start goes by."""
        return StoreLimits(keep_activity=self.metrics_max_in_memory) if in_memory else self.store

    def group_of(self, model_id: str) -> Group:
        """The group of a model; the implicit one, with its members, for a model in none."""
        for group in self.groups.values():
            if model_id in group.members:
                return group
        grouped = {member for group in self.groups.values() for member in group.members}
        return Group(DEFAULT_GROUP_ID, members=tuple(m for m in self.models if m not in grouped))

    def ports(self) -> dict[str, int]:
        """Model id -> what `${PORT}` became: the `keep_ports` of a later load."""
        return {model.id: model.port for model in self.models.values() if model.port is not None}
