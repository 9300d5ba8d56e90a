"""No credential is shown, whatever its header's spelling."""

from __future__ import annotations

import pytest

from llamaswap.config.redact import REDACTED
from llamaswap.observe.redact import is_secret, shown_headers


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "proxy-authorization", "COOKIE", "Set-Cookie", "x-api-key", "api-key", "X-Goog-Api-Key",
        "apiKey", "hf_token", "X-Auth-Token", "client_secret", "password",
        "X-Forwarded-Authorization", "Authentication", "Ocp-Apim-Subscription-Key", "X-Auth", "x-amz-security-token",
    ],
)  # fmt: skip
def test_secrets(name: str) -> None:
    assert is_secret(name)
    assert shown_headers([(name.encode(), b"sk-1"), (name.upper().encode(), b"sk-2")]) == {name.title(): REDACTED}


@pytest.mark.parametrize("name", ["content-type", "x-session-id", "tokens", "max_tokens", "accept", "x-api-keys-used",
    "Sec-WebSocket-Key", "Idempotency-Key", "WWW-Authenticate", "X-Pattern", "Author"])  # fmt: skip
def test_what_is_no_secret(name: str) -> None:
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Bearer hush", f"Bearer {REDACTED}"),
        ("http://me:hush@box/?token=hush&a=1", f"http://me:{REDACTED}@box/?token={REDACTED}"),
        ("curl/8.5 (basic, no keys)", "curl/8.5 (basic, no keys)"),
        ("text/event-stream, application/json;q=0.9", "text/event-stream, application/json;q=0.9"),
    ],
)
def test_credentials_in_what_others_say(value: str, shown: str) -> None:
    assert shown_headers([(b"x-custom", value.encode())]) == {"X-Custom": shown}


def test_headers_as_they_are_shown() -> None:
    raw = [(b"user-agent", b"curl"), (b"ACCEPT", b"a"), (b"accept", b"b"), (b"x-odd", b"\xff")]
    assert shown_headers(raw) == {"User-Agent": "curl", "Accept": "a, b", "X-Odd": "\xff"}
