"""Every finished model request, remembered: what it was, how long it took, what it cost.

An answer is read once its client has it; what comes of it is written by the store's task.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import trio

from llamaswap.config.settings import Config
from llamaswap.observe.answer import Finished, finished
from llamaswap.observe.captures import Captured, Captures, compress_all
from llamaswap.observe.entry import Entry, Metadata
from llamaswap.observe.flights import Flight, Flights
from llamaswap.observe.rows import NO_TOKENS, Tokens, activity_record, metrics_record
from llamaswap.observe.store import Recorded, Store
from llamaswap.observe.store_query import PageQuery, latest, page, stats

log = logging.getLogger("llamaswap.activity")

PAUSE_S = 0.05  # until an answer is read, if no slice is full before: waking for each would cost more than reading it
SLICE = 64  # answers that wait for that, at most: so many in a row cost half of what one by one does
PACK_PAUSE_S = 0.25  # until new captures are compressed

ReadAnswer = Callable[[Finished], tuple[Tokens, str]]
"""What an answer says: its tokens, and an error's message."""


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
        listed: int = 1000,
    ) -> None:
        """`listed`: the most rows of the older list (metricsMaxInMemory)."""
        self.flights = flights
        self.store = store
        self.captures = captures if captures is not None else Captures(0)
        self.listed = listed
        self._metadata = Metadata()
        self.on_read: list[Callable[[Finished, Tokens, str], None]] = []
        """Called with every finished request, its tokens and its answer's error, stored or not."""
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
        self.read_all()
        self._metadata = Metadata(config.priorities, config.session_id_headers)
        self.listed = config.metrics_max_in_memory
        self.captures.resize(config.capture_buffer_bytes)
        self.flights.keep_bytes = self.captures.keep_bytes
        self.store.reconfigure(config.store_limits(in_memory=self.store.in_memory))

    def closed(self, flight: Flight) -> None:
        """A request is over, its client has all of the answer."""
        if not flight.metered:
            return
        ended = self._ended
        if not ended:
            self._wake.set()
        ended.append(finished(flight))
        if len(ended) >= SLICE:
            self.read_all()

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
                self.read_all()

    async def flush(self) -> None:
        """Until everything that has ended is stored. Cancel-safe."""
        self.read_all()
        await self.store.flush()

    def close(self) -> None:
        """Record what is left and close the store. Blocks."""
        self.read_all()
        self.store.close()

    def read_all(self) -> None:
        """Read the answers of all that have ended, instead of a moment later."""
        ended, read, metadata, add = self._ended, self._read, self._metadata, self.store.add_row
        made = self.captures.made if self.captures.enabled else _nothing
        in_memory = self.store.in_memory
        while ended:
            request = ended.popleft()
            try:
                tokens, error = read(request)
            except Exception:  # the boundary between requests: one odd answer must not end the recording
                log.exception("an answer of %s could not be read", request.model)
                tokens, error = NO_TOKENS, ""
            for observer in self.on_read:
                observer(request, tokens, error)
            capture = made(request)
            entry = Entry(request, tokens, error, metadata)
            # A row that is made later holds all of the request till then, as a capture that is kept as it is does.
            add(entry if in_memory and capture is request else entry.row(), capture)

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

    def _stored(self, first: int, rows: Sequence[Recorded]) -> None:
        captures = cast("list[Captured]", [capture for _, capture in rows])  # as `read_all` gave them
        fresh = self.captures.add(first, captures)
        if fresh:
            self._to_pack += fresh
            self._packing.set()


def _nothing(request: Finished) -> None:
    """What is captured if captures are switched off."""
