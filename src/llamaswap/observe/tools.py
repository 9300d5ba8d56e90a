"""Running a vendor's tool: what it prints, or nothing, within a bound, whatever it does."""

from __future__ import annotations

import logging
import os
import subprocess

import trio

log = logging.getLogger("llamaswap.observe")

TOOL_S = 5.0  # nvidia-smi wakes cards that sleep, which takes a second or two
KILL_S = 1.0  # after SIGKILL; one that hangs in its driver never ends, and is left to itself
OUTPUT_BYTES = 4 << 20  # no tool has so much to say
_ENV = {"LC_ALL": "C"}


async def run_tool(name: str, *args: str, timeout_s: float = TOOL_S) -> str | None:
    """What the tool prints on stdout, whatever its exit status; None if it is not installed, cannot be run
    or takes longer than `timeout_s` (it is then killed).

    Cancelled, it kills the tool and leaves within `KILL_S`.
    """
    try:
        process = await trio.lowlevel.open_process(
            [name, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for us
            env={**os.environ, **_ENV},
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        log.debug("%s cannot be run: %s", name, error)
        return None
    assert process.stdout is not None
    output = bytearray()
    try:
        with trio.move_on_after(timeout_s) as limit:
            async for data in process.stdout:
                output += data
                if len(output) > OUTPUT_BYTES:
                    return None
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.move_on_after(KILL_S, shield=True):
            await process.stdout.aclose()
            await process.wait()
    if limit.cancelled_caught:
        log.debug("%s did not end within %g s", name, timeout_s)
        return None
    return output.decode("utf-8", "replace")
