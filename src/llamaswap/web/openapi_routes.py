"""What the control routes take and answer, one line of this table each; `openapi.py` makes the document of it.

Limits come from the modules that enforce them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from llamaswap.observe.store_query import SORT_COLUMNS, STATUS
from llamaswap.web.activity import MOST_ID, MOST_LIMIT, MOST_MODELS, MOST_PAGE
from llamaswap.web.logs import MOST_LINES
from llamaswap.web.openapi_shapes import COUNT, TEXT, TIME, Schema, about, many, named, record

JSON, PLAIN, EVENTS = "application/json", "text/plain", "text/event-stream"
PROMETHEUS, OPEN_METRICS = "text/plain", "application/openmetrics-text"

Tag = Literal["models", "requests", "logs", "machine", "configuration", "server"]
TAGS: dict[Tag, str] = {
    "models": "What there is, what runs, loading and unloading.",
    "requests": "What is under way, what was, and what it cost.",
    "logs": "What the server and its models say.",
    "machine": "Processor, memory, GPUs.",
    "configuration": "The file, and reading it again.",
    "server": "The program itself.",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    text: str
    schema: Schema
    place: Literal["query", "path"] = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: Literal["get", "post", "put"]
    path: str
    """As OpenAPI writes it, with {name}."""
    tag: Tag
    summary: str
    answer: Schema
    content: str = JSON
    or_else: str = ""
    """Another content type that the 200 may have, if it is asked for."""
    text: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Schema | None = None
    also: Mapping[int, str] = field(default_factory=dict)
    """Other statuses than 200, and when; 4xx and 5xx answer with the error envelope unless `plain_errors`."""
    same_shape: frozenset[int] = frozenset()
    """Of `also`, those that answer as the 200 does."""
    other_content: Mapping[int, tuple[str, Schema]] = field(default_factory=dict)
    """Of `also`, those with a body of their own."""
    public: bool = False
    """Asks for no API key, whoever calls."""
    open: bool = False
    """May be called by any web page and under any host name."""


def _query(name: str, text: str, schema: Schema) -> Parameter:
    return Parameter(name, text, schema)


_MODEL = Parameter("model", "An id or an alias; it may hold slashes.", {"type": "string", "minLength": 1}, "path")
_MODEL_BODY = record(model={"type": "string", "minLength": 1})
_WAIT = _query("wait", "0: return at once.", {"type": "string", "enum": ["0", "1", "false", "true"], "default": "1"})
_UNKNOWN_MODEL = {404: "There is no such model."}
_LOADING = {
    **_UNKNOWN_MODEL,
    502: "It did not start; the message has its exit code and last output.",
    503: "It was unloaded meanwhile, or the server is shutting down.",
    504: "It ran, but was not ready within healthCheckTimeout.",
}
_ID = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_DAMAGED = {503: "The store cannot be read."}
_BAD = {400: "A parameter is out of range; the message names it."}
_LINES = _query(
    "lines",
    "Of what is remembered, only the last so many lines.",
    {"type": "integer", "minimum": 0, "maximum": MOST_LINES},
)
_FOLLOWING = (
    _query("no-history", "Only what comes from now on, whatever its value.", TEXT),
    _query("no-follow", "Only what is remembered, whatever its value: the answer ends.", TEXT),
    _LINES,
)
_MOMENT = {"anyOf": [TIME, {"type": "string", "const": ""}]}  # empty: as if it were not there
_NO_LOG = {400: "There is no such log, or `lines` is no number."}
_NO_FILE = {404: "The server was started without a file."}
_TEXT = about(TEXT, "Plain text.")
_OK = {"type": "string", "const": "OK"}


def _id_range(name: str, text: str) -> Parameter:
    return _query(name, text, {**COUNT, "maximum": MOST_ID})


OPERATIONS: tuple[Operation, ...] = (
    Operation("get", "/api/models", "models", "Every model, with its state, memory and last error", named("Models")),
    Operation(
        "post",
        "/api/models/load/{model}",
        "models",
        "Load a model",
        named("Loaded"),
        text="Answers when it is ready, or with the reason why it is not.",
        parameters=(_MODEL, _WAIT),
        also={202: "With wait=0: it is on its way.", 400: "`wait` is neither 0 nor 1.", **_LOADING},
        same_shape=frozenset({202}),
    ),
    Operation("post", "/api/models/unload", "models", "Unload all models", named("Done")),
    Operation(
        "post",
        "/api/models/unload/{model}",
        "models",
        "Unload a model",
        _OK,
        PLAIN,
        text="Answers when it has stopped. A load under way is aborted.",
        parameters=(_MODEL,),
        also=_UNKNOWN_MODEL,
    ),
    Operation(
        "post",
        "/models/load",
        "models",
        "Load a model, as llama.cpp's router does",
        named("Success"),
        parameters=(_WAIT,),
        body=_MODEL_BODY,
        also={400: "The body names no model, or `wait` is neither 0 nor 1.", **_LOADING},
    ),
    Operation(
        "post",
        "/models/unload",
        "models",
        "Unload a model, as llama.cpp's router does",
        named("Success"),
        body=_MODEL_BODY,
        also={400: "The body names no model.", **_UNKNOWN_MODEL},
    ),
    Operation("get", "/v1/models", "models", "The models that can be asked for", named("ModelList"), open=True),
    Operation("get", "/models", "models", "The same", named("ModelList"), open=True),
    Operation("get", "/running", "models", "The models that have a process", named("Running")),
    Operation("get", "/unload", "models", "Unload all models, for those who can only GET", _OK, PLAIN),
    Operation(
        "get",
        "/api/events",
        "requests",
        "Everything that happens, live",
        about(TEXT, 'Server-sent events; the data of each is {"type": T, "data": JSON in a string}.'),
        EVENTS,
        text="Snapshots first (logData, modelStatus, uiConfig, profileChanged, inflight), then what changes. A comment "
        "every 15 s shows that it lives. A reader that falls behind gets snapshots again.",
    ),
    Operation(
        "post",
        "/api/inflight/{id}/cancel",
        "requests",
        "End a request that is under way",
        named("Done"),
        parameters=(Parameter("id", "As the inflight events tell it.", _ID, "path"),),
        also={400: "The id is no number.", 404: "It is over, or never was."},
    ),
    Operation(
        "get",
        "/api/metrics/activity",
        "requests",
        "The requests that were served, a page of them",
        named("Activity"),
        parameters=(
            _query("limit", "Rows on a page.", {"type": "integer", "minimum": 1, "maximum": MOST_LIMIT, "default": 25}),
            _query("page", "From 1.", {"type": "integer", "minimum": 1, "maximum": MOST_PAGE, "default": 1}),
            _query("sort", "The field to sort by.", {"type": "string", "enum": list(SORT_COLUMNS), "default": "id"}),
            _query("order", "", {"type": "string", "enum": ["asc", "desc"], "default": "desc"}),
            _query("model", "Only these models; repeatable.", {**many(TEXT), "maxItems": MOST_MODELS}),
            _query(
                "status", "Only these: ok, error, a class or a code.", {"type": "string", "pattern": f"^({STATUS})?$"}
            ),
            _query("start", "Not older than this.", _MOMENT),
            _query("end", "Not newer than this.", _MOMENT),
            _id_range("min_id", "The least id."),
            _id_range("max_id", "The greatest id."),
        ),
        also={**_BAD, **_DAMAGED},
    ),
    Operation(
        "get",
        "/api/metrics/stats",
        "requests",
        "Totals, and how speeds are distributed",
        named("Stats"),
        parameters=(_query("model", "Only this model.", TEXT),),
        also=_DAMAGED,
    ),
    Operation(
        "get",
        "/api/metrics",
        "requests",
        "The latest requests, as older dashboards want them",
        named("Metrics"),
        also=_DAMAGED,
    ),
    Operation(
        "get",
        "/api/captures/{id}",
        "requests",
        "What was sent and answered in one request",
        named("Capture"),
        text="Credentials are left out, and so are images and sound.",
        parameters=(Parameter("id", "Of its activity row.", _ID, "path"),),
        also={400: "The id is no number.", 404: "It was not captured, or is no longer kept."},
    ),
    Operation(
        "get",
        "/logs",
        "logs",
        "What was said lately",
        _TEXT,
        PLAIN,
        parameters=(_LINES,),
        also={302: "For browsers: to the UI.", 400: "`lines` is no number."},
    ),
    Operation(
        "get",
        "/logs/stream",
        "logs",
        "Everything that is said, live",
        _TEXT,
        PLAIN,
        parameters=_FOLLOWING,
        also=_NO_LOG,
    ),
    Operation(
        "get",
        "/logs/stream/{log}",
        "logs",
        "One log, live",
        _TEXT,
        PLAIN,
        parameters=(
            Parameter("log", "`proxy`, `upstream`, or a model.", {"type": "string", "minLength": 1}, "path"),
            *_FOLLOWING,
        ),
        also={**_NO_LOG, 404: "It cannot even be a name."},
    ),
    Operation(
        "get",
        "/api/performance",
        "machine",
        "An hour of the machine, its GPUs and the models on it",
        named("Performance"),
        parameters=(_query("after", "Only samples after this.", _MOMENT),),
        also={**_BAD, 503: "performance.disabled is set."},
        other_content={503: (JSON, record(enabled={"const": False}))},
    ),
    Operation(
        "get",
        "/api/hardware",
        "machine",
        "What the machine is",
        named("Hardware"),
        also={503: "It could not be found out."},
    ),
    Operation(
        "get",
        "/metrics",
        "machine",
        "For Prometheus",
        about(TEXT, "Prometheus' text format, or OpenMetrics if it is asked for."),
        PROMETHEUS,
        or_else=OPEN_METRICS,
        also={503: "performance.disabled is set."},
        other_content={503: (PLAIN, TEXT)},
    ),
    Operation(
        "get",
        "/api/config",
        "configuration",
        "The file, and what it comes to",
        named("Configuration"),
        text="Secrets are left out.",
        also=_NO_FILE,
    ),
    Operation(
        "post",
        "/api/config/reload",
        "configuration",
        "Read the file again",
        named("Reload"),
        text="Models whose settings are the same keep running. A file with errors changes nothing.",
        also={400: "The file has errors; the message lists them.", **_NO_FILE},
    ),
    Operation("get", "/api/version", "server", "Version and build", named("Version")),
    Operation("get", "/health", "server", "Whether it runs", _OK, PLAIN, public=True, open=True),
    Operation("get", "/wol-health", "server", "The same", _OK, PLAIN, public=True, open=True),
    Operation("get", "/openapi.json", "server", "This document", {"type": "object"}),
)
