"""One finished request as it is remembered, and as `/api/metrics/activity` shows it (llama-swap's record and more)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

UNKNOWN = -1
"""Stands for a count or a speed that the answer did not tell."""


class Tokens(NamedTuple):
    """What an answer says of its own cost. Speeds in tokens per second; UNKNOWN where it does not say."""

    cache_tokens: int = UNKNOWN
    draft_tokens: int = UNKNOWN
    draft_acc_tokens: int = UNKNOWN
    input_tokens: int = UNKNOWN
    output_tokens: int = UNKNOWN
    prompt_per_second: float = UNKNOWN
    tokens_per_second: float = UNKNOWN


NO_TOKENS = Tokens()


class Row(NamedTuple):
    """A finished request; the fields are the columns of the store's `activity` table, in order."""

    timestamp_ms: int
    """When it ended, in milliseconds since the epoch."""
    model: str
    requested: str
    """The id or alias that the client wrote."""
    client: str
    req_path: str
    resp_content_type: str
    resp_status_code: int
    """499: the client left first."""
    cache_tokens: int
    draft_tokens: int
    draft_acc_tokens: int
    input_tokens: int
    output_tokens: int
    prompt_per_second: float
    tokens_per_second: float
    duration_ms: int
    ttfb_ms: float | None
    """From the request to the first byte of the answer's body; None if there was none."""
    queue_ms: float
    load_ms: float
    """How long it waited while its model was loading; `queue_ms` is what it waited besides."""
    error_msg: str
    metadata: str
    """A JSON object of texts; empty for none."""


def rfc3339(timestamp_ms: int) -> str:
    """Milliseconds since the epoch as `2026-08-01T12:00:00.000Z`."""
    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def activity_record(id: int, row: Row, *, has_capture: bool) -> dict[str, object]:
    """The record of `/api/metrics/activity`."""
    record: dict[str, object] = {
        "id": id,
        "timestamp": rfc3339(row.timestamp_ms),
        "model": row.model,
        "requested": row.requested,
        "client": row.client,
        "req_path": row.req_path,
        "resp_content_type": row.resp_content_type,
        "resp_status_code": row.resp_status_code,
        "tokens": {name: getattr(row, name) for name in Tokens._fields},
        "duration_ms": row.duration_ms,
        "ttfb_ms": None if row.ttfb_ms is None else round(row.ttfb_ms, 2),
        "queue_ms": round(row.queue_ms, 2),
        "load_ms": round(row.load_ms, 2),
        "has_capture": has_capture,
    }
    if row.error_msg:
        record["error_msg"] = row.error_msg
    if row.metadata:
        record["metadata"] = json.loads(row.metadata)
    return record


def metrics_record(id: int, row: Row) -> dict[str, object]:
    """The older record, of `/api/metrics` and the event `metrics`."""
    return {
        "id": id,
        "timestamp": rfc3339(row.timestamp_ms),
        "model": row.model,
        "cache_tokens": row.cache_tokens,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "prompt_per_second": row.prompt_per_second,
        "tokens_per_second": row.tokens_per_second,
        "duration_ms": row.duration_ms,
    }
