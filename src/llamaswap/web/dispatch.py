"""Which door a request takes: a model endpoint through the relay, or the app.

Both ways in (`front.py`, `asgi.py`) go through here, so both keep the same rules.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llamaswap.config.settings import Config
from llamaswap.errors import MethodNotAllowed, SwapError
from llamaswap.observe.flights import Flights
from llamaswap.relay.endpoints import allowed_methods, classify
from llamaswap.relay.exchange import ClientGone, Exchange
from llamaswap.relay.relay import UPSTREAM_PREFIX, Relay
from llamaswap.relay.ride import Ride
from llamaswap.web import access

log = logging.getLogger("llamaswap.request")

Subject = TypeVar("Subject")
_CHECKED = "checked against"  # of a head's memo: the keys among which its own was found

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

    def apply(self, config: Config) -> None:
        """From now on these keys."""
        self._keys = config.api_keys

    @staticmethod
    def is_model_route(method: str, path: str) -> bool:
        """Whether the relay serves this raw path (its errors included)."""
        return (
            classify(method, path) is not None
            or path.startswith(UPSTREAM_PREFIX)
            or bool(allowed_methods(path))
        )

    def depart(self, ex: Exchange, body: bytes) -> Ride | None:
        """See `Relay.depart`; for any request with a body, if its client may ask at all."""
        endpoint = classify(ex.method, ex.path)
        if endpoint is None or endpoint.kind != "json" or not self._may_ask(ex):
            return None
        return self._relay.depart(ex, endpoint, body)

    async def serve(self, ex: Exchange) -> None:
        """Answer `ex`, or break its connection. Raises nothing but Cancelled."""
        await self._serve(ex, self._route, ex)

    async def resume(self, ride: Ride) -> None:
        """The same for one that has departed."""
        await self._serve(ride.exchange, self._relay.resume, ride)

    async def _serve(self, ex: Exchange, work: Callable[[Subject], Awaitable[None]], subject: Subject) -> None:
        gone = True
        try:
            try:
                await work(subject)
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
            self.settle(ex, gone=gone)

    def settle(self, ex: Exchange, *, gone: bool) -> None:
        """It is over: account for it and log it. `gone`: its client left before the answer was complete."""
        flight = ex.flight
        if flight is not None:
            flight.gone = gone and not flight.cancelled
            self._relay.flights.close(flight)
            ex.flight = None  # a cycle would keep both, and the bodies that they hold, until the collector comes
        status = CLIENT_CLOSED if gone else ex.status
        # Pages and polls that look without asking for a model are of interest to developers only.
        looks = not ex.model_id and status < 400 and ex.method in ("GET", "HEAD", "OPTIONS")
        level = logging.DEBUG if looks else logging.INFO
        if log.isEnabledFor(level):
            _log_request(level, ex, status, time.monotonic() - ex.begun)

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
        if not self._may_ask(ex):
            raise access.unauthorized(ex.headers)

    def _may_ask(self, ex: Exchange) -> bool:
        keys, memo = self._keys, ex.memo
        if not keys or (memo is not None and memo.get(_CHECKED) is keys):
            return True
        if not access.check_key(ex.headers, keys):
            return False
        if memo is not None:
            memo[_CHECKED] = keys
        return True


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
