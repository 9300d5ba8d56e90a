"""/ui, built and not built."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from app_fixtures import make_state
from quart.typing import TestClientProtocol as Client

from llamaswap.web.app import create_app


@pytest.fixture
def built(tmp_path: Path) -> Client:
    root = tmp_path / "_ui"
    (root / "assets").mkdir(parents=True)
    (root / ".gitkeep").write_text("")
    (root / "index.html").write_text("<p>index</p>")
    (root / "favicon.ico").write_bytes(b"icon")
    (root / "robots.txt").write_text("robots")
    (root / "assets" / "index-BxY_12-z.js").write_text("plain")
    (root / "assets" / "index-BxY_12-z.js.br").write_bytes(b"brotli")
    (root / "assets" / "index-BxY_12-z.js.gz").write_bytes(b"zipped")
    (tmp_path / "secret.txt").write_text("secret")
    return create_app(make_state(), ui_root=root).test_client()


@pytest.fixture
def bare(tmp_path: Path) -> Client:
    return create_app(make_state(), ui_root=tmp_path).test_client()


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/models", "/ui/deep/er"])
async def test_not_built(bare: Client, path: str) -> None:
    response = await bare.get(path)
    assert response.status_code == 200
    assert response.content_type == "text/html; charset=utf-8"
    page = await response.get_data(as_text=True)
    assert "not built" in page and "/v1/models" in page and "/logs/stream" in page
    assert (await bare.get("/ui/app.js")).status_code == 404
    assert (await bare.get("/favicon.ico")).content_type.startswith("image/svg+xml")


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/models", "/ui/models/org/x", "/ui/models/qwen2.5", "/ui/assets"])
async def test_routes_of_the_page_get_the_index(built: Client, path: str) -> None:
    response = await built.get(path)
    assert await response.get_data() == b"<p>index</p>"
    assert response.headers["Cache-Control"] == "no-cache"
    again = await built.get(path, headers={"If-None-Match": f'"x", {response.headers["ETag"]}'})
    assert (again.status_code, await again.get_data()) == (304, b"")


@pytest.mark.parametrize(
    ("accept", "body", "encoding"),
    [
        ("", b"plain", None),
        ("identity", b"plain", None),
        ("gzip, deflate, br", b"brotli", "br"),
        ("gzip;q=1.0, br;q=0", b"zipped", "gzip"),
        ("BR ; q=0.5", b"brotli", "br"),
        ("brx", b"plain", None),
    ],
)
async def test_assets(built: Client, accept: str, body: bytes, encoding: str | None) -> None:
    response = await built.get("/ui/assets/index-BxY_12-z.js", headers={"Accept-Encoding": accept})
    assert await response.get_data() == body
    assert response.headers.get("Content-Encoding") == encoding
    assert response.headers["Vary"] == "Accept-Encoding"
    assert response.content_type == "text/javascript; charset=utf-8"
    assert "immutable" in response.headers["Cache-Control"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_files_without_a_hash_are_checked_again(built: Client) -> None:
    response = await built.get("/ui/robots.txt")
    assert await response.get_data() == b"robots"
    assert response.headers["Cache-Control"] == "no-cache"
    assert "Vary" not in response.headers
    icon = await built.get("/favicon.ico")
    assert (await icon.get_data(), icon.content_type) == (b"icon", "image/x-icon")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/missing.js", "/ui/models.js",
        "/ui/assets/missing-12345678.css", "/ui/../secret.txt", "/ui/assets/../../secret.txt",
        "/ui/.gitkeep", "/ui//secret.txt", "/ui/..\\secret.txt", "/ui/\0.txt", "/ui/./index.html",
    ],
)  # fmt: skip
async def test_what_is_not_there(built: Client, path: str) -> None:
    response = await built.get(path)
    assert response.status_code == 404
    assert b"secret" not in await response.get_data()


@pytest.mark.parametrize(
    "path", ["/ui/", "/ui/models", "/ui/assets/index-BxY_12-z.js", "/ui/robots.txt", "/favicon.ico"]
)
async def test_nothing_comes_from_elsewhere_or_stands_inline(built: Client, path: str) -> None:
    policy = (await built.get(path)).headers["Content-Security-Policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy)
    assert {"frame-ancestors 'self'", "base-uri 'none'"} <= set(policy)
    assert "unsafe" not in str(policy) and "http" not in str(policy)


async def test_the_page_without_a_ui_may_use_its_own_style(bare: Client) -> None:
    response = await bare.get("/ui")
    style = (await response.get_data(as_text=True)).partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'; " in response.headers["Content-Security-Policy"]
