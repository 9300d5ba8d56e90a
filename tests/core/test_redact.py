"""No credential is shown, whatever its header's spelling."""

from __future__ import annotations

import pytest

from llamaswap.observe.redact import REDACTED, is_secret, shown_headers


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "proxy-authorization", "COOKIE", "Set-Cookie", "x-api-key", "api-key", "X-Goog-Api-Key",
        "apiKey", "hf_token", "X-Auth-Token", "client_secret", "password",
    ],
)  # fmt: skip
def test_secrets(name: str) -> None:
    assert is_secret(name)
    assert shown_headers([(name.encode(), b"sk-1"), (name.upper().encode(), b"sk-2")]) == {name.title(): REDACTED}


@pytest.mark.parametrize("name", ["content-type", "x-session-id", "tokens", "max_tokens", "accept", "x-api-keys-used"])
def test_what_is_no_secret(name: str) -> None:
    assert not is_secret(name)


def test_headers_as_they_are_shown() -> None:
    raw = [(b"user-agent", b"curl"), (b"ACCEPT", b"a"), (b"accept", b"b"), (b"x-odd", b"\xff")]
    assert shown_headers(raw) == {"User-Agent": "curl", "Accept": "a, b", "X-Odd": "\xff"}
