"""Group rates by hand, and against a second route."""

from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.monitoring.fairness import false_positive_interval, group_rates, rate_gaps, rate_interval

DAY = datetime(2026, 3, 1)


def group(name: str, *, missed: int = 0, caught: int = 0, stopped: int = 0, passed: int = 0) -> pd.DataFrame:
    """Rows of one age band: frauds approved / blocked, genuine reviewed / approved."""
    parts = [("APPROVE", True, missed), ("BLOCK", True, caught), ("REVIEW", False, stopped), ("APPROVE", False, passed)]
    frame = pd.DataFrame(
        [(word, truth) for word, truth, count in parts for _ in range(count)], columns=["decision", "is_fraud"]
    )
    return frame.assign(age_band=name, gender=None, region="north")


def test_rates_of_one_group_by_hand():
    rows = group_rates(group("25-34", missed=5, caught=15, stopped=10, passed=970), day=DAY, model_version="3")
    row = rows[rows["attribute"] == "age_band"].iloc[0]
    assert (row["rows"], row["fraud_count"]) == (1000, 20)
    assert row["flagged_share"] == pytest.approx(25 / 1000)
    assert row["blocked_share"] == pytest.approx(15 / 1000)
    assert row["false_positive_rate"] == pytest.approx(10 / 980)
    assert row["true_positive_rate"] == pytest.approx(15 / 20)
    assert row["precision"] == pytest.approx(15 / 25)
    assert not row["is_suppressed"]


def test_a_small_group_keeps_its_counts_and_loses_its_rates():
    rows = group_rates(group("18-24", caught=20, passed=479), day=DAY, model_version="3")  # 499 rows
    row = rows[rows["attribute"] == "age_band"].iloc[0]
    assert row["is_suppressed"]
    assert row["rows"] == 499
    assert row["fraud_count"] == 20
    assert row[["flagged_share", "false_positive_rate", "true_positive_rate", "precision"]].isna().all()


def test_a_group_of_just_enough_rows_keeps_its_rates():
    rows = group_rates(group("18-24", caught=20, passed=480), day=DAY, model_version="3")  # 500 rows
    row = rows[rows["attribute"] == "age_band"].iloc[0]
    assert not row["is_suppressed"]
    assert row["true_positive_rate"] == pytest.approx(1.0)


def test_few_frauds_hide_only_the_true_positive_rate():
    rows = group_rates(group("18-24", caught=9, stopped=1, passed=990), day=DAY, model_version="3")
    row = rows[rows["attribute"] == "age_band"].iloc[0]
    assert np.isnan(row["true_positive_rate"])
    assert row["false_positive_rate"] == pytest.approx(1 / 991)


def test_unknown_attributes_are_a_group_of_their_own_and_no_gap():
    rows = group_rates(group("25-34", stopped=10, passed=990), day=DAY, model_version="3")
    assert list(rows.loc[rows["attribute"] == "gender", "group_name"]) == ["unknown"]
    assert rate_gaps(rows) == []


def test_customers_of_unknown_age_are_no_side_of_a_gap():
    rows = pd.concat([group("18-24", stopped=10, passed=990), group(None, stopped=300, passed=700)])
    assert rate_gaps(group_rates(rows, day=DAY, model_version="3")) == []


def test_rates_equal_a_masked_recomputation():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "decision": rng.choice(["APPROVE", "REVIEW", "BLOCK"], 6000, p=[0.9, 0.06, 0.04]),
            "is_fraud": rng.random(6000) < 0.1,
            "age_band": rng.choice(["a", "b"], 6000),
            "gender": "f",
            "region": "north",
        }
    )
    rows = group_rates(frame, day=DAY, model_version="3").set_index(["attribute", "group_name"])
    for name in ("a", "b"):
        genuine = frame[(frame["age_band"] == name) & ~frame["is_fraud"]]
        expected = genuine["decision"].isin(["REVIEW", "BLOCK"]).mean()
        assert rows.loc[("age_band", name), "false_positive_rate"] == pytest.approx(expected)


def test_a_gap_that_chance_explains_stays_below_one():
    frame = pd.concat([group("a", stopped=10, passed=990), group("b", stopped=13, passed=987)])
    (gap,) = rate_gaps(group_rates(frame, day=DAY, model_version="3"))
    assert (gap.largest_group, gap.smallest_group) == ("b", "a")
    assert gap.difference == pytest.approx(0.003)
    assert gap.certain_ratio < 1


def test_a_gap_beyond_chance_shows_the_part_chance_does_not_explain():
    frame = pd.concat([group("a", stopped=10, passed=990), group("b", stopped=100, passed=900)])
    (gap,) = rate_gaps(group_rates(frame, day=DAY, model_version="3"))
    # Wilson, 95 %: 100 of 1000 is at least 0.08291, 10 of 1000 at most 0.01831.
    assert gap.certain_ratio == pytest.approx(0.08291 / 0.01831, rel=1e-3)


def test_the_interval_of_a_group_counts_its_genuine_transactions_only():
    row = pd.Series({"rows": 1000, "fraud_count": 900, "false_positive_rate": 0.1})
    # Wilson, 95 %, 10 of 100 genuine; of 1000 it would be 0.083 to 0.120.
    assert false_positive_interval(row) == pytest.approx((0.05523, 0.17437), abs=5e-5)


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (the score interval).
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_the_published_examples(events, trials, low, high):
    assert rate_interval(events, trials) == pytest.approx((low, high), abs=5e-5)


def test_without_trials_any_rate_is_possible():
    assert rate_interval(0, 0) == (0.0, 1.0)
