import pytest

from llamaswap.relay.endpoints import ENDPOINTS, allowed_methods, classify, query_model

JSON_PATHS = [
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
]
VERSIONLESS = [
    "/v/chat/completions",
    "/v/responses",
    "/v/completions",
    "/v/messages",
    "/v/messages/count_tokens",
    "/v/embeddings",
    "/v/rerank",
    "/v/reranking",
]


@pytest.mark.parametrize("path", JSON_PATHS)
def test_json_endpoints_keep_their_path(path: str) -> None:
    found = classify("POST", path)
    assert found is not None
    assert (found.kind, found.upstream_path, found.route) == ("json", path, path)
    assert "POST" in found.methods


@pytest.mark.parametrize("path", VERSIONLESS)
def test_the_versionless_forms_lose_their_prefix_upstream(path: str) -> None:
    found = classify("POST", path)
    assert found is not None
    assert (found.kind, found.upstream_path, found.route) == ("json", path.removeprefix("/v"), path)


def test_audioapi_is_stripped() -> None:
    found = classify("POST", "/audioapi/v1/tasks/run")
    assert found is not None
    assert (found.kind, found.upstream_path) == ("json", "/v1/tasks/run")


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/images/edits"])
def test_multipart_endpoints(path: str) -> None:
    found = classify("POST", path)
    assert found is not None
    assert (found.kind, found.upstream_path) == ("multipart", path)


@pytest.mark.parametrize("path", ["/v1/audio/voices", "/sdapi/v1/loras", "/props"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_query_endpoints(method: str, path: str) -> None:
    found = classify(method, path)
    assert found is not None
    assert (found.kind, found.upstream_path) == ("query", path)


def test_only_openai_chat_may_show_loading_frames() -> None:
    assert [e.route for e in ENDPOINTS if e.is_chat] == ["/v1/chat/completions"]


def test_the_table_holds_these_and_no_more() -> None:
    expected = {("POST", p) for p in [*JSON_PATHS, *VERSIONLESS, "/audioapi/v1/tasks/run"]}
    expected |= {("POST", "/v1/audio/transcriptions"), ("POST", "/v1/images/edits")}
    expected |= {(m, p) for m in ("GET", "HEAD") for p in ("/v1/audio/voices", "/sdapi/v1/loras", "/props")}
    assert {(m, e.route) for e in ENDPOINTS for m in e.methods} == expected


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("DELETE", "/v1/chat/completions"),
        ("post", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "/v1/chat"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/V1/chat/completions"),
        ("POST", "/props"),
        ("POST", "/v/images/generations"),
        ("POST", "/upstream/m/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/comfyui/"),
        ("GET", "/"),
        ("POST", ""),
    ],
)
def test_everything_else_is_no_model_endpoint(method: str, path: str) -> None:
    assert classify(method, path) is None


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", ("POST",)),
        ("/v1/images/edits", ("POST",)),
        ("/v1/audio/voices", ("GET", "HEAD", "POST")),
        ("/props", ("GET", "HEAD")),
        ("/v1/models", ()),
        ("/nothing", ()),
    ],
)
def test_allowed_methods(path: str, allowed: tuple[str, ...]) -> None:
    assert allowed_methods(path) == allowed


@pytest.mark.parametrize(
    ("query", "model"),
    [
        (b"model=qwen", "qwen"),
        (b"a=1&model=qwen&b=2", "qwen"),
        (b"model=org%2Fqwen%3A7b", "org/qwen:7b"),
        (b"model=my+model", "my model"),
        (b"model=a%2Bb", "a+b"),
        (b"model=a=b", "a=b"),
        (b"model=one&model=two", "one"),
        (b"m%6Fdel=qwen", "qwen"),
        ("model=größe".encode(), "größe"),
        (b"model=gr%C3%B6%C3%9Fe", "größe"),
        (b"model=%ff", "\\xff"),
        (b"model=100%", "100%"),
        (b"model=", None),
        (b"model", None),
        (b"models=x", None),
        (b"MODEL=x", None),
        (b"&&", None),
        (b"", None),
    ],
)
def test_query_model(query: bytes, model: str | None) -> None:
    assert query_model(query) == model
