"""Batch scores say what serving would: probability, decision, and the top reasons where it is no approval."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models import trees
from fraud_pipelines.models.additive_model import Isolation
from fraud_pipelines.models.members import LearnerParameters, fit_isolation_forest
from fraud_pipelines.monitoring.scores import score_frame
from tests.served_models import tiny_bundle


@pytest.fixture(scope="module")
def bundle():
    """Review and block both occur."""
    return tiny_bundle(review=0.05, block=0.6)


@pytest.fixture(scope="module")
def features(bundle) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    rows = pd.DataFrame(rng.uniform(0, 1000, (60, len(bundle.feature_names))), columns=list(bundle.feature_names))
    times = pd.date_range("2026-01-01", periods=60, freq="h").as_unit("us")
    return rows.assign(transaction_id=[f"t{number}" for number in range(60)], event_time=times)


def test_reasons_stand_beside_every_decision_that_is_no_approval(bundle, features):
    rows = score_frame(features, bundle, model_version="7")
    matrix = to_matrix(features, bundle.feature_names)
    np.testing.assert_array_equal(rows["fraud_probability"], bundle.predict(matrix))
    assert {"APPROVE", "BLOCK"} <= set(rows["decision"])
    for number, row in rows.iterrows():
        if row["decision"] == "APPROVE":
            assert pd.isna(row["reasons"])
            continue
        (expected,) = bundle.reasons(matrix[number : number + 1], [{}])
        assert json.loads(row["reasons"]) == [
            {"code": reason["code"], "contribution": reason["contribution"]} for reason in expected
        ]
    assert rows["anomaly_score"].isna().all()


def test_the_anomaly_score_is_kept_where_the_model_has_one(bundle, features):
    matrix = to_matrix(features, bundle.feature_names)
    forest = fit_isolation_forest(matrix, LearnerParameters(isolation_trees=10))
    isolation = Isolation.of(trees.of_isolation_forest(forest), forest.max_samples_)
    scored = score_frame(features, replace(bundle, model=replace(bundle.model, isolation=isolation)), model_version="7")
    np.testing.assert_allclose(scored["anomaly_score"], -forest.score_samples(matrix), atol=1e-6)


def test_no_rows_give_no_scores(bundle, features):
    empty = score_frame(features.iloc[:0], bundle, model_version="7")
    assert list(empty.columns) == list(score_frame(features, bundle, model_version="7").columns)
    assert empty.empty
