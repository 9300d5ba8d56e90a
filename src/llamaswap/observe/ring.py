"""A bounded tail of a byte stream, cut at line ends where there are any."""

from __future__ import annotations

LINE_SEARCH_BYTES = 8192
"""A cut moves forward at most so far to reach a line end; a longer line is cut in its middle."""


class ByteRing:
    """The last `limit` bytes appended. Appending is amortised O(len(data)); memory stays below
    a quarter above `limit`, and nothing here waits."""

    __slots__ = ("_buffer", "_limit", "_slack", "dropped")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit
        self._slack = limit // 4  # cutting at every append would move the whole buffer each time
        self.dropped = 0
        """Bytes lost at the old end since the last `take`."""

    def __len__(self) -> int:
        return len(self._buffer)

    def append(self, data: bytes) -> None:
        buffer = self._buffer
        if len(data) > self._limit + self._slack:
            # Only the end can survive; one byte more than fits keeps the cut at a line end possible.
            skip = len(data) - self._limit - 1
            self.dropped += len(buffer) + skip
            buffer.clear()
            data = data[skip:]
        buffer += data
        if len(buffer) > self._limit + self._slack:
            self._trim()

    def snapshot(self) -> bytes:
        """What is held now, at most `limit` bytes."""
        self._trim()
        return bytes(self._buffer)

    def take(self) -> tuple[bytes, int]:
        """(what is held, bytes dropped before it); the ring is empty afterwards."""
        self._trim()
        data, dropped = bytes(self._buffer), self.dropped
        self._buffer.clear()
        self.dropped = 0
        return data, dropped

    def _trim(self) -> None:
        buffer = self._buffer
        excess = len(buffer) - self._limit
        if excess <= 0:
            return
        newline = buffer.find(b"\n", excess - 1, excess + LINE_SEARCH_BYTES)
        if newline >= 0:
            cut = newline + 1
        else:
            cut = excess
            while cut < min(excess + 3, len(buffer)) and buffer[cut] & 0xC0 == 0x80:
                cut += 1  # not in the middle of a UTF-8 character
        if cut == len(buffer) and newline >= 0:
            cut = excess  # the line end found is the very last byte: part of a line beats nothing
        self.dropped += cut
        del buffer[:cut]
