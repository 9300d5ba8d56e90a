"""Configuration files to a frozen `Config`, or every problem in them at once."""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import Any

from llamaswap.config import env, groups, macros, models, tree
from llamaswap.config.decode import Bad, describe, is_null, section
from llamaswap.config.macros import Macro
from llamaswap.config.merge import merge
from llamaswap.config.report import Report, nearest
from llamaswap.config.schema import LOG_LEVELS, LOG_TARGETS, ROOT, TIME_FORMATS
from llamaswap.config.settings import (
    DEFAULT_IGNORE_PATHS,
    DEFAULT_SESSION_ID_HEADERS,
    Config,
    ModelConfig,
    Performance,
    StoreLimits,
)
from llamaswap.config.sources import Source, read_all
from llamaswap.config.tree import Entry, Map, Node
from llamaswap.errors import ConfigError

MIN_HEALTH_CHECK_S = 15.0
DEFAULT_UNLOAD_S = 10.0
DEFAULT_LISTED = 1000  # requests kept in memory
DEFAULT_SAMPLE_S = MIN_SAMPLE_S = 5.0
_MIB = 1 << 20

# RE2 (the syntax of llama-swap's patterns) writes these differently from Python.
_POSIX_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "0-9A-Za-z",
    "upper": "A-Z",
    "lower": "a-z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
    "space": r"\t\n\v\f\r ",
    "blank": r"\t ",
}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


def load(
    path: FilePath | str,
    *,
    environ: Mapping[str, str] | None = None,
    keep_ports: Mapping[str, int] | None = None,
) -> Config:
    """The configuration in a file. Raises ConfigError with every problem of the file.

    `environ` is where `${env.X}` looks (default: the process environment). `keep_ports` (model id ->
    port) are ports that stay with their models; others get none of them.
    """
    return load_sources(read_all([path]), environ=environ, keep_ports=keep_ports)


def loads(
    text: str,
    *,
    file: str = "<string>",
    environ: Mapping[str, str] | None = None,
    keep_ports: Mapping[str, int] | None = None,
) -> Config:
    """The configuration in a text; `file` is its name in problems. See `load`."""
    return load_sources([Source(file, text)], environ=environ, keep_ports=keep_ports)


def load_sources(
    sources: Sequence[Source],
    *,
    environ: Mapping[str, str] | None = None,
    keep_ports: Mapping[str, int] | None = None,
) -> Config:
    """The configuration that these files make up together; see `load` and `merge`."""
    report = Report(sources[0].file)
    roots: list[tuple[str, Node]] = []
    above = 0
    for source in sources:
        if above:
            report.next_file(source.file, above + 1)
        # Empty lines above it: every line number, of whatever comes of it, is the one that `report` knows.
        text = "\n" * above + source.text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        above = text.count("\n") + 1
        text, unfit = env.substitute(text, os.environ if environ is None else environ)
        root = tree.parse(text, report)
        env.report_unfit(unfit, root, report)
        if root is not None:
            roots.append((source.file, root))
    config = Config()
    if len(roots) == len(sources):
        whole = roots[0][1] if len(roots) == 1 else merge(roots, report)
        config = _config(whole, keep_ports or {}, report)
    problems = report.problems()
    if problems:
        raise ConfigError(problems, report.warnings())
    return dataclasses.replace(config, warnings=tuple(report.warnings()))


def _config(root: Node, keep_ports: Mapping[str, int], report: Report) -> Config:
    if is_null(root):
        return Config()
    if not isinstance(root, Map):
        report.error((), f"must be a mapping of keys such as models, got {describe(root)}", root.line)
        return Config()
    for name, entry in root.entries.items():
        report.lines[(name,)] = entry.line
    given = root.entries.get("macros")
    shared = macros.read(given.node if given else None, ("macros",), report)
    raw = section(_without_models(root, shared, report), ROOT, (), report)
    health_s = max(MIN_HEALTH_CHECK_S, float(raw["healthCheckTimeout"]))
    unload_s = float(raw["unloadTimeout"]) or DEFAULT_UNLOAD_S
    common = models.Globals(
        ttl_s=float(raw["globalTTL"]),
        unload_timeout_s=unload_s,
        health_check_timeout_s=health_s,
        send_loading_state=raw["sendLoadingState"],
    )
    ports = models.Ports(raw["startPort"], keep_ports)
    built = _models(root.entries.get("models"), shared, ports, common, report)
    names = models.Names(set(built))
    aliases = names.register(built, report)
    groups.check_refused(raw, report)
    fifo = raw["routing"]["scheduler"]["settings"]["fifo"]
    return Config(
        models=MappingProxyType({m.id: dataclasses.replace(m, aliases=aliases[m.id]) for m in built.values()}),
        groups=MappingProxyType(groups.read_groups(raw, built, names.resolve, report)),
        priorities=MappingProxyType(groups.read_priorities(raw, built, names.resolve, report)),
        max_wait_s=float(fifo["maxWait"]),
        send_loading_state=raw["sendLoadingState"],
        include_aliases_in_list=raw["includeAliasesInList"],
        api_keys=_api_keys(raw["apiKeys"], report),
        ignore_paths=_ignore_paths(raw["upstream"]["ignorePaths"], report),
        preload=_preload(raw["hooks"]["on_startup"]["preload"], names, report),
        log_level=_one_of(raw["logLevel"], "logLevel", LOG_LEVELS, "info", report),
        log_time_format=_one_of(raw["logTimeFormat"], "logTimeFormat", TIME_FORMATS, "", report),
        log_to_stdout=_log_target(raw["logToStdout"], report),
        start_port=raw["startPort"],
        max_request_body_bytes=int(raw["maxRequestBodyMiB"] * _MIB),
        allowed_hosts=_hosts(raw["allowedHosts"], report),
        global_ttl_s=common.ttl_s,
        unload_timeout_s=unload_s,
        health_check_timeout_s=health_s,
        store_path=_store_path(raw["store"]["path"], report),
        store=StoreLimits(
            keep_days=float(raw["store"]["keepDays"]),
            keep_activity=raw["store"]["keepActivity"],
            keep_loads=raw["store"]["keepLoads"],
            keep_states=raw["store"]["keepStates"],
            keep_log_lines=raw["store"]["keepLogLines"],
        ),
        capture_buffer_bytes=int(raw["captureBuffer"] * _MIB),
        metrics_max_in_memory=raw["metricsMaxInMemory"] if raw["metricsMaxInMemory"] > 0 else DEFAULT_LISTED,
        performance=_performance(raw["performance"], report),
        session_id_headers=_session_id_headers(raw["ui"]["activity"]["session_id"]),
    )


def _without_models(root: Map, shared: list[Macro], report: Report) -> Map:
    """The file without its models, global macros put in where this version looks."""
    entries: dict[str, Entry] = {}
    for name, entry in root.entries.items():
        if name == "models":
            continue
        key = ROOT.get(name)
        if key and name != "macros" and key.status in ("supported", "legacy"):
            node = macros.substitute(entry.node, shared, (name,), report)
            macros.check_unresolved(node, (name,), report, name=name, known=shared)
            entry = Entry(entry.line, node)
        entries[name] = entry
    return Map(entries, root.line)


def _models(
    entry: Entry | None, shared: list[Macro], ports: models.Ports, common: models.Globals, report: Report
) -> dict[str, ModelConfig]:
    if entry is None or is_null(entry.node):
        return {}
    if not isinstance(entry.node, Map):
        report.error(("models",), f"must be a mapping of model ids to settings, got {describe(entry.node)}")
        return {}
    built: dict[str, ModelConfig] = {}
    for model_id, item in sorted(entry.node.entries.items()):
        path = ("models", model_id)
        report.lines[path] = item.line
        if not model_id.strip():
            report.error(path, "a model's id must not be empty")
            continue
        try:
            node, port = models.expand(item.node, model_id, shared, ports, report)
        except Bad as bad:
            report.error(path, f"{bad}; got {describe(item.node)}")
            built[model_id] = ModelConfig(model_id)  # so that what refers to it is not wrong too
        else:
            built[model_id] = models.build(model_id, node, port, common, report)
    return built


def _api_keys(keys: list[str], report: Report) -> tuple[str, ...]:
    for i, key in enumerate(keys):
        at = ("apiKeys", i)
        if not key and not report.failed(at):
            report.error(at, "empty api key found in apiKeys; write a key, or remove the line")
        elif any(c.isspace() for c in key):
            report.error(at, "api key cannot contain spaces; remove them")
    return tuple(keys)


def _ignore_paths(patterns: list[str], report: Report) -> tuple[re.Pattern[str], ...]:
    compiled: list[re.Pattern[str]] = []
    for i, pattern in enumerate(patterns or DEFAULT_IGNORE_PATHS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                compiled.append(re.compile(_from_re2(pattern)))
        except (re.error, OverflowError, RecursionError) as error:
            message = f'upstream.ignorePaths: invalid regular expression "{pattern}": {error}'
            report.error(("upstream", "ignorePaths", i), message)
    return tuple(compiled)


def _from_re2(pattern: str) -> str:
    for name, members in _POSIX_CLASSES.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    return re.sub(r"(?<!\\)((?:\\\\)*)\\z", r"\1\\Z", pattern)


def _preload(wanted: list[str], names: models.Names, report: Report) -> tuple[str, ...]:
    found: list[str] = []
    for i, name in enumerate(wanted):
        real = names.resolve(name.strip())
        if real is None:
            close = nearest(name, [*names.ids, *names.aliases])
            hint = f"; did you mean {close!r}?" if close else ""
            report.warn(("hooks", "on_startup", "preload", i), f"no model {name!r}, it is not preloaded{hint}")
        elif real not in found:
            found.append(real)
    return tuple(found)


def _one_of(text: str, name: str, known: tuple[str, ...], default: str, report: Report) -> str:
    value = text.strip().lower()
    if value in known or value == default:
        return value
    close = nearest(value, known)
    hint = f"did you mean {close!r}?" if close else f"use one of: {', '.join(known)}"
    report.warn((name,), f"unknown value {text!r} counts as {default or 'none'!r}; {hint}")
    return default


def _log_target(text: str, report: Report) -> str:
    if text not in LOG_TARGETS:
        message = f"logToStdout must be one of: {', '.join(LOG_TARGETS)}; got {text!r}"
        report.error(("logToStdout",), message)
    return text


def _store_path(text: str, report: Report) -> str:
    path = text.strip()
    if not path and ("store", "path") in report.lines and not report.failed(("store", "path")):
        report.error(("store", "path"), "store.path must not be empty; name a file, or remove the key")
    if not path:
        for at in [at for at in report.lines if len(at) == 2 and at[0] == "store" and at[1] != "path"]:
            report.warn(at, "has no effect without store.path: what is kept in memory has limits of its own")
    return path


def _performance(raw: dict[str, Any], report: Report) -> Performance:
    every_s = float(raw["every"]) or DEFAULT_SAMPLE_S
    if every_s < MIN_SAMPLE_S:
        shown = f"{every_s:g}s" if abs(every_s) >= 1 else f"{every_s * 1000:g}ms"
        report.error(("performance", "every"), f"performance: every must be at least 5s, got {shown}")
    return Performance(disabled=raw["disabled"], every_s=every_s)


def _session_id_headers(names: list[str]) -> tuple[str, ...]:
    """Trimmed, each once whatever its case."""
    known: dict[str, str] = {}
    for name in map(str.strip, names):
        if name:
            known.setdefault(name.lower(), name)
    return tuple(known.values()) or DEFAULT_SESSION_ID_HEADERS


def _hosts(names: list[Any], report: Report) -> tuple[str, ...]:
    hosts: list[str] = []
    for i, name in enumerate(names):
        at = ("allowedHosts", i)
        host = name.strip().lower().rstrip(".")
        if _HOST.fullmatch(host):
            hosts.append(host)
        elif not report.failed(at):
            report.error(at, f"{name!r} is not a host name; write it alone, such as llm.example.org")
    return tuple(hosts)
