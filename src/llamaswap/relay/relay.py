"""The way of one request: find its model, edit its body, hold its upstream, carry the answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import (
    BadGateway,
    BadRequest,
    Conflict,
    ModelNotFound,
    ModelUnloaded,
    NotStarted,
    ShuttingDown,
    StartFailed,
    SwapError,
)
from llamaswap.observe.flights import Flights
from llamaswap.relay import filters, multipart, websocket
from llamaswap.relay.endpoints import Endpoint, classify, query_model
from llamaswap.relay.exchange import Exchange, Framing
from llamaswap.relay.heads import request_head
from llamaswap.relay.loading import HEAD, TICK_S, LoadingFrames
from llamaswap.relay.pool import Pool, origin_of
from llamaswap.relay.pump import EXIT_NOTICE_S, Attempt, Outcome
from llamaswap.relay.ride import Ride
from llamaswap.relay.transport import Data, Plain, Transport
from llamaswap.routing.catalogue import Catalogue
from llamaswap.routing.lifecycle import State
from llamaswap.upstream.fleet import Fleet, Lease, Upstream

UPSTREAM_PREFIX = "/upstream/"
JOIN_BYTES = 65536  # head and body up to this size leave in one packet; beyond, copying costs more
FATE_S = 1.0  # from a process's exit until its output is read to the end
CONNECT_RETRY_S = (0.01, 0.5)  # first and longest pause while a model without a health check binds its port


class Relay:
    """Serves model requests; `handle` and `handle_upstream` answer exactly once or break the connection."""

    def __init__(
        self, config: Config, catalogue: Catalogue, fleet: Fleet, pool: Pool, flights: Flights | None = None
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._fleet = fleet
        self._pool = pool
        self.flights = flights if flights is not None else Flights()

    def apply(self, config: Config, catalogue: Catalogue) -> None:
        """From now on these models; requests under way go on with what they have."""
        self._config = config
        self._catalogue = catalogue

    async def handle(self, ex: Exchange, endpoint: Endpoint) -> None:
        """A request to a model endpoint.

        Raises SwapError (for the caller to answer) and ClientGone. Cancel-safe: nothing stays behind.
        """
        raw: bytes | bytearray = b""
        stream = False

        def edited(model: ModelConfig) -> Sequence[Data]:
            """The body as this model gets it."""
            return [raw]

        if endpoint.kind == "query":
            name = query_model(ex.query.encode("latin-1"))
            if name is None:
                raise BadRequest("no model id could be identified: add ?model=<id> to the address")
            model = self._catalogue.resolve(name)
            if ex.header(b"content-length") is not None or ex.header(b"transfer-encoding") is not None:
                raw = await ex.read_body(self._config.max_request_body_bytes)
        else:
            raw = await ex.read_body(self._config.max_request_body_bytes)
            if endpoint.kind == "json":
                parsed = filters.parse(raw)
                name = parsed.model
                model = self._catalogue.resolve(name)
                stream = parsed.stream

                def edited(model: ModelConfig) -> Sequence[Data]:
                    return [filters.apply(raw, parsed, model, parsed.model)]
            else:
                content_type = (ex.header(b"content-type") or b"").decode("latin-1")
                field = multipart.find_model(raw, content_type)
                name = field.value
                model = self._catalogue.resolve(name)

                def edited(model: ModelConfig) -> Sequence[Data]:
                    return multipart.rewrite(raw, field, model.use_model_name) if model.use_model_name else [raw]

        body = edited(model)
        self._begin(ex, model, name, raw, metered=ex.method == "POST")
        loading = stream and endpoint.is_chat and model.send_loading_state
        target = _with_query(endpoint.target, ex)
        await self._forward(ex, model, target, body, identity=True, loading=loading, edited=edited)

    def depart(self, ex: Exchange, endpoint: Endpoint, raw: bytes) -> Ride | None:
        """Send a request on its way if that takes no waiting: its model ready, a connection idle, room to send.

        None: it is not that simple, and nothing has happened yet; `handle` is the way. `raw` is the whole body
        of a POST with a model in its JSON.
        """
        if not self._pool.engine.ready:
            return None
        try:
            parsed = filters.parse(raw)
            model = self._catalogue.get(parsed.model)
            if model is None or model.timeouts.response_header_s > 0 or len(raw) > self._config.max_request_body_bytes:
                return None
            body = filters.apply(raw, parsed, model, parsed.model)
        except SwapError:
            return None
        lease = self._fleet.claim(model)
        if lease is None:
            return None
        upstream = lease.upstream
        connection = self._pool.pick(upstream)
        if not isinstance(connection, Plain):
            if connection is not None:
                self._pool.give(upstream, connection)
            lease.release()
            return None
        target = _with_query(endpoint.target, ex)
        prefix = origin_of(upstream.base_url).prefix
        packet = request_head(ex, prefix + target, len(body), identity=True) + body
        try:
            sent = connection.send_now(packet)
        except OSError:
            sent = -1
        if sent < len(packet):
            connection.close()
            lease.release()
            return None
        loading = parsed.stream and endpoint.is_chat and model.send_loading_state
        self._begin(ex, model, parsed.model, raw, metered=True)
        assert ex.flight is not None
        ex.flight.granted_at = ex.flight.begun
        return Ride(ex, model, target, body, loading, lease, connection)

    async def resume(self, ride: Ride) -> None:
        """Whatever is left to do for a ride.

        Raises as `handle` does. Cancel-safe: nothing stays behind.
        """
        ex, lease = ride.exchange, ride.lease

        def edited(model: ModelConfig) -> Sequence[Data]:
            assert ex.flight is not None
            parsed = filters.parse(ex.flight.body)
            return [filters.apply(ex.flight.body, parsed, model, parsed.model)]

        try:
            if ex.started or ride.received:
                ex.watch()
                attempt = Attempt(ex, lease.upstream, self._pool, ride.connection, [])
                if ex.started:
                    await attempt.carry_on(ride)
                    return
                if await attempt.carry(ride.received) is Outcome.DONE:
                    return
                # An interim response, and then the end.
            body, loading = [ride.body], ride.loading
            await self._forward(
                ex, ride.model, ride.target, body, identity=True, loading=loading, unanswered=ride, edited=edited
            )
        finally:
            lease.release()

    async def handle_upstream(self, ex: Exchange) -> None:
        """`/upstream/<model>/<path>`: the upstream's own pages and routes, untouched.

        Raises as `handle` does.
        """
        found = self._catalogue.split_path(ex.path[len(UPSTREAM_PREFIX) :])
        if found is None:
            raise ModelNotFound("model not found")
        model, name, rest = found
        if not rest:
            # Relative links of the page need the slash.
            status = 301 if ex.method in ("GET", "HEAD") else 308
            location = ex.path + "/" + ("?" + ex.query if ex.query else "")
            await ex.answer(status, [(b"Location", location.encode("latin-1"))])
            return
        ex.model_id = model.id
        if any(pattern.search(rest) for pattern in self._config.ignore_paths):
            self.require_ready(model)
        target = _with_query(rest.encode("latin-1"), ex)
        if ex.websocket:
            await self._websocket(ex, model, target)
            return
        body = await ex.read_body(self._config.max_request_body_bytes)
        metered = ex.method == "POST" and classify("POST", rest) is not None
        self._begin(ex, model, name, body, metered=metered)
        await self._forward(ex, model, target, [body], identity=False, loading=False)

    def _begin(
        self, ex: Exchange, model: ModelConfig, name: str, body: bytes | bytearray, *, metered: bool
    ) -> None:
        ex.model_id = model.id
        flight = ex.flight = self.flights.open(ex, model.id, name, metered=metered)
        flight.body = body
        flight.end = ex.cancel

    async def _websocket(self, ex: Exchange, model: ModelConfig, target: bytes) -> None:
        """An upgrade holds its upstream as a request does, unless the model ignores WebSockets."""
        if model.ignore_websockets:
            self.require_ready(model)
            upstream = self._fleet.current(model.id)
            if upstream is None:
                raise Conflict(f"{model.id} is not ready, and this request does not start it")
            await websocket.upgrade(ex, upstream, self._pool, target)
            return
        ex.watch()
        self._begin(ex, model, model.id, b"", metered=False)
        lease = self._fleet.submit(model)
        try:
            upstream = lease.upstream if lease.granted else await lease.wait()
            await websocket.upgrade(ex, upstream, self._pool, target)
        finally:
            lease.release()

    def require_ready(self, model: ModelConfig) -> None:
        """Raises Conflict unless the model is running: some requests must not start one."""
        if self._fleet.view(model.id).state is not State.READY:
            raise Conflict(f"{model.id} is not ready, and this request does not start it")

    async def _forward(
        self,
        ex: Exchange,
        model: ModelConfig,
        target: bytes,
        body: Sequence[Data],
        *,
        identity: bool,
        loading: bool,
        unanswered: Ride | None = None,
        edited: Callable[[ModelConfig], Sequence[Data]] | None = None,
    ) -> None:
        """Have it answered. `unanswered`: a first try, on a connection that has ended since. `edited`: the body as
        another model would get it, to which a reload may give the name that the request came with."""
        since: float | None = None
        retried = False
        ex.watch()
        flight = ex.flight
        assert flight is not None
        while True:
            lease = self._fleet.submit(model, since=since) if unanswered is None else unanswered.lease
            since = lease.submitted_at
            try:
                if lease.granted:
                    upstream = lease.upstream
                else:
                    upstream = await (self._wait_with_frames(ex, lease, model) if loading else lease.wait())
                    flight.load_s = max(0.0, trio.current_time() - max(upstream.begun, lease.submitted_at))
                flight.granted_at = time.monotonic()
                segments = self._segments(ex, upstream, target, body, identity)
                if unanswered is None:
                    outcome = await self._try(ex, upstream, self._pool.take(upstream), segments)
                else:
                    unanswered.connection.close()
                    unanswered = None
                    outcome = await self._again(ex, upstream, segments)
                if outcome is Outcome.REFUSED and upstream.alive and model.check_endpoint == "none":
                    await self._until_bound(upstream)
                    outcome = await self._try(ex, upstream, self._pool.take(upstream), segments)
                if outcome is Outcome.DONE:
                    return
                await self._settle_death(upstream, outcome)
                if retried:
                    raise await self._told_twice(upstream, outcome)
                retried = True
            except SwapError as error:
                other = self._catalogue.get(flight.requested) if isinstance(error, ModelNotFound) else None
                if edited is not None and other is not None and other.id != model.id:
                    model, body, since = other, edited(other), None
                    ex.model_id = flight.model = model.id
                    continue
                if isinstance(error, NotStarted) and error.after_s > 0:
                    flight.load_s = min(error.after_s, trio.current_time() - lease.submitted_at)
                if not ex.started:
                    raise
                # Loading frames are out: the error goes into the stream, which then ends in order.
                flight.error, flight.hidden_status = str(error), error.status
                await ex.send(LoadingFrames.failed(error))
                await ex.finish()
                return
            finally:
                if lease.state == "queued":  # given up while it waited, perhaps for the load
                    waited_s = trio.current_time() - lease.submitted_at
                    flight.load_s = min(self._fleet.loading_s(model.id) or 0.0, waited_s)
                lease.release()

    def _segments(
        self, ex: Exchange, upstream: Upstream, target: bytes, body: Sequence[Data], identity: bool
    ) -> list[Data]:
        size = sum(map(len, body))
        head = request_head(
            ex, origin_of(upstream.base_url).prefix + target, size, identity=identity
        )
        if size <= JOIN_BYTES:
            return [b"".join((head, *body))]
        return [head, *body]

    async def _try(
        self, ex: Exchange, upstream: Upstream, connection: Transport | None, segments: Sequence[Data]
    ) -> Outcome:
        """On an idle connection if there is one; a stale one is replaced silently."""
        outcome = await Attempt(ex, upstream, self._pool, connection, segments).carry()
        if outcome is Outcome.NO_ANSWER and connection is not None:
            outcome = await self._again(ex, upstream, segments)
        return outcome

    async def _again(self, ex: Exchange, upstream: Upstream, segments: Sequence[Data]) -> Outcome:
        """On a fresh connection, after one that may have been stale; not where its end was the process's."""
        if upstream.stopped_by is not None or not upstream.alive:
            return Outcome.NO_ANSWER
        return await Attempt(ex, upstream, self._pool, None, segments).carry()

    async def _until_bound(self, upstream: Upstream) -> None:
        """A model without a health check counts as ready before it listens: wait for its port."""
        pause, longest = CONNECT_RETRY_S
        with trio.move_on_after(upstream.model.timeouts.connect_s or float("inf")):
            while upstream.alive:
                with trio.move_on_after(pause):
                    await upstream.exited.wait()
                pause = min(pause * 2, longest)
                try:
                    connection = await self._pool.connect(upstream)
                except ConnectionRefusedError:
                    continue
                self._pool.give(upstream, connection)
                return

    async def _settle_death(self, upstream: Upstream, outcome: Outcome) -> None:
        """After a request that got nothing: return if a restart can help, else raise BadGateway."""
        with trio.move_on_after(EXIT_NOTICE_S):
            await upstream.exited.wait()
        if upstream.stopped_by == "shutdown":
            raise ShuttingDown
        if upstream.stopped_by is not None:
            # Somebody wanted it gone: sending the request again would load it again.
            raise ModelUnloaded(f"model '{upstream.model.id}' was unloaded before it answered")
        if not upstream.alive:
            return
        if outcome is Outcome.REFUSED and upstream.model.check_endpoint != "none":
            self._fleet.condemn(upstream)  # it runs and no longer listens
            return
        what = (
            "refuses connections" if outcome is Outcome.REFUSED else "closed the connection without an answer"
        )
        raise BadGateway(f"{upstream.model.id} {what}")

    async def _told_twice(self, upstream: Upstream, outcome: Outcome) -> SwapError:
        """What to answer after a restart that did not help: how the process ended, where that can be known."""
        model = upstream.model
        if not upstream.alive:
            with trio.move_on_after(FATE_S):
                await upstream.gone.wait()
        how = "refused the connection" if outcome is Outcome.REFUSED else "died before it answered"
        text = f"{model.id} {how}, also after a restart"
        if not upstream.fate:
            return BadGateway(text)
        text += f"; it exited with {upstream.fate}"
        # Ready by definition: that it never listened is a failed start all the same.
        never_listened = outcome is Outcome.REFUSED and model.check_endpoint == "none"
        return StartFailed(text) if never_listened else BadGateway(text)

    async def _wait_with_frames(self, ex: Exchange, lease: Lease, model: ModelConfig) -> Upstream:
        """Wait for the upstream while the client's stream tells how it is getting on."""
        if lease.rejected:
            return await lease.wait()  # too many requests: a plain 429
        frames = LoadingFrames(model.id)
        if not ex.started:
            ex.start(HEAD.status, HEAD.headers, Framing.CHUNKED)
            if ex.flight is not None:
                ex.flight.answer = HEAD
        begun = trio.current_time()
        await ex.send(frames.opening(lease.queue_position))
        while True:
            upstream: Upstream | None = None
            with trio.move_on_after(TICK_S):
                upstream = await lease.wait()
            if upstream is not None:
                await ex.send(frames.done(trio.current_time() - begun))
                return upstream
            await ex.send(frames.tick(lease.queue_position, trio.current_time() - begun))


def _with_query(path: bytes, ex: Exchange) -> bytes:
    return b"%b?%b" % (path, ex.query.encode("latin-1")) if ex.query else path
