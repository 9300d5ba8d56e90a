"""The last lines of what a process printed, for messages about its end."""

from __future__ import annotations

import re

KEPT_BYTES = 16384
LINES = 12
LINE_CHARS = 300
TEXT_CHARS = 2000

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Tail:
    """Bounded memory of a byte stream's end."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data[-KEPT_BYTES:]
        if len(self._data) > 2 * KEPT_BYTES:
            del self._data[:-KEPT_BYTES]

    def text(self) -> str:
        """At most the last dozen lines that say something, without terminal escapes; "" if there are none."""
        text = _ESCAPES.sub("", bytes(self._data[-KEPT_BYTES:]).decode("utf-8", "replace"))
        lines = []
        for line in text.replace("\r\n", "\n").split("\n"):
            # A progress bar overwrites its line: what stands last is what was seen.
            line = _CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]).rstrip()
            if line:
                lines.append(line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}…")
        text = "\n".join(lines[-LINES:])
        return text if len(text) <= TEXT_CHARS else f"…{text[-TEXT_CHARS:]}"
