"""Gates: a table of cases, and each number from where it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import PromotionRefused
from fraud_pipelines.ledger import Decision, Ledger, open_ledger
from fraud_pipelines.models.evaluation import Evaluation, write_evaluation
from fraud_pipelines.models.gates import Gate, ServedParity, promotion_gates, served_parity, widest_gap
from fraud_pipelines.models.intervals import Interval
from fraud_pipelines.models.metrics import average_precision
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.models.promotion import decide
from fraud_pipelines.monitoring.fairness import RateGap
from fraud_pipelines.warehouse import open_warehouse

AS_OF = datetime(2026, 4, 1)
SINCE = datetime(2026, 3, 11)


def evaluation(genuine_flagged: int = 30, *, days: int = 10, metrics: dict | None = None, **changes) -> Evaluation:
    """On each day 51 frauds and `genuine_flagged` of 51 genuine rows share the top score: AP = 51 / (51 + flagged).

    All days are equal, so that every draw of days has the same average precision.
    """
    day = np.repeat(np.arange(days), 102)
    within = np.tile(np.arange(102), days)
    is_fraud = within < 51
    probability = np.where(within < 51 + genuine_flagged, 0.6, 0.1)
    scores = pd.DataFrame(
        {
            "transaction_id": [f"{number:05d}" for number in range(len(day))],
            "event_time": pd.Series([SINCE + timedelta(days=int(n)) for n in day], dtype="datetime64[us]"),
            "card_id": "c1",
            "amount_minor": 1000,
            "is_fraud": is_fraud,
            "fraud_probability": probability,
        }
    )
    judged = {"average_precision": average_precision(is_fraud, probability), "recall_at_1pct_fpr": 0.7}
    values = {
        "metrics": judged | {"calibration_error": 0.05} | (metrics or {}),
        "rows": len(scores),
        "fraud_count": int(is_fraud.sum()),
        "since": SINCE,
        "until": SINCE + timedelta(days=days),
        "as_of": AS_OF,
        "scores": scores,
        "excluded": {},
        "precision_recall": [],
        "roc": [],
    }
    return Evaluation(**(values | changes))


def _served(decisions: int = 100, compared: int = 100, mismatches: int = 0) -> ServedParity:
    return ServedParity(datetime(2026, 3, 25), datetime(2026, 3, 31), decisions, compared, mismatches)


def _gap(certain_ratio: float) -> RateGap:
    return RateGap("age_band", "65+", 0.04, "25-34", 0.02, certain_ratio)


NO_FRAUD = {"average_precision": None, "recall_at_1pct_fpr": None}
CHAMPION = evaluation(51)  # average precision 51 / 102 = 0.5


@pytest.mark.parametrize(
    ("candidate", "champion", "other", "failing"),
    [
        (evaluation(), None, {}, []),
        (
            evaluation(
                metrics={"average_precision": 0.15, "recall_at_1pct_fpr": 0.30, "calibration_error": 0.015},
                rows=1000,
                fraud_count=30,
            ),
            None,
            {"served": _served(), "unfairness": _gap(1.25)},
            [],
        ),
        (evaluation(metrics={"average_precision": 0.1499}), None, {}, ["average_precision_reaches_floor"]),
        (evaluation(metrics={"recall_at_1pct_fpr": 0.2999}), None, {}, ["recall_reaches_floor"]),
        (evaluation(metrics=NO_FRAUD), None, {}, ["average_precision_reaches_floor", "recall_reaches_floor"]),
        (evaluation(rows=999, fraud_count=200), None, {}, ["enough_labelled_rows"]),
        (evaluation(fraud_count=29, metrics={"calibration_error": 0.0}), None, {}, ["enough_frauds"]),
        (evaluation(49), CHAMPION, {}, []),  # 0.51 / 0.50 = +2.00 %
        (evaluation(50), CHAMPION, {}, ["improves_on_champion"]),  # 51 / 101 / 0.50 = +0.99 %
        (evaluation(51), CHAMPION, {}, ["improves_on_champion"]),
        (evaluation(40, days=4, rows=1000), evaluation(51, days=4), {}, ["improves_on_champion"]),
        (evaluation(40, days=5, rows=1000), evaluation(51, days=5), {}, []),
        (evaluation(metrics={"calibration_error": 0.2501}), None, {}, ["probabilities_are_calibrated"]),
        (evaluation(metrics={"calibration_error": 0.25}), None, {}, []),  # half the fraud share of one half
        (evaluation(metrics={"calibration_error": None}), None, {}, ["probabilities_are_calibrated"]),
        # What chance explains refuses nothing; what it does not, does.
        (
            evaluation(metrics={"calibration_error": 0.3}, intervals={"calibration_error": Interval(0.25, 0.4)}),
            None,
            {},
            [],
        ),
        (
            evaluation(metrics={"calibration_error": 0.3}, intervals={"calibration_error": Interval(0.2501, 0.4)}),
            None,
            {},
            ["probabilities_are_calibrated"],
        ),
        (evaluation(), None, {"unfairness": _gap(1.2501)}, ["groups_are_stopped_alike"]),
        (evaluation(), None, {"served": _served(mismatches=1)}, ["served_features_match"]),
        (evaluation(), None, {"served": _served(compared=95)}, []),
        (evaluation(), None, {"served": _served(compared=94)}, ["served_features_match"]),
        (evaluation(), None, {"served": _served(compared=0)}, ["served_features_match"]),
        (evaluation(), None, {"failed_data_checks": ["raw/transactions:keys_are_unique"]}, ["data_checks_pass"]),
    ],
)
def test_each_gate_passes_and_fails_by_its_own_number(candidate, champion, other, failing):
    gates = promotion_gates(candidate, champion, **other)
    assert [gate.name for gate in gates if not gate.passed] == failing
    assert decide(gates) == ("refuse" if failing else "promote")
    assert len(gates) == 9


def _improvement(candidate: Evaluation, champion: Evaluation) -> Gate:
    return next(gate for gate in promotion_gates(candidate, champion) if gate.name == "improves_on_champion")


def test_the_improvement_gate_says_the_gain_its_interval_and_the_p_value():
    gate = _improvement(evaluation(49), CHAMPION)
    assert gate.value == pytest.approx(0.02, abs=1e-12)
    assert gate.words == (
        "average precision 0.5100 against 0.5000 on the same 1020 rows: +2.00% (+2.00% to +2.00% at 95% confidence), "
        "one-sided p 0.0061 by 10 days; at least +2% and p at most 0.025 are needed"
    )


def test_a_gain_that_lies_on_few_of_the_days_is_no_gain_yet():
    champion, candidate = evaluation(51), evaluation(51)
    scores = candidate.scores
    lucky = (scores["event_time"] < SINCE + timedelta(days=2)) & ~scores["is_fraud"]
    scores.loc[lucky, "fraud_probability"] = 0.1
    found = average_precision(scores["is_fraud"].to_numpy(), scores["fraud_probability"].to_numpy())
    candidate = replace(candidate, metrics={**candidate.metrics, "average_precision": found})
    gate = _improvement(candidate, champion)
    # 510 frauds among 510 + 408 rows: 0.5556, so +11 %, which 11 % of the draws, (8/10)^10, do not contain.
    assert gate.value == pytest.approx(510 / 918 / 0.5 - 1)
    assert not gate.passed
    assert "(+0.00% to " in gate.words


def test_too_few_days_are_said_in_words():
    gate = _improvement(evaluation(40, days=4), evaluation(51, days=4))
    assert gate.value > 0.02
    assert "frauds lie on 4 days, at least 5 are needed" in gate.words
    assert "fraud train --test-days N" in gate.words


def test_test_rows_without_fraud_show_no_improvement():
    without = [replace(one, scores=one.scores.assign(is_fraud=False)) for one in (evaluation(40), CHAMPION)]
    gate = _improvement(*without)
    assert (gate.passed, gate.value) == (False, None)
    assert "no fraud" in gate.words


def test_models_judged_on_different_rows_cannot_be_compared():
    scores = CHAMPION.scores.assign(transaction_id=lambda rows: rows["transaction_id"].replace("00007", "other"))
    with pytest.raises(PromotionRefused, match="same rows"):
        promotion_gates(evaluation(), replace(CHAMPION, scores=scores))


def test_evaluations_compare_equal_rows_whatever_their_index():
    shuffled_index = CHAMPION.scores.set_axis(range(7, 7 + CHAMPION.rows))
    assert decide(promotion_gates(evaluation(), replace(CHAMPION, scores=shuffled_index))) == "promote"


@pytest.mark.parametrize(
    ("ratio", "said"), [(1.3, "a factor of 1.30 is beyond chance"), (0.85, "chance can explain it")]
)
def test_the_fairness_gate_names_groups_rates_and_what_chance_leaves(ratio, said):
    gate = next(
        g for g in promotion_gates(evaluation(), None, unfairness=_gap(ratio)) if g.name == "groups_are_stopped_alike"
    )
    assert gate.words == (
        "age band: 4.00% of genuine payments stopped in 65+, 2.00% in 25-34; "
        f"{said}, a factor of at most 1.25 is allowed"
    )


def test_the_widest_gap_joins_test_rows_to_customers(tmp_path: Path):
    judged = evaluation(26, days=25)  # 2,550 rows: 26 of 51 genuine rows of each day are stopped
    count = len(judged.scores)
    # Customer c0 has the rows whose genuine half is stopped more often: those at the top of each day.
    customer = np.where(np.tile(np.arange(102), 25) < 77, "c0", "c1")
    transactions = judged.scores[["transaction_id", "event_time", "card_id", "amount_minor"]].assign(
        merchant_id="m1", currency="EUR", customer_id=customer, source="test", ingestion_id="i1"
    )
    customers = pd.DataFrame({"customer_id": ["c0", "c1"], "gender": ["female", "male"], "ingestion_id": "i1"})
    with open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}").session() as session:
        session.insert_new(tables.TRANSACTIONS, transactions)
        write_evaluation(session, "1", judged)
        assert widest_gap(session, judged, "1", Thresholds(review=0.5, block=0.9)) is None
        session.insert_new(tables.CUSTOMERS, customers)
        gap = widest_gap(session, judged, "1", Thresholds(review=0.5, block=0.9))
        assert (count, gap.attribute, gap.largest_group, gap.smallest_group) == (2550, "gender", "female", "male")
        assert (gap.largest, gap.smallest) == (1.0, 0.0)
        assert gap.certain_ratio > 100
        # With everything approved nobody is stopped, and nobody more often.
        idle = widest_gap(session, judged, "1", Thresholds(review=0.95, block=0.95))
        assert idle.certain_ratio == 0.0
        assert widest_gap(session, judged, "2", Thresholds(review=0.5, block=0.9)) is None


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


def _serve(ledger: Ledger, day: int, count: int, features: dict[str, float | None] | None = None) -> None:
    for number in range(count):
        moment = datetime(2026, 3, day, 12, 0, number)
        ledger.record_decision(
            Decision(
                transaction_id=f"{day}-{number}",
                event_time=moment,
                card_id="tok_" + "0" * 32,
                merchant_id="m1",
                decision="APPROVE",
                fraud_probability=0.1,
                model_version="1",
                bundle_digest="d" * 64,
                thresholds={"review": 0.3, "block": 0.7},
                reasons=[],
                features={"amount": 1.0, "hour": 12.0} if features is None else features,
                request={},
                decided_at=moment,
            )
        )


def _parity(day: int, compared: int, mismatched: int = 0, absent: int = 0) -> pd.DataFrame:
    row = {"day": datetime(2026, 3, day), "compared_count": compared, "largest_difference": None,
           "absent_count": absent}  # fmt: skip
    features = [{"feature": "amount", "mismatch_count": mismatched}, {"feature": "hour", "mismatch_count": 0}]
    return pd.DataFrame([row | feature for feature in features])


def test_parity_looks_at_the_last_served_days_before_the_moment(tmp_path: Path, ledger):
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    with warehouse.session() as session:
        # Days that only parity knows are no served days; a fallback has no features that could differ.
        session.upsert(tables.PARITY, _parity(30, 4, 4))
        _serve(ledger, 31, 2, features={})
        assert served_parity(session, ledger, AS_OF) is None
        # A mismatch on the 5th, then seven clean served days: it no longer blocks.
        _serve(ledger, 5, 3)
        session.upsert(tables.PARITY, _parity(5, 3, 3))
        for day in range(6, 12):
            _serve(ledger, day, 2)
            session.upsert(tables.PARITY, _parity(day, 2))
        expected = ServedParity(datetime(2026, 3, 5), datetime(2026, 3, 11), 15, 15, 3)
        assert served_parity(session, ledger, AS_OF) == expected
        _serve(ledger, 12, 1)
        session.upsert(tables.PARITY, _parity(12, 1))
        expected = ServedParity(datetime(2026, 3, 6), datetime(2026, 3, 12), 13, 13, 0)
        assert served_parity(session, ledger, AS_OF) == expected
        # What happens at or after the moment is not known yet; four weeks later nothing is left to look at.
        assert served_parity(session, ledger, datetime(2026, 3, 6)).mismatches == 3
        assert served_parity(session, ledger, datetime(2026, 4, 10)) is None


@pytest.mark.parametrize("rows", [[], [_parity(20, 0, absent=6)]], ids=["never materialized", "all absent"])
def test_parity_that_compared_nothing_refuses_and_says_so(tmp_path: Path, ledger, rows):
    _serve(ledger, 20, 6)
    with open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}").session() as session:
        for row in rows:
            session.upsert(tables.PARITY, row)
        served = served_parity(session, ledger, AS_OF)
    assert (served.decisions, served.compared, served.absent_share) == (6, 0, 1.0)
    gate = next(g for g in promotion_gates(evaluation(), None, served=served) if g.name == "served_features_match")
    assert (gate.passed, gate.value) == (False, None)
    assert "0 of 6 decisions from 2026-03-20 to 2026-03-20 were compared" in gate.words
    assert "fraud materialize monitoring/parity --from 2026-03-20 --to 2026-03-20" in gate.words
