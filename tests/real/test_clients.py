"""The official clients, through llamaswap, to llama.cpp: every API they speak, and what happens in mid-stream."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx
import openai
import pytest
from real_config import SAYINGS, UNLOAD_TIMEOUT_S
from zipapp_runner import Running

TIMEOUT_S = 30  # of any one request; they take milliseconds
SEEN_S = 10  # llama.cpp looks for a client that left with every word of a stream
UNDISTURBED_S = 1.5  # and, while it gathers a whole answer, once it has heard of nothing else for 1 s
# At 0.3 ms a word, more with each, it goes on for half a minute at least.
ENDLESS = {"ignore_eos": True, "n_predict": 50_000}
ASK: Any = [{"role": "user", "content": "What do you know?"}]


@pytest.fixture
def openai_client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def anthropic_client(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=TIMEOUT_S) as client:
        yield client


def until(holds: Callable[[], bool], what: str, every_s: float = 0.02) -> None:
    deadline = time.monotonic() + SEEN_S
    while not holds():
        assert time.monotonic() < deadline, f"not seen within {SEEN_S} s: {what}"
        time.sleep(every_s)


def running(server: Running) -> dict[str, str]:
    return {row["model"]: row["state"] for row in json.loads(server.get("/running")[1])["running"]}


def unload(server: Running, model: str) -> None:
    request = urllib.request.Request(f"{server.url}/api/models/unload/{model}", method="POST")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        assert response.status == 200


def busy_slots(server: Running, model: str) -> int:
    status, body = server.get(f"/upstream/{model}/slots")
    assert status == 200
    return sum(slot["is_processing"] for slot in json.loads(body))


# What the clients speak ------------------------------------------------------------------------


@pytest.mark.parametrize("model", SAYINGS)
def test_chat_tells_which_model_spoke(openai_client: openai.OpenAI, model: str) -> None:
    answer = openai_client.chat.completions.create(model=model, messages=ASK)
    assert (answer.choices[0].message.content or "").strip() == SAYINGS[model]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.completion_tokens == len(SAYINGS[model].split()) + 1


@pytest.mark.parametrize("model", SAYINGS)
def test_chat_streamed(openai_client: openai.OpenAI, model: str) -> None:
    stream = openai_client.chat.completions.create(
        model=f"{model}-alias", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said).strip() == SAYINGS[model]
    assert len([piece for piece in said if piece]) == len(SAYINGS[model].split())  # as they were made
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens


def test_completions(openai_client: openai.OpenAI) -> None:
    answer = openai_client.completions.create(model="apples", prompt="Once", max_tokens=20)
    assert answer.choices[0].text.strip() == SAYINGS["apples"]
    stream = openai_client.completions.create(model="apples", prompt="Once", max_tokens=20, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream).strip() == SAYINGS["apples"]


def test_embeddings(openai_client: openai.OpenAI) -> None:
    answer = openai_client.embeddings.create(model="embedder", input=["one", "two", "one"])
    one, two, again = (row.embedding for row in answer.data)
    assert len(one) == 64 and one == pytest.approx(again, abs=1e-4) and one != two


@pytest.mark.parametrize("path", ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking", "/v/rerank"])
def test_rerank(server: Running, path: str) -> None:
    body = {"model": "ranker", "query": "hi", "documents": ["first one", "second", "third"]}
    answer = httpx.post(server.url + path, json=body, timeout=TIMEOUT_S, trust_env=False)
    assert answer.status_code == 200
    assert sorted(row["index"] for row in answer.json()["results"]) == [0, 1, 2]


def test_responses(openai_client: openai.OpenAI) -> None:
    answer = openai_client.responses.create(model="whales", input="What do you know?")
    assert answer.output_text.strip() == SAYINGS["whales"]


def test_responses_streamed(openai_client: openai.OpenAI) -> None:
    stream = openai_client.responses.create(model="whales", input="What do you know?", stream=True)
    events = list(stream)
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said.strip() == SAYINGS["whales"]
    assert events[-1].type == "response.completed"


def test_messages(anthropic_client: anthropic.Anthropic) -> None:
    answer = anthropic_client.messages.create(model="apples", max_tokens=50, messages=ASK)
    assert answer.content[0].type == "text" and answer.content[0].text.strip() == SAYINGS["apples"]
    assert answer.stop_reason == "end_turn" and answer.usage.output_tokens > 0


def test_messages_streamed(anthropic_client: anthropic.Anthropic) -> None:
    with anthropic_client.messages.stream(model="apples", max_tokens=50, messages=ASK) as stream:
        assert "".join(stream.text_stream).strip() == SAYINGS["apples"]
        assert stream.get_final_message().stop_reason == "end_turn"


def test_count_tokens(anthropic_client: anthropic.Anthropic) -> None:
    short = anthropic_client.messages.count_tokens(model="apples", messages=ASK)
    long = anthropic_client.messages.count_tokens(model="apples", messages=ASK * 3)
    assert 0 < short.input_tokens < long.input_tokens


def test_llama_servers_own_routes(server: Running) -> None:
    with httpx.Client(base_url=server.url, timeout=TIMEOUT_S, trust_env=False) as client:
        answer = client.post("/completion", json={"model": "apples", "prompt": "Once", "n_predict": 20})
        assert answer.json()["content"].strip() == SAYINGS["apples"]
        assert "default_generation_settings" in client.get("/props", params={"model": "apples"}).json()
        tokens = client.post("/upstream/apples/tokenize", json={"content": "red apples"}).json()["tokens"]
        assert len(tokens) > 1


def test_models_lists_all(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["apples", "embedder", "ranker", "whales"]


def test_unknown_model_is_the_clients_own_error(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.NotFoundError, match=r"aples.*apples") as refused:
        openai_client.chat.completions.create(model="aples", messages=ASK)
    assert refused.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError, match="aples"):
        anthropic_client.messages.create(model="aples", max_tokens=5, messages=ASK)


# Swapping and stopping --------------------------------------------------------------------------


def test_swaps_and_leaves_the_other_group_alone(server: Running, openai_client: openai.OpenAI) -> None:
    openai_client.embeddings.create(model="embedder", input="x")
    for model in ("apples", "whales", "apples"):
        answer = openai_client.chat.completions.create(model=model, messages=ASK)
        assert (answer.choices[0].message.content or "").strip() == SAYINGS[model]
        states = running(server)
        assert states[model] == "ready" and states["embedder"] == "ready"
        assert not states.keys() & (SAYINGS.keys() - {model})


def endless(client: openai.OpenAI, model: str) -> openai.Stream[Any]:
    stream: openai.Stream[Any] = client.chat.completions.create(
        model=model, messages=ASK, stream=True, extra_body=ENDLESS
    )
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    raise AssertionError("the stream ended before its first word")


def test_a_client_that_leaves_in_mid_stream_frees_its_slot(server: Running, openai_client: openai.OpenAI) -> None:
    stream = endless(openai_client, "apples")
    assert busy_slots(server, "apples") == 1
    stream.close()
    until(lambda: busy_slots(server, "apples") == 0, "an idle slot")
    assert running(server)["apples"] == "ready"


def test_a_client_that_leaves_before_the_answer_frees_its_slot(server: Running) -> None:
    body = {"model": "apples", "messages": ASK, **ENDLESS}
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=0.5, trust_env=False)
        raise AssertionError("answered")
    until(lambda: busy_slots(server, "apples") == 0, "an idle slot", every_s=UNDISTURBED_S)


def test_a_model_that_is_unloaded_in_mid_stream_breaks_it_off(server: Running, openai_client: openai.OpenAI) -> None:
    stream = endless(openai_client, "apples")
    begun = time.monotonic()
    unload(server, "apples")
    assert time.monotonic() - begun < UNLOAD_TIMEOUT_S + 3
    assert "apples" not in running(server)
    # The client must see that its answer is incomplete: no clean end.
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        for _ in stream:
            pass
    answer = openai_client.chat.completions.create(model="apples", messages=ASK)
    assert (answer.choices[0].message.content or "").strip() == SAYINGS["apples"]


def test_a_stream_is_finished_before_its_model_makes_room(server: Running, openai_client: openai.OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model="apples", messages=ASK, stream=True, extra_body={**ENDLESS, "n_predict": 3000}
    )
    next(iter(stream))
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(openai_client.chat.completions.create, model="whales", messages=ASK)
        chunks = list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        answer: Any = other.result(TIMEOUT_S)
    assert answer.choices[0].message.content.strip() == SAYINGS["whales"]
