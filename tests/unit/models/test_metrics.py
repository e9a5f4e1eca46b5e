"""Metrics against numbers worked by hand, scikit-learn, and the handbook's own code."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.models import metrics

# Four rows: fraud, genuine, fraud, genuine in falling order of score.
TRUTH = np.array([True, False, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.1])

# Few distinct scores, so that ties are the rule.
samples = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0])), min_size=1, max_size=60)


def test_average_precision_by_hand():
    assert metrics.average_precision(TRUTH, SCORES) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_average_precision_of_tied_scores_is_the_fraud_share():
    assert metrics.average_precision(TRUTH, np.full(4, 0.5)) == pytest.approx(0.5)


def test_roc_auc_by_hand():
    # Pairs fraud > genuine: 0.9 beats both, 0.7 beats one of two: 3 of 4.
    assert metrics.roc_auc(TRUTH, SCORES) == pytest.approx(0.75)


def test_recall_at_a_false_positive_rate_by_hand():
    assert metrics.recall_at_false_positive_rate(TRUTH, SCORES, 0.0) == 0.5  # 0.9 alone flags no genuine row
    assert metrics.recall_at_false_positive_rate(TRUTH, SCORES, 0.49) == 0.5
    assert metrics.recall_at_false_positive_rate(TRUTH, SCORES, 0.5) == 1.0
    assert metrics.recall_at_false_positive_rate(~TRUTH, SCORES, 0.0) == 0.0  # the top row is genuine


def test_brier_by_hand():
    assert metrics.brier(TRUTH, SCORES) == pytest.approx((0.01 + 0.64 + 0.09 + 0.01) / 4)


def test_calibration_error_by_hand():
    # Two bins of width 0.5: below, one genuine at 0.1; above, 0.9 + 0.8 + 0.7 = 2.4 predicted and 2 observed.
    assert metrics.calibration_error(TRUTH, SCORES, bins=2) == pytest.approx((0.1 + 0.4) / 4)
    assert metrics.calibration_error(np.array([True]), np.array([1.0])) == 0.0


@pytest.mark.parametrize("kind", [True, False])
def test_one_kind_of_row_leaves_ranking_undefined(kind):
    truth, scores = np.full(3, kind), np.array([0.1, 0.2, 0.3])
    assert metrics.roc_auc(truth, scores) is None
    assert metrics.recall_at_false_positive_rate(truth, scores, 0.01) is None
    assert metrics.roc_points(truth, scores) == []
    assert (metrics.average_precision(truth, scores) is None) is (not kind)


def test_no_rows_leave_everything_undefined():
    none, empty = np.empty(0, dtype=bool), np.empty(0)
    times, cards = pd.Series([], dtype="datetime64[us]"), pd.Series([], dtype=object)
    assert metrics.average_precision(none, empty) is None
    assert metrics.roc_auc(none, empty) is None
    assert metrics.brier(none, empty) is None
    assert metrics.calibration_error(none, empty) is None
    assert metrics.card_precision_at_k(times, cards, none, empty) is None


@settings(max_examples=60)
@given(samples)
def test_ranking_metrics_equal_scikit_learn_and_a_count_of_pairs(rows):
    from sklearn.metrics import average_precision_score, roc_curve

    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    if truth.any():
        assert metrics.average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))
    if truth.any() and not truth.all():
        pairs = [(a > b) + (a == b) / 2 for a, b in product(scores[truth], scores[~truth])]
        assert metrics.roc_auc(truth, scores) == pytest.approx(np.mean(pairs))
        false_rate, recall, _ = roc_curve(truth, scores, drop_intermediate=False)
        for limit in (0.0, 0.1, 0.5, 1.0):
            expected = recall[false_rate <= limit].max()
            assert metrics.recall_at_false_positive_rate(truth, scores, limit) == pytest.approx(expected)
        assert metrics.roc_points(truth, scores)[0] == (0.0, 0.0)
        assert metrics.roc_points(truth, scores)[-1] == (1.0, 1.0)


def _cards(rows: list[tuple[str, str, bool, float]]) -> tuple[pd.Series, pd.Series, np.ndarray, np.ndarray]:
    frame = pd.DataFrame(rows, columns=["time", "card", "is_fraud", "score"])
    return pd.to_datetime(frame["time"]), frame["card"], frame["is_fraud"].to_numpy(), frame["score"].to_numpy()


def test_card_precision_takes_a_cards_largest_score_and_any_fraud_of_the_day():
    # Card a: largest score 0.9 is on a genuine row, its fraud has 0.1; still one compromised card on top.
    rows = [
        ("2026-01-01 01:00", "a", False, 0.9),
        ("2026-01-01 02:00", "a", True, 0.1),
        ("2026-01-01 03:00", "b", False, 0.5),
        ("2026-01-01 04:00", "c", True, 0.2),
    ]
    assert metrics.card_precision_at_k(*_cards(rows), k=2) == pytest.approx(1 / 2)


def test_found_cards_leave_later_days_and_unfound_ones_stay():
    rows = [
        ("2026-01-01 01:00", "a", True, 0.9),
        ("2026-01-01 02:00", "b", True, 0.8),
        ("2026-01-02 01:00", "a", True, 0.9),
        ("2026-01-02 02:00", "b", True, 0.8),
        ("2026-01-03 02:00", "d", False, 0.8),
    ]
    # Day 1 finds a, day 2 has a removed and finds b, day 3 finds nobody.
    assert metrics.card_precision_at_k(*_cards(rows), k=1) == pytest.approx((1 + 1 + 0) / 3)


def test_the_denominator_is_k_on_a_day_with_fewer_cards():
    assert metrics.card_precision_at_k(*_cards([("2026-01-01", "a", True, 0.9)]), k=100) == pytest.approx(0.01)


def _handbook_card_precision(rows: pd.DataFrame, k: int) -> float:
    """The handbook's card_precision_top_k, as published but for its unstable sort: ties go to the smaller card."""
    found: list[str] = []
    shares = []
    for day in sorted(rows["day"].unique()):
        of_day = rows[(rows["day"] == day) & (~rows["card"].isin(found))][["score", "card", "is_fraud"]]
        top = of_day.groupby("card").max().sort_values("score", ascending=False, kind="stable").reset_index().head(k)
        detected = list(top[top["is_fraud"]]["card"])
        found.extend(detected)
        shares.append(len(detected) / k)
    return float(np.mean(shares))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.sampled_from("abcdef"), st.booleans(), st.sampled_from([0.1, 0.4, 0.4001, 0.9])
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 4),
)
def test_card_precision_equals_the_handbooks_code(rows, k):
    frame = pd.DataFrame(rows, columns=["day", "card", "is_fraud", "score"])
    times = pd.to_datetime("2026-01-01") + pd.to_timedelta(frame["day"], unit="D")
    ours = metrics.card_precision_at_k(times, frame["card"], frame["is_fraud"].to_numpy(), frame["score"].to_numpy(), k)
    assert ours == pytest.approx(_handbook_card_precision(frame, k))


def test_curves_are_thinned_along_their_length_and_keep_both_ends():
    rng = np.random.default_rng(3)
    truth, scores = rng.random(20_000) < 0.05, rng.random(20_000)
    points = metrics.roc_points(truth, scores, most=100)
    assert len(points) <= 100
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (1.0, 1.0)
    assert metrics.precision_recall_points(truth, scores, most=100)[-1] == (1.0, pytest.approx(truth.mean()))
