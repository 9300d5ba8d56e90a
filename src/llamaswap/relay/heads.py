"""The request head that an upstream gets."""

from __future__ import annotations

from llamaswap.relay.exchange import Exchange
from llamaswap.relay.response import HOP_BY_HOP

# Ours to say: the body is held whole, so its length is known and nobody waits for a 100.
_REWRITTEN = HOP_BY_HOP | {b"content-length", b"expect", b"x-forwarded-for"}
_WITH_IDENTITY = _REWRITTEN | {b"accept-encoding"}
MEMO_LIMIT = 16  # clients and upstreams for which one and the same head is remembered
_BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})


def request_head(ex: Exchange, target: bytes, body_bytes: int, *, identity: bool) -> bytes:
    """`ex`'s head for the upstream: same Host and end-to-end headers, our framing, `target` as the path.

    `identity` asks for an uncompressed answer, whose token counts can be read. Headers that Connection
    names are dropped with the hop-by-hop ones (RFC 9110, 7.6.1); X-Forwarded-For gets the client's address.
    """
    memo, key = ex.memo, (target, ex.client, identity)
    head: bytes | None = memo.get(key) if memo is not None else None
    if head is None:
        head = _head(ex, target, identity)
        if memo is not None:
            if len(memo) >= MEMO_LIMIT:
                memo.clear()
            memo[key] = head
    if body_bytes or ex.method in _BODY_METHODS:
        return b"%bContent-Length: %d\r\n\r\n" % (head, body_bytes)
    return head + b"\r\n"


def _head(ex: Exchange, target: bytes, identity: bool) -> bytes:
    """All but the body's length and the empty line."""
    drop = _WITH_IDENTITY if identity else _REWRITTEN
    forwarded: list[bytes] = []
    lines = [b"%b %b HTTP/1.1" % (ex.method.encode(), target)]
    for name, value in ex.headers:
        key = name.lower()
        if key in drop:
            if key == b"connection" and value.lower() not in (b"keep-alive", b"close"):
                return _with_named(ex, target, identity)
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
    lines.append(b"")
    return b"\r\n".join(lines)


def _with_named(ex: Exchange, target: bytes, identity: bool) -> bytes:
    """The rare case of a Connection header that names others: without those."""
    named: set[bytes] = {b"connection"}
    for name, value in ex.headers:
        if name.lower() == b"connection":
            named |= {token.strip() for token in value.lower().split(b",")}
    named -= {b"host"}  # nobody may take that away
    original = ex.headers
    ex.headers = [(name, value) for name, value in original if name.lower() not in named]
    try:
        return _head(ex, target, identity)
    finally:
        ex.headers = original
