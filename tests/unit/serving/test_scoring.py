"""One transaction's way to a durable decision, on real stores and a real (tiny) model."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from fraud_pipelines.errors import LedgerUnavailable, OnlineStoreUnavailable
from fraud_pipelines.features.reference import Payment, Verdict, reference_features
from fraud_pipelines.ledger import Ledger, open_ledger
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.online_store.state import Reach
from fraud_pipelines.raw.tokens import tokenize_card
from serving.champion import Loaded, load_champion
from serving.problems import Problem
from serving.schemas import Transaction
from serving.scoring import Scorer
from tests.histories import arrival, scored
from tests.served_models import CARD_NUMBER, payment, tiny_bundle, unable_to_score
from tests.stored_events import SHORT_SPEC, tables_of

KEY = b"k" * 32


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def loaded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("champion")
    bundle.save(folder / "bundle")
    champion = {"name": "fraud-scorer", "version": "7", "bundle_digest": bundle.digest}
    (folder / "champion.json").write_text(json.dumps(champion))
    return load_champion(folder)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield ledger
    ledger.close()


@pytest.fixture
def store(tmp_path: Path, bundle: Bundle) -> Iterator[OnlineStore]:
    store = open_online_store(f"sqlite:///{tmp_path / 'online.sqlite'}", spec=bundle.spec)
    yield store
    store.close()


@pytest.fixture
def scorer(loaded: Loaded, ledger: Ledger, store: OnlineStore) -> Scorer:
    return Scorer(loaded, lambda: ledger, lambda: store, KEY)


def transaction(**changes: object) -> Transaction:
    return Transaction.model_validate_json(json.dumps(payment(**changes)))


def test_the_decision_follows_the_probability_and_the_thresholds(scorer: Scorer):
    # The model was taught that fraud is likely exactly above 500.
    small = scorer.score(transaction(transaction_id="small", amount="12.34"))
    large = scorer.score(transaction(transaction_id="large", amount="900"))
    assert small.decision == "APPROVE"
    assert small.fraud_probability < 0.3
    assert large.decision == "BLOCK"
    assert large.fraud_probability >= 0.7
    assert small.thresholds.model_dump() == {"review": 0.3, "block": 0.7}
    assert small.fallback is None


def test_a_decision_against_the_customer_says_why(scorer: Scorer):
    answer = scorer.score(transaction(amount="900"))
    assert answer.reasons[0].code == "AMOUNT"
    assert answer.reasons[0].contribution > 0
    contributions = [reason.contribution for reason in answer.reasons]
    assert contributions == sorted(contributions, reverse=True)


def test_the_answer_names_model_and_spec(scorer: Scorer, bundle: Bundle):
    answer = scorer.score(transaction())
    assert answer.model.model_dump() == {"name": "fraud-scorer", "version": "7", "bundle_digest": bundle.digest}
    assert answer.feature_spec_hash == bundle.spec_hash
    assert answer.state_as_of is None  # never filled from a warehouse


def test_what_is_answered_is_what_is_stored(scorer: Scorer, ledger: Ledger):
    answer = scorer.score(transaction(amount="900", channel="online"))
    stored = ledger.decision("t-1")
    assert (stored.decision, stored.fraud_probability) == (answer.decision, answer.fraud_probability)
    assert stored.event_time == datetime(2025, 3, 1, 12)
    assert stored.card_id == tokenize_card(CARD_NUMBER, KEY)
    assert stored.request["amount_minor"] == 90_000
    assert stored.request["channel"] == "online"
    assert (stored.model_version, stored.bundle_digest) == ("7", answer.model.bundle_digest)


def test_the_next_transaction_sees_the_one_before(scorer: Scorer, ledger: Ledger, bundle: Bundle):
    counts = [f.name for f in bundle.spec.features if (f.entity, f.measure, f.of) == ("card", "count", "transactions")]
    assert counts
    for minute in range(3):
        scorer.score(transaction(transaction_id=f"t{minute}", event_time=f"2025-03-01T12:0{minute}:00Z"))
        assert all(ledger.decision(f"t{minute}").features[name] == minute for name in counts)


def test_the_served_vector_is_the_reference_implementations(scorer: Scorer, ledger: Ledger, store, bundle: Bundle):
    card = tokenize_card(CARD_NUMBER, KEY)
    payments = [
        Payment("a", datetime(2025, 2, 27, 9), card, "m-1", 1000, category="5411", country="FR", device_id="d-1"),
        Payment("b", datetime(2025, 3, 1, 11, 30), card, "m-2", 2550, merchant_latitude=52.5, merchant_longitude=13.4),
    ]
    verdict = Verdict("a", datetime(2025, 2, 28), True)
    store.rebuild(*tables_of(map(scored, payments), [arrival(payments, verdict)]), datetime(2025, 3, 1, 12))
    answer = scorer.score(transaction(country="DE", merchant_latitude=52.4, merchant_longitude=13.1))
    assert answer.state_as_of.replace(tzinfo=None) == datetime(2025, 3, 1, 12)
    now = Payment("t-1", datetime(2025, 3, 1, 12), card, "m-1", 1234, country="DE")
    now = replace(now, merchant_latitude=52.4, merchant_longitude=13.1)
    expected = reference_features([*payments, now], [verdict], bundle.spec)["t-1"]
    assert ledger.decision("t-1").features == pytest.approx(expected)


def test_sending_a_transaction_again_returns_the_first_decision_and_counts_once(scorer, ledger, store):
    first = scorer.score(transaction(amount="900"))
    scorer.score(transaction(transaction_id="between", event_time="2025-03-01T11:59:00Z"))  # changes the history
    again = scorer.score(transaction(amount=900, card_id="4000-0012-3456-7899", device_id="new"))
    ignored = {"processing_time_ms"}
    assert again.model_dump(exclude=ignored) == first.model_dump(exclude=ignored)
    assert len(ledger.decisions(datetime(2025, 1, 1), datetime(2026, 1, 1))) == 2
    assert store.sizes()["transactions"] == 2


@pytest.mark.parametrize("change", [{"amount": "5000"}, {"merchant_id": "m-2"}, {"currency": "USD"}])
def test_an_identifier_used_for_another_transaction_is_a_conflict(scorer, store, change):
    scorer.score(transaction())
    with pytest.raises(Problem) as caught:
        scorer.score(transaction(**change))
    assert (caught.value.status, caught.value.code) == (409, "transaction_id_reused")
    assert store.sizes()["transactions"] == 1


def test_a_repeat_brings_a_transaction_that_only_the_ledger_has_to_the_online_store(scorer, store, tmp_path):
    scorer.score(transaction())
    with sqlite3.connect(tmp_path / "online.sqlite") as connection:  # as after a kill between the two writes
        connection.execute("delete from transactions")
    scorer.score(transaction())
    assert store.sizes()["transactions"] == 1


def test_concurrent_sends_of_one_transaction_agree(loaded, tmp_path, ledger, bundle):
    """Two services on the same stores, as two workers would be."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    scorers = [Scorer(loaded, lambda: ledger, partial(open_online_store, url, spec=bundle.spec), KEY) for _ in range(2)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: scorers[n % 2].score(transaction(transaction_id=f"t{n // 8}")), range(40)))
    assert len({(answer.transaction_id, answer.decided_at) for answer in answers}) == 5
    assert len(ledger.decisions(datetime(2025, 1, 1), datetime(2026, 1, 1))) == 5
    for scorer in scorers:
        scorer.online_store().close()


def test_without_the_online_store_a_person_decides(loaded, ledger, store):
    available = [False]

    def open_store() -> OnlineStore:
        if not available[0]:
            raise OnlineStoreUnavailable("away")
        return store

    scorer = Scorer(loaded, lambda: ledger, open_store, KEY)
    scorer.open_stores()
    answer = scorer.score(transaction())
    assert (answer.decision, answer.fallback) == ("REVIEW", "online_store_unavailable")
    assert answer.fraud_probability is None
    assert answer.model is None
    assert answer.thresholds is None
    assert [reason.code for reason in answer.reasons] == ["online_store_unavailable"]
    assert ledger.decision("t-1").features == {}
    available[0] = True
    assert scorer.score(transaction(transaction_id="t-2")).fallback is None
    assert scorer.score(transaction()).fallback == "online_store_unavailable"  # the first decision stands


def test_while_the_online_state_is_shorter_than_the_models_windows_a_person_decides(scorer, store, ledger):
    store.rebuild(*tables_of([], []), datetime(2025, 3, 1), reach=Reach.of(SHORT_SPEC))
    answer = scorer.score(transaction())
    assert (answer.decision, answer.fallback) == ("REVIEW", "online_state_too_short")
    assert [reason.code for reason in answer.reasons] == ["online_state_too_short"]
    assert ledger.decision("t-1").features == {}
    store.rebuild(*tables_of([], []), datetime(2025, 3, 1))
    # The payment that no model decided is history for the next one.
    assert scorer.score(transaction(transaction_id="t-2", event_time="2025-03-01T12:00:01Z")).fallback is None
    assert ledger.decision("t-2").features["card_count_24h"] == 1


def test_without_the_ledger_nothing_is_decided(loaded, store):
    def away() -> Ledger:
        raise LedgerUnavailable("away")

    scorer = Scorer(loaded, away, lambda: store, KEY)
    scorer.open_stores()
    assert not scorer.is_ready()
    with pytest.raises(Problem) as caught:
        scorer.score(transaction())
    assert (caught.value.status, caught.value.code) == (503, "ledger_unavailable")
    assert store.sizes()["transactions"] == 0  # what has no decision is not history


def test_a_model_that_fails_leads_to_review_with_the_vector_kept(loaded, ledger, store, bundle):
    broken = replace(bundle, model=unable_to_score(bundle.model))
    scorer = Scorer(Loaded(replace(loaded.champion, bundle=broken)), lambda: ledger, lambda: store, KEY)
    answer = scorer.score(transaction())
    assert (answer.decision, answer.fallback) == ("REVIEW", "model_failed")
    assert set(ledger.decision("t-1").features) == set(bundle.feature_names)


def test_every_cause_of_a_missing_champion_leads_to_review(ledger, store, tmp_path):
    scorer = Scorer(load_champion(tmp_path / "nothing"), lambda: ledger, lambda: store, KEY)
    answer = scorer.score(transaction())
    assert (answer.decision, answer.fallback) == ("REVIEW", "no_champion")
    assert store.sizes()["transactions"] == 1


def test_no_card_number_reaches_the_stores_or_the_answer(scorer, ledger, store, tmp_path):
    answer = scorer.score(transaction(amount="900"))
    assert CARD_NUMBER not in answer.model_dump_json()
    assert CARD_NUMBER not in repr(ledger.decision("t-1"))
    ledger.close()
    store.close()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if CARD_NUMBER.encode() in file.read_bytes()]
