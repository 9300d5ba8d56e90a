"""What a reload finds different, and what it does not."""

from __future__ import annotations

from dataclasses import fields
from textwrap import dedent

import pytest

from llamaswap.config import Config, loads
from llamaswap.config.diff import KEYS, RESTART_KEYS, ConfigDiff, diff, key_of
from llamaswap.config.kinds import Section
from llamaswap.config.schema import ROOT

BASE = """
models:
  a: {cmd: 'server --port ${PORT}'}
  b: {cmd: 'server --port ${PORT} -x'}
  c: {cmd: 'server', proxy: 'http://localhost:9000'}
"""


def load(text: str, before: Config | None = None) -> Config:
    return loads(dedent(text), environ={}, keep_ports=before.ports() if before else None)


def compare(old: str, new: str) -> ConfigDiff:
    before = load(old)
    return diff(before, load(new, before))


def model(settings: str) -> str:
    return f"models: {{a: {{cmd: 'server --port ${{PORT}}', {settings}}}}}"


def test_nothing_is_different() -> None:
    assert compare(BASE, "# a comment\n" + BASE) == ConfigDiff(unchanged=("a", "b", "c"))
    assert not compare(BASE, BASE)


def test_a_model_before_the_others_takes_a_free_port_and_changes_nobody() -> None:
    before = load(BASE)
    after = load(BASE.replace("models:", "models:\n  '0': {cmd: 'server --port ${PORT}'}"), before)
    assert diff(before, after) == ConfigDiff(added=("0",), unchanged=("a", "b", "c"))
    assert after.ports() == {"0": 5802, "a": 5800, "b": 5801}


def test_added_removed_and_changed() -> None:
    found = compare(
        BASE,
        "models: {b: {cmd: 'other ${PORT}'}, c: {cmd: server, proxy: 'http://localhost:9000'}, d: {}}".replace(
            "d: {}", "d: {cmd: x, proxy: 'http://h'}"
        ),
    )
    assert found == ConfigDiff(added=("d",), changed=("b",), unchanged=("c",), removed=("a",))
    assert found


@pytest.mark.parametrize(
    "settings",
    [
        "proxy: 'http://localhost:${PORT}/v2'",
        "env: [X=1]",
        "checkEndpoint: none",
        "proxy: 'http://127.0.0.1:${PORT}'",
    ],
)
def test_what_a_process_is_restarted_for(settings: str) -> None:
    assert compare(model(""), model(settings)) == ConfigDiff(changed=("a",))


@pytest.mark.parametrize(
    "settings",
    [
        "name: A",
        "description: d",
        "aliases: [x]",
        "filters: {stripParams: top_k}",
        "filters: {setParams: {a: {b: [1]}}}",
        "filters: {setParamsByID: {x: {a: 1}}}",
        "ttl: 5",
        "concurrencyLimit: 3",
        "unlisted: true",
        "metadata: {a: [1]}",
        "capabilities: {tools: true}",
        "timeouts: {connect: 3}",
        "unloadTimeout: 3",
        "cmdStop: 'kill ${PID}'",
        "useModelName: m",
        "sendLoadingState: true",
        "compat: {ignoreWebsockets: true}",
    ],
)
def test_what_is_applied_to_the_process_that_runs(settings: str) -> None:
    assert compare(model(""), model(settings)) == ConfigDiff(updated=("a",))


def test_how_a_command_is_written_does_not_matter() -> None:
    written = "models:\n  a:\n    cmd: |\n      server\n        # why\n        --port ${PORT}\n"
    assert compare(model(""), written) == ConfigDiff(updated=("a",))
    macros = "macros: {all: 'server --port'}\nmodels: {a: {cmd: '${all} ${PORT}'}}"
    assert compare(model(""), macros) == ConfigDiff(unchanged=("a",))


def test_globals_reach_the_models() -> None:
    assert compare(model(""), f"globalTTL: 9\n{model('')}") == ConfigDiff(updated=("a",), settings=("globalTTL",))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("apiKeys: [k]", "apiKeys"),
        ("logLevel: debug", "logLevel"),
        ("logTimeFormat: rfc3339", "logTimeFormat"),
        ("logToStdout: both", "logToStdout"),
        ("startPort: 9000", "startPort"),
        ("maxRequestBodyMiB: 3", "maxRequestBodyMiB"),
        ("allowedHosts: [llm.example.org]", "allowedHosts"),
        ("includeAliasesInList: true", "includeAliasesInList"),
        ("upstream: {ignorePaths: [x]}", "upstream.ignorePaths"),
        ("groups: {g: {members: [a]}}", "routing.router.settings.groups"),
        ("routing: {scheduler: {settings: {fifo: {priority: {a: 1}}}}}", "routing.scheduler.settings.fifo.priority"),
        ("routing: {scheduler: {settings: {fifo: {maxWait: 9}}}}", "routing.scheduler.settings.fifo.maxWait"),
    ],
)
def test_other_settings(text: str, key: str) -> None:
    found = compare(BASE, f"{BASE}\n{text}")
    needed = (key,) if key == "logToStdout" else ()
    assert found == ConfigDiff(unchanged=("a", "b", "c"), settings=(key,), restart_needed=needed)


def test_what_is_newly_to_be_preloaded() -> None:
    found = compare(
        f"{BASE}\nhooks: {{on_startup: {{preload: [a]}}}}", f"{BASE}\nhooks: {{on_startup: {{preload: [b, a]}}}}"
    )
    assert found.preload == ("b",) and found.settings == ("hooks.on_startup.preload",)


def in_schema(section: Section, path: str) -> bool:
    name, _, rest = path.partition(".")
    key = section.get(name)
    return key is not None and (not rest or (isinstance(key.kind, Section) and in_schema(key.kind, rest)))


def test_every_setting_is_told_by_its_name_in_the_file() -> None:
    names = {field.name for field in fields(Config)} - {"models", "warnings"}
    assert [key_of(name) for name in names if not in_schema(ROOT, key_of(name))] == []
    assert KEYS.keys() <= names
    assert set(KEYS.values()) >= RESTART_KEYS
