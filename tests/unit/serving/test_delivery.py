"""From records to the ledger's rows and back, and what becomes of records that no ledger takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
import pytest

from fraud_pipelines.errors import ContractBroken, RetryableError
from fraud_pipelines.ledger import Feedback, Ledger, open_ledger
from serving.answers import StoredDecision, Verdict, answer_of, fallback, feedback_of, feedback_record, record_of
from serving.delivery import Delivery, FeatureNames
from serving.forwarding import Forwarder
from serving.journal import Journal
from tests.stored_events import NOON_US, payment

NAMES = ["amount", "is_new", "count"]
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
    told = orjson.loads(answer_of(now, verdict, None, NOON_US, DECIDED_AT)) | {"feature_spec_hash": "f" * 64} | answer
    return record_of(now, orjson.dumps(told), verdict.features)


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
        assert orjson.loads(back.record) == orjson.loads(one)
    row = ledger.decision("scored")
    assert row.features == {"amount": 12.34, "is_new": None, "count": 1e300}
    assert row.decided_at == datetime(2026, 6, 1, 12, 0, 1, 203)
    assert (row.event_time, row.merchant_id) == (datetime(2026, 6, 1, 12), "商店")


def test_delivered_again_it_is_there_once_and_the_first_stays(ledger: Ledger, names: FeatureNames):
    deliver = Delivery(lambda: ledger, names)
    said = Feedback("f-1", "t-1", "CONFIRMED_FRAUD", "ann", datetime(2026, 6, 2), "all 中文")
    assert feedback_of(feedback_record(said)) == said
    for _ in range(2):
        deliver([record(), feedback_record(said), record()])
    deliver([record(decision="BLOCK"), feedback_record(replace(said, verdict="FALSE_POSITIVE"))])
    assert ledger.decision("t-1").decision == "REVIEW"
    assert [f.verdict for f in ledger.feedback_on("t-1")] == ["CONFIRMED_FRAUD"]


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
    told = orjson.loads(answer_of(now, Verdict("REVIEW", fallback="no_champion"), None, None, DECIDED_AT))
    empty = ("fraud_probability", "anomaly_score", "confidence", "thresholds", "model", "feature_spec_hash")
    assert [told[name] for name in (*empty, "state_as_of", "feature_age_seconds")] == [None] * 8
