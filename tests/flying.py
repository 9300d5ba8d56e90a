"""Flights as the relay makes them, without a relay."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llamaswap.observe.flights import Flight, Flights
from llamaswap.relay.response import Answer


@dataclass
class Exchange:
    path: str = "/v1/chat/completions"
    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ((b"Host", b"localhost"), (b"X-Api-Key", b"sk-secret"))
    method: str = "POST"
    query: str = ""
    client: str = "10.0.0.7"
    bytes_sent: int = 0
    broken: bool = False
    begun: float = field(default_factory=time.monotonic)


USAGE = {"prompt_tokens": 12, "completion_tokens": 3}


def fly(
    flights: Flights,
    answer: bytes | dict[str, Any] | None = None,
    *,
    model: str = "m",
    body: bytes = b'{"model":"m"}',
    content_type: str = "application/json",
    metered: bool = True,
    **exchange: Any,
) -> Flight:
    """A request that has got its answer and is about to end: `flights.close` it."""
    flight = flights.open(Exchange(**exchange), model, model, metered=metered)
    flight.body = body
    flight.granted_at = flight.begun
    headers = [(b"Content-Type", content_type.encode()), (b"Set-Cookie", b"secret")]
    flight.answer = Answer(200, b"OK", headers, -1, False)
    if answer is None:
        answer = {"usage": USAGE}
    flight.add(answer if isinstance(answer, bytes) else json.dumps(answer).encode())
    return flight


def land(flights: Flights, *args: Any, **options: Any) -> Flight:
    """The same, ended."""
    flight = fly(flights, *args, **options)
    flights.close(flight)
    return flight
