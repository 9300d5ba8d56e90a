"""How the machine and the models are doing: `/api/performance`, `/api/hardware`, and `/metrics` for Prometheus."""

from __future__ import annotations

import re
from datetime import datetime

import trio
from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest, SwapError
from llamaswap.web.state import AppState, json_response

HARDWARE_WAIT_S = 5.0  # for the first look at the machine, right after the start
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


class HardwareUnknown(SwapError):
    status, code = 503, "service_unavailable"

    def __init__(self) -> None:
        super().__init__("hardware detection unavailable")


def time_parameter(name: str) -> float | None:
    """A query parameter as seconds since the epoch; None if it is absent or empty. Raises BadRequest."""
    text = request.args.get(name, "")
    if not text:
        return None
    # An offset's plus that was not escaped arrives as a blank.
    text = re.sub(r" (\d\d:\d\d)$", r"+\1", text)
    try:
        if not _RFC3339.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadRequest(f"{name} must be a time such as 2026-08-01T12:00:00Z (RFC 3339), got {text[:40]!r}") from None


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("performance", __name__)

    @bp.get("/api/performance")
    async def performance() -> Response:
        after = time_parameter("after")
        if not state.monitor.enabled:
            response = json_response({"enabled": False})
            response.status_code = 503
            return response
        return Response(state.monitor.answer(after), content_type="application/json")

    @bp.get("/api/hardware")
    async def hardware() -> Response:
        found = await state.monitor.hardware_known(HARDWARE_WAIT_S)
        if found is None:
            raise HardwareUnknown
        return json_response(found)

    @bp.get("/metrics")
    async def metrics() -> Response:
        if not state.monitor.enabled:
            # As llama-swap: a scraper that was set up for it is to see the same. Models' counts without the
            # machine's are had with a long `performance.every`.
            return Response("# performance monitor not available\n", 503, content_type="text/plain; charset=utf-8")
        accept = request.headers.get("Accept", "")
        views = sorted(state.fleet.views(), key=lambda view: view.id)
        state.recorder.read_all()  # they are counted then
        counts = state.metrics.snapshot()
        sample = state.monitor.latest

        def render() -> tuple[bytes, str]:
            # Its library takes longer to import than anything else here, and most servers are never scraped.
            from llamaswap.observe import prometheus

            return prometheus.render(accept, sample, views, counts)

        body, content_type = await trio.to_thread.run_sync(render)
        return Response(body, content_type=content_type)

    return bp
