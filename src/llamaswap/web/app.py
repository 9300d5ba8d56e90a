"""The Quart-Trio app: every route that is not a model's.

It runs behind Hypercorn, in process behind our own front as well as alone; `app.asgi_app` may be wrapped
(`web/asgi.py` puts the model routes there). Nothing in it holds more than a log subscription.
"""

from __future__ import annotations

import logging
from importlib.resources.abc import Traversable

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from llamaswap.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    SwapError,
    render,
)
from llamaswap.relay.endpoints import allowed_methods
from llamaswap.web import access, activity, config, control, events, logs, models, openapi, performance, ui
from llamaswap.web.state import AppState

log = logging.getLogger("llamaswap.web")

BODY_LIMIT_BYTES = 16 << 20  # control requests carry a few fields; model bodies never come here


class _OtherStatus(SwapError):
    """A status that only the framework uses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = "invalid_request" if 400 <= status < 500 else "internal_error"


def _as_swap_error(error: HTTPException) -> SwapError:
    status = error.code or 500
    if status == 404:
        return NotFound("404 page not found")
    if isinstance(error, WrongMethod):
        return MethodNotAllowed(request.method, sorted(error.valid_methods or ()))
    message = error.description or error.name
    if status == 400:
        return BadRequest(message)
    if status == 413:
        return PayloadTooLarge(message)
    return _OtherStatus(status, message)


def _rendered(error: SwapError) -> Response:
    status, headers, body = render(error, request.headers.get("Accept", ""))
    return Response(body, status, dict(headers))


def _register_errors(app: QuartTrio) -> None:
    async def swap_error(error: SwapError) -> Response:
        return _rendered(error)

    async def http_error(error: HTTPException) -> Response:
        return _rendered(_as_swap_error(error))

    async def unforeseen(error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return _rendered(_OtherStatus(500, "internal error; the log says more"))

    app.register_error_handler(SwapError, swap_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unforeseen)


def _register_gate(app: QuartTrio, state: AppState) -> None:
    @app.before_request
    async def gate() -> Response | None:
        path, headers = request.path, tuple(request.scope["headers"])
        is_open = path in access.OPEN_PATHS
        if request.method == "OPTIONS":
            return _preflight(headers, wildcard=is_open or bool(allowed_methods(path)))
        if access.is_public(path):
            return None
        if not is_open:
            method = "POST" if path == "/unload" else request.method  # the one GET that changes something
            refusal = access.guard_control(headers, method, state.config.allowed_hosts)
            if refusal is not None:
                raise refusal
        if not access.check_key(headers, state.config.api_keys):
            raise access.unauthorized(headers)
        return None


def _preflight(headers: access.Headers, *, wildcard: bool) -> Response:
    response = Response(b"", 204)
    del response.headers["Content-Type"]
    del response.headers["Content-Length"]
    for name, value in access.preflight(headers, wildcard=wildcard):
        response.headers.add(name.decode("latin-1"), value.decode("latin-1"))
    return response


def create_app(state: AppState, *, ui_root: Traversable | None = None) -> QuartTrio:
    """The app over `state`, complete but for the model routes. `ui_root` stands in for the packaged UI."""
    app = QuartTrio("llamaswap", static_folder=None, template_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None,  # log streams live as long as somebody reads them
        BODY_TIMEOUT=None,
        MAX_CONTENT_LENGTH=BODY_LIMIT_BYTES,
        PROVIDE_AUTOMATIC_OPTIONS=False,  # the gate answers OPTIONS, unknown paths included
        PROPAGATE_EXCEPTIONS=False,
    )
    app.url_map.merge_slashes = False  # no redirects of the framework: a path means what it says
    app.url_map.redirect_defaults = False
    _register_errors(app)
    _register_gate(app, state)
    for blueprint in (
        control.blueprint(state),
        models.blueprint(state),
        logs.blueprint(state),
        events.blueprint(state),
        performance.blueprint(state),
        openapi.blueprint(state),
        activity.blueprint(state),
        config.blueprint(state),
        ui.blueprint(state, ui_root),
    ):
        app.register_blueprint(blueprint)
    return app
