"""`/ui`: the built web UI from the package, or a page that says it is not built.

What has a hash in its name may be kept for ever, everything else is asked for again (with an ETag). Paths that are
no file are pages of the UI and get its index; what looks like a file and is not there is a 404, so that a browser never
takes a page for a script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from importlib.resources.abc import Traversable

import trio
from quart import Blueprint, Response, request

from llamaswap.errors import NotFound
from llamaswap.web.state import AppState

_TYPES = {
    "css": "text/css; charset=utf-8",
    "gif": "image/gif",
    "html": "text/html; charset=utf-8",
    "ico": "image/x-icon",
    "jpg": "image/jpeg",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "map": "application/json",
    "mjs": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "wasm": "application/wasm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
}
_HASHED = re.compile(r"assets/.*[-.][A-Za-z0-9_-]{8,}\.[A-Za-z0-9]+")
"""A name with a hash of its contents, as Vite gives them: what it holds never changes."""
_IMMUTABLE = "public, max-age=31536000, immutable"
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
_OPEN_ENDED = "models/"
"""Under this a model's id follows, dots and all."""

_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" '
    b'fill="#2f6f5e"/><path d="M8 12h13l-4-4M24 20H11l4 4" fill="none" stroke="#fff" stroke-width="2.5" '
    b'stroke-linecap="round" stroke-linejoin="round"/></svg>'
)

_NOT_BUILT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>llamaswap</title>
<link rel="icon" href="/favicon.ico" type="image/svg+xml">
<style>
  :root { color-scheme: light dark; }
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; }
  td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
  code { font: .92em ui-monospace, monospace; }
</style>
</head>
<body>
<main>
<h1>llamaswap is running</h1>
<p>This build comes without the web UI: it is not built. Everything else works.</p>
<table>
<tr><td><a href="/v1/models"><code>GET /v1/models</code></a></td><td>the models that can be asked for</td></tr>
<tr><td><a href="/running"><code>GET /running</code></a></td><td>the models that are loaded</td></tr>
<tr><td><a href="/logs/stream"><code>GET /logs/stream</code></a></td><td>the log, live
  (<code>/proxy</code>, <code>/upstream</code> or <code>/&lt;model&gt;</code> for one part of it)</td></tr>
<tr><td><a href="/health"><code>GET /health</code></a></td><td>answers OK</td></tr>
<tr><td><code>POST /v1/chat/completions</code></td><td>and the other OpenAI, Anthropic and llama.cpp routes:
  the model that the request names is started if need be</td></tr>
<tr><td><code>ANY /upstream/&lt;model&gt;/</code></td><td>everything else a model's own server offers</td></tr>
<tr><td><code>POST /api/models/unload</code></td><td>unload all models
  (<code>/&lt;model&gt;</code>: one of them)</td></tr>
</table>
</main>
</body>
</html>
"""


def _policy(*, style: str = "'self'") -> str:
    """The Content-Security-Policy: nothing from elsewhere, nothing inline, nobody's frame but our own.

    Pictures and sounds may come from the page itself: what a person picks, what a model makes.
    """
    return (
        f"default-src 'none'; script-src 'self'; style-src {style}; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self'; connect-src 'self'; manifest-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )


_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Another site must not show the UI in a frame and have its buttons clicked unawares.
    "Content-Security-Policy": _policy(),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_OWN_STYLE = _NOT_BUILT.partition("<style>")[2].partition("</style>")[0].encode()
_OWN_STYLE_HASH = base64.b64encode(hashlib.sha256(_OWN_STYLE).digest()).decode()


def packaged() -> Traversable:
    """Where the built UI lies if it is built."""
    return files("llamaswap").joinpath("_ui")


def _accepts(encoding: str) -> bool:
    for part in request.headers.get("Accept-Encoding", "").lower().split(","):
        name, _, parameters = part.partition(";")
        if name.strip() == encoding:
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", parameters) is None
    return False


def _find(root: Traversable, path: str) -> Traversable | None:
    """The file at this relative path; None for whatever is not plainly inside `root`."""
    node = root
    for part in path.split("/"):
        if not part or part.startswith(".") or "\\" in part or "\0" in part:
            return None
        node = node.joinpath(part)
    return node if node.is_file() else None


def _load(root: Traversable, path: str, encodings: list[tuple[str, str]]) -> tuple[bytes, str, bool] | None:
    """(contents, encoding or "", whether it comes in several encodings) of a file."""
    plain = _find(root, path)
    if plain is None:
        return None
    siblings = [found for _, suffix in _ENCODINGS if (found := _find(root, path + suffix)) is not None]
    for encoding, suffix in encodings:
        sibling = _find(root, path + suffix)
        if sibling is not None:
            return sibling.read_bytes(), encoding, True
    return plain.read_bytes(), "", bool(siblings)


def _page(body: bytes | str, content_type: str) -> Response:
    response = Response(body, content_type=content_type)
    response.headers.update(_HEADERS)
    return response


async def _serve(root: Traversable, path: str) -> Response | None:
    accepted = [pair for pair in _ENCODINGS if _accepts(pair[0])]
    loaded = await trio.to_thread.run_sync(_load, root, path, accepted)
    if loaded is None:
        return None
    data, encoding, varies = loaded
    response = _page(data, _TYPES.get(path.rpartition(".")[2].lower(), "application/octet-stream"))
    if encoding:
        response.headers["Content-Encoding"] = encoding
    if varies:
        response.headers["Vary"] = "Accept-Encoding"
    if _HASHED.fullmatch(path):
        response.headers["Cache-Control"] = _IMMUTABLE
        return response
    tag = f'"{hashlib.sha256(data).hexdigest()[:20]}"'
    response.headers["Cache-Control"] = "no-cache"
    response.headers["ETag"] = tag
    known = [candidate.strip().removeprefix("W/") for candidate in request.headers.get("If-None-Match", "").split(",")]
    if tag in known:
        response.status_code = 304
        response.set_data(b"")
        del response.headers["Content-Length"]
    return response


def blueprint(state: AppState, root: Traversable | None = None) -> Blueprint:
    """`root` stands in for the packaged UI."""
    bp = Blueprint("ui", __name__)
    root = packaged() if root is None else root

    @bp.get("/ui", defaults={"path": ""})
    @bp.get("/ui/", defaults={"path": ""})
    @bp.get("/ui/<path:path>")
    async def ui(path: str) -> Response:
        response = await _serve(root, path) if path else None
        if response is not None:
            return response
        last = path.rpartition("/")[2]
        looks_like_file = "." in last or any(part.startswith(".") for part in path.split("/"))
        if looks_like_file and not path.startswith(_OPEN_ENDED):
            raise NotFound("404 page not found")
        index = await _serve(root, "index.html")
        if index is not None:
            return index
        page = _page(_NOT_BUILT, "text/html; charset=utf-8")
        page.headers["Cache-Control"] = "no-cache"
        page.headers["Content-Security-Policy"] = _policy(style=f"'sha256-{_OWN_STYLE_HASH}'")
        return page

    @bp.get("/favicon.ico")
    async def favicon() -> Response:
        icon = await _serve(root, "favicon.ico")
        return icon if icon is not None else _page(_ICON, "image/svg+xml")

    return bp
