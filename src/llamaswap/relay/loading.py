"""What a streaming chat client sees while its model loads: frames of `reasoning_content`, then the answer.

Format: OpenAI chat chunks with a delta and no id, as llama-swap sends them.
Nothing here waits or writes: the relay asks for bytes at the times it likes.
"""

from __future__ import annotations

import json
from zlib import crc32

from llamaswap.errors import SwapError, envelope
from llamaswap.relay.response import Answer

TICK_S = 0.75
"""Between two calls of `tick`: a dot often enough to be seen alive, rare enough to be read over."""

REMARK_EVERY_TICKS = 8
"""A remark every six seconds of dots."""

HEAD = Answer(
    200,
    b"OK",
    [(b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-cache"), (b"X-Accel-Buffering", b"no")],
    length=-1,
    chunked=True,
)
"""What such a stream begins with; whatever the upstream's own head says comes too late."""

RULE = "━" * 5

REMARKS = (
    "Carrying the weights up from the disk; they are as heavy as they sound.",
    "Reading a few billion numbers. Skipping none of them, hopefully.",
    "A first load reads from disk; the next one may find it all in the page cache.",
    "Waiting for the model's health check to say 200. It is taking attendance.",
    "Someone else's model may just be packing its bags to make room.",
    "Models that are used all day can be kept loaded: see `persistent` groups in the configuration.",
    "Slow every time? A faster disk or a smaller quantisation helps more than patience.",
    "The model's own output is at /logs/stream, if you would rather watch that.",
    "Still with you. The tokens will be worth it, or at least they will be tokens.",
    "A longer `ttl` unloads models later, and so loads them less often.",
)


def frame(text: str) -> bytes:
    """One server-sent event that a chat client shows as reasoning."""
    return _event({"choices": [{"delta": {"reasoning_content": text}}]})


def _event(data: object) -> bytes:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate cannot be encoded; what it becomes instead is its escape in JSON too.
    return b"data: " + text.encode("utf-8", "backslashreplace") + b"\n\n"


_DOT = frame(".")


class LoadingFrames:
    """The frames of one loading model for one client, in order: `opening`, `tick`s, `done` or `failed`."""

    __slots__ = ("_mid_line", "_model", "_position", "_remark", "_ticks")

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self._position = 0
        self._ticks = 0
        self._mid_line = False
        # Another model starts elsewhere in the list; the same one is no surprise to its tests.
        self._remark = crc32(model_name.encode("utf-8", "replace"))

    def opening(self, position: int = 0) -> bytes:
        """The head line; with `position` as in `tick`."""
        return frame(f"{RULE}\nllama-swap loading model: {self._model}\n") + self._queue(position)

    def tick(self, position: int, elapsed_s: float) -> bytes:
        """One sign of life, to be called every `TICK_S`.

        `position` is the 1-based place in the queue, 0 when not queued (the model is being started);
        it is told when it changes. `elapsed_s` counts from the request's arrival.
        """
        self._ticks += 1
        told = self._queue(position)
        if told:
            return told
        if self._ticks % REMARK_EVERY_TICKS == 0:
            remark = REMARKS[self._remark % len(REMARKS)]
            self._remark += 1
            return self._line(f"[{elapsed_s:.0f}s] {remark}")
        self._mid_line = True
        return _DOT

    def done(self, elapsed_s: float) -> bytes:
        """The closing lines; the upstream's own bytes follow."""
        return self._line(f"Done! ({elapsed_s:.2f}s)") + frame(f"{RULE}\n\n")

    @staticmethod
    def failed(error: SwapError) -> bytes:
        """The error of a load that failed after the stream began: the JSON envelope as a `data:` event.

        Clients of the OpenAI API raise what they find under `error`. No `[DONE]` follows: this was no answer.
        """
        return _event(envelope(error))

    def _queue(self, position: int) -> bytes:
        if position == self._position:
            return b""
        self._position = position
        return self._line(f"Queue position: #{position}") if position > 0 else b""

    def _line(self, text: str) -> bytes:
        start = "\n" if self._mid_line else ""
        self._mid_line = False
        return frame(f"{start}{text}\n")
