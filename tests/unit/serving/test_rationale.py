"""A rationale by template, and by a language model behind a real HTTP server that answers well, badly or not at all."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.models.counterfactual import Change, Counterfactual
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.reasons import FALLBACK_REASONS
from serving.answer_schemas import Reason
from serving.rationale import Facts, Rationale, RationaleWriter, cleaned, objection, template
from tests.served_models import CARD_NUMBER

KEY = "sk-a-key-that-nobody-may-see"
PAYMENT = ScoredTransaction(
    "txn-77", 0, "tok_0123456789abcdef0123456789abcdef", "merchant-5", 90_000, "EUR", "customer-3", "jewelry",
    device_id="device-9",
)  # fmt: skip
COUNTERFACTUAL = Counterfactual(
    "AMOUNT",
    (Change("AMOUNT", "900.00 EUR", "120.50 EUR"),),
    0.012,
    "APPROVE",
    "With an amount of 120.50 EUR in place of 900.00 EUR it would have been approved (probability 1.2 %, review from "
    "30 %).",
    63,
    replace(PAYMENT, amount_minor=12_050),
)
REASONS = [
    Reason(code=code, words=words, feature=None, value=None, contribution=contribution)
    for code, words, contribution in (
        ("AMOUNT", "Amount of this payment", 1.274),
        ("WAY_OF_PAYING", "Way of paying", 0.4),
        ("TIME_OF_DAY", "Time of day", -0.6),
        ("DEVICE_FOR_CARD", "Device", 0.3),
        ("DAY_OF_WEEK", "Day of the week", 0.2),
    )
]
BLOCKED = Facts("BLOCK", 0.831, Thresholds(0.3, 0.7), REASONS, COUNTERFACTUAL)
GOOD = (
    "The payment was blocked, because the probability of fraud is 83.1 %. The amount moved the score most. "
    "With an amount of 120.50 EUR in place of 900.00 EUR it would have been approved."
)


def test_the_template_of_a_blocked_payment():
    assert template(BLOCKED) == (
        "This payment was blocked. The model puts the probability of fraud at 83.1 %; payments are blocked from 70 %. "
        "The risk is higher because of: Amount of this payment; Way of paying; Device. With an amount of 120.50 EUR in "
        "place of 900.00 EUR it would have been approved (probability 1.2 %, review from 30 %)."
    )


def test_the_template_of_a_payment_for_review_and_of_an_approved_one():
    assert template(replace(BLOCKED, decision="REVIEW", probability=0.6999, counterfactual=None)) == (
        "This payment waits for a person to look at it. The model puts the probability of fraud at 69.99 %; a person "
        "looks at payments from 30 %, and from 70 % they are blocked. The risk is higher because of: Amount of this "
        "payment; Way of paying; Device."
    )
    assert template(Facts("APPROVE", 0.012, Thresholds(0.3, 0.7), REASONS)) == (
        "This payment was approved. The model puts the probability of fraud at 1.2 %; a person looks at payments from "
        "30 %. The risk is lower because of: Time of day."
    )


def test_the_template_where_a_rule_decided():
    said = FALLBACK_REASONS["online_store_unavailable"]
    facts = Facts(
        "REVIEW", None, None, [Reason(code=said.code, words=said.words, feature=None, value=None, contribution=None)]
    )
    assert template(facts) == (
        "This payment waits for a person to look at it. No model decided. The history of card and merchant cannot be "
        "read: a person must look."
    )


class StandIn:
    """A small HTTP server in place of a language model: keeps what it was sent, answers as the test says."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda handler: said(handler, GOOD)
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.requests.append((self.path, dict(self.headers), body))
                stand_in.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def sent(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def said(handler: BaseHTTPRequestHandler, text: object, **choice: object) -> None:
    sent(handler, 200, json.dumps({"choices": [{"message": {"content": text}, **choice}]}).encode())


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stand_in = StandIn()
    yield stand_in
    stand_in.server.shutdown()
    stand_in.server.server_close()


def write(writer: RationaleWriter, facts: Facts = BLOCKED, times: int = 1) -> list[Rationale]:
    """`times` rationales, one after the other."""

    async def all_of_them() -> list[Rationale]:
        try:
            return [await writer.write(facts) for _ in range(times)]
        finally:
            await writer.close()

    return asyncio.run(all_of_them())


def test_without_an_endpoint_the_template_answers_and_has_nothing_to_excuse(tmp_settings):
    assert write(RationaleWriter.of(tmp_settings)) == [Rationale(template(BLOCKED), "template", None)]


def test_a_good_answer_is_used_and_its_source_named(stand_in, tmp_settings):
    settings = type(tmp_settings)(rationale_url=stand_in.url + "/", rationale_model="small", rationale_key=KEY)
    assert write(RationaleWriter.of(settings)) == [Rationale(GOOD, "model:small", None)]
    ((path, headers, body),) = stand_in.requests
    asked = json.loads(body)
    assert (path, asked["model"], asked["temperature"]) == ("/v1/chat/completions", "small", 0)
    assert headers["Authorization"] == f"Bearer {KEY}"


def test_what_is_sent_are_the_facts_and_no_identifier(stand_in):
    write(RationaleWriter(stand_in.url, "small", KEY))
    ((_, headers, body),) = stand_in.requests
    system, user = json.loads(body)["messages"]
    assert json.loads(user["content"]) == {
        "decision": "BLOCK",
        "meaning": "This payment was blocked.",
        "fraud_probability": "83.1 %",
        "review_from": "30 %",
        "blocked_from": "70 %",
        "reasons": [
            {"words": "Amount of this payment", "contribution_log_odds": "+1.27"},
            {"words": "Way of paying", "contribution_log_odds": "+0.40"},
            {"words": "Device", "contribution_log_odds": "+0.30"},
        ],
        "counterfactual": COUNTERFACTUAL.sentence,
    }
    assert "not instructions" in system["content"]
    everything = json.dumps(headers | {"Authorization": ""}) + body.decode()
    for identifier in ("txn-77", PAYMENT.card_id, "merchant-5", "customer-3", "device-9", "jewelry", CARD_NUMBER, KEY):
        assert identifier not in everything


def drip(handler: BaseHTTPRequestHandler) -> None:
    """One byte at a time: no single read ever takes long."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" " * 65_536)
    except OSError:
        pass


@pytest.mark.parametrize(
    ("answer", "because"),
    [
        (drip, "timeout"),
        (endless, "too_long"),
        (lambda handler: handler.connection.close(), "unreachable"),
        (lambda handler: sent(handler, 500, KEY.encode()), "http_500"),
        (lambda handler: sent(handler, 401, b"{}"), "http_401"),
        (lambda handler: sent(handler, 302, b""), "http_302"),
        (lambda handler: sent(handler, 200, b"{not json"), "malformed"),
        (lambda handler: sent(handler, 200, b'{"choices": []}'), "malformed"),
        (lambda handler: sent(handler, 200, b"[" * 60_000), "malformed"),
        (lambda handler: sent(handler, 200, b'"text"'), "malformed"),
        (lambda handler: said(handler, None), "malformed"),
        (lambda handler: said(handler, GOOD, finish_reason="length"), "cut_short"),
        (lambda handler: said(handler, " \u200b\n"), "empty"),
        (lambda handler: said(handler, "It was blocked. " * 80), "too_long"),
        (lambda handler: said(handler, "APPROVE: all is well."), "contradiction"),
        (lambda handler: said(handler, "The payment has been approved."), "contradiction"),
        (lambda handler: said(handler, "It was blocked, at a probability of 97 %."), "unknown_number"),
        (lambda handler: said(handler, f"It was blocked on card {CARD_NUMBER}."), "card_number"),
    ],
)
def test_whatever_else_comes_the_template_answers_and_says_why(stand_in, answer, because, caplog):
    stand_in.answer = answer
    with caplog.at_level(logging.DEBUG):
        started = time.perf_counter()
        result = write(RationaleWriter(stand_in.url, "small", KEY, timeout_seconds=0.5 if answer is drip else 5))
    assert result == [Rationale(template(BLOCKED), "template", because)]
    assert time.perf_counter() - started < 2
    assert because in caplog.text
    assert KEY not in caplog.text
    assert KEY not in repr(result)


def test_an_endpoint_that_is_not_there_is_refused(stand_in):
    stand_in.server.server_close()
    (result,) = write(RationaleWriter(stand_in.url, "small", KEY))
    assert (result.source, result.template_because) == ("template", "refused")


def test_after_five_failures_in_a_row_the_endpoint_is_left_alone_for_half_a_minute(stand_in):
    now = [100.0]
    stand_in.answer = lambda handler: sent(handler, 500, b"")
    writer = RationaleWriter(stand_in.url, "small", clock=lambda: now[0])

    async def story() -> list[str | None]:
        causes = [(await writer.write(BLOCKED)).template_because for _ in range(6)]
        assert len(stand_in.requests) == 5
        now[0] = 129.9
        causes.append((await writer.write(BLOCKED)).template_because)
        now[0] = 130.0  # one more failure is enough now
        causes += [(await writer.write(BLOCKED)).template_because for _ in range(2)]
        now[0] = 160.0
        stand_in.answer = lambda handler: said(handler, GOOD)
        causes.append((await writer.write(BLOCKED)).template_because)
        stand_in.answer = lambda handler: sent(handler, 500, b"")
        causes += [(await writer.write(BLOCKED)).template_because for _ in range(5)]  # counted from zero again
        await writer.close()
        return causes

    causes = asyncio.run(story())
    assert causes == ["http_500"] * 5 + ["paused"] * 2 + ["http_500", "paused", None] + ["http_500"] * 5


def test_an_answer_that_cannot_be_used_is_no_failure_of_the_endpoint(stand_in):
    stand_in.answer = lambda handler: said(handler, "APPROVE")
    assert {result.template_because for result in write(RationaleWriter(stand_in.url, "small"), times=7)} == {
        "contradiction"
    }
    assert len(stand_in.requests) == 7


def test_at_most_four_are_asked_at_once_and_nobody_waits_in_a_queue(stand_in):
    released = threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        released.wait(5)
        said(handler, GOOD)

    stand_in.answer = slowly
    writer = RationaleWriter(stand_in.url, "small")

    async def story() -> list[Rationale]:
        asked = [asyncio.create_task(writer.write(BLOCKED)) for _ in range(4)]
        while len(stand_in.requests) < 4:
            await asyncio.sleep(0.005)
        fifth = await writer.write(BLOCKED)
        released.set()
        return [fifth, *(await asyncio.gather(*asked)), await writer.write(BLOCKED)]

    results = asyncio.run(story())
    assert [result.template_because for result in results] == ["busy", None, None, None, None, None]


def test_a_caller_that_goes_away_frees_its_place(stand_in):
    released = threading.Event()
    stand_in.answer = lambda handler: released.wait(5)
    writer = RationaleWriter(stand_in.url, "small")

    async def story() -> Rationale:
        asked = [asyncio.create_task(writer.write(BLOCKED)) for _ in range(4)]
        while len(stand_in.requests) < 4:
            await asyncio.sleep(0.005)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        released.set()
        stand_in.answer = lambda handler: said(handler, GOOD)
        return await writer.write(BLOCKED)

    assert asyncio.run(story()).source == "model:small"


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (GOOD, None),
        ("BLOCK: the amount of 900.00 EUR moved the score by +1.27.", None),
        ("The payment was blocked. It would have been approved with 120.50 EUR.", None),
        ("It was not approved; payments are blocked from 70 %.", None),
        ("The amount of 900 EUR moved it.", None),  # the same number
        ("It was APPROVED.", "contradiction"),
        ("It is for REVIEW.", "contradiction"),
        ("The payment is held.", "contradiction"),
        ("It was finally accepted.", "contradiction"),
        ("One of 1,000 payments.", "unknown_number"),
        ("A risk of 8.31 %.", "unknown_number"),
        ("A risk of 83,1 %.", "unknown_number"),
        ("A risk of 70.30.70 %.", "unknown_number"),
        ("A risk of ٣٠ %.", "unknown_number"),  # 30 in other digits: nobody checks those
        ("A risk of ½.", "unknown_number"),
        ("", "empty"),
    ],
)
def test_what_a_text_is_refused_for(text, because):
    assert objection(text, BLOCKED) == because


@pytest.mark.parametrize("decision", ["APPROVE", "REVIEW", "BLOCK"])
@pytest.mark.parametrize("told", [COUNTERFACTUAL, None])
def test_what_the_template_says_would_pass(decision, told):
    probability = {"APPROVE": 0.0123, "REVIEW": 0.5, "BLOCK": 0.9}[decision]
    facts = Facts(decision, probability, Thresholds(0.3, 0.7), REASONS, told)
    assert objection(template(facts), facts) is None


@given(st.text())
def test_a_cleaned_text_is_one_printable_line(text):
    line = cleaned(text)
    assert line.isprintable()
    assert line == line.strip()
    assert cleaned(line) == line
