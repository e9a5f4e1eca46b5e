"""Metrics on mature labels, by hand."""

from datetime import datetime

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.monitoring.performance import decision_metrics, performance_rows
from fraud_pipelines.monitoring.windows import MatureWindow


def judged(*rows: tuple[float, str, bool, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["fraud_probability", "decision", "is_fraud", "amount_minor"])
    frame["event_time"] = pd.Timestamp("2026-02-01").as_unit("us")
    frame["card_id"] = [f"tok_{index}" for index in range(len(frame))]
    return frame


FIVE = judged(
    (0.9, "BLOCK", True, 3000),
    (0.8, "BLOCK", False, 500),
    (0.4, "REVIEW", True, 1000),
    (0.1, "APPROVE", True, 4000),
    (0.0, "APPROVE", False, 700),
)


def test_shares_of_five_decisions():
    metrics = decision_metrics(FIVE)
    assert metrics == {
        "fraud_share": 3 / 5,
        "flagged_share": 3 / 5,
        "block_precision": 1 / 2,
        "block_recall": 1 / 3,
        "flagged_precision": 2 / 3,
        "flagged_recall": 2 / 3,
        "value_detected": 4000 / 8000,
    }


def test_rows_carry_the_day_the_counts_and_the_ones_left_out():
    window = MatureWindow(datetime(2026, 1, 25), datetime(2026, 2, 22), datetime(2026, 3, 1), "3", FIVE, 17)
    rows = performance_rows(window)
    assert list(rows.columns) == list(tables.PERFORMANCE.columns)
    assert set(rows["day"]) == {pd.Timestamp("2026-02-28")}
    assert (rows["rows"].iloc[0], rows["fraud_count"].iloc[0], rows["unlabelled_rows"].iloc[0]) == (5, 3, 17)
    values = rows.set_index("metric")["value"]
    # Ranked: fraud, genuine, fraud, fraud, genuine: (1/1 + 2/3 + 3/4) / 3.
    assert values["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert values["roc_auc"] == pytest.approx(4 / 6)  # of 3 x 2 pairs, the two frauds below one genuine row lose


def test_a_day_without_mature_labels_says_so_with_nulls():
    window = MatureWindow(datetime(2026, 1, 25), datetime(2026, 2, 22), datetime(2026, 3, 1), "3", FIVE.iloc[:0], 4)
    rows = performance_rows(window)
    assert rows["value"].isna().all()
    assert (rows["rows"] == 0).all()
    assert (rows["unlabelled_rows"] == 4).all()
