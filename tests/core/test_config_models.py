"""`models:`: defaults, every rule, aliases, filters, and what a wrong value is told."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest

from llamaswap.config import Config, ModelConfig, loads
from llamaswap.config.settings import Capabilities, Filters, Timeouts
from llamaswap.errors import ConfigError


def load(text: str, **kwargs: Any) -> Config:
    return loads(textwrap.dedent(text), file="f", environ={}, **kwargs)


def model(body: str, model_id: str = "m") -> ModelConfig:
    """The model with the given settings (flow style)."""
    return load(f"models:\n  {model_id}: {{proxy: 'http://h', {body}}}\n").models[model_id]


def errors(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [(p.line, p.message) for p in caught.value.problems]


def field_error(field: str) -> str:
    [(line, message)] = errors(f"models:\n  m:\n    proxy: http://h\n    {field}\n")
    assert line == 4
    return message


def test_defaults() -> None:
    assert load("models: {m: {cmd: 's ${PORT}'}}").models["m"] == ModelConfig(
        id="m", cmd="s 5800", argv=("s", "5800"), proxy="http://localhost:5800", port=5800
    )


def test_every_setting() -> None:
    m = model(
        "cmd: 's a', cmdStop: 'x ${PID}', aliases: [b], env: [A=1], checkEndpoint: none, ttl: 0, unloadTimeout: 5,"
        "unlisted: true, useModelName: u, name: n, description: d, concurrencyLimit: 3, metadata: {a: 1},"
        "sendLoadingState: true, compat: {ignoreWebsockets: true}, filters: {setParams: {t: 1}},"
        "capabilities: {in: [text, audio], out: [image], tools: true, reranker: true, context: 9},"
        "timeouts: {connect: 1, keepalive: 2, responseHeader: 3, tlsHandshake: 4, expectContinue: 5, idleConn: 0}"
    )
    assert m == ModelConfig(
        id="m",
        cmd="s a",
        argv=("s", "a"),
        cmd_stop="x ${PID}",
        proxy="http://h",
        aliases=("b",),
        env=("A=1",),
        check_endpoint="none",
        ttl_s=0,
        unload_timeout_s=5,
        unlisted=True,
        use_model_name="u",
        name="n",
        description="d",
        concurrency_limit=3,
        filters=Filters(set_params={"t": 1}),
        metadata={"a": 1},
        send_loading_state=True,
        timeouts=Timeouts(1, 2, 3, 4, 5, 0),
        ignore_websockets=True,
        capabilities=Capabilities(("text", "audio"), ("image",), True, True, 9),
    )


def test_no_cmd_is_fine_at_load() -> None:
    assert model("ttl: 1").argv == ()


def test_a_key_with_nothing_after_it_is_as_absent() -> None:
    keys = [
        "cmdStop",
        "aliases",
        "env",
        "checkEndpoint",
        "ttl",
        "unloadTimeout",
        "unlisted",
        "useModelName",
        "name",
        "description",
        "concurrencyLimit",
        "filters",
        "macros",
        "metadata",
        "sendLoadingState",
        "timeouts",
        "compat",
        "capabilities",
    ]
    assert model(", ".join(f"{key}: " for key in keys)) == model("")
    assert model("filters: {stripParams: , setParams: ~, setParamsByID: }, timeouts: {connect: ~}") == model("")


@pytest.mark.parametrize(
    ("top", "own", "ttl"),
    [
        *(("", "", 0), (60, "", 60), (60, -1, 60), (60, 0, 0), (60, 5, 5), (0, 5, 5), ("", 0.5, 0.5)),
        (60, "60.0", 60),
    ],
)
def test_ttl(top: object, own: object, ttl: float) -> None:
    text = f"globalTTL: {top}\nmodels: {{m: {{proxy: 'http://h', ttl: {own} }}}}"
    assert load(text).models["m"].ttl_s == ttl


@pytest.mark.parametrize(("top", "own", "got"), [("", "", 10), (0, 0, 10), (7, 0, 7), (7, "", 7), (7, 3, 3), (0, 3, 3)])
def test_unload_timeout(top: object, own: object, got: float) -> None:
    config = load(f"unloadTimeout: {top}\nmodels: {{m: {{proxy: 'http://h', unloadTimeout: {own} }}}}")
    assert config.models["m"].unload_timeout_s == got


@pytest.mark.parametrize(("given", "got"), [("", 120), (300, 300), (15, 15), (14, 15), (0, 15), (-3, 15)])
def test_health_check_timeout(given: object, got: float) -> None:
    config = load(f"healthCheckTimeout: {given}\nmodels: {{m: {{proxy: 'http://h', healthCheckTimeout: 5}}}}")
    assert config.models["m"].health_check_timeout_s == got
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("top", "own", "got"), [("", "", False), (True, "", True), (True, False, False), ("", True, True)]
)
def test_send_loading_state(top: object, own: object, got: bool) -> None:
    config = load(f"sendLoadingState: {top}\nmodels: {{m: {{proxy: 'http://h', sendLoadingState: {own} }}}}")
    assert config.models["m"].send_loading_state is got


def test_concurrency_limit_zero_is_the_default() -> None:
    assert [model(f"concurrencyLimit: {n}").concurrency_limit for n in (0, 1, 500)] == [10, 1, 500]
    config = load("models:\n  m:\n    proxy: http://h\n    concurrencyLimit: -2\n")
    assert config.models["m"].concurrency_limit == 10
    assert [w.line for w in config.warnings] == [4]


def test_comfyui() -> None:
    auto = model("concurrencyLimit: 5, compat: {ignoreWebsockets: false}", "comfyui_auto")
    assert (auto.concurrency_limit, auto.ignore_websockets) == (50, True)
    assert model("concurrencyLimit: 80", "comfyui_auto").concurrency_limit == 80


@pytest.mark.parametrize(
    ("written", "got"),
    [
        *(("/health", "/health"), ("none", "none"), ("health", "/health"), ("' none '", "none")),
        *(("/v1/x?y=1", "/v1/x?y=1"), ("''", "/"), ("/", "/")),
    ],
)
def test_check_endpoint(written: str, got: str) -> None:
    assert model(f"checkEndpoint: {written}").check_endpoint == got


def test_capabilities_that_say_nothing_are_none() -> None:
    assert model("capabilities: {in: [], out: [], tools: false, reranker: false, context: 0}").capabilities is None
    assert model("capabilities: {tools: true}").capabilities == Capabilities(tools=True)


@pytest.mark.parametrize("word", ["true", "True", "yes", "Yes", "YES", "on", "ON", "y", "Y"])
def test_booleans_as_gos_yaml_reader_takes_them(word: str) -> None:
    assert model(f"unlisted: {word}").unlisted is True


@pytest.mark.parametrize("word", ["false", "no", "No", "off", "Off", "n", "N"])
def test_booleans_that_are_false(word: str) -> None:
    assert model(f"unlisted: {word}, sendLoadingState: {word}").unlisted is False


def test_scalars_become_text_as_written_where_text_is_expected() -> None:
    m = model("name: 1.0, description: true, useModelName: 010, aliases: [1, 2.50, no, 0x1F], env: [A=1]")
    assert (m.name, m.description, m.use_model_name) == ("1.0", "true", "010")
    assert m.aliases == ("1", "2.50", "no", "0x1F")


def test_model_ids_are_text() -> None:
    assert sorted(load("models: {1: {proxy: 'http://h'}, a/b.c: {proxy: 'http://h'}}").models) == ["1", "a/b.c"]


@pytest.mark.parametrize(
    ("written", "got"),
    [
        *(("'b, a ,model,,b'", ("a", "b")), ("[b, a, model, b, '']", ("a", "b")), ("['b, c', a]", ("a", "b", "c"))),
        *(("''", ()), ("[]", ()), ("model", ()), ("temperature", ("temperature",))),
    ],
)
@pytest.mark.parametrize("key", ["stripParams", "strip_params"])
def test_strip_params(key: str, written: str, got: tuple[str, ...]) -> None:
    assert model(f"filters: {{{key}: {written}}}").filters.strip_params == got


def test_the_newer_strip_params_goes_first() -> None:
    assert model("filters: {stripParams: a, strip_params: b}").filters.strip_params == ("a",)


def test_model_is_protected_in_filters() -> None:
    config = load(
        """
        models:
          m:
            proxy: http://h
            filters:
              setParams: {model: x, a: 1}
              setParamsByID:
                v: {model: y, b: 2}
        """
    )
    filters = config.models["m"].filters
    assert dict(filters.set_params) == {"a": 1}
    assert dict(filters.set_params_by_id["v"]) == {"b": 2}
    assert [w.line for w in config.warnings] == [6, 8]


def test_set_params_keeps_json_values_and_their_order() -> None:
    m = model("filters: {setParams: {z: 1, a: [1.5, ~, {x: 'y'}], n: 123456789012345678901234567890, s: '5'}}")
    assert list(m.filters.set_params.items()) == [
        ("z", 1),
        ("a", [1.5, None, {"x": "y"}]),
        ("n", 123456789012345678901234567890),
        ("s", "5"),
    ]


def test_set_params_by_id_makes_aliases() -> None:
    config = load(
        """
        models:
          m:
            proxy: http://h
            aliases: [a]
            filters: {setParamsByID: {m: {x: 1}, a: {x: 2}, "${MODEL_ID}:b": {x: 3}, c: }}
        """
    )
    assert config.models["m"].aliases == ("a", "m:b", "c")
    assert list(config.models["m"].filters.set_params_by_id) == ["m", "a", "m:b", "c"]


TWO = "models:\n  a:\n    proxy: http://h\n    {a}\n  b:\n    proxy: http://h\n    {b}\n"


@pytest.mark.parametrize(
    ("a", "b", "line", "phrase"),
    [
        ("aliases: [x]", "aliases: [x]", 7, "duplicate alias x found in model: b; already used by model a"),
        ("aliases: [x, x]", "ttl: 1", 4, "duplicate alias x found in model: a; given twice"),
        ("aliases: [x]", "filters: {setParamsByID: {x: {}}}", 7, "duplicate alias 'x' in model b"),
        ("filters: {setParamsByID: {x: {}}}", "aliases: [x]", 4, "duplicate alias 'x' in model a"),
        ("ttl: 1", "filters: {setParamsByID: {a: {}}}", 7, "'a' conflicts with an existing model ID"),
        ("filters: {setParamsByID: {x: {}}}", "filters: {setParamsByID: {x: {}}}", 7, "duplicate alias 'x'"),
    ],
)
def test_names_that_conflict(a: str, b: str, line: int, phrase: str) -> None:
    [(found, message)] = errors(TWO.format(a=a, b=b))
    assert found == line
    assert phrase in message


def test_keys_of_set_params_by_id_that_become_the_same_are_refused() -> None:
    message = field_error("filters: {setParamsByID: {'${MODEL_ID}:x': {}, 'm:x': {}}}")
    assert "two keys become 'm:x'" in message


def test_an_alias_that_is_another_models_id_has_no_effect() -> None:
    config = load(TWO.format(a="aliases: [b, a, '', c]", b="ttl: 1"))
    assert config.models["a"].aliases == ("c",)
    assert [(w.line, w.key) for w in config.warnings] == [(4, "models.a.aliases[0]"), (4, "models.a.aliases[2]")]


def test_env_entries_that_set_nothing_are_left_out() -> None:
    config = load("models:\n  m:\n    proxy: http://h\n    env:\n      - A=\n      - B\n      - =c\n      - D=e=f\n")
    assert config.models["m"].env == ("A=", "D=e=f")
    assert [w.line for w in config.warnings] == [6, 7]


@pytest.mark.parametrize(
    ("field", "key", "phrase"),
    [
        ("ttl: -2", "ttl", "model m: invalid TTL value -2"),
        ("unloadTimeout: -1", "unloadTimeout", "model m: invalid unloadTimeout value -1"),
        ("ttl: soon", "ttl", "must be a number of seconds, got the text 'soon'"),
        ("ttl: '60'", "ttl", "got the text '60'; remove the quotes"),
        ("ttl: [1]", "ttl", "must be a number of seconds, got a list"),
        ("ttl: true", "ttl", "must be a number of seconds, got the boolean true"),
        ("ttl: .inf", "ttl", "must be a number of seconds"),
        ("concurrencyLimit: 1.5", "concurrencyLimit", "must be a whole number, got the number 1.5"),
        ("concurrencyLimit: many", "concurrencyLimit", "must be a whole number, got the text 'many'"),
        ("unlisted: 1", "unlisted", "must be true or false, got the number 1"),
        ("unlisted: 'true'", "unlisted", "must be true or false, got the text 'true'"),
        ("unlisted: yEs", "unlisted", "must be true or false"),
        ("sendLoadingState: maybe", "sendLoadingState", "must be true or false"),
        ("cmd: [a, b]", "cmd", "must be text, got a list"),
        ("cmd: {a: b}", "cmd", "must be text, got a mapping"),
        ("name: [x]", "name", "must be text, got a list"),
        ("aliases: x", "aliases", "must be a list, such as [x]; got the text 'x'"),
        ("aliases: {a: b}", "aliases", "must be a list; got a mapping"),
        ("aliases: [{a: b}]", "aliases[0]", "must be text, got a mapping"),
        ("env: {A: b}", "env", "must be a list; got a mapping"),
        ('env: ["A=b\\0c"]', "env[0]", "null character"),
        ("metadata: 5", "metadata", "must be a mapping of keys to values, got the number 5"),
        ("metadata: {a: {b: .nan}}", "metadata.a.b", "JSON"),
        ("filters: x", "filters", "must be a mapping of keys, got the text 'x'"),
        ("filters: {stripParams: {a: b}}", "filters.stripParams", "commas"),
        ("filters: {setParams: [a]}", "filters.setParams", "must be a mapping"),
        ("filters: {setParamsByID: {x: 5}}", "filters.setParamsByID.x", "must be a mapping"),
        ("filters: {setParamsByID: [x]}", "filters.setParamsByID", "must be a mapping"),
        ("timeouts: {connect: -1}", "timeouts.connect", "connect must be >= 0, got -1"),
        ("timeouts: {idleConn: x}", "timeouts.idleConn", "must be a number of seconds"),
        ("compat: true", "compat", "must be a mapping"),
        ("capabilities: {in: [text, smell]}", "capabilities.in[1]", 'invalid modality "smell"'),
        ("capabilities: {out: [video]}", "capabilities.out[0]", "must be one of: text, audio, image"),
        ("capabilities: {context: -1}", "capabilities.context", "context must be >= 0, got -1"),
        ("capabilities: [text]", "capabilities", "must be a mapping"),
        ("macros: [a]", "macros", "must be a mapping"),
        ("checkEndpoint: http://h/health", "checkEndpoint", "must be a path"),
    ],
)
def test_a_wrong_value_is_told_what_is_right(field: str, key: str, phrase: str) -> None:
    message = field_error(field)
    assert message.startswith(f"models.m.{key}: ")
    assert phrase in message


@pytest.mark.parametrize(
    "url", ["localhost:80", "h", "ftp://h", "http://", "http://h:x", "http://h:99999", "'http://h h'", "http://h?a=1"]
)
def test_a_proxy_must_be_a_base_url(url: str) -> None:
    [(line, message)] = errors(f"models:\n  m:\n    cmd: s\n    proxy: {url}\n")
    assert line == 4
    assert "invalid proxy URL" in message
    assert "http://localhost:9000" in message


@pytest.mark.parametrize("url", ["http://h", "https://h:1/base", "http://[::1]:8000", "http://10.0.0.1:80"])
def test_proxies(url: str) -> None:
    assert load(f"models: {{m: {{proxy: '{url}/'}}}}").models["m"].proxy == url


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("models: [a]\n", 1, "models: must be a mapping of model ids to settings, got a list"),
        ("models: x\n", 1, "must be a mapping of model ids"),
        ("models:\n  a: cmd\n", 2, "models.a: must be a mapping of a model's settings, such as cmd and proxy; got"),
        ("models:\n  '': {proxy: 'http://h'}\n", 2, "id must not be empty"),
        ("models:\n  a: {proxy: 'http://h'}\n  a: {proxy: 'http://h'}\n", 3, "given twice, on lines 2 and 3"),
    ],
)
def test_models_of_the_wrong_form(text: str, line: int, phrase: str) -> None:
    [(found, message)] = errors(text)
    assert found == line
    assert phrase in message


def test_equal_settings_make_equal_models() -> None:
    body = "metadata: {a: [1]}, filters: {setParamsByID: {x: {y: 1}}}, capabilities: {tools: true}"
    assert model(body) == model(body)
    assert model(body) != model(body + ", ttl: 5")


def test_a_folded_command_that_its_comment_swallows_is_a_warning() -> None:
    config = load("models:\n  m:\n    proxy: http://h\n    cmd: >\n      # comment\n      server --x\n")
    assert config.models["m"].argv == ()
    assert [(w.line, w.key) for w in config.warnings] == [(4, "models.m.cmd")]
