"""WebSocket upgrades, carried as bytes: the two ends agree on frames and extensions between themselves."""

from __future__ import annotations

import trio

from llamaswap.errors import BadGateway
from llamaswap.relay.exchange import Exchange
from llamaswap.relay.heads import request_head
from llamaswap.relay.pool import Pool, origin_of
from llamaswap.relay.pump import HEAD_LIMIT, Attempt
from llamaswap.relay.transport import RECV_BYTES, Data, Transport
from llamaswap.upstream.fleet import Upstream

CLOSING_S = 5.0  # after one side ended: for the other's closing handshake, then both are cut


async def upgrade(ex: Exchange, upstream: Upstream, pool: Pool, target: bytes) -> None:
    """Ask the upstream to upgrade; tunnel if it does, else carry its refusal. Returns when all is over.

    Raises BadGateway before anything has reached the client. Cancel-safe: both ends are cut.
    """
    prefix = origin_of(upstream.base_url).prefix
    head = request_head(ex, prefix + target, 0, identity=False)
    head = head[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    try:
        server = await pool.connect(upstream)
    except ConnectionRefusedError as error:
        raise BadGateway(f"{upstream.model.id} refuses connections") from error
    try:
        received = await _ask(server, head)
        if received[9:12] != b"101":
            replay = _Replay(server, received)
            await Attempt(ex, upstream, pool, replay, []).carry()
            return
        client, early = await ex.hijack()
        ex.status = 101
        await _tunnel(client, server, early, received)
    finally:
        server.close()


async def _ask(server: Transport, head: bytes) -> bytes:
    """Send the request; everything received up to and with the end of the response head."""
    received = b""
    try:
        await server.send(head)
        while b"\r\n\r\n" not in received:
            data = await server.recv()
            if not data or len(received) > HEAD_LIMIT:
                break
            received += data
    except OSError as error:
        raise BadGateway("the upstream broke the connection before it answered the upgrade") from error
    if b"\r\n\r\n" not in received:
        raise BadGateway("the upstream closed the connection before it answered the upgrade")
    return received


async def _tunnel(client: Transport, server: Transport, to_server: bytes, to_client: bytes) -> None:
    async with trio.open_nursery() as nursery:
        ended = 0

        async def pump(source: Transport, sink: Transport, first: bytes) -> None:
            nonlocal ended
            try:
                data = first or await source.recv()
                while data:
                    await sink.send(data)
                    data = await source.recv()
                await sink.send_eof()
            except OSError:
                nursery.cancel_scope.cancel()
                return
            ended += 1
            if ended == 1:
                nursery.cancel_scope.deadline = trio.current_time() + CLOSING_S

        nursery.start_soon(pump, client, server, to_server)
        nursery.start_soon(pump, server, client, to_client)


class _Replay:
    """A transport whose first bytes were read already. It closes with the one beneath."""

    def __init__(self, inner: Transport, received: bytes) -> None:
        self._inner = inner
        self._received = received

    async def recv(self, limit: int = RECV_BYTES) -> bytes:
        if self._received:
            received, self._received = self._received, b""
            return received
        return await self._inner.recv(limit)

    async def send(self, data: Data) -> None:
        await self._inner.send(data)

    def send_now(self, data: Data) -> int:
        return self._inner.send_now(data)

    async def send_rest(self, data: Data, sent: int) -> None:
        await self._inner.send_rest(data, sent)

    def unsent(self) -> int:
        return self._inner.unsent()

    def stale(self) -> bool:
        return True  # never pooled: the upstream may expect an upgrade on it

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    def close(self) -> None:
        self._inner.close()

    def reset(self) -> None:
        self._inner.reset()
