"""Every finished model request, remembered: what it was, how long it took, what it cost.

An answer is read once its client has it; what comes of it is written by the store's task.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import trio

from llamaswap.config.settings import Config
from llamaswap.observe.answer import BROKEN, Finished, finished
from llamaswap.observe.captures import Capture, Captures, compress_all
from llamaswap.observe.flights import Flight, Flights, Headers
from llamaswap.observe.redact import is_secret
from llamaswap.observe.rows import NO_TOKENS, Row, Tokens, activity_record, metrics_record
from llamaswap.observe.store import Store
from llamaswap.observe.store_query import PageQuery, latest, page, stats

log = logging.getLogger("llamaswap.activity")

PAUSE_S = 0.05  # until an answer is read, if no slice is full before: waking for each would cost more than reading it
SLICE = 64  # answers that wait for that, at most: so many in a row cost half of what one by one does
PACK_PAUSE_S = 0.25  # until new captures are compressed
ERROR_CHARS = 500  # of a message
SESSION_CHARS = 128  # of a session's id

ReadAnswer = Callable[[Finished], tuple[Tokens, str]]
"""What an answer says: its tokens, and an error's message."""


# A third less than Row(...), for every request there is.
_row = cast("Callable[[type[Row], tuple[object, ...]], Row]", tuple.__new__)


class Recorder:
    """Turns flights that have ended into rows of the store, and answers what is asked about them.

    Everything is for Trio's thread.
    """

    def __init__(
        self,
        flights: Flights,
        store: Store,
        read: ReadAnswer,
        captures: Captures | None = None,
        *,
        priorities: Mapping[str, int] | None = None,
        listed: int = 1000,
    ) -> None:
        """`listed`: the most rows of the older list (metricsMaxInMemory)."""
        self.flights = flights
        self.store = store
        self.captures = captures if captures is not None else Captures(0)
        self.priorities: Mapping[str, int] = priorities or {}
        self.listed = listed
        self._session_ranks = _ranks(())
        self._last_headers: Headers = ()
        self._last_session = ""
        self.on_tokens: list[Callable[[str, Tokens], None]] = []
        """Called with the model and the tokens of every finished request, stored or not."""
        self._read = read
        self._ended: deque[Finished] = deque()
        self._wake = trio.Event()
        self._packing = trio.Event()
        self._to_pack: list[int] = []
        """Ids of captures."""
        flights.on_close.append(self.closed)
        flights.keep_bytes = self.captures.keep_bytes
        store.on_stored.append(self._stored)

    def reconfigure(self, config: Config) -> None:
        """Apply what a reload changed. The store's path stays."""
        self.priorities = config.priorities
        self.listed = config.metrics_max_in_memory
        self._session_ranks = _ranks(config.session_id_headers)
        self._last_headers, self._last_session = (), ""
        self.captures.resize(config.capture_buffer_bytes)
        self.flights.keep_bytes = self.captures.keep_bytes
        self.store.reconfigure(config.store_limits())

    def closed(self, flight: Flight) -> None:
        """A request is over, its client has all of the answer."""
        if not flight.metered:
            return
        ended = self._ended
        if not ended:
            self._wake.set()
        ended.append(finished(flight))
        if len(ended) >= SLICE:
            self._take()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record until cancelled; the store writes meanwhile."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.store.run)
            nursery.start_soon(self._keep_packing)
            task_status.started()
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(PAUSE_S)
                self._take()

    async def flush(self) -> None:
        """Until everything that has ended is stored. Cancel-safe."""
        self._take()
        await self.store.flush()

    def close(self) -> None:
        """Record what is left and close the store. Blocks."""
        self._take()
        self.store.close()

    def _take(self) -> None:
        """Read the answers of those that have ended."""
        ended, read, captures = self._ended, self._read, self.captures
        made = captures.made if captures.enabled else None
        while ended:
            request = ended.popleft()
            try:
                tokens, error = read(request)
            except Exception:  # the boundary between requests: one odd answer must not end the recording
                log.exception("an answer of %s could not be read", request.model)
                tokens, error = NO_TOKENS, ""
            for observer in self.on_tokens:
                observer(request.model, tokens)
            self.store.add_row(self._row(request, tokens, error), made(request) if made is not None else None)

    async def page(self, query: PageQuery) -> tuple[list[dict[str, object]], int]:
        """The records of one page, and how many rows there are. Raises StoreFailed."""
        await self.flush()
        rows, total = await self.store.read(page, query)
        return [activity_record(id, row, has_capture=id in self.captures) for id, row in rows], total

    async def stats(self, model: str) -> dict[str, object]:
        """Totals and histograms, of one model unless it is empty. Raises StoreFailed."""
        await self.flush()
        found: dict[str, object] = await self.store.read(stats, model)
        return found

    async def metrics(self) -> list[dict[str, object]]:
        """The older list: the last rows, oldest first. Raises StoreFailed."""
        await self.flush()
        return [metrics_record(id, row) for id, row in await self.store.read(latest, self.listed)]

    async def capture(self, id: int) -> dict[str, object] | None:
        """The record of a capture, if it is still there."""
        await self.flush()
        capture = self.captures.get(id)
        return await trio.to_thread.run_sync(capture.shown, id) if capture is not None else None

    async def _keep_packing(self) -> None:
        while True:
            await self._packing.wait()
            self._packing = trio.Event()
            await trio.sleep(PACK_PAUSE_S)
            await self._pack()

    async def _pack(self) -> None:
        """Compress what is worth it among the new captures."""
        ids, self._to_pack = self._to_pack, []
        captures = self.captures.compressible(ids)
        if len(captures) < len(ids) // 2:
            return  # they come so fast that the rest is gone as soon
        for id, compressed in await trio.to_thread.run_sync(compress_all, captures):
            self.captures.keep(id, captures.pop(id), compressed)
        if captures:  # there was no time for them
            self._to_pack[:0] = captures
            self._packing.set()

    def _row(self, request: Finished, tokens: Tokens, error: str) -> Row:
        first_s = request.first_byte_s
        if request.error:
            error = request.error[:ERROR_CHARS]
        elif request.broken:
            error = error or BROKEN
        told = (
            int(request.ended_at * 1000),
            request.model,
            request.requested,
            request.client,
            request.path,
            request.content_type,
            request.status,
            *tokens,
            int(request.spent_s * 1000),
            None if first_s is None else first_s * 1000,
            request.queue_s * 1000,
            request.load_s * 1000,
            error if error.isascii() else error.encode("utf-8", "backslashreplace").decode(),
            self._metadata(request),
        )
        return _row(Row, told)

    def _metadata(self, request: Finished) -> str:
        priority = self.priorities.get(request.model) if self.priorities else None
        headers = request.request_headers
        if headers is not self._last_headers:  # else the last one's session: requests with the same head share them
            self._last_headers, self._last_session = headers, self._session(headers)
        session = self._last_session
        if not priority and not session:
            return ""
        metadata: dict[str, str] = {}
        if priority:
            metadata["fifo_priority"] = str(priority)
        if session:
            metadata["session_id"] = session
        return json.dumps(metadata)

    def _session(self, headers: Headers) -> str:
        """The id of the client's session, if it names one. Never a secret, whatever the configuration says."""
        found, best = b"", len(self._session_ranks)
        for name, value in headers:
            rank = self._session_ranks.get(name.lower(), best)
            if rank < best and value:
                found, best = value, rank
        return found[:SESSION_CHARS].decode("latin-1")

    def _stored(self, first: int, rows: Sequence[tuple[Row, object]]) -> None:
        add = self.captures.add
        for id, (_, capture) in enumerate(rows, first):
            if isinstance(capture, Finished):
                add(id, capture)
            elif isinstance(capture, Capture):
                add(id, capture)
                self._to_pack.append(id)
                self._packing.set()


def _ranks(names: Sequence[str]) -> dict[bytes, int]:
    """Header names in small letters, and their place in the order of preference; those of credentials are left out."""
    return {name.lower().encode(): rank for rank, name in enumerate(name for name in names if not is_secret(name))}
