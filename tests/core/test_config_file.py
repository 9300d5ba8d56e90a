"""The top of the file, routing, warnings, keys of other versions, and all problems at once."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamaswap import config as config_room
from llamaswap.config import Config, Group, loads
from llamaswap.config.kinds import MapOf, Section
from llamaswap.config.schema import ROOT
from llamaswap.errors import ConfigError

MODELS = "models: {a: {proxy: 'http://h', aliases: [al]}, b: {proxy: 'http://h'}, c: {proxy: 'http://h'}}\n"


def load(text: str, **kwargs: Any) -> Config:
    return loads(textwrap.dedent(text), file="f", environ={}, **kwargs)


def errors(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [(p.line, p.message) for p in caught.value.problems]


def warnings(text: str) -> list[tuple[int | None, str]]:
    return [(w.line, w.message) for w in load(text).warnings]


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing\n", "---\n", "~", "models:\n", "groups: ~\nmodels: {}\nrouting:\nhooks:\n"]
)
def test_a_file_without_models_is_a_configuration(text: str) -> None:
    config = load(text)
    assert (config.models, config.groups, config.warnings) == ({}, {}, ())


def test_defaults() -> None:
    config = load("")
    assert config.max_wait_s == 30
    assert (config.log_level, config.log_time_format, config.log_to_stdout) == ("info", "", "proxy")
    assert (config.start_port, config.max_request_body_bytes) == (5800, 1 << 30)
    assert (config.global_ttl_s, config.unload_timeout_s, config.health_check_timeout_s) == (0, 10, 120)
    assert (config.api_keys, config.allowed_hosts, config.preload, config.priorities) == ((), (), (), {})
    assert not config.send_loading_state
    assert not config.include_aliases_in_list


@pytest.mark.parametrize(
    ("text", "disabled", "every_s"),
    [
        ("performance:\n", False, 5),
        ("performance: {every: 10}", False, 10),
        ("performance: {every: 5s}", False, 5),
        ("performance: {every: 1m30s, disabled: true}", True, 90),
        ("performance: {every: 0}", False, 5),
        ("macros: {pace: 20s}\nperformance: {every: '${pace}'}", False, 20),
    ],
)
def test_performance(text: str, disabled: bool, every_s: float) -> None:
    config = load(text)
    assert (config.performance.disabled, config.performance.every_s) == (disabled, every_s)
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("every", "message"),
    [
        ("4s", "performance: every must be at least 5s, got 4s"),
        ("1", "performance: every must be at least 5s, got 1s"),
        ("500ms", "performance: every must be at least 5s, got 500ms"),
        ("4.5s", "performance: every must be at least 5s, got 4.5s"),
        (
            "soon",
            "performance.every: must be a number of seconds or a duration such as 30s or 1m30s, got the text 'soon'",
        ),
    ],
)
def test_a_period_that_is_too_short_or_none(every: str, message: str) -> None:
    assert errors(f"performance:\n  every: {every}\n") == [(2, message)]


def test_an_empty_document_has_the_same_defaults_as_an_empty_mapping() -> None:
    assert load("{}") == load("startPort: 5800")


def test_the_top_of_the_file() -> None:
    config = load(
        MODELS
        + """
logLevel: debug
logTimeFormat: RFC3339
logToStdout: both
logRequests: true
includeAliasesInList: true
apiKeys: [sk-1, 5]
maxRequestBodyMiB: 0.5
allowedHosts: [LLM.example.org., box]
upstream: {ignorePaths: ['^/x$']}
hooks: {on_startup: {preload: [al, ' b ', a]}}
routing: {scheduler: {settings: {fifo: {priority: {al: 5, b: -1}, maxWait: 1m30s}}}}
"""
    )
    assert (config.log_level, config.log_time_format, config.log_to_stdout) == ("debug", "rfc3339", "both")
    assert config.include_aliases_in_list
    assert config.api_keys == ("sk-1", "5")
    assert config.max_request_body_bytes == 512 * 1024
    assert config.allowed_hosts == ("llm.example.org", "box")
    assert [p.pattern for p in config.ignore_paths] == ["^/x$"]
    assert config.preload == ("a", "b")
    assert config.priorities == {"a": 5, "b": -1}
    assert config.max_wait_s == 90
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *(("5", 5), ("0.25", 0.25), ("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("2h45m", 9900)),
        *(("1us", 1e-6), ("+5s", 5)),
    ],
)
def test_max_wait(written: str, seconds: float) -> None:
    text = f"routing: {{scheduler: {{settings: {{fifo: {{maxWait: {written}}}}}}}}}"
    assert load(text).max_wait_s == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["0", "-1", "0s", "-5s", "'30'", "30 s", "soon", "5d", "[1]", "true", "''"])
def test_max_wait_that_is_none(written: str) -> None:
    [(line, message)] = errors(f"routing:\n  scheduler:\n    settings:\n      fifo:\n        maxWait: {written}\n")
    assert line == 5
    assert message.startswith("routing.scheduler.settings.fifo.maxWait: ")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("globalTTL: -1", "globalTTL must be >= 0, got -1"),
        ("unloadTimeout: -1", "unloadTimeout must be >= 0, got -1"),
        ("startPort: 0", "startPort must be greater than 1, got 0; use 1 to 65535"),
        ("startPort: 70000", "must be at most 65535, got 70000"),
        ("startPort: x", "must be a whole number, got the text 'x'"),
        ("healthCheckTimeout: x", "must be a number of seconds"),
        ("logToStdout: file", "logToStdout must be one of: proxy, upstream, both, none; got 'file'"),
        ("logLevel: [x]", "must be text, got a list"),
        ("apiKeys: ['']", "apiKeys[0]: empty api key found in apiKeys"),
        ("apiKeys: [~]", "empty api key found in apiKeys"),
        ("apiKeys: [ok, 'a b']", "apiKeys[1]: api key cannot contain spaces"),
        ("apiKeys: [[a]]", "apiKeys[0]: must be text, got a list"),
        ("maxRequestBodyMiB: 0", "must be a number above 0, got 0"),
        ("maxRequestBodyMiB: big", "must be a number above 0, got the text 'big'"),
        ("allowedHosts: ['http://x']", "allowedHosts[0]: 'http://x' is not a host name"),
        ("allowedHosts: ['a:80']", "is not a host name"),
        ("upstream: {ignorePaths: ['(']}", 'upstream.ignorePaths: invalid regular expression "(": '),
        ("upstream: {ignorePaths: x}", "must be a list, such as [x]"),
        ("upstream: x", "upstream: must be a mapping of keys, got the text 'x'"),
        ("hooks: []", "hooks: must be a mapping"),
        ("hooks: {on_startup: {preload: a}}", "hooks.on_startup.preload: must be a list"),
        ("macros: 5", "macros: must be a mapping"),
        ("groups: [a]", "groups: must be a mapping from group to settings, got a list"),
        ("groups: {g: [a]}", "groups.g: must be a mapping of keys"),
        ("groups: {g: {swap: x}}", "groups.g.swap: must be true or false"),
        ("groups: {g: {members: a}}", "groups.g.members: must be a list"),
        ("routing: {scheduler: {use: lifo}}", 'routing.scheduler.use: unknown scheduler "lifo" (valid: fifo)'),
        ("routing: {router: {use: x}}", 'routing.router.use: unknown router "x" (valid: group, matrix)'),
        ("routing: {router: {use: matrix}}", "not supported by this version"),
        ("routing: {router: {settings: {matrix: {sets: {a: b}}}}}", "not supported by this version"),
        ("routing: {scheduler: {settings: {fifo: {priority: {a: x}}}}}", "must be a whole number"),
        ("routing: {scheduler: {settings: {fifo: {priority: {zz: 1}}}}}", 'priority references unknown model "zz"'),
        ("matrix: {sets: {a: b}}", "matrix: is not supported by this version"),
        ("peers: {p: {proxy: x}}", "peers: is not supported by this version"),
        ("selectors: {s: {strategy: pin}}", "selectors: is not supported by this version"),
        ("profiles: {p: {pins: {a: b}}}", "profiles: a profile with pins is not supported by this version"),
        ("[a]", "must be a mapping of keys such as models, got a list"),
        ("just text", "must be a mapping of keys such as models, got the text 'just text'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, phrase: str) -> None:
    [(line, message)] = errors(f"\n{text}\n")
    assert line == 2
    assert phrase in message


def test_secrets_stay_out_of_messages() -> None:
    assert "sk-secret" not in errors("apiKeys: sk-secret\n")[0][1]
    assert "sk secret" not in errors("apiKeys: [sk secret]\n")[0][1]


# --- groups -----------------------------------------------------------------------------------------

GROUPS = """
groups:
  g:
    members: [a, b]
  h:
    swap: false
    exclusive: false
    persistent: true
"""
ROUTED = textwrap.indent(GROUPS, "      ").replace("      \n", "")


def test_groups_at_the_top_and_in_routing_are_the_same() -> None:
    top = load(MODELS + GROUPS)
    routed = load(f"{MODELS}routing:\n  router:\n    use: group\n    settings:\n{ROUTED}")
    assert dict(top.groups) == {
        "g": Group("g", members=("a", "b")),
        "h": Group("h", swap=False, exclusive=False, persistent=True),
    }
    assert routed.groups == top.groups
    assert routed == top


def test_the_group_of_a_model() -> None:
    config = load(MODELS + GROUPS)
    assert config.group_of("a").id == "g"
    assert config.group_of("c") == Group("(default)", members=("c",))
    assert load(MODELS).group_of("b").members == ("a", "b", "c")


@pytest.mark.parametrize("place", ["groups", "routing.router.settings.groups"])
@pytest.mark.parametrize(
    ("groups", "line", "phrase"),
    [
        ("g: {members: [a, a]}", 0, "duplicate model member a found in group: g"),
        ("g: {members: [a]}\nh: {members: [a]}", 1, "model member a is used in multiple groups: g and h"),
        ("g: {members: [a, zz]}", 0, 'no model config for "zz" in group g'),
        ("g: {members: [al]}", 0, "it is an alias, write the model's id 'a'"),
        ("g:\n  members:\n    - a\n    - x", 3, 'no model config for "x"'),
        ("(default): {members: [a]}", 0, "is the group of models in no group"),
    ],
)
def test_groups_that_cannot_be(place: str, groups: str, line: int, phrase: str) -> None:
    text, depth = MODELS, 0
    for part in place.split("."):
        text += "  " * depth + part + ":\n"
        depth += 1
    first = text.count("\n") + 1
    [(found, message)] = errors(text + textwrap.indent(groups, "  " * depth) + "\n")
    assert found == first + line
    assert message.startswith(f"{place}.")
    assert phrase in message


def test_both_places_for_groups_are_one_too_many() -> None:
    for routing in ("{router: {use: group}}", "{router: {settings: {groups: {h: {members: [b]}}}}}"):
        [(line, message)] = errors(f"{MODELS}groups: {{g: {{members: [a]}}}}\nrouting: {routing}\n")
        assert line == 2
        assert "routing.router.settings.groups" in message
    assert load(MODELS + "groups: {g: {members: [a]}}\nrouting: {scheduler: {use: fifo}}\n").groups
    assert load(MODELS + "groups: {}\nrouting: {router: {use: group}}\n").groups == {}
    assert load(MODELS + "groups: {g: {members: [a]}}\nrouting: {router: {use: }}\n").groups


def test_groups_and_matrix() -> None:
    found = errors(MODELS + "groups: {g: {members: [a]}}\nmatrix: {sets: {x: a}}\n")
    assert "config cannot use both 'groups' and 'matrix'" in found[0][1]
    assert "not supported by this version" in found[1][1]


def test_a_matrix_that_is_not_used_is_a_warning() -> None:
    text = "routing:\n  router:\n    use: group\n    settings:\n      matrix: {sets: {x: a}}\n"
    assert [line for line, _ in warnings(text)] == [5]


def test_the_priority_of_an_id_wins_over_that_of_its_alias() -> None:
    for order in ("al: 1, a: 2", "a: 2, al: 1"):
        text = f"{MODELS}routing: {{scheduler: {{settings: {{fifo: {{priority: {{{order}}}}}}}}}}}"
        assert load(text).priorities == {"a": 2}


# --- warnings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("healthCheckTimout: 20", 1, "unknown key 'healthCheckTimout' is ignored; did you mean 'healthCheckTimeout'?"),
        ("HealthCheckTimeout: 20", 1, "did you mean 'healthCheckTimeout'?"),
        ("models:\n  a:\n    proxi: x\n    proxy: http://h", 3, "did you mean 'proxy'?"),
        ("models: {a: {proxy: 'http://h', filters: {stripParam: x}}}", 1, "did you mean 'stripParams'?"),
        ("models: {a: {proxy: 'http://h', includeAliasesInList: true}}", 1, "it belongs at the top level"),
        ("preload: [a]", 1, "it belongs at hooks.on_startup.preload"),
        ("setParams: {}", 1, "it belongs at models.<model>.filters.setParams"),
        ("groups: {g: {member: [a]}}", 1, "did you mean 'members'?"),
        ("routing: {scheduler: {settings: {fifo: {priorities: {}}}}}", 1, "did you mean 'priority'?"),
        ("hooks: {on_startup: {xyz: 1}}", 1, "known here: preload"),
        ("qqqq:", 1, "unknown key 'qqqq' is ignored"),
        ("x-defs: {a: &a {proxy: 'http://h'}}\nmodels: {m: {<<: *a}}", 1, "unknown key 'x-defs'"),
    ],
)
def test_unknown_keys_are_a_warning(text: str, line: int, phrase: str) -> None:
    [(found, message)] = warnings(text)
    assert found == line
    assert phrase in message


def test_what_is_ignored_is_not_looked_into() -> None:
    assert len(warnings("foo: ${x}\nlogRequests: '${y}'\nmodels: {m: {proxy: 'http://h', bar: '${z}'}}")) == 2


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("", ("X-Session-ID", "X-Litellm-Session-Id")),
        ("ui: {activity: {session_id: []}}", ("X-Session-ID", "X-Litellm-Session-Id")),
        ("ui: {activity: {session_id: [' X-One ', x-two, X-ONE, '']}}", ("X-One", "x-two")),
    ],
)
def test_session_id_headers(text: str, headers: tuple[str, ...]) -> None:
    assert loads(text).session_id_headers == headers


@pytest.mark.parametrize("profiles", ["{coding: [a, b]}", "[a]", "{p: [a], q: [b]}"])
def test_profiles_as_lists_are_a_warning(profiles: str) -> None:
    [(line, message)] = warnings(f"\nprofiles: {profiles}\n")
    assert line == 2
    assert "profiles" in message


@pytest.mark.parametrize("key", ["matrix", "peers", "selectors", "profiles"])
def test_refused_keys_without_content_are_as_absent(key: str) -> None:
    assert warnings(f"{key}: {{}}\n") == []
    assert warnings(f"{key}:\n") == []


@pytest.mark.parametrize(
    ("text", "value", "got"),
    [
        ("logLevel: verbose", "log_level", "info"),
        ("logLevel: WARN", "log_level", "warn"),
        ("logTimeFormat: iso", "log_time_format", ""),
        ("logTimeFormat: StampMilli", "log_time_format", "stampmilli"),
    ],
)
def test_log_settings_are_forgiving(text: str, value: str, got: str) -> None:
    config = load(text)
    assert getattr(config, value) == got
    assert len(config.warnings) == (text.split(": ")[1].lower() != got)


def test_an_unknown_preload_is_dropped_with_a_warning() -> None:
    config = load(MODELS + "hooks: {on_startup: {preload: [bb, a, '', al]}}\n")
    assert config.preload == ("a",)
    assert len(config.warnings) == 2


# --- upstream.ignorePaths ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (None, "/a/b.css", "/v1/chat"),
        (r"^\/ws$|^\/api\/jobs$", "/api/jobs", "/api/jobs/1"),
        ("(?i)\\.PNG$", "/x.png", "/x.pngx"),
        (r"\.js\z", "/x.js", "/x.js/y"),
        ("^/[[:alpha:]]+[[:digit:]]$", "/ab1", "/a1b"),
        ("(?P<n>x)y", "/xy", "/yx"),
    ],
)
def test_ignore_paths(pattern: str | None, yes: str, no: str) -> None:
    text = "" if pattern is None else f"upstream: {{ignorePaths: ['{pattern}']}}"
    [compiled] = load(text).ignore_paths if text else load("upstream: {ignorePaths: []}").ignore_paths
    assert compiled.search(yes)
    assert not compiled.search(no)


# --- the whole --------------------------------------------------------------------------------------

BROKEN = """\
startPort: 0
logTimeFormt: x
apiKeys: [""]
macros:
  PORT: 1
models:
  a:
    cmd: s ${nope}
    ttl: x
  b:
    proxy: http://h
    aliases: [a1, a1]
groups:
  g: {members: [zz]}
startPort: 5
"""


def test_all_problems_are_reported_at_once_in_order_with_file_line_and_key() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(BROKEN, file="conf.yaml", environ={})
    problems = caught.value.problems
    # A line twice: `a` has a macro that is not there, and a proxy that needs a port.
    assert [(p.line, p.key) for p in problems] == [
        (3, "apiKeys[0]"),
        (5, "macros.PORT"),
        (7, "models.a.proxy"),
        (8, "models.a.cmd"),
        (9, "models.a.ttl"),
        (12, "models.b.aliases[1]"),
        (14, "groups.g.members[0]"),
        (15, "startPort"),
    ]
    for problem in problems:
        assert str(problem).startswith(f"conf.yaml:{problem.line}: {problem.key}: ")
        assert len(problem.message) > len(problem.key) + 15
    assert str(caught.value) == "\n".join(map(str, problems))


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings(tmp_path: Path, ends: str, encoding: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(
        ends.join(["models:", "  é:", "    cmd: |", "      a", "      b", "    ttl: x", ""]).encode(encoding)
    )
    with pytest.raises(ConfigError) as caught:
        config_room.load(path, environ={})
    assert [(p.line, p.key) for p in caught.value.problems] == [(2, "models.é.proxy"), (6, "models.é.ttl")]
    assert caught.value.problems[0].file == str(path)


def test_a_file_is_loaded_with_the_process_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMASWAP_TEST_PORT", "6001")
    path = tmp_path / "c.yaml"
    path.write_text("startPort: ${env.LLAMASWAP_TEST_PORT}\nmodels: {m: {cmd: 's ${PORT}'}}\n")
    assert config_room.load(path).ports() == {"m": 6001}
    assert config_room.load(path, keep_ports={"m": 7}).ports() == {"m": 7}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, phrase in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(ConfigError, match=f"cannot read the configuration: {phrase}") as caught:
            config_room.load(path)
        assert caught.value.problems[0].file == str(path)
    bad = tmp_path / "latin.yaml"
    bad.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(ConfigError, match="save the file as UTF-8") as caught:
        config_room.load(bad)
    assert caught.value.problems[0].line == 2
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * ((16 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        config_room.load(huge)


def test_phrases_that_scripts_look_for() -> None:
    text = """
    macros: {PID: 1, self: "${self}", list: [1]}
    models:
      a: {cmd: "s ${zz}", proxy: "http://h", aliases: [x]}
      b: {cmd: s, aliases: [x]}
    groups: {g: {members: [a]}, h: {members: [a]}}
    """
    with pytest.raises(ConfigError) as caught:
        load(text)
    for phrase in (
        "used in multiple groups",
        "contains self-reference",
        "must be a scalar type",
        "is reserved",
        "unknown macro '${zz}' found in a.cmd",
        "duplicate alias",
        "proxy uses ${PORT} but cmd does not",
    ):
        assert re.search(re.escape(phrase), str(caught.value))


def test_nothing_of_a_config_can_be_changed() -> None:
    config = load(MODELS + GROUPS)
    with pytest.raises(TypeError):
        config.models["x"] = config.models["a"]  # type: ignore[index]
    with pytest.raises(AttributeError):
        config.start_port = 1  # type: ignore[misc]


_leaf = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        10**20,
        10**400,
        "",
        "a",
        "${a}",
        "${PORT}",
        "${x}",
        "none",
        "http://h",
        "s ${PORT}",
        "'",
        "g",
    ]
)
_value = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "${a}"]), inner, max_size=3),
    max_leaves=6,
)


def _section(section: Section) -> st.SearchStrategy[Any]:
    """Values for a section: now and then what belongs there, now and then anything."""
    options = {key.name: _kind(key.kind) | _value for key in section.keys}
    return st.lists(st.sampled_from(sorted(options)), max_size=4, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: options[name] for name in names})
    )


def _kind(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, Section):
        return _section(kind)
    if isinstance(kind, MapOf):
        return st.dictionaries(st.sampled_from(["a", "b", "g"]), _kind(kind.value), max_size=2)
    return _value


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(_section(ROOT))
def test_whatever_a_file_holds_it_is_a_configuration_or_problems(document: Any) -> None:
    try:
        loads(json.dumps(document), environ={})
    except ConfigError as error:
        assert error.problems
        assert all(p.line == 1 and len(p.message) > 10 for p in error.problems)


def test_every_problem_with_the_environment_names_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load("apiKeys:\n  - a\n  - ${env.K}\nmodels:\n  m:\n    cmd: |\n      a\n      ${env.K}\n")
    found = [(p.line, p.key) for p in caught.value.problems if "is not set" in p.message]
    assert found == [(3, "apiKeys[1]"), (8, "models.m.cmd")]
