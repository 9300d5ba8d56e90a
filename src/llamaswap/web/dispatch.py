"""Which door a request takes: a model endpoint through the relay, or the app.

Both ways in (`front.py`, `asgi.py`) go through here, so both keep the same rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from llamaswap.config.settings import Config
from llamaswap.errors import MethodNotAllowed, SwapError
from llamaswap.observe.flights import Flights
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

    @property
    def flights(self) -> Flights:
        """The requests that the relay serves."""
        return self._relay.flights

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
        begun = time.monotonic()
        gone = True
        try:
            try:
                await self._route(ex)
            except SwapError as error:
                if ex.flight is not None:
                    ex.flight.error = str(error)
                await ex.fail(error)
            except ClientGone:
                raise
            except Exception:
                log.exception("%s %s failed", ex.method, ex.path)
                await ex.fail(InternalError("internal error; the log says more"))
            gone = False
        except ClientGone:
            pass  # told by the log line
        finally:
            flight = ex.flight
            if flight is not None:
                flight.gone = gone and not flight.cancelled
                self._relay.flights.close(flight)
            status = CLIENT_CLOSED if gone else ex.status
            # Pages and polls that look without asking for a model are of interest to developers only.
            looks = not ex.model_id and status < 400 and ex.method in ("GET", "HEAD", "OPTIONS")
            level = logging.DEBUG if looks else logging.INFO
            if log.isEnabledFor(level):
                _log_request(level, ex, status, time.monotonic() - begun)

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
            raise access.unauthorized(ex.headers)


def _log_request(level: int, ex: Exchange, status: int, took_s: float) -> None:
    log.log(
        level,
        'Request %s "%s %s" %d %d "%s" %.1fms%s',
        ex.client,
        ex.method,
        ex.path,
        status,
        ex.bytes_sent,
        (ex.header(b"user-agent") or b"").decode("latin-1"),
        took_s * 1e3,
        (f" model={ex.model_id}" if ex.model_id else "") + (" broken off" if ex.broken else ""),
    )
