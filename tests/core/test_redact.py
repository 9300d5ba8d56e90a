"""No credential is shown, whatever its header's spelling."""

from __future__ import annotations

import pytest
from hanging import must_end

from llamaswap.config.redact import REDACTED
from llamaswap.observe.redact import is_secret, shown_headers


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "proxy-authorization", "COOKIE", "Set-Cookie", "x-api-key", "api-key", "X-Goog-Api-Key",
        "apiKey", "hf_token", "X-Auth-Token", "client_secret", "password",
        "accessToken", "X-AuthToken", "x-sessiontoken", "Cf-Access-Jwt-Assertion",
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
        ("http://me:hush@box/?token=hush&a=1", f"http://me:{REDACTED}@box/?token={REDACTED}&a=1"),
        ("http://box/?key=hush", f"http://box/?key={REDACTED}"),
        ("chat, openai-insecure-api-key.hush", f"chat, openai-insecure-api-key.{REDACTED}"),
        ('<http://box/?token=hush>; rel="next"', f'<http://box/?token={REDACTED}>; rel="next"'),
        ("a key=value that is none", "a key=value that is none"),
        ("text/event-stream, application/json;q=0.9", "text/event-stream, application/json;q=0.9"),
    ],
)
def test_credentials_in_what_others_say(value: str, shown: str) -> None:
    assert shown_headers([(b"x-custom", value.encode())]) == {"X-Custom": shown}


@pytest.mark.parametrize("name", ["User-Agent", "WWW-Authenticate"])
def test_where_there_is_none_nothing_is_taken_out(name: str) -> None:
    value = 'Basic realm="x", Basic Browser 1.0 (token=ring)'
    assert shown_headers([(name.encode(), value.encode())]) == {name.title(): value}


@pytest.mark.parametrize("piece", ["${", "a", "a-", "token=", "api-key.", "Bearer ", "://a:", "://", "?", "key="])
def test_no_header_takes_long(piece: str) -> None:
    for value in (f"token={piece * 150_000}", piece * 150_000):
        with must_end():
            [shown] = shown_headers([(b"x-a", value.encode())]).values()
        assert shown.startswith(f"token={REDACTED}") or not value.startswith("token=")


def test_headers_as_they_are_shown() -> None:
    raw = [(b"user-agent", b"curl"), (b"ACCEPT", b"a"), (b"accept", b"b"), (b"x-odd", b"\xff")]
    assert shown_headers(raw) == {"User-Agent": "curl", "Accept": "a, b", "X-Odd": "\xff"}
