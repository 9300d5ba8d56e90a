"""What must not be shown: credentials in headers. Everything that shows or keeps headers comes through here."""

from __future__ import annotations

import re
from collections.abc import Iterable

REDACTED = "[REDACTED]"
"""What stands in place of a secret, as llama-swap writes it."""

_SECRET = re.compile(
    r"authorization|proxy-authorization|cookie|set-cookie|(.*[-_])?(api[-_]?key|token|secret|password)", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Whether a header (or a setting) of this name holds a credential; case does not matter."""
    return _SECRET.fullmatch(name) is not None


def shown_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Raw header pairs as events and captures show them: `{"User-Agent": "..."}`, secrets redacted.

    Names in the usual spelling whatever the client wrote (HTTP/2 has only small letters), and a
    repeated header's values joined with a comma. Never raises: bytes are read as latin-1.
    """
    shown: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").title()
        if is_secret(name):
            shown[name] = REDACTED
        else:
            value = raw_value.decode("latin-1")
            shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown
