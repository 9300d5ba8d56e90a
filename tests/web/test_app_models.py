"""The records of /v1/models."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import pytest
from app_fixtures import make_app, make_config

from llamaswap.config.settings import Capabilities, Config, ModelConfig
from llamaswap.observe.modellog import ModelLog
from llamaswap.routing.lifecycle import State
from llamaswap.web.models import listing


def records(config: Config, **states: State) -> dict[str, dict[str, Any]]:
    answer: Any = json.loads(json.dumps(listing(config, states, ModelLog(), 1234)))
    assert answer["object"] == "list"
    ids = [record["id"] for record in answer["data"]]
    assert ids == sorted(ids)
    return {record["id"]: record for record in answer["data"]}


def test_a_plain_model() -> None:
    assert records(make_config(ModelConfig(id="m", name="  ", description="\n"))) == {
        "m": {
            "id": "m",
            "object": "model",
            "created": 1234,
            "owned_by": "llama-swap",
            "meta": {"llamaswap": {"type": "model"}},
            "status": {"value": "unloaded"},
        }
    }


def test_a_full_model() -> None:
    model = ModelConfig(
        id="m",
        name=" M ",
        description=" good at it\n",
        aliases=("gpt", "claude"),
        capabilities=Capabilities(inputs=("text", "image"), outputs=("text",), tools=True, context=8192),
        metadata=MappingProxyType(
            {
                "vendor": MappingProxyType({"port": 5800, "tags": ("x", 1.5, None, True)}),
                "type": "mine",
                "architecture": "dropped",
                "capabilities": "dropped",
                "supported_parameters": [],
                "context_length": 1,
            }
        ),
    )
    assert records(make_config(model), m=State.READY)["m"] == {
        "id": "m",
        "object": "model",
        "created": 1234,
        "owned_by": "llama-swap",
        "name": "M",
        "description": "good at it",
        "architecture": {
            "input_modalities": ["text", "image"],
            "output_modalities": ["text"],
            "modality": "text+image->text",
        },
        "capabilities": {
            "vision": True,
            "audio_transcriptions": False,
            "audio_speech": False,
            "image_generation": False,
            "image_to_image": False,
            "function_calling": True,
            "reranker": False,
        },
        "supported_parameters": ["tools", "tool_choice"],
        "context_length": 8192,
        "meta": {
            "llamaswap": {
                "type": "model",
                "aliases": ["gpt", "claude"],
                "vendor": {"port": 5800, "tags": ["x", 1.5, None, True]},
            },
            "n_ctx": 8192,
        },
        "status": {"value": "loaded"},
    }


@pytest.mark.parametrize(
    ("capabilities", "flags"),
    [
        (Capabilities(("audio",), ("text",)), {"audio_transcriptions"}),
        (Capabilities(("text",), ("audio",)), {"audio_speech"}),
        (Capabilities(("text",), ("image",)), {"image_generation"}),
        (Capabilities(("text", "image"), ("image",)), {"image_generation", "image_to_image"}),
        (Capabilities(reranker=True), {"reranker"}),
        (Capabilities(), set()),
    ],
)
def test_capability_flags(capabilities: Capabilities, flags: set[str]) -> None:
    record = records(make_config(ModelConfig(id="m", capabilities=capabilities)))["m"]
    assert {name for name, value in record["capabilities"].items() if value} == flags
    assert ("architecture" in record) is bool(capabilities.inputs)
    assert "context_length" not in record and "supported_parameters" not in record
    assert "n_ctx" not in record["meta"]


def test_metadata_stays_whole_without_capabilities() -> None:
    model = ModelConfig(id="m", metadata={"context_length": 5, "bad": float("nan"), 7: "seven"})
    own = records(make_config(model))["m"]["meta"]["llamaswap"]
    assert own == {"type": "model", "context_length": 5, "bad": None, "7": "seven"}


def test_aliases_as_records() -> None:
    config = make_config(
        ModelConfig(id="m", aliases=("z", "a"), name="M", metadata={"k": 1}),
        ModelConfig(id="hidden", aliases=("ghost",), unlisted=True),
        include_aliases_in_list=True,
    )
    got = records(config, m=State.STARTING)
    assert list(got) == ["a", "m", "z"]
    assert got["a"]["meta"] == {"llamaswap": {"type": "alias", "modelID": "m", "k": 1}}
    assert got["a"]["name"] == "M"
    assert {record["status"]["value"] for record in got.values()} == {"loading"}


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (State.STOPPED, "unloaded"),
        (State.STARTING, "loading"),
        (State.READY, "loaded"),
        (State.STOPPING, "loaded"),
        (State.SHUTDOWN, "unloaded"),
    ],
)
def test_status(state: State, value: str) -> None:
    assert records(make_config(ModelConfig(id="m")), m=state)["m"]["status"] == {"value": value}


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
async def test_over_http(path: str) -> None:
    client = make_app(states={"b": State.READY}).test_client()
    response = await client.get(path, headers={"Origin": "https://chat.example", "Sec-Fetch-Site": "cross-site"})
    assert response.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    assert response.content_type == "application/json"
    data = (await response.get_json())["data"]
    assert [record["id"] for record in data] == ["a", "b", "org/c:q4"]
    assert [record["status"]["value"] for record in data] == ["unloaded", "loaded", "unloaded"]
    assert all(isinstance(record["created"], int) for record in data)
    silent = await client.get(path)
    assert "Access-Control-Allow-Origin" not in silent.headers
    head = await client.head(path)
    assert head.status_code == 200
