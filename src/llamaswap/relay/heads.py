"""The request head that an upstream gets."""

from __future__ import annotations

from llamaswap.relay.exchange import Exchange
from llamaswap.relay.response import HOP_BY_HOP

# Ours to say: the body is held whole, so its length is known and nobody waits for a 100.
_REWRITTEN = HOP_BY_HOP | {b"content-length", b"expect", b"x-forwarded-for"}
_WITH_IDENTITY = _REWRITTEN | {b"accept-encoding"}
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


def request_head(ex: Exchange, target: bytes, body_bytes: int, *, identity: bool) -> bytes:
    """`ex`'s head for the upstream: same Host and end-to-end headers, our framing, `target` as the path.

    `identity` asks for an uncompressed answer, whose token counts can be read. Headers that Connection
    names are dropped with the hop-by-hop ones (RFC 9110, 7.6.1); X-Forwarded-For gets the client's address.
    """
    drop = _WITH_IDENTITY if identity else _REWRITTEN
    forwarded: list[bytes] = []
    lines = [b"%b %b HTTP/1.1" % (ex.method.encode(), target)]
    for name, value in ex.headers:
        key = name.lower()
        if key in drop:
            if key == b"connection" and value.lower() not in (b"keep-alive", b"close"):
                return _with_named(ex, target, body_bytes, identity)
            if key == b"x-forwarded-for":
                forwarded.append(value)
            continue
        lines.append(b"%b: %b" % (name, value))
    if identity:
        lines.append(b"Accept-Encoding: identity")
    if ex.client:
        forwarded.append(ex.client.encode())
    if forwarded:
        lines.append(b"X-Forwarded-For: " + b", ".join(forwarded))
    if body_bytes or ex.method in _BODY_METHODS:
        lines.append(b"Content-Length: %d" % body_bytes)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _with_named(ex: Exchange, target: bytes, body_bytes: int, identity: bool) -> bytes:
    """The rare case of a Connection header that names others: without those."""
    named: set[bytes] = {b"connection"}
    for name, value in ex.headers:
        if name.lower() == b"connection":
            named |= {token.strip() for token in value.lower().split(b",")}
    named -= {b"host"}  # nobody may take that away
    original = ex.headers
    ex.headers = [(name, value) for name, value in original if name.lower() not in named]
    try:
        return request_head(ex, target, body_bytes, identity=identity)
    finally:
        ex.headers = original
