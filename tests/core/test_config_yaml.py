"""YAML reading: scalars as in YAML 1.2, lines, duplicates, anchors, merge keys, and hostile files."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config import tree
from llamaswap.config.report import Report
from llamaswap.config.tree import Map, Node, Scalar, Seq


def plain(node: Node | None) -> Any:
    if isinstance(node, Map):
        return {name: plain(entry.node) for name, entry in node.entries.items()}
    if isinstance(node, Seq):
        return [plain(item) for item in node.items]
    assert isinstance(node, Scalar)
    return node.value


def read(text: str) -> Any:
    report = Report("f")
    node = tree.parse(text, report)
    assert report.problems() == []
    return plain(node)


def problems(text: str) -> list[tuple[int | None, str]]:
    report = Report("f")
    tree.parse(text, report)
    return [(p.line, p.message) for p in report.problems()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("", None), ("~", None), ("null", None), ("Null", None), ("NULL", None), ("nULL", "nULL")),
        *(("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRue", "tRue")),
        *(("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("NO", "NO")),
        *(("0", 0), ("-7", -7), ("+7", 7), ("010", 10), ("0o17", 15), ("0x1F", 31), ("0b11", "0b11")),
        *(("1_000", "1_000"), ("22:22", "22:22"), ("1:30:00", "1:30:00"), ("2024-05-01", "2024-05-01")),
        *(("1.5", 1.5), ("-.5", -0.5), ("1.", 1.0), ("1e3", 1000.0), ("1E-2", 0.01), (".inf", math.inf)),
        *(("-.INF", -math.inf), ("=", "="), ("1.2.3", "1.2.3"), ("0x", "0x"), ("-", "-"), (".", ".")),
        ("9" * 5000, "9" * 5000),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_a_plain_scalar_is_what_yaml_1_2_says(text: str, value: object) -> None:
    assert tree.resolve(text) == value
    assert type(tree.resolve(text)) is type(value)


def test_not_a_number_is_a_float() -> None:
    number = tree.resolve(".nan")
    assert isinstance(number, float)
    assert math.isnan(number)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: '5'", {"a": "5"}),
        ('a: "true"', {"a": "true"}),
        ("a: !!str 5", {"a": "5"}),
        ('a: !!int "5"', {"a": 5}),
        ("a: !!float 5", {"a": 5.0}),
        ("a: !custom 5", {"a": "5"}),
        ("a: ! 5", {"a": "5"}),
        ("5: x\ntrue: y\n~: z", {"5": "x", "true": "y", "~": "z"}),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("a: >\n  x\n  y\n", {"a": "x y\n"}),
        ("{a: [1, {b: c}], d: }", {"a": [1, {"b": "c"}], "d": None}),
        ("a: 🦙\nb: né", {"a": "🦙", "b": "né"}),
        ("", None),
        ("# only a comment", None),
        ("---\na: 1\n...\n", {"a": 1}),
        ('"<<": {a: 1}', {"<<": {"a": 1}}),
    ],
)
def test_documents(text: str, value: object) -> None:
    assert read(text) == value


def test_every_value_keeps_its_line() -> None:
    node = tree.parse("a: 1\n\nb:\n  - x\n  # c\n  - y: |\n      z\n", Report("f"))
    assert isinstance(node, Map)
    assert node.entries["b"].line == 3
    items = node.entries["b"].node
    assert isinstance(items, Seq)
    assert [item.line for item in items.items] == [4, 6]
    inner = items.items[1]
    assert isinstance(inner, Map)
    text = inner.entries["y"].node
    assert isinstance(text, Scalar)
    assert (text.line, text.literal) == (6, True)


def test_a_duplicate_key_is_refused_with_both_lines_wherever_it_is() -> None:
    found = problems("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n")
    assert found == [
        (5, "b.c: key 'c' is given twice, on lines 3 and 5; keep one"),
        (6, "a: key 'a' is given twice, on lines 1 and 6; keep one"),
    ]


@pytest.mark.parametrize("text", ["'a': 1\na: 2", "1: x\n'1': y", "{a: 1, a: 2}", "<<: {a: 1}\n<<: {b: 1}"])
def test_keys_that_read_the_same_are_duplicates(text: str) -> None:
    assert len(problems(text)) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}", {"a": 1, "b": 3}),
        ("x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}", {"a": 1, "b": 3}),
        ("x: [&p {a: 1}, &q {a: 2, b: 2}]\ny: {<<: [*p, *q]}", {"a": 1, "b": 2}),
        ("x: &x {a: 1}\nz: &z {<<: *x, b: 2}\ny: {<<: *z}", {"a": 1, "b": 2}),
        ("y: {<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
        ("x: &x [1, 2]\ny: {a: *x}", {"a": [1, 2]}),
        ("x: &x 1\nx2: &x 2\ny: {a: *x}", {"a": 2}),
        ("x: &x a\ny: {*x : 1}", {"a": 1}),
    ],
)
def test_anchors_and_merge_keys(text: str, value: object) -> None:
    assert read(text)["y"] == value


@pytest.mark.parametrize(
    ("text", "line", "phrase"),
    [
        ("a: 1\nb: *nope\n", 2, "unknown anchor: no &name before this *name"),
        ("a: &a\n  b: *a\n", 2, "inside its own anchor"),
        ("a: 1\nb:\n  <<: 5\n", 3, "<< takes a mapping"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key must be text"),
        ("a: 1\nb: !!int x\n", 2, "!!int does not fit"),
        ("a: 1\nb:\n\tc: 1\n", 3, "indented with a tab"),
        ("a:\n  b: 1\n\tc: 2\n", 3, "indented with a tab"),
        ("a: 1\nb: c: d\n", 2, "mapping values are not allowed"),
        ("a: 1\nb: 'x\n", 3, "not valid YAML"),
        ("a: 1\nb: [1, 2\nc: 3\n", 3, "not valid YAML"),
        ("a: 1\nb\nc: 1\n", 3, "not valid YAML"),
        ("a: 1\nb: \x07\n", 2, "U+0007 is not allowed"),
        ("a: 1\nb: %x\n", 2, "not valid YAML"),
        ("a: @x\n", 1, "not valid YAML"),
        ('a: "\\q"\n', 1, "not valid YAML"),
    ],
)
def test_what_yaml_does_not_allow_is_a_problem_with_its_line(text: str, line: int, phrase: str) -> None:
    [(found_line, message)] = problems(text)
    assert phrase in message
    assert found_line == line


def test_only_the_first_document_is_read_with_a_warning() -> None:
    report = Report("f")
    assert plain(tree.parse("a: 1\n---\nb: 2\n", report)) == {"a": 1}
    assert [(w.line, "first YAML document" in w.message) for w in report.warnings()] == [(2, True)]


def test_a_billion_laughs_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    [(line, message)] = problems("\n".join(lines))
    assert "too large" in message
    assert line == 6


def test_merge_keys_that_multiply_are_refused() -> None:
    big = "x: &x {" + ", ".join(f"k{n}: {n}" for n in range(2000)) + "}\n"
    text = big + "y: {<<: [" + ", ".join(["*x"] * 500) + "]}\n"
    [(line, message)] = problems(text)
    assert "too large" in message
    assert line == 2


def test_deep_nesting_is_refused() -> None:
    assert "levels deep" in problems("a: " + "[" * 5000)[0][1]
    assert "levels deep" in problems("a: " + "{x: " * 5000)[0][1]


def test_a_large_honest_file_is_read() -> None:
    text = "models:\n" + "".join(f"  m{n}:\n    cmd: server --n {n}\n    ttl: {n}\n" for n in range(2000))
    assert len(read(text)["models"]) == 2000


def test_without_libyaml_it_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert read("a: &a {x: 1}\nb: {<<: *a, y: 'z'}\nc: |\n  t\n") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": "z"},
        "c": "t\n",
    }


_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x10FFFF, exclude_categories=("C", "Z")) | st.just(" "))
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=4),
    max_leaves=12,
)


@given(_json)
def test_json_is_yaml(value: object) -> None:
    text = json.dumps({"a": value}, ensure_ascii=False)
    got = read(text)["a"]
    assert got == value or json.dumps(got) == json.dumps(value)


@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,?~0 \n\t", max_size=60))
def test_no_text_makes_it_raise(text: str) -> None:
    report = Report("f")
    node = tree.parse(text, report)
    assert (node is None) == bool([p for p in report.problems() if "given twice" not in p.message])
