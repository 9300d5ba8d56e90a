"""What must not be shown: credentials in headers. Everything that shows or keeps headers comes through here."""

from __future__ import annotations

import re
from collections.abc import Iterable

from llamaswap.config.redact import REDACTED, is_secret_name, without_credentials

_HARMLESS = frozenset(("sec-websocket-key", "idempotency-key"))
_HINT = re.compile("bearer|basic|token|key|secret|pass|pwd|pat|auth|credential|://", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether a header of this name holds a credential; case does not matter."""
    return is_secret_name(name) and name.lower() not in _HARMLESS


def shown_headers(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Raw header pairs as events and captures show them: `{"User-Agent": "..."}`, secrets redacted.

    In what else they say, credentials are taken out as from a configuration: `Bearer X`, `?token=X`, an address's
    password. Names in the usual spelling whatever the client wrote (HTTP/2 has only small letters), and a
    repeated header's values joined with a comma. Never raises: bytes are read as latin-1.
    """
    shown: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1").title()
        if is_secret(name):
            shown[name] = REDACTED
        else:
            value = raw_value.decode("latin-1")
            if _HINT.search(value):
                value = without_credentials(value)
            shown[name] = f"{shown[name]}, {value}" if name in shown else value
    return shown
