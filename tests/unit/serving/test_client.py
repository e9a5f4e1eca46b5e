"""The client against a real HTTP server that answers as told; the service itself is in tests/integration/serving."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fraud_pipelines.errors import ScoringError, ScoringRefused, ScoringUnavailable
from serving.answer_schemas import RefusedRow
from serving.client import AsyncScoringClient, ScoringClient, _score
from serving.schemas import Transaction
from tests.served_models import CARD_NUMBER, payment

ROOT = Path(__file__).resolve().parents[3]
ANSWER = {
    "transaction_id": "t-1", "decision": "REVIEW", "fraud_probability": 0.5, "anomaly_score": None, "confidence": None,
    "reasons": [], "thresholds": {"review": 0.3, "block": 0.7}, "model": None, "feature_spec_hash": None,
    "state_as_of": None, "feature_age_seconds": None, "processing_time_ms": 1.5,
    "decided_at": "2025-03-01T12:00:01Z", "fallback": None,
}  # fmt: skip
RECEIPT = {"feedback_id": "f", "transaction_id": "t", "verdict": "PENDING", "known_at": "2025-03-01T12:00:01Z"}
DROPPED = (0, {}, None)
SLOW = (-1, {}, None)


class Told:
    """A server that gives the answers it was told, in order and the last again; `seen` holds what it was sent."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = [(200, {}, ANSWER)]
        self.seen: list[tuple[str, str, bytes, dict[str, str]]] = []
        told = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                told.seen.append((self.command, self.path, body, dict(self.headers)))
                status, headers, content = told.answers.pop(0) if len(told.answers) > 1 else told.answers[0]
                if status == SLOW[0]:
                    time.sleep(1)
                if status <= 0:
                    self.close_connection = True
                    return
                text = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(text))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST  # noqa: N815  # the name http.server calls

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    threading.Thread(target=told.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield told
    told.server.shutdown()
    told.server.server_close()


def problem(code: str, **more: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "Said so.", **more}}


def test_it_imports_nothing_that_the_service_runs_on():
    program = (
        "import sys, serving.client; heavy = {'bentoml', 'numba', 'numpy', 'pandas', 'pyarrow', 'sqlalchemy', "
        "'starlette', 'xgboost'}; sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_is_typed_and_the_request_carries_the_key(told: Told):
    with ScoringClient(told.url, "fk_a_b") as client:
        answer = client.score(payment())
    assert (answer.decision, answer.fraud_probability, answer.thresholds.block) == ("REVIEW", 0.5, 0.7)
    assert answer.decided_at == datetime(2025, 3, 1, 12, 0, 1, tzinfo=UTC)
    [(method, path, body, headers)] = told.seen
    assert (method, path, json.loads(body)) == ("POST", "/score", payment())
    assert headers["Authorization"] == "Bearer fk_a_b"


@pytest.mark.parametrize("failure", [(503, {}, problem("not_ready")), (504, {}, b"<html>"), (429, {}, b""), DROPPED])
def test_what_may_pass_is_tried_again_with_the_same_bytes(told: Told, failure):
    told.answers = [failure, failure, (200, {}, ANSWER)]
    with ScoringClient(told.url) as client:
        assert client.score(payment()).decision == "REVIEW"
    assert len(told.seen) == 3
    assert len({body for _, _, body, _ in told.seen}) == 1


@pytest.mark.parametrize(("status", "kind"), [(422, ScoringRefused), (404, ScoringRefused), (500, ScoringUnavailable)])
def test_what_will_not_pass_is_an_error_at_once(told: Told, status, kind):
    told.answers = [(status, {}, problem("some_code", field="amount", next="Do that."))]
    with ScoringClient(told.url) as client, pytest.raises(kind) as raised:
        client.score(payment())
    error = raised.value
    assert len(told.seen) == 1
    assert (error.code, error.message, error.field, error.next_step) == ("some_code", "Said so.", "amount", "Do that.")
    assert error.status == status
    assert str(error) == "Said so. (some_code) Do that."


def test_retries_are_bounded(told: Told):
    told.answers = [(503, {}, problem("not_ready"))]
    with ScoringClient(told.url, retries=2) as client, pytest.raises(ScoringUnavailable) as raised:
        client.score(payment())
    assert raised.value.code == "not_ready"
    assert len(told.seen) == 3


def test_retry_after_is_waited_for(told: Told):
    told.answers = [(429, {"Retry-After": "1"}, problem("rate_limited")), (200, {}, ANSWER)]
    began = time.monotonic()
    with ScoringClient(told.url) as client:
        client.score(payment())
    assert time.monotonic() - began >= 1.0


def test_a_wait_beyond_the_deadline_is_not_begun(told: Told):
    told.answers = [(429, {"Retry-After": "60"}, problem("rate_limited"))]
    began = time.monotonic()
    with ScoringClient(told.url, timeout=5) as client, pytest.raises(ScoringUnavailable) as raised:
        client.score(payment())
    assert time.monotonic() - began < 30  # of the 60 it was told to wait
    assert (raised.value.code, raised.value.retry_after) == ("rate_limited", 60)


def test_the_timeout_bounds_all_attempts_together(told: Told):
    told.answers = [(503, {}, problem("not_ready")), SLOW]
    began = time.monotonic()
    with ScoringClient(told.url, timeout=0.5, retries=50) as client, pytest.raises(ScoringUnavailable) as raised:
        client.score(payment())
    assert time.monotonic() - began < 10  # 50 attempts of half a second each would be 25
    assert raised.value.code == "unreachable"


def test_nobody_there_is_an_error_that_says_where(told: Told):
    with ScoringClient("http://127.0.0.1:9", retries=0) as client, pytest.raises(ScoringUnavailable) as raised:
        client.model()
    assert "http://127.0.0.1:9" in str(raised.value)
    assert "fraud serve" in str(raised.value)


def test_a_verdict_whose_answer_was_lost_keeps_its_identifier(told: Told):
    told.answers = [DROPPED, (200, {}, RECEIPT)]
    with ScoringClient(told.url) as client:
        client.feedback("t", "PENDING")
        client.feedback("t", "PENDING", note="called", feedback_id="mine")
    first, again, other = (json.loads(body) for _, _, body, _ in told.seen)
    assert first == again
    assert first["feedback_id"]
    assert "note" not in first
    assert other == {"feedback_id": "mine", "transaction_id": "t", "verdict": "PENDING", "note": "called"}


def test_a_refused_row_of_a_batch_is_a_result(told: Told):
    refused = {"index": 1, **problem("invalid_transaction", field="amount")}
    told.answers = [(200, {}, {"results": [ANSWER, refused], "decided": 1, "refused": 1})]
    with ScoringClient(told.url) as client:
        results = client.score_batch(payment(transaction_id=name) for name in "ab").results
    assert isinstance(results[1], RefusedRow)
    assert results[1].error.field == "amount"
    assert [row["transaction_id"] for row in json.loads(told.seen[0][2])["transactions"]] == ["a", "b"]


def test_an_identifier_is_one_part_of_the_path(told: Told):
    with ScoringClient(told.url) as client, pytest.raises(ScoringRefused) as raised:
        client.decision("a/b?c=100%25 é")
    assert told.seen[0][1] == "/decisions/a%2Fb%3Fc%3D100%2525%20%C3%A9"
    assert raised.value.code == "answer_unreadable"  # an Answer is no DecisionRecord


def test_no_card_number_in_errors_logs_or_texts(told: Told, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    key = "fk_0123456789abcdef_" + "0" * 64
    transaction = Transaction(**payment(amount=Decimal("12.34")))
    said = [repr(transaction), str(transaction), repr(_score(transaction))]
    echo = json.dumps({"echo": payment()}).encode()
    for answer in [(400, {}, echo), (500, {}, echo), (200, {}, echo), DROPPED]:
        told.answers = [answer]
        with ScoringClient(told.url, key, retries=0) as client, pytest.raises(ScoringError) as raised:
            said.append(repr(client))
            client.score(transaction)
        said += [repr(raised.value), *traceback.format_exception(raised.value)]
    with pytest.raises(ValidationError) as invalid:
        Transaction(**payment(amount="x", merchant_id=CARD_NUMBER))
    said += [str(invalid.value), caplog.text]
    assert CARD_NUMBER.encode() in told.seen[0][2]
    assert not [text for text in said if CARD_NUMBER in text or key in text]


@given(
    cents=st.integers(0, 10**9),
    at=st.datetimes(datetime(1991, 1, 1), datetime(2098, 1, 1)),
    offset=st.none() | st.integers(-14 * 60, 14 * 60),
    merchant=st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=20).filter(
        lambda text: not text.isdecimal()
    ),
)
def test_amounts_moments_and_texts_arrive_as_they_are(cents, at, offset, merchant):
    zone = None if offset is None else timezone(timedelta(minutes=offset))
    moment = at.replace(tzinfo=zone)
    amount = Decimal(cents).scaleb(-2) + Decimal("1e-18")  # more digits than a double holds
    fields = payment(amount=amount, event_time=moment, merchant_id=merchant)
    utc = at.replace(tzinfo=UTC) if zone is None else moment.astimezone(UTC)
    for given_as in (fields, Transaction(**fields)):
        arrived = Transaction.model_validate(json.loads(_score(given_as).body))
        assert (arrived.amount, arrived.amount_minor) == (amount, cents)
        assert (arrived.event_time, arrived.merchant_id) == (utc, merchant)
        assert arrived.card_id.get_secret_value() == CARD_NUMBER


def test_asyncio_has_the_same_calls_and_retries(told: Told):
    told.answers = [(503, {}, problem("not_ready")), DROPPED, (200, {}, ANSWER)]

    async def scored() -> str:
        async with AsyncScoringClient(told.url) as client:
            return (await client.score(payment())).decision

    assert asyncio.run(scored()) == "REVIEW"
    assert len({body for _, _, body, _ in told.seen}) == 1
    assert len(told.seen) == 3

    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(AsyncScoringClient) == public(ScoringClient)
