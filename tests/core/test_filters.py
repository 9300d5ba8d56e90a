import copy
import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config.settings import Filters, ModelConfig
from llamaswap.errors import BadRequest
from llamaswap.relay.filters import Body, apply, parse_path
from llamaswap.relay.jsonspans import parse


def model(
    use: str = "", strip: tuple[str, ...] = (), sets: dict[str, Any] | None = None, **by_id: dict[str, Any]
) -> ModelConfig:
    return ModelConfig("m", use_model_name=use, filters=Filters(strip, sets or {}, by_id))


def edit(body: Body, config: ModelConfig, requested_id: str = "m") -> Body:
    return apply(body, parse(body), config, requested_id)


@pytest.mark.parametrize(
    ("body", "config", "expected"),
    [
        # useModelName
        (b'{"model":"m"}', model("up/stream"), b'{"model":"up/stream"}'),
        (b' {"x":1.0, "model" : "m" ,"y":2}\n', model("u"), b' {"x":1.0, "model" : "u" ,"y":2}\n'),
        (b'{"model":"a","model":"m"}', model("u"), b'{"model":"u","model":"u"}'),
        (b'{"mod\\u0065l":"m"}', model("u"), b'{"mod\\u0065l":"u"}'),
        (b'{"model":"m"}', model('q"\\ü'), '{"model":"q\\"\\\\ü"}'.encode()),
        (b'\xef\xbb\xbf{"model":"m"}', model("u"), b'\xef\xbb\xbf{"model":"u"}'),
        (b'{"x":{"model":"m"},"model":"m"}', model("u"), b'{"x":{"model":"m"},"model":"u"}'),
        # stripParams
        (b'{"a":1,"model":"m","b":2}', model(strip=("a",)), b'{"model":"m","b":2}'),
        (b'{"a":1,"model":"m","b":2}', model(strip=("b",)), b'{"a":1,"model":"m"}'),
        (b'{ "model": "m", "b": 2, "c": 3 }', model(strip=("b",)), b'{ "model": "m", "c": 3 }'),
        (b'{"a":1,"model":"m","a":2}', model(strip=("a",)), b'{"model":"m"}'),
        (b'{"a":1,"b":2,"model":"m"}', model(strip=("a", "b")), b'{"model":"m"}'),
        (b'{"\\u0061":1,"model":"m"}', model(strip=("a",)), b'{"model":"m"}'),
        ('{"é":1,"model":"m"}'.encode(), model(strip=("é",)), b'{"model":"m"}'),
        (b'{"\\u00e9":1,"model":"m"}', model(strip=("é",)), b'{"model":"m"}'),
        (b'{"model":"m","o":{"a":1,"b":1.50}}', model(strip=("o.a",)), b'{"model":"m","o":{"b":1.50}}'),
        (b'{"model":"m","o":{ "a":1 }}', model(strip=("o.a",)), b'{"model":"m","o":{}}'),
        (b'{"model":"m","o":[1,2,3]}', model(strip=("o.1",)), b'{"model":"m","o":[1,3]}'),
        (b'{"model":"m","o":[1,2,3]}', model(strip=("o.-1",)), b'{"model":"m","o":[1,2]}'),
        (b'{"model":"m","o":[1]}', model(strip=("o.-1",)), b'{"model":"m","o":[]}'),
        (b'{"model":"m","o":{"1":2}}', model(strip=("o.1",)), b'{"model":"m","o":{}}'),
        (b'{"model":"m","o":[1,{"a":1}]}', model(strip=("o.1.a",)), b'{"model":"m","o":[1,{}]}'),
        (b'{"model":"m","a.b":1,"a":{"b":2}}', model(strip=("a\\.b",)), b'{"model":"m","a":{"b":2}}'),
        (b'{"model":"m","a.b":1,"a":{"b":2}}', model(strip=("a.b",)), b'{"model":"m","a.b":1,"a":{}}'),
        (
            b'{"o":{"a":1},"model":"m","o":{"a":2,"b":3}}',
            model(strip=("o.a",)),
            b'{"o":{},"model":"m","o":{"b":3}}',
        ),
        # setParams
        (b'{"model":"m"}', model(sets={"t": 0.7}), b'{"model":"m","t":0.7}'),
        (b'{"model":"m"}', model(sets={"b": 1, "a": 2}), b'{"model":"m","a":2,"b":1}'),
        (b'{"t" : 1 ,"model":"m"}', model(sets={"t": 0.7}), b'{"t" : 0.7 ,"model":"m"}'),
        (b'{"t":1,"model":"m","t":2}', model(sets={"t": 3}), b'{"t":3,"model":"m","t":3}'),
        (b'{"model":"m"\n}', model(sets={"t": None}), b'{"model":"m"\n,"t":null}'),
        (b'{"model":"m"}', model(sets={"s": "ü\n"}), '{"model":"m","s":"ü\\n"}'.encode()),
        (b'{"model":"m"}', model(sets={"o": {"a": [1, True]}}), b'{"model":"m","o":{"a":[1,true]}}'),
        (b'{"model":"m","o":{"a":1}}', model(sets={"o": {"b": 2}}), b'{"model":"m","o":{"b":2}}'),
        (
            b'{"model":"m"}',
            model(sets={"chat_template_kwargs.enable_thinking": False}),
            b'{"model":"m","chat_template_kwargs":{"enable_thinking":false}}',
        ),
        (
            b'{"model":"m","chat_template_kwargs": { "x": 1.0 , "enable_thinking": true }, "z":1}',
            model(sets={"chat_template_kwargs.enable_thinking": False}),
            b'{"model":"m","chat_template_kwargs": { "x": 1.0 , "enable_thinking": false }, "z":1}',
        ),
        (b'{"model":"m","o":{ }}', model(sets={"o.a": 1}), b'{"model":"m","o":{ "a":1}}'),
        (b'{"model":"m","o":null}', model(sets={"o.a": 1}), b'{"model":"m","o":{"a":1}}'),
        (b'{"model":"m","o":"text"}', model(sets={"o.a.b": 1}), b'{"model":"m","o":{"a":{"b":1}}}'),
        (b'{"model":"m","o":5}', model(sets={"o.1": 1}), b'{"model":"m","o":[null,1]}'),
        (b'{"model":"m"}', model(sets={"a\\.b": 1}), b'{"model":"m","a.b":1}'),
        (b'{"model":"m"}', model(sets={"a\\\\b": 1}), b'{"model":"m","a\\\\b":1}'),
        (b'{"model":"m"}', model(sets={"stop.-1": "x"}), b'{"model":"m","stop":["x"]}'),
        (b'{"model":"m"}', model(sets={"stop.0": "x"}), b'{"model":"m","stop":["x"]}'),
        (b'{"model":"m"}', model(sets={"stop.2": "x"}), b'{"model":"m","stop":[null,null,"x"]}'),
        (b'{"model":"m"}', model(sets={"o.:2": "x"}), b'{"model":"m","o":{"2":"x"}}'),
        (b'{"model":"m"}', model(sets={"\\:2": "x"}), b'{"model":"m",":2":"x"}'),
        (b'{"model":"m"}', model(sets={"2": "x"}), b'{"model":"m","2":"x"}'),
        (b'{"model":"m","s":["a", "b"]}', model(sets={"s.-1": 1}), b'{"model":"m","s":["a", "b",1]}'),
        (b'{"model":"m","stop":[ ]}', model(sets={"stop.-1": 1}), b'{"model":"m","stop":[ 1]}'),
        (b'{"model":"m","stop":["a", "b"]}', model(sets={"stop.0": 1}), b'{"model":"m","stop":[1, "b"]}'),
        (b'{"model":"m","stop":["a"]}', model(sets={"stop.3": 1}), b'{"model":"m","stop":["a",null,null,1]}'),
        (b'{"model":"m","a":[{"b":1}]}', model(sets={"a.0.c": 2}), b'{"model":"m","a":[{"b":1,"c":2}]}'),
        (b'{"model":"m","a":[{"b":1}]}', model(sets={"a.-1.c": 2}), b'{"model":"m","a":[{"b":1},{"c":2}]}'),
        (b'{"model":"m","o":{"7":1}}', model(sets={"o.7": 2}), b'{"model":"m","o":{"7":2}}'),
        (b'{"model":"m","o":{"x":1}}', model(sets={"o.7": 2}), b'{"model":"m","o":{"x":1,"7":2}}'),
        # in sequence
        (b'{"t":1,"model":"m"}', model("u", ("t",), {"t": 2}), b'{"model":"u","t":2}'),
        (b'{"model":"m"}', model(sets={"o": {"a": 1}, "o.b": 2}), b'{"model":"m","o":{"a":1,"b":2}}'),
        (b'{"model":"m"}', model(sets={"o.a": 1, "o.b": 2}), b'{"model":"m","o":{"a":1,"b":2}}'),
        (b'{"model":"m","o":1}', model(sets={"o": [], "o.-1": 2}), b'{"model":"m","o":[2]}'),
        (b'{"model":"m"}', model(sets={"t": 1, "o.a": 1}, m={"o.a": 3}), b'{"model":"m","o":{"a":3},"t":1}'),
        (b'{"model":"m","l":[1,2,3,4]}', model(strip=("l.1", "l.2")), b'{"model":"m","l":[1,3]}'),
    ],
)  # fmt: skip
def test_edits(body: bytes, config: ModelConfig, expected: bytes) -> None:
    assert edit(body, config) == expected
    assert edit(bytearray(body), config) == expected
    assert edit(memoryview(body), config) == expected
    json.loads(expected.decode("utf-8-sig"))


@pytest.mark.parametrize(
    "config",
    [
        model(),
        model("m"),
        model(strip=("b", "o.x", "l.9", "l.x", "n.x", "o.a.b.c", "-1")),
        model(strip=("model", "model.x", "\\model", "", "e.-1")),
        model(sets={"model": "evil", "model.x": 1, "mode\\l": 2, "": 1}, m={"model": 1}),
        model(sets={"t": 0.5, "o.a": "x"}),
        model(other={"t": 1}),
    ],
)
def test_nothing_to_edit_is_the_very_same_object(config: ModelConfig) -> None:
    raw = b'{"model":"m", "t":0.5,"o":{"a":"x"},"l":[1],"n":null,"e":[]}'
    for body in (raw, bytearray(raw), memoryview(raw)):
        assert edit(body, config) is body


def test_a_long_body_is_edited_alike() -> None:
    text = "Hällo \U0001f600 \\ud800 " * 1000
    body = f'{{"messages":[{{"content":"{text}"}}], "t":1.10,"model":"m","u":1e400}}\n'.encode()
    config = model("u", ("u",), {"t": 2, "messages.0.name": "x"})
    expected = f'{{"messages":[{{"content":"{text}","name":"x"}}], "t":2,"model":"u"}}\n'.encode()
    assert edit(body, config) == expected


def test_the_id_that_was_asked_for_chooses_its_own_params() -> None:
    config = model(sets={"t": 1}, fast={"t": 2, "r": "low"}, slow={"r": "high"})
    body = b'{"model":"x"}'
    assert edit(body, config, "m") == b'{"model":"x","t":1}'
    assert edit(body, config, "fast") == b'{"model":"x","t":2,"r":"low"}'
    assert edit(body, config, "slow") == b'{"model":"x","t":1,"r":"high"}'


def test_numbers_and_escapes_of_siblings_survive() -> None:
    digits = b"9" * 5000
    kept = b'"f":1.0,"e":1E+2,"i":' + digits + b',"s":"\\ud83d\\u00e9\\/","z":-0,"w":\t[ ]'
    body = b'{"model":"m",' + kept + b',"o":{"x":0.10, "y":9007199254740993}}'
    expected = b'{"model":"u",' + kept + b',"o":{"x":0.10, "y":9007199254740993,"z":1}}'
    assert edit(body, model("u", sets={"o.z": 1})) == expected


@pytest.mark.parametrize("key", ["o.x", "o.:0", "l.0.x.y"])
def test_a_name_cannot_be_set_in_an_array(key: str) -> None:
    body = b'{"model":"m","o":[1],"l":[{"x":[]}]}'
    with pytest.raises(BadRequest, match="an object, not an array"):
        edit(body, model(sets={key: 1}))


def test_what_json_cannot_say_is_null() -> None:
    config = model(sets={"a": float("nan"), "b": {"x": [float("inf"), 1.5], "y": (float("-inf"),)}})
    assert edit(b'{"model":"m"}', config) == b'{"model":"m","a":null,"b":{"x":[null,1.5],"y":[null]}}'


def test_a_lone_surrogate_is_escaped() -> None:
    assert edit(b'{"model":"m"}', model(sets={"a": "\ud800"})) == b'{"model":"m","a":"\\ud800"}'


def test_frozen_values_of_a_configuration_are_written() -> None:
    value = MappingProxyType({"a": (1, MappingProxyType({"b": 2})), 3: None})
    assert edit(b'{"model":"m"}', model(sets={"o": value})) == b'{"model":"m","o":{"a":[1,{"b":2}],"3":null}}'


def test_an_edit_leaves_the_parsed_body_as_it_was() -> None:
    body = b'{"a":{"x":1},"model":"m"}'
    parsed = parse(body)
    for _ in range(2):
        assert apply(body, parsed, model("u", ("a.x",)), "m") == b'{"a":{},"model":"u"}'


def test_a_bytearray_can_be_resized_afterwards() -> None:
    body = bytearray(b'{"model":"m"}')
    edited = edit(body, model("u"))
    body.clear()
    assert edited == b'{"model":"u"}'


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a.b.c", ["a", "b", "c"]),
        ("a\\.b", ["a.b"]),
        ("a\\\\.b", ["a\\", "b"]),
        ("a.", ["a", ""]),
        (".a", ["", "a"]),
        ("a:b", ["a:b"]),
        ("", []),
    ],
)
def test_paths(text: str, names: list[str]) -> None:
    assert [part.name for part in parse_path(text)] == names


# -- against a model that edits decoded documents

KEYS = st.sampled_from(["a", "b", "é", "x.y", "0", "1", "-1"])
SCALARS = st.none() | st.booleans() | st.integers(-9, 10**25) | st.floats(-9, 9) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(KEYS, min_size=1, max_size=3)
BLANKS = st.sampled_from(["", "", " ", "\n", "\t \r\n"])


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """`value` as JSON with blanks anywhere and escapes at will."""
    before, after = draw(BLANKS), draw(BLANKS)
    if isinstance(value, dict):
        keys = {k: json.dumps(k, ensure_ascii=draw(st.booleans())) for k in value}
        inner = ",".join(
            f"{draw(BLANKS)}{keys[k]}{draw(BLANKS)}:{draw(written(v))}" for k, v in value.items()
        )
        text = f"{{{inner or draw(BLANKS)}}}"
    elif isinstance(value, list):
        inner = ",".join(draw(written(v)) for v in value)
        text = f"[{inner or draw(BLANKS)}]"
    else:
        text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    return before + text + after


def escape(parts: list[str]) -> str:
    return ".".join(part.replace(".", "\\.") for part in parts)


class Impossible(Exception):
    pass


def model_set(node: Any, parts: list[str], value: Any) -> Any:
    if not parts:
        return copy.deepcopy(value)
    part, rest = parts[0], parts[1:]
    if not isinstance(node, dict | list):
        node = [] if part in ("0", "1", "-1") else {}
    if isinstance(node, dict):
        node[part] = model_set(node.get(part), rest, value)
    elif part == "-1":
        node.append(model_set(None, rest, value))
    elif part.isdigit():
        while len(node) <= int(part):
            node.append(None)
        node[int(part)] = model_set(node[int(part)], rest, value)
    else:
        raise Impossible
    return node


def model_strip(node: Any, parts: list[str]) -> None:
    part, rest = parts[0], parts[1:]
    if isinstance(node, dict) and part in node:
        at: Any = part
    elif isinstance(node, list) and node and (part == "-1" or (part.isdigit() and int(part) < len(node))):
        at = int(part)
    else:
        return
    if rest:
        model_strip(node[at], rest)
    else:
        del node[at]


@given(st.data())
def test_edits_agree_with_edits_of_the_decoded_document(data: st.DataObject) -> None:
    fields = data.draw(st.dictionaries(KEYS, VALUES, max_size=4))
    items = data.draw(st.permutations([*fields.items(), ("model", "m")]))
    document = dict(items)
    body = data.draw(written(document)).encode()
    strips = data.draw(st.lists(PATHS, max_size=3))
    sets = data.draw(st.lists(st.tuples(PATHS, VALUES), max_size=3))
    own = data.draw(st.lists(st.tuples(PATHS, VALUES), max_size=2))
    use = data.draw(st.sampled_from(["", "m", "other"]))

    strip_keys = tuple(sorted({escape(p) for p in strips}))
    set_params = {escape(p): v for p, v in sets}
    own_params = {escape(p): v for p, v in own}
    config = ModelConfig("m", use_model_name=use, filters=Filters(strip_keys, set_params, {"m": own_params}))

    expected: dict[str, Any] | None = copy.deepcopy(document)
    assert expected is not None
    if use:
        expected["model"] = use
    try:
        for key in strip_keys:
            model_strip(expected, [p.name for p in parse_path(key)])
        for params in (set_params, own_params):
            for key, value in sorted(params.items()):
                expected = model_set(expected, [p.name for p in parse_path(key)], value)
    except Impossible:
        expected = None

    parsed = parse(body)
    if expected is None:
        with pytest.raises(BadRequest):
            apply(body, parsed, config, "m")
        return
    result = apply(body, parsed, config, "m")
    assert json.loads(bytes(result)) == expected
    if json.dumps(expected) == json.dumps(document) and not (strip_keys or set_params or own_params):
        assert result is body

    # Top-level members that no edit names keep their bytes, blanks included, and their order.
    touched = {parse_path(k)[0].name for k in (*strip_keys, *set_params, *own_params)}
    touched |= {"model"} if use == "other" else set()
    after = parse(result)

    def untouched(text: bytes, members: Any) -> list[bytes]:
        return [text[m.start : m.end] for m in members if m.key not in touched]

    result = bytes(result)
    assert untouched(result, after.members(result)) == untouched(body, parsed.members(body))
    assert result[: after.start] == body[: parsed.start]
    assert result[after.end :] == body[parsed.end :]


@given(st.data())
def test_siblings_of_a_nested_edit_keep_their_bytes(data: st.DataObject) -> None:
    siblings = data.draw(st.dictionaries(KEYS, VALUES, max_size=4))
    parts = {k: data.draw(written(v)) for k, v in siblings.items()}
    inner = ",".join(f"{json.dumps(k)}:{v}" for k, v in parts.items())
    tail = data.draw(BLANKS)
    if inner:
        inner += ","
    body = f'{{"model":"m","o":{{{inner}"target":1{tail}}},"rest":1.50}}'.encode()
    config = model(sets={"o.target": 2})
    assert edit(body, config) == f'{{"model":"m","o":{{{inner}"target":2{tail}}},"rest":1.50}}'.encode()
    stripped = edit(body, model(strip=("o.target",)))
    assert stripped == f'{{"model":"m","o":{{{inner.removesuffix(",")}}},"rest":1.50}}'.encode()
    added = edit(body, model(sets={"o.new": []}))
    assert added == f'{{"model":"m","o":{{{inner}"target":1{tail},"new":[]}},"rest":1.50}}'.encode()
