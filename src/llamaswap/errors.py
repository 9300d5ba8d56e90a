"""What can go wrong, with its HTTP face.

Every error that a client can see is a `SwapError`; `render` turns it into the one envelope that
all routes answer with (the shape llama-swap's clients already parse).
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

_TYPE_BY_STATUS = {401: "authentication_error", 403: "authentication_error", 429: "rate_limit_error"}


class SwapError(Exception):
    """Base of all errors that are answered over HTTP.

    `status` is the HTTP status, `code` the machine-readable code of the envelope, `headers` extra
    response headers.
    """

    status: int = 500
    code: str = "internal_error"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def message(self) -> str:
        return str(self)

    @property
    def type(self) -> str:
        """The envelope's `type`, from the status."""
        if self.status in _TYPE_BY_STATUS:
            return _TYPE_BY_STATUS[self.status]
        return "invalid_request_error" if 400 <= self.status < 500 else "server_error"


class BadRequest(SwapError):
    status, code = 400, "bad_request"


class Unauthorized(SwapError):
    status, code = 401, "unauthorized"
    headers = (("WWW-Authenticate", 'Basic realm="llama-swap"'),)

    def __init__(self, message: str = "unauthorized: invalid or missing API key") -> None:
        super().__init__(message)


class Forbidden(SwapError):
    status, code = 403, "forbidden"


class NotFound(SwapError):
    status, code = 404, "not_found"


class ModelNotFound(SwapError):
    status, code = 404, "model_not_found"


class MethodNotAllowed(SwapError):
    status, code = 405, "invalid_request"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"method {method} is not allowed here; use {' or '.join(allowed)}")
        self.headers = (("Allow", ", ".join(allowed)),)


class RequestTimeout(SwapError):
    status, code = 408, "invalid_request"


class Conflict(SwapError):
    status, code = 409, "conflict"


class RequestCancelled(SwapError):
    """Somebody ended the request from outside. Not a 5xx: clients must not send it again by themselves."""

    status, code = 410, "request_cancelled"

    def __init__(self, message: str = "the request was cancelled by the server's operator") -> None:
        super().__init__(message)


class PayloadTooLarge(SwapError):
    status, code = 413, "invalid_request"


class TooManyRequests(SwapError):
    """A model has `concurrencyLimit` requests waiting or running."""

    status, code = 429, "concurrency_limit"
    headers = (("Retry-After", "1"),)

    def __init__(self, message: str = "Too many requests") -> None:
        super().__init__(message)


class HeadTooLarge(SwapError):
    status, code = 431, "invalid_request"


class NotImplementedHere(SwapError):
    status, code = 501, "internal_error"


class NotStarted(SwapError):
    """The model did not become ready.

    `summary` is one line; the message adds `output`, the process's last lines, if there was a process.
    `exit_code`: -N for signal N; None if it did not exit by itself. `after_s`: how long it was starting.
    """

    after_s = 0.0

    def __init__(self, summary: str, *, exit_code: int | None = None, output: str | None = None) -> None:
        said = "" if output is None else f"; last output:\n{output}" if output else "; it printed nothing"
        super().__init__(summary + said)
        self.summary = summary
        self.exit_code = exit_code
        self.output = output or ""


class StartFailed(NotStarted):
    """The model's process exited, or could not be run, before it was ready."""

    status, code = 502, "start_failed"


class BadGateway(SwapError):
    """The upstream refused, broke off before its first byte, or spoke no HTTP."""

    status, code = 502, "bad_gateway"


class ModelUnloaded(SwapError):
    status, code = 503, "model_unloaded"


class ShuttingDown(SwapError):
    status, code = 503, "shutting_down"

    def __init__(self, message: str = "llamaswap is shutting down") -> None:
        super().__init__(message)


class StartTimeout(NotStarted):
    """The model ran but was not ready within healthCheckTimeout."""

    status, code = 504, "start_timeout"


class GatewayTimeout(SwapError):
    """The upstream sent no response head within timeouts.responseHeader."""

    status, code = 504, "gateway_timeout"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding in a configuration: where it is, what is wrong and what would be right."""

    message: str
    key: str = ""
    """Dotted path of the key, e.g. `models.qwen.ttl`."""
    file: str = ""
    line: int | None = None
    """1-based."""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part not in ("", None))
        prefix = f"{where}: " if where else ""
        return f"{prefix}{self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used; carries every problem found, not only the first.

    `warnings` are the findings that would not have stopped it, and often explain those that do.
    """

    def __init__(self, problems: Sequence[Problem], warnings: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)
        super().__init__("\n".join(str(p) for p in self.problems))


def envelope(error: SwapError) -> dict[str, object]:
    """The JSON body of an error, the same for every route."""
    return {
        "src": "llama-swap",
        "error": {"message": error.message, "type": error.type, "param": None, "code": error.code},
    }


def render(error: SwapError, accept: str = "") -> tuple[int, list[tuple[str, str]], bytes]:
    """An error as (status, headers, body) in the form that `accept` asks for.

    JSON whenever application/json (or nothing, or */*) is acceptable, and always for 429; else HTML
    or plain text if asked for. HTML goes before */*, which every browser adds.
    """
    accept = accept.lower()
    wants_json = not accept or "application/json" in accept or error.status == 429
    if not wants_json and "text/html" in accept:
        kind = "text/html; charset=utf-8"
        body = f"<html><body><h1>llama-swap</h1><p>{html.escape(error.message)}</p></body></html>"
    elif not wants_json and "text/plain" in accept and "*/*" not in accept:
        kind = "text/plain; charset=utf-8"
        body = f"llama-swap: {error.message}"
    else:
        kind = "application/json"
        body = json.dumps(envelope(error), ensure_ascii=False)
    # A message may quote bytes of a client or a process that are no valid text.
    raw = body.encode("utf-8", "backslashreplace")
    headers = [("Content-Type", kind), ("Content-Length", str(len(raw))), *error.headers]
    return error.status, headers, raw
