"""Evaluation on rows whose answer is known."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.evaluation import evaluate, policy_metrics, read_evaluation, write_evaluation
from fraud_pipelines.models.policy import CostMatrix, Thresholds
from fraud_pipelines.models.splits import TEST
from fraud_pipelines.warehouse import open_warehouse
from tests.builders import synthetic_training_set
from tests.served_models import tiny_bundle

SPEC = load_spec()
WINDOW = {"since": datetime(2026, 2, 15), "until": datetime(2026, 2, 22), "as_of": datetime(2026, 3, 1)}


@pytest.fixture(scope="module")
def bundle():
    return tiny_bundle()


@pytest.fixture(scope="module")
def judged_rows() -> pd.DataFrame:
    rows = synthetic_training_set(SPEC, rows=2000, fraud_share=0.1).part(TEST)
    amount = next(feature.name for feature in SPEC.features if feature.of == "amount")
    rows[amount] = np.where(rows["is_fraud"], 700.0, 300.0)
    return rows


def test_a_model_that_sees_the_answer_scores_one(bundle, judged_rows):
    result = evaluate(bundle, judged_rows, **WINDOW, unlabelled=3)
    assert result.metrics["average_precision"] == pytest.approx(1.0)
    assert result.metrics["roc_auc"] == pytest.approx(1.0)
    assert (result.rows, result.fraud_count) == (len(judged_rows), int(judged_rows["is_fraud"].sum()))
    assert result.excluded == {"unlabelled": 3, "card_known_compromised": 0}


def test_scores_are_the_bundles_own(bundle, judged_rows):
    scores = evaluate(bundle, judged_rows, **WINDOW).scores
    np.testing.assert_array_equal(scores["fraud_probability"], bundle.predict(to_matrix(judged_rows, SPEC.names)))


def test_cards_known_as_compromised_neither_help_nor_hurt(bundle, judged_rows):
    known = judged_rows["card_id"].isin(["c1", "c2", "c3"])
    marked = judged_rows.assign(card_is_known_compromised=known)
    result = evaluate(bundle, marked, **WINDOW)
    assert result.excluded["card_known_compromised"] == int(known.sum()) > 0
    assert not result.scores["card_id"].isin(["c1", "c2", "c3"]).any()
    without = evaluate(bundle, judged_rows[~known].reset_index(drop=True), **WINDOW)
    assert result.metrics == without.metrics


def test_nothing_left_to_judge_is_an_error(bundle, judged_rows):
    with pytest.raises(EmptySample, match="already known as compromised"):
        evaluate(bundle, judged_rows.assign(card_is_known_compromised=True), **WINDOW)


def test_a_model_of_another_spec_is_not_silently_scored(bundle, judged_rows):
    with pytest.raises(ContractBroken, match=f"lack the features .*{SPEC.names[3]}"):
        evaluate(bundle, judged_rows.drop(columns=SPEC.names[3]), **WINDOW)


def test_policy_metrics_by_hand():
    rows = pd.DataFrame({"is_fraud": [True, True, True, False, False], "amount_minor": [1000, 3000, 6000, 100, 100]})
    # BLOCK: rows 0 and 3. REVIEW: row 1. APPROVE: rows 2 and 4.
    found = policy_metrics(rows, np.array([0.9, 0.5, 0.1, 0.8, 0.0]), Thresholds(review=0.4, block=0.7))
    assert found == {
        "block_precision": pytest.approx(1 / 2),
        "block_recall": pytest.approx(1 / 3),
        "review_precision": pytest.approx(1.0),
        "review_share": pytest.approx(1 / 5),
        "flagged_recall": pytest.approx(2 / 3),
        "value_detected": pytest.approx(4000 / 10_000),
        # 5 rows: 60 missed, 5 + 5 % of 30 reviewed, 25 blocked; approving everything loses 100.
        "cost_per_1000": pytest.approx(91.5 * 200),
        "saving_share": pytest.approx(1 - 91.5 / 100),
    }
    # Rows, scores and thresholds as before, at costs of one's own: 60 missed, 1 reviewed, nothing for the block.
    own = policy_metrics(
        rows, np.array([0.9, 0.5, 0.1, 0.8, 0.0]), Thresholds(review=0.4, block=0.7),
        CostMatrix(review_cost=1, review_catches=1, block_friction=0),
    )  # fmt: skip
    assert own["cost_per_1000"] == pytest.approx(61 * 200)


def test_shares_without_a_denominator_are_undefined():
    rows = pd.DataFrame({"is_fraud": [False, False], "amount_minor": [100, 100]})
    found = policy_metrics(rows, np.array([0.1, 0.1]), Thresholds(review=0.4, block=0.7))
    assert (found["review_share"], found["cost_per_1000"]) == (0.0, 0.0)
    assert {name for name, value in found.items() if value is None} == set(found) - {"review_share", "cost_per_1000"}


def test_an_evaluation_is_read_back_as_written_beside_the_next(bundle, judged_rows, tmp_path: Path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    result = evaluate(bundle, judged_rows, **WINDOW)
    undefined = dataclasses.replace(result, metrics={**result.metrics, "block_precision": None})
    with warehouse.session() as session:
        assert read_evaluation(session, "1", WINDOW["as_of"]) is None
        write_evaluation(session, "1", undefined)
        write_evaluation(session, "1", undefined)
        again = read_evaluation(session, "1", WINDOW["as_of"])
        assert again is not None
        assert again.metrics == undefined.metrics
        assert (again.rows, again.fraud_count, again.since, again.until, again.as_of) == (
            (result.rows, result.fraud_count, *WINDOW.values())
        )
        pd.testing.assert_frame_equal(again.scores, result.scores, check_dtype=False)
        assert again.roc == result.roc
        fewer = evaluate(bundle, judged_rows.head(50), **{**WINDOW, "as_of": datetime(2026, 3, 2)})
        write_evaluation(session, "1", fewer)
        assert len(session.read(tables.EVALUATION_SCORES)) == len(result.scores) + 50
        assert len(session.read(tables.EVALUATIONS)) == 2 * len(result.metrics)
        latest = read_evaluation(session, "1", datetime(2026, 3, 2))
        assert latest is not None
        assert latest.rows == len(latest.scores) == 50
        earlier = read_evaluation(session, "1", WINDOW["as_of"])
        assert earlier is not None
        pd.testing.assert_frame_equal(earlier.scores, result.scores, check_dtype=False)
