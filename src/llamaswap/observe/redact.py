"""What must not be shown: credentials in headers. Everything that shows or keeps headers comes through here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llamaswap.config.redact import REDACTED, is_secret_name

_HARMLESS = frozenset(("sec-websocket-key", "idempotency-key"))
_PLAIN = frozenset(("accept", "content-type", "host", "proxy-authenticate", "user-agent", "www-authenticate"))
_ENDS = ("token", "secret", "password", "cookie", "authorization", "jwt-assertion")
# Every repetition begins behind something that it cannot go over: a long value takes no longer than its length.
_WITHIN = re.compile(
    r"((?:(?<![\w-])[\w-]*(?:api[-_]?key|token|secret|password|passwd)|(?<=[?&])(?:key|auth|pass|pwd))=)[^\s&;,<>\"']+"
    r"|((?<!\w)(?:Bearer|Basic)[ \t]+)[^\s,;\"']+"
    r"|((?<![\w-])[\w-]*api-key\.)[^\s,]+"  # in Sec-WebSocket-Protocol, where browsers cannot set headers
    r"|(://[^\s/?#@:\"']*:)[^\s/?#\"']+(?=@)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Whether a header of this name holds a credential; case does not matter."""
    low = name.lower()
    return (is_secret_name(name) or low.endswith(_ENDS)) and low not in _HARMLESS


def _redacted(match: re.Match[str]) -> str:
    return f"{match[match.lastindex or 0]}{REDACTED}"


def shown_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Raw header pairs as events and captures show them: `{"User-Agent": "..."}`, secrets redacted.

    In what else they say, credentials are taken out as from a configuration: `Bearer X`, `?token=X`, an address's
    password. Names in the usual spelling whatever the client wrote (HTTP/2 has only small letters), and a
    repeated header's values joined with a comma. Never raises: bytes are read as latin-1.
    """
    shown: dict[str, str] = {}
    for raw_name, raw_value in headers:
        spelt = raw_name.decode("latin-1")
        name = spelt.title()
        if is_secret(spelt):
            shown[name] = REDACTED
        else:
            value = raw_value.decode("latin-1")
            if spelt.lower() not in _PLAIN:
                value = _WITHIN.sub(_redacted, value)
            shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown
