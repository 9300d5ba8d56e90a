"""Records a row every few milliseconds into the store named on the command line, and says when it did."""

from __future__ import annotations

import sys
import time

import trio

from llamaswap.config.settings import StoreLimits
from llamaswap.observe.rows import Row
from llamaswap.observe.store import Store

EVERY_S = 0.002


async def main() -> None:
    store = Store(sys.argv[1], StoreLimits(keep_activity=0))
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        while True:
            now_ms = int(time.time() * 1000)
            store.add_row(Row(now_ms, *["x"] * 5, 200, *[1] * 7, 1, None, 0.0, 0.0, "", ""))
            print(now_ms, flush=True)
            await trio.sleep(EVERY_S)


trio.run(main)
