"""Fitted learners on small random data with missing values, ties and inputs nobody looks at."""

from __future__ import annotations

from functools import cache

import numpy as np
import xgboost
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

FEATURES = 9


@cache
def rows(count: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Single-precision rows, some missing, one column of few values; and a truth that two of them tell."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(count, FEATURES)).astype(np.float32)
    matrix[:, 3] = np.round(matrix[:, 3])
    truth = matrix[:, 0] + matrix[:, 3] + rng.normal(size=count) > 1.5
    matrix[rng.random(matrix.shape) < 0.07] = np.nan
    return matrix, truth


@cache
def booster() -> xgboost.Booster:
    settings = {"objective": "binary:logistic", "base_score": 0.5, "max_depth": 3, "nthread": 1}
    return xgboost.train(settings, xgboost.DMatrix(*rows()), num_boost_round=25)


@cache
def forest() -> RandomForestClassifier:
    matrix, truth = rows()
    return RandomForestClassifier(12, max_depth=6, random_state=0).fit(matrix, truth, sample_weight=1 + 2 * truth)


@cache
def tree() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=4, random_state=0).fit(*rows())


@cache
def isolation_forest() -> IsolationForest:
    return IsolationForest(n_estimators=20, max_samples=64, random_state=0).fit(rows()[0])
