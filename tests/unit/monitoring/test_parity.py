"""Served vectors against the warehouse: exact, null-aware, counted per day and feature."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines import tables
from fraud_pipelines.monitoring.parity import compare_served


@dataclass(frozen=True)
class Served:
    transaction_id: str
    event_time: datetime
    features: dict


MORNING, NEXT_DAY = datetime(2026, 3, 1, 9), datetime(2026, 3, 2, 9)
WAREHOUSE = pd.DataFrame(
    {"transaction_id": ["a", "b", "c"], "count_7d": [3, 0, 5], "mean_7d": [0.1 + 0.2, np.nan, 4.0]}
)
NAMES = ("count_7d", "mean_7d")


def table(*served: Served) -> dict:
    rows = compare_served(served, WAREHOUSE, NAMES)
    assert list(rows.columns) == list(tables.PARITY.columns)
    return {(f"{row.day:%m-%d}", row.feature): row for row in rows.itertuples()}


def test_equal_values_and_nulls_match():
    rows = table(
        Served("a", MORNING, {"count_7d": 3.0, "mean_7d": 0.1 + 0.2}),
        Served("b", MORNING, {"count_7d": 0.0, "mean_7d": None}),
    )
    assert [(row.compared_count, row.mismatch_count) for row in rows.values()] == [(2, 0), (2, 0)]


def test_the_last_bit_is_a_mismatch():
    rows = table(Served("a", MORNING, {"count_7d": 3.0, "mean_7d": 0.3}))
    row = rows[("03-01", "mean_7d")]
    assert row.mismatch_count == 1
    assert row.largest_difference == (0.1 + 0.2) - 0.3
    assert rows[("03-01", "count_7d")].mismatch_count == 0


def test_null_against_a_value_is_a_mismatch_on_either_side():
    rows = table(
        Served("a", MORNING, {"count_7d": None, "mean_7d": None}), Served("b", MORNING, {"count_7d": 0, "mean_7d": 0.0})
    )
    assert rows[("03-01", "count_7d")].mismatch_count == 1
    assert rows[("03-01", "mean_7d")].mismatch_count == 2
    assert np.isnan(rows[("03-01", "mean_7d")].largest_difference)


def test_absent_transactions_are_counted_apart_and_days_kept_apart():
    rows = table(
        Served("a", MORNING, {"count_7d": 4.0, "mean_7d": 0.1 + 0.2}),
        Served("gone", NEXT_DAY, {"count_7d": 1.0, "mean_7d": 1.0}),
    )
    assert rows[("03-01", "count_7d")].mismatch_count == 1
    assert rows[("03-01", "count_7d")].largest_difference == 1.0
    assert rows[("03-02", "count_7d")].absent_count == 1
    assert rows[("03-02", "count_7d")].compared_count == 0


def test_a_vector_without_a_feature_is_not_compared_for_it():
    rows = table(Served("a", MORNING, {"count_7d": 3.0}))
    assert rows[("03-01", "mean_7d")].compared_count == 0
    assert rows[("03-01", "mean_7d")].mismatch_count == 0


def test_no_decisions_no_rows():
    assert len(compare_served([], WAREHOUSE, NAMES)) == 0


@given(st.lists(st.none() | st.floats(-1e12, 1e12), min_size=1, max_size=30), st.integers(0, 29))
def test_one_changed_value_is_found_and_nothing_else(values, position):
    position %= len(values)
    warehouse = pd.DataFrame(
        {"transaction_id": [str(i) for i in range(len(values))], "f": pd.Series(values, dtype="float64")}
    )
    changed = list(values)
    changed[position] = 1.5 if values[position] is None else None
    same = compare_served([Served(str(i), MORNING, {"f": v}) for i, v in enumerate(values)], warehouse, ("f",))
    other = compare_served([Served(str(i), MORNING, {"f": v}) for i, v in enumerate(changed)], warehouse, ("f",))
    assert same["mismatch_count"].sum() == 0
    assert other["mismatch_count"].sum() == 1
