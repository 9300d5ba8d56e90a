"""What was: `/api/metrics/activity`, `/api/metrics/stats`, the older `/api/metrics`, and `/api/captures/{id}`."""

from __future__ import annotations

import re

from quart import Blueprint, Response, request

from llamaswap.errors import BadRequest, NotFound
from llamaswap.observe.store_query import SORT_COLUMNS, STATUS, PageQuery
from llamaswap.web.performance import time_parameter
from llamaswap.web.state import AppState, json_response

MOST_LIMIT = 999
MOST_PAGE = 10**9
MOST_ID = 2**53
MOST_MODELS = 500  # of SQLite's variables in one statement
SHOWN = 40  # characters of a wrong value in a message


def whole_parameter(name: str, default: int | None, least: int, most: int) -> int | None:
    """A query parameter that is a whole number. Raises BadRequest, which names it and says what would be right."""
    text = request.args.get(name)
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,18}", text, re.ASCII) and least <= int(text) <= most:
        return int(text)
    raise BadRequest(f"{name} must be a whole number from {least} to {most}, got {text[:SHOWN]!r}")


def choice_parameter(name: str, default: str, choices: tuple[str, ...]) -> str:
    """A query parameter that is one of a few words. Raises BadRequest."""
    text = request.args.get(name, default)
    if text in choices:
        return text
    raise BadRequest(f"{name} must be one of: {', '.join(choices)}; got {text[:SHOWN]!r}")


def status_parameter() -> str:
    """The status of the answers that are wanted; empty if any is. Raises BadRequest."""
    text = request.args.get("status", "")
    if not text or re.fullmatch(STATUS, text, re.ASCII):
        return text
    raise BadRequest(f"status must be ok, error, a class such as 4xx, or a code such as 499; got {text[:SHOWN]!r}")


def moment_ms(name: str) -> int | None:
    """A query parameter that is a time, in milliseconds since the epoch. Raises BadRequest."""
    moment = time_parameter(name)
    return None if moment is None else round(moment * 1000)


def page_query() -> PageQuery:
    """What this request asks for. Raises BadRequest."""
    models = tuple(dict.fromkeys(model.strip() for model in request.args.getlist("model") if model.strip()))
    if len(models) > MOST_MODELS:
        raise BadRequest(f"model must be given at most {MOST_MODELS} times, got {len(models)}")
    return PageQuery(
        limit=whole_parameter("limit", 25, 1, MOST_LIMIT) or 25,
        page=whole_parameter("page", 1, 1, MOST_PAGE) or 1,
        sort=choice_parameter("sort", "id", tuple(SORT_COLUMNS)),
        descending=choice_parameter("order", "desc", ("asc", "desc")) == "desc",
        models=models,
        status=status_parameter(),
        start_ms=moment_ms("start"),
        end_ms=moment_ms("end"),
        min_id=whole_parameter("min_id", None, 0, MOST_ID),
        max_id=whole_parameter("max_id", None, 0, MOST_ID),
    )


def blueprint(state: AppState) -> Blueprint:
    bp = Blueprint("activity", __name__)

    @bp.get("/api/metrics/activity")
    async def activity() -> Response:
        query = page_query()
        records, total = await state.recorder.page(query)
        return json_response(
            {
                "data": records,
                "page": query.page,
                "limit": query.limit,
                "total": total,
                "total_pages": -(-total // query.limit),
            }
        )

    @bp.get("/api/metrics/stats")
    async def stats() -> Response:
        return json_response(await state.recorder.stats(request.args.get("model", "").strip()))

    @bp.get("/api/metrics")
    async def metrics() -> Response:
        return json_response(await state.recorder.metrics())

    @bp.get("/api/captures/<id>")
    async def capture(id: str) -> Response:
        if not re.fullmatch(r"[0-9]{1,18}", id, re.ASCII):
            raise BadRequest("invalid capture ID")
        found = await state.recorder.capture(int(id))
        if found is None:
            raise NotFound("capture not found")
        return json_response(found)

    return bp
