"""Every configuration key, written down once.

Decoding, the warnings about unknown keys and `config-schema.json` (for editors) come from this table;
`scripts/make_schema.py` writes the latter.
"""

from __future__ import annotations

import json
from typing import Any

from llamaswap.config.kinds import (
    Amount,
    Anything,
    Flag,
    Json,
    Key,
    ListOf,
    Macros,
    MapOf,
    Seconds,
    Section,
    Text,
    Whole,
    json_schema,
)
from llamaswap.config.settings import DEFAULT_IGNORE_PATHS

LOG_LEVELS = ("debug", "info", "warn", "error")
LOG_TARGETS = ("proxy", "upstream", "both", "none")
TIME_FORMATS = (
    *("ansic", "unixdate", "rubydate", "rfc822", "rfc822z", "rfc850", "rfc1123", "rfc1123z"),
    *("rfc3339", "rfc3339nano", "kitchen", "stamp", "stampmilli", "stampmicro", "stampnano"),
)
MODALITIES = ("text", "audio", "image")
MAX_PORT = 65535

_TIMEOUTS = Section(
    (
        Key("connect", Seconds(0), "Seconds for a TCP connection to the model's server.", 30),
        Key("keepalive", Seconds(0), "Seconds between TCP keepalive probes.", 30),
        Key("responseHeader", Seconds(0), "Seconds until the model's server begins to answer; 0: no limit.", 0),
        Key("tlsHandshake", Seconds(0), "Seconds for a TLS handshake, where proxy is an https URL.", 10),
        Key("expectContinue", Seconds(0), "Seconds to wait for a 100 Continue.", 1),
        Key("idleConn", Seconds(0), "Seconds that an unused connection is kept for the next request.", 90),
    )
)

_FILTERS = Section(
    (
        Key(
            "stripParams",
            ListOf(Text(), commas=True),
            "Top-level keys to remove from JSON requests, separated by commas or as a list. `model` stays.",
        ),
        Key("strip_params", ListOf(Text(), commas=True), "Older spelling of stripParams.", status="legacy"),
        Key("setParams", Json(), "Keys to set in JSON requests; a dot in a key nests. `model` stays as it is."),
        Key(
            "setParamsByID",
            MapOf(Json(), "requested id"),
            "Keys to set when the client asked for this id. Each id becomes an alias of the model.",
        ),
    )
)

_CAPABILITIES = Section(
    (
        Key("in", ListOf(Text(MODALITIES)), "What the model takes: text, audio, image."),
        Key("out", ListOf(Text(MODALITIES)), "What the model makes: text, audio, image."),
        Key("tools", Flag(), "Whether it calls functions.", False),
        Key("reranker", Flag(), "Whether it serves the rerank endpoints.", False),
        Key("context", Whole(), "Its context length in tokens; 0: not said.", 0),
    )
)

_COMPAT = Section(
    (
        Key(
            "ignoreWebsockets",
            Flag(),
            "WebSocket connections neither load the model nor count as its requests.",
            False,
        ),
    )
)

MODEL = Section(
    (
        Key("cmd", Text(), "The command that starts the model's server. ${PORT} in it takes a free port."),
        Key("cmdStop", Text(), "A command that stops it, e.g. for containers; ${PID} is its process id."),
        Key("proxy", Text(), "Base URL of the model's server.", "http://localhost:${PORT}"),
        Key("aliases", ListOf(Text()), "Other names for the model; unique among all models."),
        Key("env", ListOf(Text()), "Environment variables for the command, NAME=value each."),
        Key(
            "checkEndpoint",
            Text(),
            "Path that answers 200 when the model is ready; `none`: ready as soon as it runs.",
            "/health",
        ),
        Key("ttl", Seconds(), "Idle seconds until the model is unloaded; 0: never, -1: as globalTTL.", -1),
        Key("unloadTimeout", Seconds(), "Seconds from asking to stop until it is killed; 0: as the global.", 0),
        Key("unlisted", Flag(), "Leave the model out of the model list; it can still be used.", False),
        Key("useModelName", Text(), "The model name to send to the model's server instead of the client's."),
        Key("name", Text(), "Display name in the model list."),
        Key("description", Text(), "Description in the model list."),
        Key(
            "concurrencyLimit",
            Whole(),
            "Most requests waiting and running for the model; more are answered 429. 0: 10.",
            0,
        ),
        Key("filters", _FILTERS, "Changes to JSON requests before they reach the model's server."),
        Key("macros", Macros(), "Macros of this model; they override global ones of the same name."),
        Key("metadata", Json(), "Anything to show as the model's meta.llamaswap in the model list."),
        Key("sendLoadingState", Flag(), "Overrides the global sendLoadingState for this model."),
        Key("timeouts", _TIMEOUTS, "Times for connections to the model's server; 0: no limit."),
        Key("compat", _COMPAT, "Settings for servers with special needs."),
        Key("capabilities", _CAPABILITIES, "What the model can do, for the model list."),
        Key("healthCheckTimeout", Seconds(), "No effect: the global healthCheckTimeout counts.", status="ignored"),
    )
)

_GROUPS = MapOf(
    Section(
        (
            Key("swap", Flag(), "Members replace each other; false: they may all run at once.", True),
            Key("exclusive", Flag(), "Loading a member unloads the models of other groups.", True),
            Key("persistent", Flag(), "Other groups never unload the members.", False),
            Key("members", ListOf(Text()), "Ids of the models in the group; a model is in one group at most."),
        )
    ),
    "group",
)

_ROUTER = Section(
    (
        Key("use", Text(("group", "matrix")), "How to decide which models may run together.", "group"),
        Key(
            "settings",
            Section(
                (
                    Key("groups", _GROUPS, "Groups of models that run together or replace each other."),
                    Key("matrix", Anything(), "Not supported by this version.", status="refused"),
                )
            ),
            "Settings of each way.",
        ),
    )
)

_FIFO = Section(
    (
        Key("priority", MapOf(Whole(), "model"), "Higher is served first; models not named have 0."),
        Key(
            "maxWait",
            Seconds(0, words=True, zero=False),
            "Seconds after which the oldest waiting request goes first, whatever keeps it waiting.",
            30,
        ),
    )
)

_SCHEDULER = Section(
    (
        Key("use", Text(("fifo",)), "The order in which waiting requests are served.", "fifo"),
        Key(
            "settings",
            Section((Key("fifo", _FIFO, "First in, first out, by priority."),)),
            "Settings of each order.",
        ),
    )
)

_STORE = Section(
    (
        Key("path", Text(), "The SQLite file; made if there is none. Without it everything is kept in memory."),
        Key("keepDays", Amount(zero=True), "Whatever is older is removed; 0: no limit.", 90),
        Key("keepActivity", Whole(0), "How many requests are kept, the last ones; 0: no limit.", 1_000_000),
        Key("keepLoads", Whole(0), "How many load times of each model are kept; 0: no limit.", 100),
        Key("keepStates", Whole(0), "How many state changes of models are kept; 0: no limit.", 100_000),
        Key("keepLogLines", Whole(0), "How many warnings and errors of the log are kept; 0: no limit.", 100_000),
    )
)

ROOT = Section(
    (
        Key(
            "healthCheckTimeout",
            Seconds(),
            "Seconds a model has to become ready; less than 15 counts as 15.",
            120,
        ),
        Key("globalTTL", Seconds(0), "Idle seconds until a model is unloaded; 0: never.", 0),
        Key("unloadTimeout", Seconds(0), "Seconds from asking a model to stop until it is killed; 0: 10.", 10),
        Key(
            "startPort",
            Whole(1, MAX_PORT, "startPort must be greater than 1"),
            "First port for ${PORT}; each model that uses it takes the next.",
            5800,
        ),
        Key("logLevel", Text(LOG_LEVELS), "Least severe messages to log.", "info"),
        Key("logTimeFormat", Text(("", *TIME_FORMATS)), "Format of the time before each message; empty: none.", ""),
        Key("logToStdout", Text(LOG_TARGETS), "Which log goes to standard output.", "proxy"),
        Key("logRequests", Anything(), "No effect; requests are always logged.", status="ignored"),
        Key("sendLoadingState", Flag(), "Stream progress as reasoning text while a model loads.", False),
        Key("includeAliasesInList", Flag(), "Show aliases as models of their own in the model list.", False),
        Key(
            "apiKeys",
            ListOf(Text(), secret=True),
            "Keys that clients must send, any one of them; empty: no key needed.",
        ),
        Key(
            "maxRequestBodyMiB",
            Amount(),
            "Largest request body in MiB; a larger one is answered 413.",
            1024,
        ),
        Key(
            "allowedHosts",
            ListOf(Text()),
            "Host names, besides addresses and localhost, under which control routes may be called.",
        ),
        Key(
            "upstream",
            Section(
                (
                    Key(
                        "ignorePaths",
                        ListOf(Text()),
                        "Regular expressions; a path under /upstream that one matches never loads a model.",
                        list(DEFAULT_IGNORE_PATHS),
                    ),
                )
            ),
            "The /upstream/<model>/ routes.",
        ),
        Key(
            "hooks",
            Section(
                (
                    Key(
                        "on_startup",
                        Section((Key("preload", ListOf(Text()), "Models to load at start, in this order."),)),
                        "What to do at start.",
                    ),
                )
            ),
            "Actions at certain moments.",
        ),
        Key("macros", Macros(), "Values to reuse: ${name} in any value below."),
        Key("models", MapOf(MODEL, "model"), "The models by id, which is what clients ask for."),
        Key(
            "routing",
            Section(
                (
                    Key("router", _ROUTER, "Which models may run together."),
                    Key("scheduler", _SCHEDULER, "Which waiting request is served next."),
                )
            ),
            "Decisions about loading and waiting.",
        ),
        Key("groups", _GROUPS, "Older place of routing.router.settings.groups.", status="legacy"),
        Key("profiles", Anything(), "Older list form: no effect. Pins: not supported yet.", status="later"),
        Key("store", _STORE, "A file for what is remembered beyond a restart: activity, load times, warnings."),
        Key("captureBuffer", Amount(zero=True), "MB of memory for the last requests and answers; 0: none.", 5),
        Key(
            "performance",
            Section(
                (
                    Key("disabled", Flag(), "Do not watch the machine; /metrics is off as well.", False),
                    Key("every", Seconds(words=True), "Seconds between two looks at the machine, at least 5.", 5),
                )
            ),
            "Watching the machine.",
        ),
        Key(
            "ui",
            Section(
                (
                    Key(
                        "activity",
                        Section(
                            (
                                Key(
                                    "session_id",
                                    ListOf(Text()),
                                    "Request headers that name a session. Default: X-Session-ID, X-Litellm-Session-Id.",
                                ),
                            )
                        ),
                        "The list of requests.",
                    ),
                )
            ),
            "Settings of the web UI.",
        ),
        Key("metricsMaxInMemory", Whole(), "How many requests are kept in memory, the last ones; 0: 1000.", 1000),
        Key("matrix", Anything(), "Not supported by this version.", status="refused"),
        Key("peers", Anything(), "Not supported by this version.", status="refused"),
        Key("selectors", Anything(), "Not supported by this version.", status="refused"),
    )
)


def home_of(name: str, section: Section = ROOT, prefix: str = "") -> str | None:
    """Where a key of this name belongs, e.g. `models.<model>.ttl`; None if there is none."""
    for key in section.keys:
        path = f"{prefix}{key.name}"
        if key.name == name and key.status == "supported":
            return path if prefix else f"the top level, as {name}"
        inner, kind = path, key.kind
        if isinstance(kind, MapOf):
            inner, kind = f"{path}.<{kind.of}>", kind.value
        if isinstance(kind, Section) and key.status == "supported":
            found = home_of(name, kind, f"{inner}.")
            if found:
                return found
    return None


def config_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file; what unknown keys are is for editors to underline."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "llamaswap configuration",
        **json_schema(ROOT),
    }


def render() -> str:
    """`config-schema.json`, byte for byte."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"
