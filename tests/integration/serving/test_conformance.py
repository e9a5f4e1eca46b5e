"""A running service against its own OpenAPI document: requests made from the document, answers held against it.

Nothing may be a 5xx, and every answer must have a status, content type, headers and body that the document says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.openapi import document
from tests.integration.serving.conftest import Service
from tests.served_models import CARD_NUMBER

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import CHECKS, load_all_checks  # noqa: E402

load_all_checks()
CONFORMS = [
    CHECKS.get_one(f"{name}_conformance")
    for name in ("status_code", "content_type", "response_headers", "response_schema")
] + [CHECKS.get_one("not_a_server_error")]
REFUSES = [*CONFORMS, CHECKS.get_one("negative_data_rejection")]
# Rows of a batch are refused one by one, within an answer of 200; other operations take nothing that could be wrong.
LENIENT = {"POST /score_batch", "GET /model", "GET /decisions/{transaction_id}"}
few = settings(max_examples=25, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def strict() -> dict[str, Any]:
    """The document, with answers closed: a field that it does not name is an error here."""
    content = document()
    requests_ = {"Transaction", "BatchRequest", "ById", "FeedbackRequest", "PartHealth"}
    for name, schema in content["components"]["schemas"].items():
        if name not in requests_:
            schema["additionalProperties"] = False
    return content


OPERATIONS = {found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(strict()).get_all_operations()}
TAKING = [label for label, operation in OPERATIONS.items() if operation.body or operation.path_parameters]


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.mark.parametrize("label", OPERATIONS)
def test_what_the_document_allows_is_answered_as_it_says(conforming: Service, session, label):
    @few
    @given(case=OPERATIONS[label].as_strategy())
    def holds(case):
        case.call_and_validate(base_url=str(conforming.client.base_url), session=session, checks=CONFORMS)

    holds()


@pytest.mark.parametrize("label", TAKING)
def test_what_the_document_forbids_is_refused_as_it_says(conforming: Service, session, label):
    checks = CONFORMS if label in LENIENT else REFUSES

    @few
    @given(case=OPERATIONS[label].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def holds(case):
        case.call_and_validate(base_url=str(conforming.client.base_url), session=session, checks=checks)

    holds()


plain = st.text("abcdefgh-é中", min_size=1, max_size=20)
payments = st.fixed_dictionaries(
    {
        "event_time": st.datetimes(datetime(1990, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC)).map(
            datetime.isoformat
        ),
        "card_id": st.sampled_from([CARD_NUMBER, "tok_" + "0" * 32, "card 7"]),
        "merchant_id": plain,
        "amount": st.decimals(0, 30_000_000, places=2).map(str) | st.integers(0, 30_000_000) | st.floats(0.01, 3e7),
        "currency": st.sampled_from(["EUR", "USD"]),
    },
    optional={
        "customer_id": plain | st.none(),
        "category": plain,
        "channel": st.sampled_from(["pos", "online", "atm", None]),
        "country": st.from_regex("[A-Za-z]{2}", fullmatch=True),
        "device_id": plain,
        "home_latitude": st.floats(-90, 90),
        "home_longitude": st.floats(-180, 180),
        "merchant_latitude": st.floats(-90, 90),
        "merchant_longitude": st.floats(-180, 180) | st.none(),
    },
)


@few
@given(first=payments, second=payments)
def test_payments_of_every_form_are_decided_explained_and_found(conforming: Service, first, second):
    def answer(label: str, *, status: int = 200, **content: Any) -> Any:
        case = OPERATIONS[label].Case(media_type="application/json" if "body" in content else None, **content)
        response = case.call(base_url=str(conforming.client.base_url))
        assert response.status_code == status, response.text
        case.validate_response(response, checks=CONFORMS)
        return response.json()

    first, second = ({**payment, "transaction_id": str(uuid4())} for payment in (first, second))
    id_ = first["transaction_id"]
    decided = answer("POST /score", body=first)
    by_id = answer("POST /score_by_id", body={"transaction_id": id_})
    batch = answer("POST /score_batch", body={"transactions": [first, second, {}]})
    answers = [decided, by_id, batch["results"][0]]
    for one in answers:
        del one["processing_time_ms"]
    assert answers[0] == answers[1] == answers[2]
    assert (batch["decided"], batch["refused"]) == (2, 1), batch["results"]
    assert answer("POST /explain", body={"transaction_id": id_})["decision"] == decided["decision"]
    answer("POST /feedback", body={"transaction_id": id_, "verdict": "PENDING", "note": "Ä" * 2_000})
    assert answer("GET /decisions/{transaction_id}", path_parameters={"transaction_id": id_})["answer"] == decided
    answer("POST /score", body={**first, "amount": "0.77"}, status=409)
