"""What a configuration value can be: the vocabulary in which `schema.py` is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Text:
    """Text; numbers and booleans are taken as written."""

    choices: tuple[str, ...] = ()
    """For editors only; what else happens to an unlisted value is decided where it is used."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number."""

    minimum: int | None = None
    maximum: int | None = None
    too_small: str = ""
    """Message instead of `<key> must be >= <minimum>`."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """A time in seconds, fractions allowed; with `words` also as Go writes durations (1m30s)."""

    minimum: float | None = None
    words: bool = False
    zero: bool = True


@dataclass(frozen=True, slots=True)
class Amount:
    """A number above zero, or from zero on."""

    zero: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false (or yes/no, on/off, as Go's YAML reader takes them)."""


@dataclass(frozen=True, slots=True)
class ListOf:
    item: Text
    commas: bool = False
    """Also one text with commas between the items."""
    secret: bool = False
    """Not to be shown in messages."""


@dataclass(frozen=True, slots=True)
class MapOf:
    value: Kind
    of: str = "name"
    """What the keys are, for docs."""


@dataclass(frozen=True, slots=True)
class Json:
    """A mapping with anything in it that JSON can carry."""


@dataclass(frozen=True, slots=True)
class Macros:
    """A mapping of macro names to scalars; `macros.py` reads it."""


@dataclass(frozen=True, slots=True)
class Anything:
    """Not looked into."""


@dataclass(frozen=True, slots=True)
class Section:
    keys: tuple[Key, ...]

    def get(self, name: str) -> Key | None:
        return next((key for key in self.keys if key.name == name), None)


Kind = Text | Whole | Seconds | Amount | Flag | ListOf | MapOf | Json | Macros | Anything | Section


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    kind: Kind
    doc: str
    default: Any = None
    status: Literal["supported", "later", "refused", "ignored", "legacy"] = "supported"
    """later: accepted with a warning; refused: an error; ignored: accepted, no effect, llama-swap's own;
    legacy: an older spelling of another key."""


def json_schema(kind: Kind) -> dict[str, Any]:
    """The JSON schema (draft 7) of a kind. Any value may be a macro instead."""
    match kind:
        case Text():
            schema: dict[str, Any] = {"type": ["string", "number", "boolean"]}
            if kind.choices:
                schema = {"anyOf": [{"enum": list(kind.choices)}, _MACRO]}
        case Whole():
            number: dict[str, Any] = {"type": "integer"}
            if kind.minimum is not None:
                number["minimum"] = kind.minimum
            if kind.maximum is not None:
                number["maximum"] = kind.maximum
            schema = {"anyOf": [number, _MACRO]}
        case Seconds():
            number = {"type": "number"}
            if kind.minimum is not None:
                number["minimum" if kind.zero else "exclusiveMinimum"] = kind.minimum
            text = {"type": "string", "pattern": r"^([0-9.]+(ns|us|µs|ms|s|m|h))+$"}
            schema = {"anyOf": [number, *([text] if kind.words else []), _MACRO]}
        case Amount():
            schema = {"anyOf": [{"type": "number", "minimum" if kind.zero else "exclusiveMinimum": 0}, _MACRO]}
        case Flag():
            schema = {"anyOf": [{"type": "boolean"}, _MACRO]}
        case ListOf():
            items = {"type": "array", "items": json_schema(kind.item)}
            schema = {"anyOf": [{"type": "string"}, items]} if kind.commas else items
        case MapOf():
            schema = {"type": "object", "additionalProperties": _or_null(json_schema(kind.value))}
        case Json():
            schema = {"type": "object"}
        case Macros():
            names = {"pattern": "^[a-zA-Z0-9_-]{1,63}$", "not": {"enum": ["PID", "PORT", "MODEL_ID"]}}
            values = {"type": ["string", "number", "boolean"]}
            schema = {"type": "object", "propertyNames": names, "additionalProperties": values}
        case Anything():
            schema = {}
        case Section():
            properties = {key.name: key_schema(key) for key in kind.keys if key.status != "refused"}
            schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema


def key_schema(key: Key) -> dict[str, Any]:
    schema = _or_null(json_schema(key.kind))
    schema["description"] = key.doc
    if key.default is not None:
        schema["default"] = key.default
    return schema


_MACRO = {"type": "string", "pattern": r"\$\{[a-zA-Z0-9_.-]+\}"}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A key that has nothing after its colon is as absent."""
    if not schema:
        return {}
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    types = schema["type"]
    return {**schema, "type": [*(types if isinstance(types, list) else [types]), "null"]}
