"""Day-block bootstrap: against rows drawn one by one and judged by scikit-learn, and against numbers worked by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.models import intervals, metrics
from fraud_pipelines.models.evaluation import metric_intervals, policy_metrics, ranking_metrics
from fraud_pipelines.models.intervals import (
    Interval,
    RankedDays,
    average_precision_gain,
    draw_days,
    interval,
    mean_average_precision,
    p_value_of_the_best,
    resampled,
)
from fraud_pipelines.models.policy import Thresholds

START = datetime(2026, 3, 1)
THRESHOLDS = Thresholds(review=0.1, block=0.3)
# Day, fraud, score: few distinct scores, so that ties are the rule.
rows_of_days = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.sampled_from([0.0, 0.2, 0.25, 0.5, 0.9, 1.0])),
    min_size=1,
    max_size=60,
)


def sample(rows: int = 3000, days: int = 14, *, fraud_share: float = 0.03, seed: int = 0, noise: float = 1.0):
    """Rows whose days differ in fraud share and level; scores rounded, so that many are tied."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, days, rows))
    truth = rng.random(rows) < (fraud_share * rng.uniform(0.3, 1.7, days))[day]
    latent = noise * rng.normal(size=rows) + rng.normal(0, 0.5, days)[day] + 2.5 * truth - 4
    return pd.DataFrame(
        {
            "event_time": [START + timedelta(days=int(number), hours=3) for number in day],
            "card_id": [f"c{number}" for number in rng.integers(0, rows // 4, rows)],
            "amount_minor": rng.integers(100, 90_000, rows),
            "is_fraud": truth,
            "score": np.round(1 / (1 + np.exp(-latent)), 2),
        }
    )


def arrays(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """is_fraud, score and day number of (day, is_fraud, score) rows."""
    days = np.array([row[0] for row in rows])
    return (
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        np.unique(days, return_inverse=True)[1],
    )


def _statistics(truth, scores, day):
    """Every statistic by name, with the metric of metrics.py it stands for."""
    ranked = RankedDays(truth, scores, day)
    return {
        "average_precision": (ranked.average_precision, metrics.average_precision),
        "roc_auc": (ranked.roc_auc, metrics.roc_auc),
        "recall_at_1pct": (
            lambda copies: ranked.recall_at_false_positive_rate(copies, 0.01),
            lambda t, s: metrics.recall_at_false_positive_rate(t, s, 0.01),
        ),
        "recall_at_50pct": (
            lambda copies: ranked.recall_at_false_positive_rate(copies, 0.5),
            lambda t, s: metrics.recall_at_false_positive_rate(t, s, 0.5),
        ),
        "brier": (intervals.ratio_statistic((scores - truth) ** 2, np.ones(len(truth)), day), metrics.brier),
        "calibration_error": (intervals.calibration_statistic(truth, scores, day), metrics.calibration_error),
    }


@settings(max_examples=150)
@given(rows_of_days)
def test_one_copy_of_each_day_is_the_metric_itself(rows):
    truth, scores, day = arrays(rows)
    once = np.ones((1, day.max() + 1))
    for name, (statistic, metric) in _statistics(truth, scores, day).items():
        expected = metric(truth, scores)
        (found,) = statistic(once)
        if expected is None:
            assert np.isnan(found), name
        elif name in ("brier", "calibration_error"):  # sums of floats in another order
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-15), name
        else:
            assert found == expected, name


@settings(max_examples=100)
@given(rows_of_days, st.data())
def test_copies_of_days_are_the_metric_of_copied_rows(rows, data):
    truth, scores, day = arrays(rows)
    days = int(day.max()) + 1
    copies = np.array(data.draw(st.lists(st.integers(0, 3), min_size=days, max_size=days).filter(any)))
    chosen = np.repeat(np.arange(len(day)), copies[day])
    for name, (statistic, metric) in _statistics(truth, scores, day).items():
        expected = metric(truth[chosen], scores[chosen])
        (found,) = statistic(copies[None, :].astype(float))
        assert (np.isnan(found) and expected is None) or found == pytest.approx(expected, abs=1e-12), name


def test_many_draws_equal_scikit_learn_on_the_rows_drawn():
    from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

    rows = sample()
    truth, scores, day = (
        rows["is_fraud"].to_numpy(),
        rows["score"].to_numpy(),
        intervals.day_numbers(rows["event_time"]),
    )
    copies = draw_days(14, resamples=25, seed=3)
    found = {name: statistic(copies) for name, (statistic, _) in _statistics(truth, scores, day).items()}
    for number, draw in enumerate(copies):
        # The slow way: row numbers of each drawn day, one drawn day after the other.
        chosen = np.concatenate([np.flatnonzero(day == d) for d in range(14) for _ in range(int(draw[d]))])
        t, s = truth[chosen], scores[chosen]
        false_rate, recall, _ = roc_curve(t, s, drop_intermediate=False)
        expected = {
            "average_precision": average_precision_score(t, s),
            "roc_auc": roc_auc_score(t, s),
            "recall_at_1pct": recall[false_rate <= 0.01].max(),
            "brier": brier_score_loss(t, s),
            "calibration_error": sum(
                abs(s[cell].mean() - t[cell].mean()) * cell.mean()
                for lower in range(20)
                if (cell := np.floor(s * 20).clip(max=19) == lower).any()
            ),
        }
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value, abs=1e-12), name


def test_value_detected_weighs_days_by_hand():
    # Day 0: 100 of 300 detected; day 1: 500 of 500; day 2 has no fraud.
    part, whole = np.array([100.0, 0.0, 500.0, 0.0]), np.array([100.0, 200.0, 500.0, 0.0])
    statistic = intervals.ratio_statistic(part, whole, np.array([0, 0, 1, 2]))
    found = statistic(np.array([[1.0, 1, 1], [2, 0, 1], [0, 1, 2], [1, 2, 0], [0, 0, 3]]))
    np.testing.assert_allclose(found, [600 / 800, 200 / 600, 1.0, 1100 / 1300, np.nan])


def test_card_precision_is_the_mean_of_days_in_their_own_order():
    times = pd.to_datetime(pd.Series(["2026-01-01", "2026-01-02", "2026-01-03"]))
    found = metrics.card_precision_by_day(
        times, pd.Series(["a", "a", "b"]), np.array([True, True, True]), np.array([0.9, 0.9, 0.9]), k=1
    )
    # Card a is found on the first day and gone on the second, also in a resample without the first.
    assert list(found) == [1.0, 0.0, 1.0]
    np.testing.assert_array_equal(intervals.mean_of_days(found)(np.array([[1.0, 1, 1], [0, 3, 0]])), [2 / 3, 0.0])


def test_days_are_utc_days_numbered_in_order_of_time():
    times = pd.to_datetime(
        pd.Series(["2026-01-03T00:00:00", "2026-01-01T23:59:59.999999", "2026-01-03T12:00:00"]), format="ISO8601"
    )
    assert list(intervals.day_numbers(times)) == [1, 0, 1]


def test_a_draw_takes_as_many_days_as_there_are_and_is_repeatable():
    copies = draw_days(14)
    assert copies.shape == (intervals.RESAMPLES, 14)
    assert (copies.sum(axis=1) == 14).all()
    np.testing.assert_array_equal(copies, draw_days(14))
    # A day is in a draw with probability 1 - (13/14)^14 = 0.6457.
    assert (copies > 0).mean() == pytest.approx(0.6457, abs=0.01)


def test_the_interval_of_a_mean_is_students_interval():
    # For a mean the expanded percentile interval approximates t: 14 days, mean 0, so ± 2.1604 s / √14.
    values = np.random.default_rng(8).normal(size=14)
    values -= values.mean()
    found = interval(0.0, intervals.mean_of_days(values), draw_days(14, resamples=40_000), days_that_count=14)
    margin = 2.1604 * values.std(ddof=1) / np.sqrt(14)
    assert found.upper == pytest.approx(margin, rel=0.1)
    assert found.lower == pytest.approx(-margin, rel=0.1)


def test_intervals_of_a_week_contain_the_truth_in_about_95_of_100_worlds():
    rng = np.random.default_rng(4)
    copies = draw_days(7)
    held = 0
    for _ in range(400):
        values = rng.normal(size=7)
        found = interval(values.mean(), intervals.mean_of_days(values), copies, days_that_count=7)
        held += found.lower <= 0.0 <= found.upper
    assert 0.91 <= held / 400 <= 0.98


def test_too_few_days_give_no_interval():
    statistic = intervals.mean_of_days(np.arange(5.0))
    assert interval(2.0, statistic, draw_days(5), days_that_count=4) is None
    assert interval(None, statistic, draw_days(5), days_that_count=5) is None
    assert interval(2.0, statistic, draw_days(5), days_that_count=5) is not None
    few = sample(days=4)
    assert metric_intervals(values_of(few), few, few["score"].to_numpy(), THRESHOLDS) == {}


def values_of(rows: pd.DataFrame) -> dict[str, float | None]:
    scores = rows["score"].to_numpy()
    return {**ranking_metrics(rows, scores), **policy_metrics(rows, scores, THRESHOLDS)}


def test_every_metric_has_an_interval_around_it_when_days_suffice():
    rows = sample(rows=6000)
    values = values_of(rows)
    found = metric_intervals(values, rows, rows["score"].to_numpy(), THRESHOLDS)
    assert set(found) == set(values)
    for name, bounds in found.items():
        assert bounds.lower <= values[name] <= bounds.upper, name
        if name not in ("cost_per_1000", "saving_share"):
            assert 0.0 <= bounds.lower <= bounds.upper <= 1.0, name
        assert bounds.lower < bounds.upper, name


def test_each_interval_is_that_of_its_own_metric_on_the_rows_drawn(monkeypatch):
    rows = sample()
    scores, day = rows["score"].to_numpy(), intervals.day_numbers(rows["event_time"])
    copies = draw_days(14, resamples=40)
    monkeypatch.setattr(intervals, "draw_days", lambda days: copies)
    daily = metrics.card_precision_by_day(rows["event_time"], rows["card_id"], rows["is_fraud"].to_numpy(), scores)
    slow = []
    for draw in copies.astype(int):
        chosen = np.repeat(np.arange(len(day)), draw[day])
        drawn = rows.iloc[chosen].reset_index(drop=True)
        of_draw = {**ranking_metrics(drawn, scores[chosen]), **policy_metrics(drawn, scores[chosen], THRESHOLDS)}
        slow.append(of_draw | {"card_precision_at_100": np.repeat(daily, draw).mean()})
    values = values_of(rows)
    found = metric_intervals(values, rows, scores, THRESHOLDS)
    # Every day has frauds, and rows sent to review; on two days of the 14 no row is blocked.
    assert len(set(day[scores >= THRESHOLDS.block])) == 12
    for name, of_draws in pd.DataFrame(slow).items():
        # Φ(-2.20099 √(12/11)) for 12 days, Φ(-2.16037 √(14/13)) for 14; a draw without blocked rows has no precision.
        tail = 0.01075661 if name == "block_precision" else 0.0124833
        lower, upper = np.nanquantile(of_draws.astype(float), [tail, 1 - tail])
        assert found[name].lower == pytest.approx(min(lower, values[name]), rel=1e-6, abs=1e-6), name
        assert found[name].upper == pytest.approx(max(upper, values[name]), rel=1e-6, abs=1e-6), name


def test_an_interval_contains_the_metric_also_where_draws_lean_to_one_side():
    constant = intervals.mean_of_days(np.ones(7))
    assert interval(1.5, constant, draw_days(7), days_that_count=7) == Interval(1.0, 1.5)
    assert interval(0.5, constant, draw_days(7), days_that_count=7) == Interval(0.5, 1.0)


def test_frauds_on_few_days_leave_fraud_metrics_without_interval_and_others_with():
    rows = sample()
    day = intervals.day_numbers(rows["event_time"])
    rows["is_fraud"] &= day < 4
    found = metric_intervals(values_of(rows), rows, rows["score"].to_numpy(), THRESHOLDS)
    assert {"average_precision", "roc_auc", "recall_at_1pct_fpr", "value_detected", "block_recall"}.isdisjoint(found)
    assert {"brier", "calibration_error", "card_precision_at_100", "review_share"} <= set(found)


def _ranked_pair(noise: float, *, seed: int = 0, days: int = 14) -> tuple[RankedDays, RankedDays]:
    """A good model and the same with noise, on the same rows."""
    rows = sample(rows=8000, days=days, seed=seed)
    truth, day = rows["is_fraud"].to_numpy(), intervals.day_numbers(rows["event_time"])
    better = rows["score"].to_numpy() + 1e-6 * np.arange(len(rows))
    worse = better + noise * np.random.default_rng(seed).normal(size=len(rows))
    return RankedDays(truth, better, day), RankedDays(truth, worse, day)


def test_a_real_gain_is_certain_and_its_mirror_is_not():
    better, worse = _ranked_pair(0.2)
    copies = draw_days(14)
    gain, loss = average_precision_gain(better, worse, copies), average_precision_gain(worse, better, copies)
    assert gain.value > 0.1 and gain.interval.lower > 0 and gain.p_value < 0.005
    assert loss.value < 0 and loss.interval.upper < 0 and loss.p_value > 0.99
    assert gain.days == 14


def test_a_model_gains_nothing_on_itself():
    model, _ = _ranked_pair(0.2)
    gain = average_precision_gain(model, model, draw_days(14))
    assert gain == intervals.Gain(0.0, Interval(0.0, 0.0), 1.0, 14)


def test_too_few_days_with_frauds_give_a_gain_without_a_test():
    better, worse = _ranked_pair(0.2, days=4)
    gain = average_precision_gain(better, worse, draw_days(4))
    assert gain.value > 0
    assert (gain.interval, gain.p_value, gain.days) == (None, None, 4)
    none = RankedDays(np.zeros(3, dtype=bool), np.array([0.1, 0.2, 0.3]), np.array([0, 1, 2]))
    assert average_precision_gain(none, none, draw_days(3)).value is None


def test_the_gain_equals_metrics_of_rows_drawn_for_both_models():
    better, worse = _ranked_pair(0.05, seed=2)
    rows = sample(rows=8000, seed=2)
    truth, day = rows["is_fraud"].to_numpy(), intervals.day_numbers(rows["event_time"])
    ours = rows["score"].to_numpy() + 1e-6 * np.arange(len(rows))
    theirs = ours + 0.05 * np.random.default_rng(2).normal(size=len(rows))
    copies = draw_days(14, resamples=30)
    slow = []
    for draw in copies:
        chosen = np.repeat(np.arange(len(day)), draw[day].astype(int))
        slow.append(
            metrics.average_precision(truth[chosen], ours[chosen])
            / metrics.average_precision(truth[chosen], theirs[chosen])
            - 1
        )
    gain = average_precision_gain(better, worse, copies)
    # 14 days: the tail of the expanded interval is Φ(-2.1604 √(14/13)) = 0.012483.
    np.testing.assert_allclose(
        [gain.interval.lower, gain.interval.upper], np.quantile(slow, [0.0124833, 0.9875167]), atol=1e-5
    )


def test_two_thousand_resamples_of_sixty_thousand_rows_are_quick():
    rows = sample(rows=60_000, fraud_share=0.007)
    values = values_of(rows)
    started = time.process_time()
    metric_intervals(values, rows, rows["score"].to_numpy(), THRESHOLDS)
    assert time.process_time() - started < 4  # about 1 s; leaves room for a slow machine


def test_the_mean_of_blocks_is_that_of_their_own_average_precisions():
    tables = [sample(800, 7, seed=seed) for seed in (1, 2)]
    parts = [(rows["is_fraud"].to_numpy(), rows["score"].to_numpy()) for rows in tables]
    blocks = [
        RankedDays(*part, intervals.day_numbers(rows["event_time"])) for part, rows in zip(parts, tables, strict=True)
    ]
    alone = [metrics.average_precision(*part) for part in parts]
    once = mean_average_precision(blocks, np.ones((1, 14)))
    assert once == pytest.approx(np.mean(alone))
    # The second block's days twice and the first's not at all; then the first counts once, the second half of it.
    copies = np.array([[0.0] * 7 + [2.0] * 7, [2.0] * 7 + [1.0] * 7])
    expected = [alone[1], (2 * alone[0] + alone[1]) / 3]
    assert mean_average_precision(blocks, copies) == pytest.approx(expected)


def test_a_resample_without_frauds_has_no_mean():
    block = RankedDays(np.array([True, False, False]), np.array([0.9, 0.1, 0.2]), np.array([0, 0, 1]))
    assert np.isnan(mean_average_precision([block], np.array([[0.0, 2.0]])))[0]


def test_the_best_gain_is_compared_with_the_largest_of_chance_by_hand(monkeypatch):
    monkeypatch.setattr(intervals, "stdtr", lambda freedom, value: value)
    monkeypatch.setattr(intervals, "ndtri", lambda share: share * np.sqrt(10 / 9))
    gains = np.array([0.0, 0.2])
    resamples = np.array([[0.3, 0.2], [-0.3, 0.2], [0.0, 0.5], [0.0, -0.1]])
    # Standard errors sqrt(0.045) and sqrt(0.045); the largest of chance are 0.3, 0, 0.3, 0 of 0.212, ours 0.2 of it.
    assert p_value_of_the_best(gains, resamples, 10) == pytest.approx((2 + 1) / (4 + 1))


def test_a_best_that_is_the_base_again_or_too_few_days_have_no_p_value():
    copies = np.random.default_rng(0).normal(size=(100, 2))
    assert p_value_of_the_best(np.array([0.1, 0.2]), copies * [1, 0], 20) is None
    assert p_value_of_the_best(np.array([0.1, 0.2]), copies, 4) is None
    assert p_value_of_the_best(np.array([9.1, 9.2]), copies, 5) < 0.1


def test_the_best_of_ten_equals_rarely_seems_better_and_without_correction_often():
    rng, days, per_day = np.random.default_rng(0), 14, 150
    day, corrected, alone = np.repeat(np.arange(days), per_day), [], []
    copies = draw_days(2 * days, resamples=300)
    for _ in range(60):
        truths = [rng.random(len(day)) < 0.04 for _ in range(2)]
        common = [2 * truth + rng.normal(0, 0.8, len(day)) for truth in truths]
        values, drawn = [], []
        for _ in range(11):
            scores = [part + rng.normal(0, 0.4, len(day)) for part in common]
            blocks = [RankedDays(truth, score, day) for truth, score in zip(truths, scores, strict=True)]
            values.append(mean_average_precision(blocks, np.ones((1, 2 * days)))[0])
            drawn.append(resampled(lambda some, blocks=blocks: mean_average_precision(blocks, some), copies))
        gains = np.array(values[1:]) / values[0] - 1
        resamples = np.column_stack(drawn[1:]) / drawn[0][:, None] - 1
        best = int(np.argmax(gains))
        corrected.append(p_value_of_the_best(gains, resamples, 2 * days))
        alone.append(p_value_of_the_best(gains[[best]], resamples[:, [best]], 2 * days))
    assert np.mean(np.array(corrected) <= 0.05) <= 0.1
    assert np.mean(np.array(alone) <= 0.05) >= 0.15
