"""Who may call what: API keys, CORS pre-flight, and the guard of the control routes.

Pure functions on raw header pairs (names in any case, values as received), so that the front, the ASGI
way and the Quart app decide alike. The rules are llama-swap's, stricter for the
control routes; Sec-Fetch-* is the Fetch Metadata that every current browser sends and no page can forge.
"""

from __future__ import annotations

import binascii
import hmac
import ipaddress
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from llamaswap.errors import Forbidden, SwapError, Unauthorized

Headers = Iterable[tuple[bytes, bytes]]

PUBLIC_PATHS = frozenset({"/", "/health", "/wol-health", "/favicon.ico", "/upstream", "/ui"})
"""Served without a key; `/ui/...` (files that hold no secrets) as well."""
OPEN_PATHS = frozenset({"/v1/models", "/models"})
"""Not model routes, but for any web page and any Host, as model routes are."""
PREFLIGHT_MAX_AGE_S = 86400  # as llama-swap; browsers cap it lower by themselves
_METHODS = b"GET, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = b"Content-Type, Authorization, Accept, X-Requested-With"
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def _values(headers: Headers, name: bytes) -> list[bytes]:
    size = len(name)
    return [value.strip() for key, value in headers if len(key) == size and key.lower() == name]


# --- API keys


@lru_cache(maxsize=8)
def _as_bytes(keys: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(key.encode("utf-8", "surrogateescape") for key in keys)


def _credentials(headers: Headers) -> Iterator[bytes]:
    for key, value in headers:
        if len(key) == 13 and key.lower() == b"authorization":
            scheme, _, rest = value.strip().partition(b" ")
            scheme, rest = scheme.lower(), rest.strip()
            if scheme == b"bearer":
                yield rest
            elif scheme == b"basic":
                try:
                    _, colon, password = b64decode(rest, validate=True).partition(b":")
                except (binascii.Error, ValueError):
                    continue
                if colon:
                    yield password
        elif len(key) == 9 and key.lower() == b"x-api-key":
            yield value.strip()


def check_key(headers: Headers, keys: Collection[str]) -> bool:
    """Whether any credential of the request is one of `keys`; True if there are no keys to ask for.

    Credentials: the password of Basic, the token of Bearer, x-api-key, however many of each. Every one is
    compared with every key in constant time; what cannot be read is simply no credential.
    """
    if not keys:
        return True
    known = _as_bytes(keys if isinstance(keys, tuple) else tuple(keys))
    found = False
    for credential in _credentials(headers):
        for key in known:
            found |= hmac.compare_digest(credential, key)
    return found


def is_public(path: str) -> bool:
    """Whether this path of the app (not a model route) asks for no key."""
    return path in PUBLIC_PATHS or path.startswith("/ui/")


class _UnauthorizedScript(Unauthorized):
    headers: tuple[tuple[str, str], ...] = ()  # type: ignore[assignment]


def unauthorized(headers: Headers) -> Unauthorized:
    """The 401 for this request.

    To a same-origin script it goes without WWW-Authenticate: the browser would open its password dialogue
    over the page that is about to ask for the key itself.
    """
    headers = tuple(headers)
    same_origin = b"same-origin" in _values(headers, b"sec-fetch-site")
    navigation = b"navigate" in _values(headers, b"sec-fetch-mode")
    if (same_origin and not navigation) or _values(headers, b"x-requested-with"):
        return _UnauthorizedScript()
    return Unauthorized()


# --- CORS


def preflight(headers: Headers, *, wildcard: bool = True) -> list[tuple[bytes, bytes]]:
    """The headers of the 204 that answers an OPTIONS request; before authentication.

    With `wildcard` (model routes, /v1/models) any page may call: the requested header names are echoed as
    far as they are valid tokens. Without it (control routes) there is nothing to say, so that the browser
    refuses the call; the answer still is a 204, as llama-swap's is.
    """
    if not wildcard:
        return []
    wanted = b",".join(_values(headers, b"access-control-request-headers"))
    names = [name for part in wanted.split(b",") if _TOKEN.fullmatch(name := part.strip())]
    return [
        (b"Access-Control-Allow-Origin", b"*"),
        (b"Access-Control-Allow-Methods", _METHODS),
        (b"Access-Control-Allow-Headers", b", ".join(names) if names else _REQUEST_HEADERS),
        (b"Access-Control-Max-Age", b"%d" % PREFLIGHT_MAX_AGE_S),
    ]


# --- the guard of the control routes


def _host_name(host: str) -> str:
    """The host of a Host header without port, brackets, zone, final dot; lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0].partition("%")[0]
    return host.partition(":")[0].removesuffix(".")


def is_local_name(host: str, allowed_hosts: Collection[str]) -> bool:
    """Whether no foreign DNS record can be behind this Host: an address, localhost, or a configured name."""
    name = _host_name(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return any(name == _host_name(allowed) for allowed in allowed_hosts) and bool(name)
    return True


def guard_control(headers: Headers, method: str, allowed_hosts: Collection[str]) -> SwapError | None:
    """Why another web page must not steer this server with that request; None if nothing speaks against.

    Refused are `Sec-Fetch-Site: cross-site`, a Host that is neither an address nor localhost nor in
    `allowed_hosts` (DNS rebinding: such a page is same-origin to the browser), and, from browsers that
    send no Sec-Fetch-Site (they leave it out on plain http to other machines), a method that changes
    something with the Origin of another host. Ports are ignored. Clients that are no browsers send none
    of this but the Host.
    """
    headers = tuple(headers)
    site = [value.lower() for value in _values(headers, b"sec-fetch-site")]
    if b"cross-site" in site:
        return Forbidden("this is a control route: other web sites may not call it")
    hosts = [value.decode("latin-1") for value in _values(headers, b"host")]
    for host in hosts:
        if not is_local_name(host, allowed_hosts):
            return Forbidden(
                f"control routes are not served under the host name {_host_name(host)[:255]!r}: "
                "call them by address or as localhost, or add the name to allowedHosts in the configuration"
            )
    if site or method in _SAFE_METHODS:
        return None
    for origin in _values(headers, b"origin"):
        name = _origin_host(origin.decode("latin-1"))
        if name is None or (name not in map(_host_name, hosts) and name not in map(_host_name, allowed_hosts)):
            return Forbidden("this is a control route: other web sites may not call it")
    return None


def _origin_host(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
        return _host_name(f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "") or None
    except ValueError:
        return None
