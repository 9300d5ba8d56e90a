"""Requests that schemathesis thinks up from the OpenAPI document, right and wrong ones, against the running program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from harness import Stage, stage
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

from llamaswap.web.openapi import document

EXAMPLES, FEW = 15, 3  # of each control route, of each model route; right ones and wrong ones
ANSWER_S = 30
ENDLESS = {"/api/events"}
NAMES = {"model": ["a", "org/b", "bee"], "log": ["proxy", "upstream", "a", "bee"]}
ALWAYS_RIGHT = {"POST /api/models/unload/{model}"}
"""Whatever is put there is a name; that nothing has it is another matter."""
CONTROL = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

OPERATIONS = {
    it.label: it
    for found in schemathesis.openapi.from_dict(document("1", keys=False)).get_all_operations()
    if (it := found.ok()).path not in ENDLESS
}


@pytest.fixture(scope="module")
def on(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(pyz, tmp_path_factory.mktemp("openapi"), {"a": {}, "org/b": {"aliases": ["bee"]}}) as it:
        assert it.ask("a").status == 200
        yield it


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as it:
        yield it


def test_the_document_is_the_servers(on: Stage) -> None:
    told, ours = on.get("/openapi.json").json, document("1", keys=False)
    assert told["paths"] == ours["paths"] and told["components"] == ours["components"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", OPERATIONS)
def test_nothing_that_is_sent_is_a_500(on: Stage, session: requests.Session, label: str, mode: GenerationMode) -> None:
    operation: Any = OPERATIONS[label]
    takes = list(operation.iter_parameters()) or list(operation.body)
    if mode is GenerationMode.NEGATIVE and (not takes or label in ALWAYS_RIGHT):
        return
    inference = "inference" in operation.tags
    ours = positive_data_acceptance if mode is GenerationMode.POSITIVE else negative_data_rejection
    checks = [not_a_server_error] if inference else [*CONTROL, ours]

    @seed(20260801)
    @settings(
        max_examples=(FEW if inference else EXAMPLES) if takes else 1,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def one(case: Any, data: st.DataObject) -> None:
        if mode is GenerationMode.POSITIVE:  # of all texts, those that mean something
            for place in (case.path_parameters, case.body):
                for name in NAMES.keys() & (place if isinstance(place, dict) else ()):
                    place[name] = data.draw(st.sampled_from(NAMES[name]))
        if "/logs/stream" in case.path:
            case.query = {**(case.query or {}), "no-follow": ""}
        answer = case.call(base_url=on.server.url, session=session, timeout=ANSWER_S, allow_redirects=False)
        case.validate_response(answer, checks=checks)

    one()


def test_it_still_lives(on: Stage) -> None:
    assert on.ask("org/b").status == 200
    assert "Traceback" not in on.log()
