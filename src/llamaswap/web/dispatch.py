"""Which door a request takes: a model endpoint through the relay, or the app.

Both ways in (`front.py`, `asgi.py`) go through here, so both keep the same rules.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from llamaswap.config.settings import Config
from llamaswap.errors import MethodNotAllowed, SwapError, Unauthorized
from llamaswap.relay.endpoints import allowed_methods, classify
from llamaswap.relay.exchange import ClientGone, Exchange
from llamaswap.relay.relay import UPSTREAM_PREFIX, Relay
from llamaswap.web import access

log = logging.getLogger("llamaswap.request")

CLIENT_CLOSED = 499  # nginx's status for a client that left before its answer; only in the log


class InternalError(SwapError):
    """Something unforeseen; the log has the traceback."""


class Dispatcher:
    """Answers exchanges. `to_app` serves whatever is no model route."""

    def __init__(self, config: Config, relay: Relay, to_app: Callable[[Exchange], Awaitable[None]]) -> None:
        self._keys = config.api_keys
        self._relay = relay
        self._to_app = to_app

    @staticmethod
    def is_model_route(method: str, path: str) -> bool:
        """Whether the relay serves this raw path (its errors included)."""
        return (
            classify(method, path) is not None
            or path.startswith(UPSTREAM_PREFIX)
            or bool(allowed_methods(path))
        )

    async def serve(self, ex: Exchange) -> None:
        """Answer `ex`, or break its connection. Raises nothing but Cancelled."""
        begun = trio.current_time()
        try:
            await self._route(ex)
        except SwapError as error:
            await self._fail(ex, error)
        except ClientGone:
            ex.status = CLIENT_CLOSED
        except Exception:
            log.exception("%s %s failed", ex.method, ex.path)
            await self._fail(ex, InternalError("internal error; the log says more"))
        level = logging.INFO if ex.model_id or ex.status >= 500 else logging.DEBUG
        if log.isEnabledFor(level):
            agent = (ex.header(b"user-agent") or b"").decode("latin-1")
            log.log(
                level,
                'Request %s "%s %s" %d %d "%s" %.1fms%s',
                ex.client,
                ex.method,
                ex.path,
                ex.status,
                ex.bytes_sent,
                agent,
                (trio.current_time() - begun) * 1e3,
                f" model={ex.model_id}" if ex.model_id else "",
            )

    async def _route(self, ex: Exchange) -> None:
        endpoint = classify(ex.method, ex.path)
        if endpoint is not None:
            self._authorise(ex)
            await self._relay.handle(ex, endpoint)
            return
        allowed = allowed_methods(ex.path)
        if allowed or ex.path.startswith(UPSTREAM_PREFIX):
            if ex.method == "OPTIONS" and (allowed or ex.header(b"access-control-request-method")):
                await ex.answer(204, access.preflight(ex.headers))
                return
            self._authorise(ex)
            if allowed:
                raise MethodNotAllowed(ex.method, allowed)
            await self._relay.handle_upstream(ex)
            return
        await self._to_app(ex)

    def _authorise(self, ex: Exchange) -> None:
        if self._keys and not access.check_key(ex.headers, self._keys):
            raise Unauthorized

    @staticmethod
    async def _fail(ex: Exchange, error: SwapError) -> None:
        try:
            await ex.fail(error)
        except ClientGone:
            ex.status = CLIENT_CLOSED
