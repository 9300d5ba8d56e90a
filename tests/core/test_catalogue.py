"""Names, aliases and paths to models."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamaswap.config.settings import Config, ModelConfig
from llamaswap.errors import ModelNotFound
from llamaswap.routing.catalogue import Catalogue

MODELS = {
    "llama": ModelConfig("llama", aliases=("gpt-4o", "llama/fast")),
    "org/llama": ModelConfig("org/llama"),
    "org/llama/8b": ModelConfig("org/llama/8b"),
    "größe": ModelConfig("größe"),
    "secret": ModelConfig("secret", unlisted=True, aliases=("mystery",)),
}
CATALOGUE = Catalogue(Config(models=MODELS))


def test_ids_and_aliases() -> None:
    assert CATALOGUE.resolve("llama").id == "llama"
    assert CATALOGUE.resolve("gpt-4o").id == "llama"
    assert CATALOGUE.resolve("secret").id == "secret"
    assert CATALOGUE.get("mystery") is MODELS["secret"]
    assert CATALOGUE.get("LLAMA") is None
    assert CATALOGUE.get("") is None


def test_an_id_wins_over_an_alias() -> None:
    models = {"a": ModelConfig("a", aliases=("b",)), "b": ModelConfig("b")}
    assert Catalogue(Config(models=models)).resolve("b").id == "b"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("lama", "'lama' not found; nearest: llama"),
        ("LLAMA", "nearest: llama"),
        ("gpt-4", "nearest: llama"),
        ("org/lama", "nearest: org/llama"),
        ("zzz", "'zzz' not found; known models: größe, llama, org/llama, …"),
    ],
)
def test_an_unknown_name_is_told_the_nearest(asked: str, said: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOGUE.resolve(asked)
    assert said in caught.value.message
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_unlisted_models_are_not_given_away() -> None:
    for asked in ("secre", "mysterie"):
        with pytest.raises(ModelNotFound) as caught:
            CATALOGUE.resolve(asked)
        assert "secret" not in caught.value.message.replace(f"'{asked}'", "")
        assert "mystery" not in caught.value.message


def test_no_models_at_all() -> None:
    with pytest.raises(ModelNotFound, match="no models are configured"):
        Catalogue(Config()).resolve("x")
    assert Catalogue(Config()).split_path("x/y") is None


def test_a_very_long_name_is_cut() -> None:
    with pytest.raises(ModelNotFound) as caught:
        CATALOGUE.resolve("x" * 1_000_000)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("llama/v1/chat", ("llama", "llama", "/v1/chat")),
        ("llama", ("llama", "llama", "")),
        ("llama/", ("llama", "llama", "/")),
        ("llama//x", ("llama", "llama", "//x")),
        ("llama/fast/x", ("llama", "llama/fast", "/x")),
        ("llama/faster/x", ("llama", "llama", "/faster/x")),
        ("gpt-4o/x", ("llama", "gpt-4o", "/x")),
        ("org/llama/8b/x", ("org/llama/8b", "org/llama/8b", "/x")),
        ("org/llama/8bit", ("org/llama", "org/llama", "/8bit")),
        ("org%2Fllama/x%2Fy%20z", ("org/llama", "org%2Fllama", "/x%2Fy%20z")),
        ("org%2fllama%2f8b", ("org/llama/8b", "org%2fllama%2f8b", "")),
        ("%6Clama/x", ("llama", "%6Clama", "/x")),
        ("gr%C3%B6%C3%9Fe/x", ("größe", "gr%C3%B6%C3%9Fe", "/x")),
        ("größe/x", ("größe", "größe", "/x")),
        ("größe/x".encode().decode("latin-1"), ("größe", "größe".encode().decode("latin-1"), "/x")),
        ("llama/%zz%", ("llama", "llama", "/%zz%")),
        ("llamas/x", None),
        ("gr%C3%B6%C3/x", None),
        ("%FF/x", None),
        ("org/x", None),
        ("", None),
        ("/", None),
        ("/llama", None),
    ],
)
def test_paths(path: str, expected: tuple[str, str, str] | None) -> None:
    found = CATALOGUE.split_path(path)
    assert (found and (found[0].id, found[1], found[2])) == expected


@given(
    st.sampled_from([*MODELS, "gpt-4o", "llama/fast", "mystery"]),
    st.booleans(),
    st.sampled_from(["", "/", "/x%20y", "//", "/a/b/c"]),
)
def test_a_path_made_from_a_name_leads_to_it(name: str, encode_slash: bool, rest: str) -> None:
    written = quote(name, safe="" if encode_slash else "/")
    found = CATALOGUE.split_path(written + rest)
    assert found == (CATALOGUE.resolve(name), written, rest)


def test_a_path_of_slashes_costs_little() -> None:
    began = time.perf_counter()
    assert CATALOGUE.split_path("%41/" * 100_000) is None
    assert time.perf_counter() - began < 0.5
