"""From a finished request to its row.

In memory, of thousands of requests a second most are forgotten before anybody asks for them: so a row is made when
somebody does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import msgspec

from llamaswap.observe.answer import BROKEN, Finished
from llamaswap.observe.flights import Headers
from llamaswap.observe.redact import is_secret
from llamaswap.observe.rows import Row, Tokens

ERROR_CHARS = 500  # of a message
SESSION_CHARS = 128  # of a session's id

# A third less than Row(...), for every request there is.
_row = cast("Callable[[type[Row], tuple[object, ...]], Row]", tuple.__new__)


class Metadata:
    """What the configuration says of a request, and what its client. For any thread."""

    def __init__(self, priorities: Mapping[str, int] | None = None, session_headers: Sequence[str] = ()) -> None:
        """`session_headers`: the names of those that may have the session's id, the best first."""
        self._priorities = priorities or {}
        self._ranks = _ranks(session_headers)
        self._last: tuple[Headers, str] = ((), "")

    def __call__(self, request: Finished) -> str:
        """A JSON object of texts; empty for none."""
        headers, session = self._last
        if request.request_headers is not headers:  # requests with the same head share them
            headers = request.request_headers
            session = self._session(headers)
            self._last = headers, session
        priority = self._priorities.get(request.model)
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
        found, best = b"", len(self._ranks)
        for name, value in headers:
            rank = self._ranks.get(name.lower(), best)
            if rank < best and value:
                found, best = value, rank
        return found[:SESSION_CHARS].decode("latin-1")


def _ranks(names: Sequence[str]) -> dict[bytes, int]:
    """Header names in small letters, and their place in the order of preference; those of credentials are left out."""
    return {name.lower().encode(): rank for rank, name in enumerate(name for name in names if not is_secret(name))}


class Entry(msgspec.Struct, gc=False):
    """A finished request and what its answer said: all that its row is made of."""

    request: Finished
    tokens: Tokens
    error: str
    """What the answer says went wrong."""
    metadata: Metadata
    """As it was configured when the request ended."""

    def row(self) -> Row:
        """Made anew with each call. For any thread."""
        request, error = self.request, self.error
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
            *self.tokens,
            int(request.spent_s * 1000),
            None if first_s is None else first_s * 1000,
            request.queue_s * 1000,
            request.load_s * 1000,
            error if error.isascii() else error.encode("utf-8", "backslashreplace").decode(),
            self.metadata(request),
        )
        return _row(Row, told)


def as_row(recorded: Row | Entry) -> Row:
    """Its row, made now if there is none yet."""
    return recorded.row() if isinstance(recorded, Entry) else recorded
