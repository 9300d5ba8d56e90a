"""One table of keys: config-schema.json is generated from it, config.example.yaml documents all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from llamaswap.config import load
from llamaswap.config.kinds import Key, MapOf, Section
from llamaswap.config.schema import ROOT, config_schema, render

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "config.example.yaml"


def keys(section: Section) -> Iterator[Key]:
    for key in section.keys:
        yield key
        kind: Any = key.kind
        while isinstance(kind, MapOf):
            kind = kind.value
        if isinstance(kind, Section):
            yield from keys(kind)


def validator() -> Any:
    schema = config_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def test_the_schema_file_is_the_tables() -> None:
    written = (REPOSITORY / "config-schema.json").read_text(encoding="utf-8")
    assert written == render(), "run scripts/make_schema.py"


def test_every_key_says_what_it_is() -> None:
    for key in keys(ROOT):
        assert re.search(r"[.)]$", key.doc), key.name


def test_the_example_loads_without_a_warning() -> None:
    config = load(EXAMPLE, environ={})
    assert config.warnings == ()
    assert len(config.models) == 3


def test_the_example_shows_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    for key in keys(ROOT):
        if key.status == "supported":
            assert re.search(rf"^\s*{re.escape(key.name)}:", text, re.MULTILINE), key.name
        else:
            assert re.search(rf"\b{re.escape(key.name)}\b", text), key.name


def test_the_example_fits_the_schema() -> None:
    validator().validate(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("models: {a: {cmd: x, ttl: 5}}", True),
        ("models: {a: {ttl: '${t}'}}", True),
        ("models: {a: {ttl: soon}}", False),
        ("models: {a: {aliases: x}}", False),
        ("models: {a: }", True),
        ("models: ", True),
        ("logLevel: debug", True),
        ("logLevel: loud", False),
        ("startPort: 0", False),
        ("startPort: 70000", False),
        ("unknownKey: 1", False),
        ("matrix: {}", False),
        ("store: {path: x}", True),
        ("macros: {PORT: 1}", False),
        ("macros: {a: [1]}", False),
        ("macros: {a: 1.5, b: x, c: true}", True),
        ("models: {a: {filters: {stripParams: 'a,b'}}}", True),
        ("models: {a: {filters: {stripParams: [a, b]}}}", True),
        ("routing: {scheduler: {settings: {fifo: {maxWait: 1m30s}}}}", True),
        ("routing: {scheduler: {settings: {fifo: {maxWait: 30}}}}", True),
        ("routing: {scheduler: {settings: {fifo: {maxWait: 0}}}}", False),
        ("routing: {scheduler: {settings: {fifo: {maxWait: long}}}}", False),
        ("apiKeys: [a, 5]", True),
    ],
)
def test_what_editors_underline(text: str, fits: bool) -> None:
    assert validator().is_valid(yaml.safe_load(text)) is fits
