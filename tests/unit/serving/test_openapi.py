"""The OpenAPI document: sound, complete in both directions, and its examples are what the service takes and answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import BaseModel

from serving.access import ENDPOINTS, PUBLIC
from serving.answer_schemas import Answer, DecisionRecord, Explanation
from serving.endpoints import Endpoints
from serving.examples import EXAMPLES
from serving.openapi import document
from serving.schemas import Transaction

DOCUMENT = document()
OPERATIONS = {
    (method.upper(), path): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
# Answered by BentoML itself, before and after our own paths.
OTHERS = {("GET", "/livez"), ("GET", "/metrics")}


def contents() -> dict[str, dict[str, Any]]:
    """Everything with a media type: requests and answers."""
    found = {}
    for (method, path), operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            found[f"{method} {path} {status}"] = response["content"]
        if "requestBody" in operation:
            found[f"{method} {path} request"] = operation["requestBody"]["content"]
    return {name: content["application/json"] for name, content in found.items() if "application/json" in content}


def test_it_is_a_sound_openapi_document():
    schemathesis = pytest.importorskip("schemathesis")
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    referred = {part.split('"')[0] for part in json.dumps(DOCUMENT).split('"#/components/schemas/')[1:]}
    assert referred == set(DOCUMENT["components"]["schemas"])


def test_every_path_is_in_it_and_no_other():
    served = {
        (method, path if path != "/decisions/" else "/decisions/{transaction_id}")
        for path, (method, _, _) in Endpoints(None)._routes.items()  # type: ignore[arg-type]
    }
    assert set(OPERATIONS) == served | OTHERS


def test_it_says_of_every_path_whether_it_needs_a_key():
    public = {at for at, operation in OPERATIONS.items() if operation.get("security") == []}
    assert {path for _, path in public} == PUBLIC
    assert set(OPERATIONS) - public == set(ENDPOINTS)
    for at, operation in OPERATIONS.items():
        assert ("401" in operation["responses"]) == ("403" in operation["responses"]) == (at not in public)


@pytest.mark.parametrize("name", [name for name in contents() if "/docs.json" not in name])
def test_every_request_and_answer_has_an_example_of_its_schema(name):
    content = contents()[name]
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(content["example"])


@pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.__name__)
def test_examples_are_complete(model: type[BaseModel]):
    example = EXAMPLES[model]
    read = model.model_validate(example)
    names = {field.alias or name for name, field in type(read).model_fields.items()}
    assert set(example) == names  # nothing left out, nothing of another name


def test_the_numbers_of_the_examples_agree():
    assert Transaction(**EXAMPLES[Transaction]).amount_minor == EXAMPLES[DecisionRecord]["request"]["amount_minor"]
    explained = Explanation(**EXAMPLES[Explanation])
    assert explained.base_value + sum(r.contribution for r in explained.reasons) == pytest.approx(explained.log_odds)
    assert 1 / (1 + math.exp(-explained.log_odds)) == pytest.approx(explained.fraud_probability, abs=1e-4)
    thresholds = Answer(**EXAMPLES[Answer]).thresholds
    assert thresholds.review <= explained.fraud_probability < thresholds.block
