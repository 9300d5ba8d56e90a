"""Keys, pre-flight answers and the guard of control routes, on plain header pairs."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.web.access import check_key, guard_control, is_local_name, is_public, preflight, unauthorized

KEYS = ("sk-one", "schlüssel")
HeaderList = list[tuple[bytes, bytes]]


def basic(text: str) -> bytes:
    return b"Basic " + b64encode(text.encode())


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Authorization", b"Bearer sk-one")],
        [(b"authorization", b"bearer   sk-one ")],
        [(b"AUTHORIZATION", basic("anyone:sk-one"))],
        [(b"authorization", basic(":sk-one"))],
        [(b"authorization", basic("user:schlüssel"))],
        [(b"X-API-Key", b"sk-one")],
        [(b"x-api-key", "schlüssel".encode())],
        [(b"authorization", b"Bearer wrong"), (b"x-api-key", b"sk-one")],
        [(b"x-api-key", b"wrong"), (b"authorization", b"Bearer sk-one")],
        [(b"authorization", b"Bearer wrong"), (b"authorization", basic("u:sk-one"))],
        [(b"authorization", b"Basic ###"), (b"x-api-key", b"sk-one")],
    ],
)
def test_any_valid_credential_passes(headers: HeaderList) -> None:
    assert check_key(headers, KEYS)
    assert check_key(headers, list(KEYS))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer sk-on")],
        [(b"authorization", b"Bearer sk-one2")],
        [(b"authorization", b"sk-one")],
        [(b"authorization", b"Digest sk-one")],
        [(b"authorization", b"Basic sk-one")],
        [(b"authorization", b"Basic not base64!")],
        [(b"authorization", b"Basic \xff\xfe")],
        [(b"authorization", basic("sk-one"))],
        [(b"authorization", basic("sk-one:"))],
        [(b"authorization", basic("u:x:sk-one"))],
        [(b"x-api-key", b"")],
        [(b"x-api-keys", b"sk-one")],
        [(b"cookie", b"sk-one")],
    ],
)
def test_anything_else_does_not(headers: HeaderList) -> None:
    assert not check_key(headers, KEYS)


def test_no_keys_no_check() -> None:
    assert check_key([], ())


def test_a_password_may_hold_colons() -> None:
    assert check_key([(b"authorization", basic("u:a:b"))], ("a:b",))


@given(st.binary(max_size=60))
def test_garbage_is_only_invalid(value: bytes) -> None:
    assert not check_key([(b"authorization", b"Basic " + value), (b"authorization", value)], ("k" * 80,))


@pytest.mark.parametrize("path", ["/", "/health", "/wol-health", "/favicon.ico", "/upstream", "/ui", "/ui/a/b.js"])
def test_public_paths(path: str) -> None:
    assert is_public(path)


@pytest.mark.parametrize(
    "path",
    ["/running", "/unload", "/logs", "/v1/models", "/models", "/api/version", "/uix", "//", "/health/", ""],
)
def test_everything_else_asks_for_a_key(path: str) -> None:
    assert not is_public(path)


@pytest.mark.parametrize(
    ("headers", "challenged"),
    [
        ([], True),
        ([(b"Sec-Fetch-Site", b"same-origin"), (b"Sec-Fetch-Mode", b"cors")], False),
        ([(b"Sec-Fetch-Site", b"same-origin"), (b"Sec-Fetch-Mode", b"navigate")], True),
        ([(b"Sec-Fetch-Site", b"none"), (b"Sec-Fetch-Mode", b"navigate")], True),
        ([(b"Sec-Fetch-Site", b"cross-site"), (b"Sec-Fetch-Mode", b"cors")], True),
        ([(b"X-Requested-With", b"XMLHttpRequest")], False),
    ],
)
def test_the_password_dialogue(headers: HeaderList, challenged: bool) -> None:
    error = unauthorized(headers)
    assert error.status == 401
    assert bool(error.headers) is challenged


def test_preflight_echoes_valid_names_only() -> None:
    asked = [
        (
            b"Access-Control-Request-Headers",
            b"content-type, x-stainless-os,bad name, ,a:b, x\r\ny,authorization",
        )
    ]
    got = dict(preflight(asked))
    assert got[b"Access-Control-Allow-Origin"] == b"*"
    assert got[b"Access-Control-Allow-Headers"] == b"content-type, x-stainless-os, authorization"
    assert got[b"Access-Control-Allow-Methods"] == b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
    assert got[b"Access-Control-Max-Age"] == b"86400"


def test_preflight_without_names_and_for_control_routes() -> None:
    assert b"Authorization" in dict(preflight([]))[b"Access-Control-Allow-Headers"]
    closed = preflight([(b"access-control-request-headers", b"x-a")], wildcard=False)
    assert not [name for name, _ in closed if name.lower().startswith(b"access-control")]


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "localhost.", "app.localhost:1", "127.0.0.1", "127.0.0.1:8080",
        "192.168.1.7:80", "0.0.0.0:8080", "[::1]", "[::1]:8080", "[fe80::1%25eth0]:8080",
        "swap.example.org", "Swap.Example.ORG:443", "swap.example.org.",
    ],
)  # fmt: skip
def test_hosts_of_our_own(host: str) -> None:
    assert is_local_name(host, ["swap.example.org:443"])
    assert guard_control([(b"Host", host.encode())], "POST", ["swap.example.org"]) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8080", "localhost.evil.example", "notlocalhost",
        "127.0.0.1.evil.example", "127.0.0.1.nip.io", "xswap.example.org", "swap.example.org.evil",
        "", ":8080", "[", "2130706433",
        "a b",
    ],
)  # fmt: skip
def test_foreign_hosts(host: str) -> None:
    error = guard_control([(b"host", host.encode())], "GET", ["swap.example.org", ""])
    assert error is not None
    assert error.status == 403
    assert "allowedHosts" in error.message


def test_one_foreign_host_among_two() -> None:
    assert guard_control([(b"host", b"localhost"), (b"host", b"evil.example")], "GET", []) is not None


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("site", "passes"), [("cross-site", False), ("same-site", True), ("same-origin", True), ("none", True)]
)
def test_fetch_metadata(method: str, site: str, passes: bool) -> None:
    headers = [(b"Host", b"localhost:8080"), (b"sec-fetch-site", site.encode())]
    assert (guard_control(headers, method, []) is None) is passes


@pytest.mark.parametrize(
    ("method", "host", "origin", "passes"),
    [
        ("POST", "192.168.1.7:8080", "http://192.168.1.7:8080", True),
        ("POST", "[fd00::7]:8080", "http://[fd00::7]:8080", True),
        ("POST", "192.168.1.7", "https://192.168.1.7:8443", True),
        ("POST", "192.168.1.7:8080", "http://evil.example", False),
        ("POST", "192.168.1.7:8080", "null", False),
        ("POST", "192.168.1.7:8080", "http://[", False),
        ("GET", "192.168.1.7:8080", "http://evil.example", True),
        ("POST", "127.0.0.1:8080", "https://swap.example.org", True),
    ],
)
def test_browsers_without_fetch_metadata(method: str, host: str, origin: str, passes: bool) -> None:
    headers = [(b"Host", host.encode()), (b"Origin", origin.encode())]
    assert (guard_control(headers, method, ["swap.example.org"]) is None) is passes


def test_clients_that_are_no_browser() -> None:
    assert guard_control([], "POST", []) is None
    assert guard_control([(b"host", b"127.0.0.1:8080"), (b"user-agent", b"curl/8")], "POST", []) is None
