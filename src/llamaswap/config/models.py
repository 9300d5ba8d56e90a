"""`models:`: macros, ports and defaults applied, every rule checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from llamaswap.config import macros
from llamaswap.config.command import split_command, strip_comments
from llamaswap.config.decode import Bad, is_null, section
from llamaswap.config.macros import Macro
from llamaswap.config.report import Path, Report
from llamaswap.config.schema import MAX_PORT, MODALITIES, MODEL
from llamaswap.config.settings import Capabilities, Filters, ModelConfig, Timeouts
from llamaswap.config.tree import Entry, Map, Node, Scalar

DEFAULT_CONCURRENCY = 10
COMFYUI = "comfyui_auto"  # the model behind /comfyui/, whose page opens many connections at once
COMFYUI_CONCURRENCY = 50
_PROTECTED = "model"  # routing depends on it: filters neither strip nor set it
_DEFAULT_PROXY = "http://localhost:${PORT}"


@dataclass(frozen=True, slots=True)
class Globals:
    """What models take from the top of the file."""

    ttl_s: float
    unload_timeout_s: float
    health_check_timeout_s: float
    send_loading_state: bool


class Ports:
    """Numbers for `${PORT}`: kept ones stay, others take the next that is free, from `start` up."""

    def __init__(self, start: int, kept: Mapping[str, int]) -> None:
        self._next, self._kept, self._taken = start, kept, frozenset(kept.values())

    def take(self, model_id: str) -> int | None:
        """The model's port, None when the numbers have run out."""
        if model_id in self._kept:
            return self._kept[model_id]
        while self._next in self._taken:
            self._next += 1
        port, self._next = self._next, self._next + 1
        return port if port <= MAX_PORT else None


def expand(node: Node, model_id: str, shared: Sequence[Macro], ports: Ports, report: Report) -> tuple[Map, int | None]:
    """A model's tree with all macros replaced but `${PID}`, and its port if `cmd` takes one."""
    path: Path = ("models", model_id)
    if is_null(node):
        node = Map({}, node.line)
    if not isinstance(node, Map):
        raise Bad("must be a mapping of a model's settings, such as cmd and proxy")
    for key, entry in node.entries.items():
        report.lines[(*path, key)] = entry.line
    given = node.entries.get("macros")
    own = macros.read(given.node if given else None, (*path, "macros"), report, f"model {model_id}: ")
    known = macros.merge(shared, own, model_id)
    entries: dict[str, Entry] = {}
    for key, entry in node.entries.items():
        if key != "macros" and MODEL.get(key):
            value = _without_comments(entry.node) if key in ("cmd", "cmdStop") else entry.node
            entry = Entry(entry.line, macros.substitute(value, known, (*path, key), report))
        entries[key] = entry
    if "proxy" not in entries or is_null(entries["proxy"].node):
        entries["proxy"] = Entry(node.line, Scalar(_DEFAULT_PROXY, _DEFAULT_PROXY, node.line))
    port = None
    command = entries.get("cmd")
    if command and isinstance(command.node, Scalar) and "${PORT}" in command.node.text:
        port = ports.take(model_id)
        if port is None:
            report.error((*path, "cmd"), f"no port left for ${{PORT}}: above {MAX_PORT}; lower startPort")
        number: Macro = ("PORT", port or MAX_PORT)
        for key, entry in entries.items():
            if key != "macros":
                entries[key] = Entry(entry.line, macros.substitute(entry.node, [number], (*path, key), report))
    _check_macros(entries, path, model_id, known, report)
    return Map(entries, node.line), port


def _without_comments(node: Node) -> Node:
    """Comments go before macros are looked for; a bare `#` stays, so that line numbers stay right."""
    if not isinstance(node, Scalar) or "#" not in node.text:
        return node
    lines = node.text.split("\n")
    text = "\n".join("#" if line.lstrip().startswith("#") else line for line in lines)
    return Scalar(text, text, node.line, node.literal)


def _check_macros(
    entries: Mapping[str, Entry], path: Path, model_id: str, known: Sequence[Macro], report: Report
) -> None:
    for key, entry in entries.items():
        if key == "macros" or not MODEL.get(key):
            continue
        at = (*path, key)
        if key == "proxy" and isinstance(entry.node, Scalar) and "${PORT}" in entry.node.text:
            report.error(
                at,
                f"model {model_id}: proxy uses ${{PORT}} but cmd does not - ${{PORT}} is only available when "
                "used in cmd; put ${PORT} into cmd, or write the server's port in proxy",
            )
        allowed = {"cmdStop": ("PID",), "proxy": ("PORT",)}.get(key, ())
        name = f"{model_id}.{key}"
        macros.check_unresolved(entry.node, at, report, name=name, known=known, allowed=allowed)


def build(model_id: str, node: Map, port: int | None, common: Globals, report: Report) -> ModelConfig:
    """The model's configuration; whatever is wrong with it is reported. Aliases are as written."""
    path: Path = ("models", model_id)
    raw = section(node, MODEL, path, report)
    _split(raw["cmdStop"], (*path, "cmdStop"), report)
    ttl_s = _own(raw["ttl"], common.ttl_s, unset=-1)
    if ttl_s < 0:
        right = "use seconds, 0 for never, or -1 for globalTTL"
        report.error((*path, "ttl"), f"model {model_id}: invalid TTL value {raw['ttl']:g}; {right}")
    unload_s = _own(raw["unloadTimeout"], common.unload_timeout_s, unset=0)
    if unload_s < 0:
        message = f"model {model_id}: invalid unloadTimeout value {raw['unloadTimeout']:g}"
        report.error((*path, "unloadTimeout"), f"{message}; use seconds, or 0 for the global one")
    limit = raw["concurrencyLimit"]
    if limit < 0:
        report.warn((*path, "concurrencyLimit"), f"{limit} counts as the default, {DEFAULT_CONCURRENCY}")
    limit = limit if limit > 0 else DEFAULT_CONCURRENCY
    is_comfyui = model_id == COMFYUI
    loading = raw["sendLoadingState"]
    times = raw["timeouts"]
    return ModelConfig(
        id=model_id,
        cmd=strip_comments(raw["cmd"]),
        argv=_argv(raw["cmd"], (*path, "cmd"), report),
        cmd_stop=strip_comments(raw["cmdStop"]),
        proxy=_proxy(raw["proxy"], (*path, "proxy"), report),
        port=port,
        aliases=tuple(raw["aliases"]),
        env=_env(raw["env"], (*path, "env"), report),
        check_endpoint=_check_endpoint(raw["checkEndpoint"], (*path, "checkEndpoint"), report),
        ttl_s=ttl_s,
        unload_timeout_s=unload_s,
        health_check_timeout_s=common.health_check_timeout_s,
        unlisted=raw["unlisted"],
        use_model_name=raw["useModelName"],
        name=raw["name"],
        description=raw["description"],
        concurrency_limit=max(limit, COMFYUI_CONCURRENCY) if is_comfyui else limit,
        filters=_filters(raw["filters"], (*path, "filters"), report),
        metadata=MappingProxyType(raw["metadata"]),
        send_loading_state=common.send_loading_state if loading is None else loading,
        timeouts=Timeouts(
            connect_s=float(times["connect"]),
            keepalive_s=float(times["keepalive"]),
            response_header_s=float(times["responseHeader"]),
            tls_handshake_s=float(times["tlsHandshake"]),
            expect_continue_s=float(times["expectContinue"]),
            idle_conn_s=float(times["idleConn"]),
        ),
        ignore_websockets=raw["compat"]["ignoreWebsockets"] or is_comfyui,
        capabilities=_capabilities(raw["capabilities"], (*path, "capabilities"), report),
    )


def _argv(text: str, path: Path, report: Report) -> tuple[str, ...]:
    argv = _split(text, path, report)
    if not argv and text.strip() and not report.failed(path):
        report.warn(
            path,
            "is all comment, so there is nothing to start; where lines are folded (>) a # "
            "comments out all that follows, write cmd: | instead",
        )
    return argv


def _own(value: float, common: float, *, unset: float) -> float:
    return common if value == unset else float(value)


def _split(text: str, path: Path, report: Report) -> tuple[str, ...]:
    try:
        return split_command(text)
    except ValueError as error:
        report.error(path, str(error))
        return ()


def _proxy(text: str, path: Path, report: Report) -> str:
    if report.failed(path):
        return ""
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable and not parts.query and not parts.fragment and not any(c.isspace() for c in text.strip())
    except ValueError:
        usable = False
    if not usable:
        report.error(path, f"invalid proxy URL {text!r}; write a base URL such as http://localhost:9000")
    return text.strip().rstrip("/")


def _check_endpoint(text: str, path: Path, report: Report) -> str:
    text = text.strip()
    if text == "none" or text.startswith("/"):
        return text
    if "://" in text:
        report.error(path, f"must be a path such as /health, or none; got the URL {text!r}")
    return f"/{text}"


def _env(entries: list[str], path: Path, report: Report) -> tuple[str, ...]:
    kept: list[str] = []
    for i, entry in enumerate(entries):
        at = (*path, i)
        if "\0" in entry:
            report.error(at, "contains a null character, which no variable can hold; remove it")
        elif entry.find("=") > 0:
            kept.append(entry)
        elif not report.failed(at):
            report.warn(at, f"{entry!r} is ignored; write NAME=value")
    return tuple(kept)


def _filters(raw: Mapping[str, Any], path: Path, report: Report) -> Filters:
    strip = _names(raw["stripParams"]) or _names(raw["strip_params"])
    by_id = {
        model: MappingProxyType(_unprotected(params, (*path, "setParamsByID", model), report))
        for model, params in raw["setParamsByID"].items()
    }
    return Filters(
        strip_params=tuple(sorted(strip - {_PROTECTED})),
        set_params=MappingProxyType(_unprotected(raw["setParams"], (*path, "setParams"), report)),
        set_params_by_id=MappingProxyType(by_id),
    )


def _names(items: list[str]) -> set[str]:
    return {name.strip() for item in items for name in item.split(",")} - {""}


def _unprotected(params: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    if _PROTECTED in params:
        report.warn((*path, _PROTECTED), "is ignored: filters cannot set the model; see useModelName")
    return {name: value for name, value in params.items() if name != _PROTECTED}


def _capabilities(raw: Mapping[str, Any], path: Path, report: Report) -> Capabilities | None:
    for key in ("in", "out"):
        for i, modality in enumerate(raw[key]):
            if modality not in MODALITIES and not report.failed((*path, key, i)):
                valid = ", ".join(MODALITIES)
                report.error((*path, key, i), f'invalid modality "{modality}", must be one of: {valid}')
    if raw["context"] < 0:
        report.error((*path, "context"), f"context must be >= 0, got {raw['context']}")
    found = Capabilities(tuple(raw["in"]), tuple(raw["out"]), raw["tools"], raw["reranker"], raw["context"])
    return found if found != Capabilities() else None


@dataclass
class Names:
    """All ids and aliases of the file, and what they stand for."""

    ids: set[str]
    aliases: dict[str, str] = field(default_factory=dict)
    """Alias -> model id."""

    def resolve(self, name: str) -> str | None:
        if name in self.ids:
            return name
        return self.aliases.get(name)

    def register(self, models: Mapping[str, ModelConfig], report: Report) -> dict[str, tuple[str, ...]]:
        """Every model's aliases, the keys of setParamsByID included; conflicts are reported."""
        found: dict[str, list[str]] = {model_id: [] for model_id in models}
        for model in models.values():
            for i, alias in enumerate(model.aliases):
                at = ("models", model.id, "aliases", i)
                if self._add(alias, model.id, at, report):
                    found[model.id].append(alias)
        for model in models.values():
            for key in model.filters.set_params_by_id:
                at_key = ("models", model.id, "filters", "setParamsByID", key)
                owner = self.aliases.get(key)
                if key == model.id or owner == model.id:
                    continue
                if key in self.ids:
                    report.error(at_key, f"{key!r} conflicts with an existing model ID; use another name")
                elif owner:
                    message = f"duplicate alias '{key}' in model {model.id}, already used by model {owner}"
                    report.error(at_key, f"{message}; use another name")
                else:
                    self.aliases[key] = model.id
                    found[model.id].append(key)
        return {model_id: tuple(aliases) for model_id, aliases in found.items()}

    def _add(self, alias: str, model_id: str, at: Path, report: Report) -> bool:
        if report.failed(at) or alias == model_id:
            return False
        if not alias:
            report.warn(at, "an empty alias is ignored")
            return False
        owner = self.aliases.get(alias)
        if owner:
            used = "given twice" if owner == model_id else f"already used by model {owner}"
            report.error(at, f"duplicate alias {alias} found in model: {model_id}; {used}, keep one")
            return False
        if alias in self.ids:
            report.warn(at, f"has no effect: {alias!r} is the id of another model, which is served instead")
            return False
        self.aliases[alias] = model_id
        return True
