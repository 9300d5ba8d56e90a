"""Secrets out of configurations before anybody is shown them.

Two ways, since neither finds everything: what is known to be a secret (an API key, the value of a variable
or macro named like one) is taken out wherever it stands, and in commands and files whatever follows a name
that says so (`--api-key X`, `HF_TOKEN=X`, `password: X`, `Bearer X`), and passwords in addresses.
References (`${env.KEY}`) stay: they tell nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llamaswap.config import tree
from llamaswap.config.env import PATTERN
from llamaswap.config.report import Report
from llamaswap.config.settings import Config
from llamaswap.config.sources import Source
from llamaswap.config.tree import Map, Node, Scalar, Seq

REDACTED = "[REDACTED]"
LEAST_CHARS = 4  # shorter values stand in too many places that have nothing to do with them

_WORDS = r"(?:api[-_]?keys?|token|secrets?|passw(?:or)?d|passphrase|credentials?)"
_SHORT = r"(?:pass|pwd|pat|auth)"  # parts of other words as well
_PLAIN = r"(?:authori[sz]ation|authentication|cookie)"
_NAME = re.compile(
    rf"(?:.*[-_.])?(?:{_WORDS}|{_SHORT}|{_PLAIN})|.*[-_]key|(?-i:.*[a-z](?:Token|Key|Secret|Password|Pass))",
    re.IGNORECASE,
)
# A reference's name is bounded, so that a text full of them that do not end takes no longer than any other.
_VALUE = (
    r"(?:\\\"[^\"\\]*\\\"|\"(?:\\.|[^\"\\])*\"|'(?:[^']|'')*'"
    r"|(?:\$\{[A-Za-z0-9_.-]{0,200}\}|\[REDACTED\]|[^\s\"',\]}\\]|\\(?!\"))+)"
)
_LETTER = "[A-Za-z0-9_.-]"
_GIVEN = r"\\?[\"']?[ \t]*[=:][ \t]*"
_FOLLOWS = re.compile(
    rf"((?<!{_LETTER}){_LETTER}*{_WORDS}(?:{_GIVEN}|[\"']?[ \t]+(?!-))"
    rf"|(?<!{_LETTER})(?:(?:{_LETTER}*[-_.])?{_SHORT}|{_LETTER}*[-_]key){_GIVEN}"
    rf"|(?<!\S)--(?:(?:{_LETTER}*[-_.])?{_SHORT}|{_LETTER}*[-_]key)[ \t]+(?!-)"
    rf"|\b(?:Bearer|Basic)[ \t]+)({_VALUE})",
    re.IGNORECASE,
)
_HEADER = re.compile(
    rf"(\b{_PLAIN}:[ \t]*+)(?!(?:Bearer|Basic)\b|\$\{{|\[REDACTED\])[^\"'\n,}}\]]+", re.IGNORECASE
)
_HARMLESS = re.compile(r"(?:.*\W)?-*(?:add_)?(?:bos|eos|eot|pad|sep|unk|cls|mask)[-_]token\W*", re.IGNORECASE)
_IN_URL = re.compile(r"(://[^\s/?#@:\"']*:)(?!\$\{)[^\s/?#\"']+(?=@)")  # scheme://user:password@host
_REFERENCE = re.compile(r"[\"']?(?:\$\{[A-Za-z0-9_.-]+\})+[\"']?")
_NO_SECRETS = frozenset(("true", "false", "null", "none"))
_NO_TEXT = re.compile(r"[{|>*#]|(?:true|false|null|~)?[ ]*(?:#.*)?$", re.IGNORECASE)  # behind a key
_OFF_ITEM = re.compile(r"#+[ ]*-[ ]")  # of a list, commented out
_KEY_LINE = re.compile(r"((?:[ ]|-[ ])*)[\"']?([A-Za-z0-9_.-]+)[\"']?[ ]*:[ ]*(.*)")
_ITEM = re.compile(rf"\[REDACTED\]|{_VALUE}")


def is_secret_name(name: str) -> bool:
    """Whether a key, variable, macro or flag of this name holds a credential."""
    return _NAME.fullmatch(name.strip().lstrip("-")) is not None


class Redactor:
    """Takes the secrets of these files and of this configuration out of texts."""

    def __init__(self, sources: Sequence[Source], config: Config, environ: Mapping[str, str] = os.environ) -> None:
        """`environ`: where `${env.X}` was looked up."""
        known = set(config.api_keys)
        for model in config.models.values():
            known.update(v for n, _, v in (entry.partition("=") for entry in model.env) if is_secret_name(n))
            known.update(_after_flags(model.argv))
        for source in sources:
            known.update(environ.get(name, "") for name in PATTERN.findall(source.text) if is_secret_name(name))
            root = tree.parse(source.text, Report(source.file))
            if root is not None:
                known.update(_secrets(root, secret=False))
        self._known = sorted((v for v in known if len(v) >= LEAST_CHARS and "${" not in v), key=len, reverse=True)

    def text(self, text: str) -> str:
        """A command, a message, a file."""
        for value in self._known:
            text = text.replace(value, REDACTED)
        text = _HEADER.sub(rf"\1{REDACTED}", _FOLLOWS.sub(_redacted, _blocks(text)))
        return _IN_URL.sub(rf"\1{REDACTED}", text)

    def value(self, value: Any, name: str = "") -> Any:
        """What JSON can carry, all texts in it redacted, and whatever has the name of a secret."""
        if isinstance(value, dict):
            return {key: self.value(item, key) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, name) for item in value]
        if is_secret_name(name) and value not in (None, "", True, False):
            return REDACTED
        return self.text(value) if isinstance(value, str) else value


def _redacted(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    begins = value.removeprefix(REDACTED)[:1]  # a secret that is known may be the beginning of one that is not
    if not begins or begins in "[{|>" or _REFERENCE.fullmatch(value) or value[1:-1] == REDACTED:
        return match[0]
    if value.lower() in _NO_SECRETS or _HARMLESS.fullmatch(name):
        return match[0]
    if value.startswith('\\"'):
        return f'{name}\\"{REDACTED}\\"'
    quote = value[0] if value[0] in "\"'" else ""
    return f"{name}{quote}{REDACTED}{quote}"


def _blocks(text: str) -> str:
    """What stands behind and below a key that is named like a secret, of a file that need not be valid."""
    lines = text.split("\n")
    depth: int | None = None
    for i, line in enumerate(lines):
        start = line.lstrip(" ")
        indent = len(line) - len(start)
        key = _KEY_LINE.fullmatch(line)
        if not start:
            continue
        if depth is not None and (indent > depth or (indent == depth and start[0] in "-]")):
            if _OFF_ITEM.match(start):
                lines[i] = line[: indent + 1] + _items(start[1:])
            elif key is None:
                lines[i] = _items(line)
        elif key is not None and is_secret_name(key[2]):
            depth = indent
            if not _NO_TEXT.match(key[3]):
                lines[i] = line[: key.start(3)] + _items(key[3])
        else:
            depth = None
    return "\n".join(lines)


def _items(line: str) -> str:
    """All values of a list, whether it is written with dashes or in brackets; comments are left out."""
    code, hash, comment = line.partition(" #")
    return _ITEM.sub(_redacted_item, code) + hash + comment


def _redacted_item(match: re.Match[str]) -> str:
    value = match[0].lstrip("[")
    if not value or value in ("-", REDACTED[1:]) or value[0] == "#" or _REFERENCE.fullmatch(value):
        return match[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{match[0][: len(match[0]) - len(value)]}{quote}{REDACTED}{quote}"


def _after_flags(argv: Iterable[str]) -> list[str]:
    found: list[str] = []
    secret = False
    for word in argv:
        name, equals, value = word.partition("=")
        if secret and not word.startswith("-"):
            found.append(word)
        secret = not equals and word.startswith("-") and is_secret_name(word)
        if equals and is_secret_name(name):
            found.append(value)
    return found


def _secrets(node: Node, *, secret: bool) -> list[str]:
    """The values below a key that is named like a secret."""
    if isinstance(node, Scalar):
        return [line.strip() for line in node.text.splitlines()] if secret else []
    if isinstance(node, Seq):
        return [value for item in node.items for value in _secrets(item, secret=secret)]
    assert isinstance(node, Map)
    return [
        value
        for name, entry in node.entries.items()
        for value in _secrets(entry.node, secret=secret or is_secret_name(name))
    ]
