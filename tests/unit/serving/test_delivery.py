"""From records to the ledger's rows and back, and what becomes of records that no ledger takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken, RetryableError
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import Feedback, Ledger, open_ledger
from fraud_pipelines.ledger.records import written
from fraud_pipelines.models.bands import observed_bands
from fraud_pipelines.models.policy import Thresholds
from serving.answers import (
    Answer,
    ModelFacts,
    StoredDecision,
    Verdict,
    answers_of,
    fallback,
    feedback_of,
    feedback_record,
    records_of,
)
from serving.delivery import Delivery, FeatureNames, rows_of
from serving.forwarding import Forwarder
from serving.journal import Journal
from tests.stored_events import NOON_US, payment

NAMES = ["amount", "is_new", "count"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DECIDED_AT = datetime.fromisoformat("2026-06-01T12:00:01.000203+00:00")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield ledger
    ledger.close()


@pytest.fixture
def names(tmp_path: Path) -> FeatureNames:
    names = FeatureNames(tmp_path / "names")
    names.remember("f" * 64, NAMES)
    return names


def record(transaction_id: str = "t-1", features: list[float] | None = None, **answer) -> bytes:
    now = payment(transaction_id, NOON_US, 1_234, merchant="商店", channel="online", home_latitude=52.520000000000003)
    verdict = fallback("model_failed", "REVIEW", None if features is None else np.array(features))
    (as_told,) = answers_of([now], [verdict], None, NOON_US, DECIDED_AT)
    told = orjson.loads(as_told.content) | {"feature_spec_hash": "f" * 64} | answer
    return records_of([now], [Answer(orjson.dumps(told), as_told.outcome)], [verdict.features])[0]


def test_a_record_comes_back_from_the_ledger_with_every_value(ledger: Ledger, names: FeatureNames):
    scored = {
        "decision": "BLOCK",
        "fraud_probability": 0.1 + 0.2,
        "anomaly_score": 1 / 3,
        "thresholds": {"review": 0.3, "block": 0.7},
        "model": {"name": "fraud-scorer", "version": "7", "bundle_digest": "d" * 64},
        "reasons": [{"code": "AMOUNT", "words": "viel", "feature": "amount", "value": 12.34, "contribution": 1e-17}],
        "fallback": None,
    }
    records = [
        record("scored", [12.34, np.nan, 1e300], **scored),
        record("failed", [0.1, 0.2, -0.0]),
        record("unseen", None, feature_spec_hash=None),
    ]
    Delivery(lambda: ledger, names)(records)
    for one in records:
        read = StoredDecision.read(one)
        back = StoredDecision.of(ledger.decision(read.answer["transaction_id"]))
        assert back == read
        assert back.transaction == read.transaction
        assert back.record == one
    row = ledger.decision("scored")
    assert row.features == {"amount": 12.34, "is_new": None, "count": 1e300}
    assert row.decided_at == datetime(2026, 6, 1, 12, 0, 1, 203)
    assert (row.event_time, row.merchant_id) == (datetime(2026, 6, 1, 12), "商店")


MODEL = ModelFacts.of(
    'fraud "scorer"',
    "7",
    "d" * 64,
    SimpleNamespace(thresholds=Thresholds(0.3, 0.7), spec_hash="f" * 64, bands=observed_bands(*np.eye(2))),
)
moments = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
microseconds = st.integers(-(10**16), 2 * 10**17)  # the years 1653 to 8307
doubles = st.floats(allow_infinity=False)
transactions = st.builds(
    ScoredTransaction,
    st.text(),
    microseconds,
    st.text(),
    st.text(),
    st.integers(0, 2**62),
    st.sampled_from(["EUR", "USD"]),
    category=st.none() | st.text(),
    home_latitude=st.none() | st.floats(-90, 90),
)
verdicts = st.builds(
    Verdict,
    st.sampled_from(["APPROVE", "REVIEW", "BLOCK"]),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.lists(st.fixed_dictionaries({"code": st.text(), "contribution": doubles.filter(lambda x: x == x)})),
    st.none() | st.lists(doubles, min_size=3, max_size=3).map(np.array),
    st.none() | st.sampled_from(["model_failed", "no_champion"]),
    st.none() | st.just(MODEL),
)


@settings(max_examples=60)
@given(
    decided=st.lists(st.tuples(transactions, verdicts), min_size=1, max_size=4),
    facts=st.none() | st.just(MODEL),
    as_of_us=st.none() | st.integers(0, NOON_US),
    now=moments,
)
def test_an_answer_and_its_record_say_what_was_decided_field_by_field(decided, facts, as_of_us, now):
    answers = answers_of([t for t, _ in decided], [v for _, v in decided], facts, as_of_us, now)
    records = records_of([t for t, _ in decided], answers, [v.features for _, v in decided])
    for (transaction, verdict), as_told, record in zip(decided, answers, records, strict=True):
        answer, outcome = as_told.content, as_told.outcome
        about = verdict.model or facts
        decides = about if verdict.fallback is None else None
        assert outcome == (verdict.decision, decides.version if decides else "none")
        told = orjson.loads(answer)
        age = told.pop("feature_age_seconds")
        if as_of_us is None:
            assert age is None
        else:
            age_us = max(0, transaction.event_time_us - as_of_us)
            assert abs(age * 1000 - age_us / 1000) <= 0.5 + age_us * 1e-12
            assert age == round(age, 3)
        band = decides.confidence(verdict.probability) if decides and verdict.probability is not None else None
        assert told == {
            "transaction_id": transaction.transaction_id,
            "decision": verdict.decision,
            "fraud_probability": verdict.probability,
            "anomaly_score": verdict.anomaly_score,
            "confidence": band and orjson.loads(bytes(band)),
            "reasons": verdict.reasons,
            "thresholds": {"review": 0.3, "block": 0.7} if decides else None,
            "model": {"name": 'fraud "scorer"', "version": "7", "bundle_digest": "d" * 64} if decides else None,
            "feature_spec_hash": "f" * 64 if about else None,
            "state_as_of": None
            if as_of_us is None
            else orjson.loads(orjson.dumps(EPOCH + timedelta(microseconds=as_of_us), option=orjson.OPT_UTC_Z)),
            "decided_at": orjson.loads(orjson.dumps(now, option=orjson.OPT_UTC_Z)),
            "fallback": verdict.fallback,
        }
        read = StoredDecision.read(record)
        assert (read.transaction, read.as_answer.content, read.record) == (transaction, answer, record)
        assert list(read.request) == [field.name for field in fields(ScoredTransaction)]
        if verdict.features is not None:
            served = np.array(read.features, np.float64)
            np.testing.assert_array_equal(np.signbit(served[served == 0]), np.signbit(verdict.features[served == 0]))
            np.testing.assert_array_equal(served, verdict.features)
        (row,), (features,) = rows_of([record])
        told, now_utc = orjson.loads(answer), now.replace(tzinfo=None)
        assert (row.answer, row.decided_at, features) == (
            answer.decode(),
            written(now_utc),
            3 * (verdict.features is not None),
        )
        assert orjson.loads(row.request) == {name: value for name, value in read.request.items() if value is not None}
        assert orjson.loads(row.features) == (read.features or [])
        assert (orjson.loads(row.reasons), orjson.loads(row.thresholds)) == (told["reasons"], told["thresholds"] or {})
        model = told["model"] or {"version": None, "bundle_digest": None}
        assert (row.model_version, row.bundle_digest) == (model["version"], model["bundle_digest"])
        for name in ("decision", "fraud_probability", "anomaly_score", "feature_spec_hash", "fallback"):
            assert getattr(row, name) == told[name]


def test_a_record_of_the_version_before_is_delivered_and_found(ledger: Ledger, names: FeatureNames):
    answer = (
        b'{"transaction_id":"old","decision":"BLOCK","fraud_probability":0.9,"anomaly_score":null,"confidence":null,'
        b'"reasons":[{"code":"AMOUNT","words":"a \\"big\\" one","feature":"amount","value":1.5,"contribution":0.25}],'
        b'"thresholds":{"review":0.3,"block":0.7},"model":{"name":"fraud-scorer","version":"7","bundle_digest":"%b"},'
        b'"feature_spec_hash":"%b","state_as_of":"2026-06-01T00:00:00Z","feature_age_seconds":43200.0,'
        b'"decided_at":"2026-06-01T12:00:01.000203Z","fallback":null}' % (b"d" * 64, b"f" * 64)
    )
    record = (
        b'{"kind":"decision","answer":%b,"request":{"transaction_id":"old","event_time_us":1780315200000001,'
        b'"card_id":"tok_a","merchant_id":"m1","amount_minor":150,"currency":"EUR","customer_id":null,"category":null,'
        b'"channel":"online","country":null,"device_id":null,"home_latitude":null,"home_longitude":null,'
        b'"merchant_latitude":null,"merchant_longitude":null},"features":[1.5,null,-0.0]}' % answer
    )
    read = StoredDecision.read(record)
    assert (read.as_answer.content, read.features) == (answer, [1.5, None, -0.0])
    assert read.transaction == payment("old", NOON_US + 1, 150, channel="online")
    Delivery(lambda: ledger, names)([record])
    stored = ledger.decision("old")
    assert stored.event_time == datetime(2026, 6, 1, 12, 0, 0, 1)
    assert StoredDecision.of(stored) == read


def test_delivered_again_it_is_there_once_and_the_first_stays(ledger: Ledger, names: FeatureNames):
    deliver = Delivery(lambda: ledger, names)
    said = Feedback("f-1", "t-1", "CONFIRMED_FRAUD", "ann", datetime(2026, 6, 2), "all 中文")
    assert feedback_of(feedback_record(said)) == said
    for _ in range(2):
        deliver([record(), feedback_record(said), record()])
    deliver([record(decision="BLOCK"), feedback_record(replace(said, verdict="FALSE_POSITIVE"))])
    assert ledger.decision("t-1").decision == "REVIEW"
    assert [f.verdict for f in ledger.feedback_on("t-1")] == ["CONFIRMED_FRAUD"]


def test_of_a_large_batch_the_first_decision_on_each_transaction_stays_and_its_own_values(
    ledger: Ledger, names: FeatureNames
):
    # In any order, so that the two on one transaction lie in different pieces.
    ids = [f'{number * 7919 % 301:03d} "quoted"' for number in range(301)]
    batch = [record(id_, [number, 0, -1]) for number, id_ in enumerate(ids)]
    Delivery(lambda: ledger, names)([*batch, *(record(id_, [5, 5, 5], decision="BLOCK") for id_ in ids)])
    kept = ledger.decisions_on(ids)
    assert [kept[id_].features["amount"] for id_ in ids] == list(range(301))
    assert {(row.decision, row.request["transaction_id"] == id_) for id_, row in kept.items()} == {("REVIEW", True)}


def test_a_record_that_cannot_be_read_keeps_the_whole_batch_out(ledger: Ledger, names: FeatureNames):
    deliver = Delivery(lambda: ledger, names)
    batch = [record(f"{number:03d}", [number, 0, 0]) for number in range(200)]
    with pytest.raises(ContractBroken, match="2 features where the spec has 3"):
        deliver([*batch, record("999", [1, 2])])
    assert ledger.last_position("decisions") == 0
    deliver(batch)
    assert ledger.last_position("decisions") == 200


def test_the_names_of_features_outlive_the_model_and_the_process(ledger: Ledger, names: FeatureNames, tmp_path: Path):
    FeatureNames(tmp_path / "names").remember("a" * 64, ["another"])  # the next process, with another model
    Delivery(lambda: ledger, FeatureNames(tmp_path / "names"))([record(features=[1, 2, 3])])
    assert ledger.decision("t-1").features == {"amount": 1, "is_new": 2, "count": 3}
    # A host that never served the spec learns the names from the ledger; until then its records wait.
    strange = Delivery(lambda: ledger, FeatureNames(tmp_path / "none"))
    strange([record("t-2", [1, 2, 3])])
    assert list(ledger.decision("t-2").features) == NAMES
    with pytest.raises(RetryableError, match="not known here yet"):
        strange([record("t-3", [1, 2, 3], feature_spec_hash="0" * 64)])


@pytest.mark.parametrize(
    "bad",
    [
        b"[]",
        b'"text"',
        b"{",
        b'{"kind":"other"}',
        b'{"kind":"decision"}',
        b'{"kind":"decision","answer":{},"request":{},"features":null}',
        b'{"kind":"feedback","feedback_id":"f"}',
        record(features=[1, 2]),  # the spec has three
        record().replace(b'"event_time_us":', b'"event_time_us":999'),  # a year of six digits
        record(decision=None),  # where the ledger's table wants a value
    ],
)
def test_a_bad_record_is_one_dead_letter_and_holds_up_nobody(ledger: Ledger, names: FeatureNames, tmp_path, bad: bytes):
    deliver = Delivery(lambda: ledger, names)
    with pytest.raises(ContractBroken):
        deliver([bad])
    journal = Journal(tmp_path / "journal")
    forwarder = Forwarder(journal, deliver)
    journal.append([record(f"t{n}", [n, n, n]) for n in range(9)] + [bad] + [record("last")])
    forwarder.start()
    until = time.monotonic() + 10
    while journal.pending_records and time.monotonic() < until:
        time.sleep(0.01)
    assert forwarder.stop(5)
    journal.close()
    assert forwarder.dead_letters == 1
    (letter,) = (tmp_path / "journal" / "dead_letters.jsonl").read_text().splitlines()
    assert orjson.loads(letter)["record"].encode() == bad
    assert len(ledger.decisions(datetime(2026, 1, 1), datetime(2027, 1, 1))) == 10


def test_a_ledger_that_cannot_be_opened_is_no_fault_of_the_records(names: FeatureNames, ledger: Ledger):
    for url in ("mysql://host/ledger", "sqlite:////proc/none/ledger.sqlite"):
        with pytest.raises(RetryableError, match=r"ledger|FRAUD_LEDGER_URL"):
            Delivery(lambda url=url: open_ledger(url), names)([record()])


def test_a_fallback_says_nothing_of_a_model():
    now = payment("t-1", NOON_US)
    (as_told,) = answers_of([now], [Verdict("REVIEW", fallback="no_champion")], None, None, DECIDED_AT)
    told = orjson.loads(as_told.content)
    empty = ("fraud_probability", "anomaly_score", "confidence", "thresholds", "model", "feature_spec_hash")
    assert [told[name] for name in (*empty, "state_as_of", "feature_age_seconds")] == [None] * 8
