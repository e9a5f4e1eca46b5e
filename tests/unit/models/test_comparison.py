"""The simplest contender within noise of the best is registered, and how all stood is kept."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.comparison import Comparison, compare
from fraud_pipelines.models.contenders import CONTENDERS
from fraud_pipelines.models.folds import learning_rows, time_folds
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.selection import judge
from fraud_pipelines.models.splits import TimeSplit
from tests.builders import synthetic_training_set

DAYS, PER_DAY = 20, 300


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    times = [datetime(2026, 1, 1) + timedelta(days=day, seconds=60 * n) for day in range(DAYS) for n in range(PER_DAY)]
    return pd.DataFrame({"event_time": times, "is_fraud": rng.random(DAYS * PER_DAY) < 0.05})


def scores(rows: pd.DataFrame, skill: float, seed: int, noise: np.ndarray | None = None) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=len(rows)) if noise is None else noise
    return skill * rows["is_fraud"].to_numpy() + noise


def test_the_simplest_within_noise_of_the_best_wins(rows):
    noise = np.random.default_rng(9).normal(size=len(rows))
    almost = scores(rows, 2.0, 0, noise + np.random.default_rng(1).normal(scale=0.02, size=len(rows)))
    found = compare(
        rows, {"single_tree": scores(rows, 1.0, 3), "xgboost": almost, "stack": scores(rows, 2.0, 0, noise)}
    )
    assert found.winner == "xgboost"
    tree, xgboost, stack = found.standings
    assert not tree.is_within_noise
    assert xgboost.is_within_noise
    assert (found.rows, found.days) == (DAYS * PER_DAY, DAYS)
    assert found.fraud_count == int(rows["is_fraud"].sum())
    expected = average_precision_score(rows["is_fraud"], almost)
    assert xgboost.average_precision == pytest.approx(expected, abs=1e-9)
    assert stack.behind == 0 or xgboost.behind == 0
    assert tree.behind > 10 * tree.standard_error / 5


def test_a_complex_contender_that_is_clearly_better_wins(rows):
    found = compare(
        rows, {"single_tree": scores(rows, 1.0, 3), "xgboost": scores(rows, 2.0, 4), "stack": scores(rows, 3.5, 5)}
    )
    assert found.winner == "stack"
    assert "yes" in found.markdown().splitlines()[-1]


def test_only_rows_that_all_were_judged_on_count(rows):
    late = scores(rows, 3.5, 5)
    late[: 10 * PER_DAY] = np.nan
    early_only_skill = scores(rows, 2.0, 4)
    early_only_skill[10 * PER_DAY :] = 0.0
    found = compare(rows, {"xgboost": early_only_skill, "stack": late})
    assert (found.rows, found.days, found.winner) == (10 * PER_DAY, 10, "stack")


def test_one_that_could_not_be_judged_is_on_record_and_does_not_win(rows):
    found = compare(rows, {"xgboost": scores(rows, 2.0, 4), "stack": np.full(len(rows), np.nan)})
    assert found.winner == "xgboost"
    assert found.standings[1].average_precision is None
    assert "too few blocks" in found.markdown()
    assert Comparison.from_dict(found.as_dict()) == found


def test_without_frauds_to_compare_on_xgboost_is_taken(rows):
    genuine = rows.assign(is_fraud=False)
    found = compare(genuine, {"single_tree": scores(rows, 1.0, 3), "xgboost": scores(rows, 2.0, 4)})
    assert (found.winner, found.rows) == ("xgboost", 0)


def test_what_a_block_is_judged_with_knew_no_label_of_it_or_of_the_delay_before_it():
    """Flipping labels from a moment on changes no score of a block that began by then."""
    spec = load_spec()
    split = TimeSplit(datetime(2026, 3, 1), train_days=42, validation_days=7, test_days=7, label_delay_days=7)
    training_set = synthetic_training_set(spec, rows=4000, fraud_share=0.15, split=split)
    rows = learning_rows(training_set)
    folds = time_folds(rows, split)
    features = to_matrix(rows, spec.names)
    settings = LearnerParameters(trees=8, forest_trees=4, isolation_trees=5)

    def judged(frame: pd.DataFrame) -> dict[str, np.ndarray]:
        found = judge(frame, features, folds, settings, label_delay=timedelta(days=split.label_delay_days), workers=2)
        return found.log_odds

    block = folds[2]
    unknown = rows["label_known_at"] > block.since
    flipped = rows.assign(is_fraud=rows["is_fraud"] ^ unknown)
    before, after = judged(rows), judged(flipped)
    assert set(before) == set(CONTENDERS)
    for name in CONTENDERS:
        of_block = before[name][block.judge]
        assert not np.isnan(of_block).any()
        np.testing.assert_array_equal(of_block, after[name][block.judge])
        last = folds[-1].judge
        assert (before[name][last] != after[name][last]).any()
    # Two earlier blocks are needed: the one just before lies within the delay.
    assert np.isnan(before["stack"][folds[0].judge]).all()
    assert np.isnan(before["stack"][folds[1].judge]).all()
