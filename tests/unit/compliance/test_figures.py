"""Plots: the numbers behind them, and the same bytes each time."""

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.compliance import figures

TRUTH = np.array([False] * 6 + [True] * 4)
SCORES = np.array([0.0005, 0.0005, 0.05, 0.05, 0.05, 0.3, 0.05, 0.3, 0.9, 0.95])


def test_reliability_bands_by_hand():
    bands = figures.reliability_bands(TRUTH, SCORES)
    # Bands below 0.001, 0.03 to 0.1, 0.2 to 0.4, from 0.8 on; the others have no rows.
    assert list(bands["rows"]) == [2, 4, 2, 2]
    assert list(bands["observed"]) == [0.0, 0.25, 0.5, 1.0]
    assert list(bands["predicted"]) == pytest.approx([0.0005, 0.05, 0.3, 0.925])


def test_the_same_numbers_give_the_same_bytes_without_a_date():
    first, second = (figures.ranking_curves(TRUTH, SCORES) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


def test_other_numbers_give_another_plot():
    rows = pd.DataFrame({"feature": ["a", "b"], "score": [0.2, np.nan], "is_drifted": [True, True]})
    changed = rows.assign(score=[0.3, np.nan])
    assert figures.drift_bars(rows, limit=0.1) != figures.drift_bars(changed, limit=0.1)
