"""What a path is: which requests carry a model, where its name stands, and what the upstream calls it.

Pure and on the way of every request: one dictionary look-up, nothing built per call. The table is
llama-swap's. `/upstream/<model>/...` is not here: its path is open-ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote_to_bytes

Kind = Literal["json", "multipart", "query"]
"""Where the model's name stands: a key of the JSON body, a form field, or the query's `model`."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model route, for the methods that share its meaning."""

    kind: Kind
    route: str
    """The path as clients call it; a label of bounded cardinality for logs and metrics."""
    upstream_path: str
    """The path that the upstream is asked for (`/v` and `/audioapi` prefixes stripped)."""
    target: bytes = field(init=False)
    """The same as it is sent."""
    methods: tuple[str, ...]
    is_chat: bool = False
    """Whether loading frames may be sent before the answer (OpenAI chat streams only)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", self.upstream_path.encode())


_POST = ("POST",)
_GET = ("GET", "HEAD")

_JSON = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/reranking",
    "/v1/audio/speech",
    "/v1/audio/voices",
    "/v1/images/generations",
    "/rerank",
    "/reranking",
    "/infill",
    "/completion",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/img2img",
)
_VERSIONLESS = (
    "/chat/completions",
    "/responses",
    "/completions",
    "/messages",
    "/messages/count_tokens",
    "/embeddings",
    "/rerank",
    "/reranking",
)
_MULTIPART = ("/v1/audio/transcriptions", "/v1/images/edits")
_QUERY = ("/v1/audio/voices", "/sdapi/v1/loras", "/props")


def _endpoints() -> Iterator[Endpoint]:
    for path in _JSON:
        yield Endpoint("json", path, path, _POST, is_chat=path == "/v1/chat/completions")
    for path in _VERSIONLESS:
        yield Endpoint("json", "/v" + path, path, _POST)
    yield Endpoint("json", "/audioapi/v1/tasks/run", "/v1/tasks/run", _POST)
    for path in _MULTIPART:
        yield Endpoint("multipart", path, path, _POST)
    for path in _QUERY:
        yield Endpoint("query", path, path, _GET)


ENDPOINTS: tuple[Endpoint, ...] = tuple(_endpoints())
_TABLE = {(method, e.route): e for e in ENDPOINTS for method in e.methods}
_ALLOWED = {
    e.route: tuple(sorted({m for other in ENDPOINTS if other.route == e.route for m in other.methods}))
    for e in ENDPOINTS
}


def classify(method: str, path: str) -> Endpoint | None:
    """The model endpoint of an upper-case method and a raw path without its query; None if there is none.

    HEAD is answered like GET. None for a path of the table means the wrong method: see `allowed_methods`.
    """
    return _TABLE.get((method, path))


def allowed_methods(path: str) -> tuple[str, ...]:
    """The methods of a model path, sorted, for the Allow header of a 405; empty if it is no model path."""
    return _ALLOWED.get(path, ())


def query_model(query: bytes) -> str | None:
    """The first `model` of a raw query string (without `?`), percent-decoded; None if absent or empty.

    Bytes that are no UTF-8 come back as `\\xNN`, a name that no model has.
    """
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"model" or (b"%" in name and unquote_to_bytes(name) == b"model"):
            return unquote_to_bytes(value.replace(b"+", b" ")).decode("utf-8", "backslashreplace") or None
    return None
