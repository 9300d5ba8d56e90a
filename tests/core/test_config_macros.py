"""`${env.X}`, `${name}`, `${PORT}`, `${MODEL_ID}`, `${PID}`: what they become, and what is wrong with them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config import Config, ModelConfig, loads, macros
from llamaswap.errors import ConfigError


def load(text: str, environ: Mapping[str, str] | None = None, **kwargs: Any) -> Config:
    return loads(textwrap.dedent(text), file="f", environ=environ or {}, **kwargs)


def model(text: str, environ: Mapping[str, str] | None = None) -> ModelConfig:
    return load(text, environ).models["m"]


def errors(text: str, environ: Mapping[str, str] | None = None) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        load(text, environ)
    return [(p.line, p.message) for p in caught.value.problems]


# --- ${env.X} ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value", "got"),
    [
        ("${env.X}", "plain", "plain"),
        ("a ${env.X} b", "x", "a x b"),
        ("'${env.X}'", "it's", "it's"),
        ('"${env.X}"', 'say "hi" \\n', 'say "hi" \\n'),
        ("${env.X}", 'a"b\\c', 'a"b\\c'),
        ("'[${env.X}]'", "[1]", "[[1]]"),
        ("${env.X}${env.X}", "ab", "abab"),
        ("|-\n      ${env.X}", "${MODEL_ID}", "m"),
        ("${env.X}", "", ""),
        ("${env.X} # ${env.UNSET}", "v", "v"),
        ("${env.X}", "😀", "😀"),
    ],
)
def test_env_in_a_value(written: str, value: str, got: str) -> None:
    text = f"models:\n  m:\n    proxy: http://h\n    name: {written}\n"
    assert model(text, {"X": value}).name == got


def test_env_gives_a_key_its_type_and_may_be_a_list() -> None:
    config = load(
        "startPort: ${env.P}\napiKeys: [${env.A}, '${env.A}2']\nmodels:\n  m: {proxy: 'http://h', aliases: ${env.L}}",
        {"P": "7000", "A": "k", "L": "[a, b]"},
    )
    assert config.start_port == 7000
    assert config.api_keys == ("k", "k2")
    assert config.models["m"].aliases == ("a", "b")


def test_env_in_comments_is_left_alone() -> None:
    text = """
    # ${env.NOPE}
    startPort: 6000  # ${env.NOPE}
    models:
      m:
        # ${env.NOPE} in between
        cmd: |
          server --port ${PORT}
          # ${env.NOPE} in a comment of the command
    """
    assert model(text).argv == ("server", "--port", "6000")


def test_a_number_sign_in_text_is_no_comment() -> None:
    found = errors("models:\n  m:\n    name: a#${env.A}\n    description: 'x # ${env.B}'\n    proxy: http://h\n")
    assert [(line, m[:35]) for line, m in found] == [
        (3, "models.m.name: environment variable"),
        (4, "models.m.description: environment v"),
    ]


def test_every_unset_variable_is_reported_with_its_line_and_nothing_that_follows_from_it() -> None:
    found = errors("startPort: ${env.A}\nlogToStdout: ${env.B}\nglobalTTL: ${env.A} \nunloadTimeout: -1\n")
    assert [line for line, _ in found] == [1, 2, 3, 4]
    assert all("is not set" in m for _, m in found[:3])
    both = errors("logLevel: ${env.A}${env.B}\n")
    assert ["'A'" in both[0][1], "'B'" in both[1][1]] == [True, True]


def test_env_is_checked_in_multi_line_text_too() -> None:
    assert errors("models:\n  m:\n    cmd: |\n      a\n      --k ${env.NOPE}\n    proxy: http://h\n")[0][0] == 5
    found = errors("models:\n  m:\n    proxy: http://h\n    description: |\n      # ${env.NOPE}\n")
    assert [("'NOPE' is not set" in m) for _, m in found] == [True]


@pytest.mark.parametrize(("bad", "phrase"), [("a\nb", "newlines"), ("a\rb", "newlines"), ("a\0b", "null bytes")])
def test_env_must_be_one_line(bad: str, phrase: str) -> None:
    [(line, message)] = errors("logLevel: info\napiKeys: ['${env.X}']\n", {"X": bad})
    assert line == 2
    assert "'X' contains" in message
    assert phrase in message


def test_an_env_pattern_of_the_wrong_form_is_left_with_a_warning() -> None:
    config = load("models:\n  m:\n    proxy: http://h\n    name: ${env.X:-y}\n")
    assert config.models["m"].name == "${env.X:-y}"
    assert [(w.line, "${env.NAME}" in w.message) for w in config.warnings] == [(4, True)]


def test_an_unset_variable_before_a_syntax_error_is_reported_with_it() -> None:
    found = errors("logLevel: ${env.A}\nb: [1\nc: d: e\n")
    assert found[0][0] == 1
    assert "is not set" in found[0][1]
    assert "not valid YAML" in found[1][1]


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=20))
def test_a_quoted_env_value_arrives_as_it_is(value: str) -> None:
    if any("\x80" <= c <= "\x9f" for c in value):
        return
    for quote in "'\"":
        got = load(f"models:\n  m: {{proxy: 'http://h', useModelName: {quote}${{env.X}}{quote}}}\n", {"X": value})
        assert got.models["m"].use_model_name == value


# --- macros -----------------------------------------------------------------------------------------


def test_macros_in_text_and_as_whole_values() -> None:
    config = load(
        """
        macros:
          n: 4096
          t: 0.70
          b: true
          s: text
          q: "12"
          args: --ctx ${n}
          all: server ${args} --port ${PORT}
        startPort: 7000
        healthCheckTimeout: ${n}
        sendLoadingState: ${b}
        apiKeys: ["${s}", "k-${n}"]
        models:
          m:
            cmd: ${all} --t ${t}
            ttl: ${n}
            unlisted: ${b}
            name: ${n}
            aliases: ["${MODEL_ID}-${s}", "${s}"]
            env: ["A=${n}", "B=${PORT}"]
            checkEndpoint: /${s}
            cmdStop: kill ${PID} ${PORT} ${s}
            useModelName: ${s}
            capabilities: {context: "${n}", in: ["${s}"]}
            filters:
              stripParams: ${s}, other
              setParams: {temperature: "${t}", deep: {x: ["${b}", "${s}!"]}}
              setParamsByID:
                "${MODEL_ID}:x": {n: "${n}"}
            metadata:
              n: ${n}
              t: ${t}
              b: ${b}
              s: ${s}
              q: ${q}
              p: ${PORT}
              mixed: "${n}/${t}/${b}/${PORT}"
              list: [1, "${n}", {k: "${MODEL_ID}"}]
        groups:
          g: {members: ["${q}", m]}
        """.replace('["${q}", m]', "[m]")
    )
    m = config.models["m"]
    assert config.health_check_timeout_s == 4096
    assert config.send_loading_state is True
    assert config.api_keys == ("text", "k-4096")
    assert m.argv == ("server", "--ctx", "4096", "--port", "7000", "--t", "0.7")
    assert (m.ttl_s, m.unlisted, m.name, m.port) == (4096, True, "4096", 7000)
    assert m.aliases == ("m-text", "text", "m:x")
    assert m.env == ("A=4096", "B=7000")
    assert (m.check_endpoint, m.cmd_stop, m.use_model_name) == ("/text", "kill ${PID} 7000 text", "text")
    assert m.capabilities is not None
    assert (m.capabilities.context, m.capabilities.inputs) == (4096, ("text",))
    assert m.filters.strip_params == ("other", "text")
    assert dict(m.filters.set_params) == {"temperature": 0.7, "deep": {"x": [True, "text!"]}}
    assert {k: dict(v) for k, v in m.filters.set_params_by_id.items()} == {"m:x": {"n": 4096}}
    assert dict(m.metadata) == {
        "n": 4096,
        "t": 0.7,
        "b": True,
        "s": "text",
        "q": "12",
        "p": 7000,
        "mixed": "4096/0.7/true/7000",
        "list": [1, 4096, {"k": "m"}],
    }
    assert type(m.metadata["n"]) is int
    assert type(m.metadata["p"]) is int


def test_a_models_macros_override_global_ones_also_inside_them() -> None:
    config = load(
        """
        macros: {ctx: 1, args: "--ctx ${ctx}"}
        models:
          m: {proxy: "http://h", macros: {ctx: 2, more: "${args} x"}, cmd: "s ${more}"}
          n: {proxy: "http://h", cmd: "s ${args}"}
        """
    )
    assert config.models["m"].cmd == "s --ctx 2 x"
    assert config.models["n"].cmd == "s --ctx 1"


def test_macros_in_comments_of_a_command_do_not_count() -> None:
    m = model(
        """
        models:
          m:
            proxy: http://h
            cmd: |
              # ${nope} ${PORT}
              server
        """
    )
    assert (m.cmd, m.argv, m.port) == ("server\n", ("server",), None)


def test_comments_that_a_macro_brings_are_dropped() -> None:
    m = model(
        """
        macros:
          svr: |
            server
            # its port
            --port 1
        models:
          m: {proxy: "http://h:1", cmd: "${svr}"}
        """
    )
    assert m.argv == ("server", "--port", "1")
    assert "#" not in m.cmd


@pytest.mark.parametrize(
    ("name", "value", "phrase"),
    [
        ("PORT", "1", "macro name 'PORT' is reserved"),
        ("PID", "1", "macro name 'PID' is reserved"),
        ("MODEL_ID", "1", "macro name 'MODEL_ID' is reserved"),
        ("a b", "1", "contains invalid characters"),
        ("a.b", "1", "contains invalid characters"),
        ("x" * 64, "1", "exceeds the maximum length of 63"),
        ("me", "a ${me}", "macro 'me' contains self-reference"),
        ("l", "[1]", "macro 'l' must be a scalar type"),
        ("o", "{a: 1}", "macro 'o' must be a scalar type"),
        ("n", "", "macro 'n' must be a scalar type"),
    ],
)
def test_macros_that_cannot_be(name: str, value: str, phrase: str) -> None:
    [(line, message)] = errors(f"logLevel: info\nmacros:\n  '{name}': {value}\n")
    assert line == 3
    assert phrase in message
    assert message.startswith(f"macros.{name}: ")
    [(line, message)] = errors(f"models:\n  m:\n    proxy: http://h\n    macros:\n      '{name}': {value}\n")
    assert line == 5
    assert "model m: macro" in message
    assert phrase in message


def test_a_name_of_63_characters_is_fine() -> None:
    assert (
        model(f"macros: {{{'x' * 63}: a}}\nmodels:\n  m: {{proxy: 'http://h', name: '${{{'x' * 63}}}'}}\n").name == "a"
    )


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("cmd: s ${x}", "m.cmd"),
        ("cmdStop: s ${x}", "m.cmdStop"),
        ("checkEndpoint: /${x}", "m.checkEndpoint"),
        ("name: ${x}", "m.name"),
        ("description: ${x}", "m.description"),
        ("env: [A=1, 'B=${x}']", "m.env[1]"),
        ("aliases: ['${x}']", "m.aliases[0]"),
        ("filters: {stripParams: 'a, ${x}'}", "m.filters.stripParams"),
        ("filters: {setParams: {a: {b: '${x}'}}}", "m.filters.setParams.a.b"),
        ("filters: {setParamsByID: {'${x}': {a: 1}}}", "a key of m.filters.setParamsByID"),
        ("metadata: {a: ['${x}']}", "m.metadata.a[0]"),
        ("ttl: ${x}", "m.ttl"),
    ],
)
def test_an_unknown_macro_names_its_place(field: str, where: str) -> None:
    line, message = errors(f"models:\n  m:\n    proxy: http://h\n    {field}\n")[0]
    assert line == 4
    assert f"unknown macro '${{x}}' found in {where}" in message


def test_an_unknown_macro_in_a_block_is_on_its_own_line() -> None:
    text = "models:\n  m:\n    proxy: http://h\n    cmd: |\n      a\n      # c\n      --x ${mx}\n    macros: {mac: 1}\n"
    [(line, message)] = errors(text)
    assert line == 7
    assert "unknown macro '${mx}' found in m.cmd" in message


def test_an_unknown_macro_outside_models() -> None:
    [(line, message)] = errors("macros: {level: debug}\nlogLevel: ${lebel}\n")
    assert (line, message) == (2, "logLevel: unknown macro '${lebel}' found in logLevel; did you mean ${level}?")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("macros: {a: '${b}', b: x}\nmodels: {m: {proxy: 'http://h', name: '${a}'}}", "declared after"),
        ("models: {m: {proxy: 'http://h', cmd: 's ${PID}'}}", "only available in cmdStop"),
        ("models: {m: {proxy: 'http://h', name: '${PORT}'}}", "whose cmd uses it"),
        ("logLevel: ${MODEL_ID}", "only available inside a model"),
        ("logLevel: ${PORT}", "whose cmd uses it"),
    ],
)
def test_what_is_not_available_there_says_where_it_is(text: str, phrase: str) -> None:
    message = errors(text)[0][1]
    assert "unknown macro '${" in message
    assert phrase in message


def test_macros_that_double_each_other_are_refused_at_once() -> None:
    lines = ["macros:", "  m0: xxxxxxxxxxxxxxxx"] + [f"  m{n}: ${{m{n - 1}}}${{m{n - 1}}}" for n in range(1, 63)]
    text = "\n".join([*lines, "models:", "  m: {proxy: 'http://h', name: '${m62}'}", ""])
    [(line, message)] = errors(text)
    assert line == 66
    assert "longer than" in message


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((True, "true"), (False, "false"), (5, "5"), (-3, "-3"), (0.7, "0.7"), (1.0, "1"), (0.0, "0")),
        *((100000.0, "100000"), (1e6, "1e+06"), (1234567.0, "1.234567e+06"), (1e21, "1e+21"), (-2.5, "-2.5")),
        *((0.0001, "0.0001"), (1e-5, "1e-05"), (1.5e300, "1.5e+300"), (999999.5, "999999.5"), ("x", "x")),
    ],
)
def test_macros_become_text_as_in_go(value: macros.ScalarValue, text: str) -> None:
    assert macros.as_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_as_text_is_the_same_number(value: float) -> None:
    assert float(macros.as_text(value)) == value


_names = st.sampled_from(["a", "b", "c", "d"])
_pieces = st.lists(st.one_of(_names.map(lambda n: f"${{{n}}}"), st.sampled_from(["x", "-", "$", "{", "}"])), max_size=5)


@given(st.lists(st.tuples(_names, _pieces), unique_by=lambda m: m[0]), _pieces)
def test_what_uses_only_earlier_macros_is_resolved_entirely(
    raw: list[tuple[str, list[str]]], pieces: list[str]
) -> None:
    known: list[str] = []
    declared: list[macros.Macro] = []
    for name, parts in raw:
        value = "".join(p for p in parts if p in known or p == "x")
        declared.append((name, value))
        known.append(f"${{{name}}}")
    text = "".join(p for p in pieces if p in known or p == "x")
    result = macros.expand(text, declared)
    assert isinstance(result, str)
    assert set(result) <= {"x"}


# --- ports ------------------------------------------------------------------------------------------

PORTS = """
startPort: 100
models:
  c: {cmd: "s ${PORT}"}
  a: {cmd: "s ${PORT}", proxy: "http://10.0.0.1:${PORT}/base/"}
  b: {cmd: "s", proxy: "http://h:1"}
  d: {cmd: "s ${p}", macros: {p: "--port ${PORT}"}}
"""


def test_ports_go_over_sorted_ids_and_only_to_those_whose_cmd_uses_them() -> None:
    config = load(PORTS)
    assert config.ports() == {"a": 100, "c": 101, "d": 102}
    assert list(config.models) == ["a", "b", "c", "d"]
    assert config.models["a"].proxy == "http://10.0.0.1:100/base"
    assert config.models["c"].proxy == "http://localhost:101"
    assert config.models["b"].port is None


def test_kept_ports_stay_and_are_given_to_nobody_else() -> None:
    config = load(PORTS, keep_ports={"c": 100, "gone": 101, "b": 103})
    assert config.ports() == {"a": 102, "c": 100, "d": 104}
    assert config.models["c"].cmd == "s 100"


def test_adding_a_model_changes_no_other_when_ports_are_kept() -> None:
    before = load(PORTS)
    after = load(PORTS + "  aa: {cmd: 's ${PORT}'}\n", keep_ports=before.ports())
    assert after.models["aa"].port == 103
    assert all(after.models[name] == before.models[name] for name in before.models)


def test_running_out_of_ports() -> None:
    [(line, message)] = errors("startPort: 65535\nmodels:\n  a: {cmd: 's ${PORT}'}\n  b: {cmd: 's ${PORT}'}\n")
    assert line == 4
    assert "no port left" in message


@pytest.mark.parametrize("body", ["{cmd: s}", "{}", "", "{cmd: s, proxy: 'http://h:${PORT}'}", "{proxy: }"])
def test_a_proxy_with_a_port_needs_it_in_cmd(body: str) -> None:
    [(line, message)] = errors(f"models:\n  m: {body}\n")
    assert line == 2
    assert "model m: proxy uses ${PORT} but cmd does not - ${PORT} is only available when used in cmd" in message


def test_json_of_metadata_is_plain() -> None:
    m = model("models:\n  m: {proxy: 'http://h', metadata: {a: {b: [1, ~, true]}}}\n")
    assert json.dumps(dict(m.metadata)) == '{"a": {"b": [1, null, true]}}'
