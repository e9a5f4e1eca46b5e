"""Fitting: each learner that can stand alone or be a member of the stack, the same every time for the same rows and seed.

Each takes a matrix of inputs and gives trees or linear terms, ready to be added up (see additive_model.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.errors import SettingInvalid

if TYPE_CHECKING:
    import xgboost

Report = Callable[[int], None]


@dataclass(frozen=True)
class LearnerParameters:
    """Settings of the learners; what `fraud tune` searches, and what it leaves alone.

    `max_bin` 1024 and `base_score` 0.5 matter at 1 % fraud: with XGBoost's defaults (256 bins, base score from the
    data) the handbook's reference week loses a tenth of its average precision.

    Raises:
        SettingInvalid: a number is out of range.
    """

    trees: int = 250
    learning_rate: float = 0.05
    max_depth: int = 3
    min_child_weight: float = 1.0
    subsample: float = 0.8
    colsample_bytree: float = 0.5
    max_bin: int = 1024
    base_score: float = 0.5
    # How imbalance is handled. Genuine rows beyond this many are sampled, and weighted up to stand for all of them;
    # every fraud is kept, and counts this many times. A weight other than 1 shifts probabilities, so calibration
    # follows.
    most_genuine_rows: int = 200_000
    fraud_weight: float = 1.0
    forest_trees: int = 100
    forest_depth: int = 10
    isolation_trees: int = 100
    isolation_rows: int = 256
    regularisation: float = 1e-3
    seed: int = 20180822
    # More threads are faster on an idle machine and collapse on a busy one.
    threads: int = 1

    def __post_init__(self) -> None:
        counts = (
            "trees",
            "max_depth",
            "most_genuine_rows",
            "forest_trees",
            "forest_depth",
            "isolation_trees",
            "threads",
        )
        problems = [
            f"{name} must be at least 1, found {value}" for name in counts if (value := getattr(self, name)) < 1
        ]
        if not self.fraud_weight > 0:
            problems.append(f"fraud_weight must be above 0, found {self.fraud_weight}")
        if problems:
            raise SettingInvalid(f"LearnerParameters: {'; '.join(problems)}.")

    def as_dict(self) -> dict[str, Any]:
        return {item.name: getattr(self, item.name) for item in fields(self)}


def fit_boosted_trees(
    matrix: np.ndarray, is_fraud: np.ndarray, settings: LearnerParameters, report: Report = lambda trees: None
) -> "xgboost.Booster":
    """Gradient-boosted trees.

    Args:
        matrix: shape (n, inputs), single precision, missing values as NaN; is_fraud: shape (n,), both kinds present.
        report: called with the number of trees built so far.
    """
    import xgboost

    class Reporter(xgboost.callback.TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            report(epoch + 1)
            return False

    keep, weights = sampled(is_fraud, settings)
    data = xgboost.QuantileDMatrix(
        matrix[keep],
        label=is_fraud[keep].astype(np.float32),
        weight=weights,
        max_bin=settings.max_bin,
        nthread=settings.threads,
    )
    return xgboost.train(
        {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_bin": settings.max_bin,
            "base_score": settings.base_score,
            "learning_rate": settings.learning_rate,
            "max_depth": settings.max_depth,
            "min_child_weight": settings.min_child_weight,
            "subsample": settings.subsample,
            "colsample_bytree": settings.colsample_bytree,
            "seed": settings.seed,
            "nthread": settings.threads,
            "verbosity": 1,
        },
        data,
        num_boost_round=settings.trees,
        callbacks=[Reporter()],
    )


def sampled(is_fraud: np.ndarray, settings: LearnerParameters) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on, ascending, and their weights: those of genuine rows add up to all of them."""
    genuine = np.flatnonzero(~is_fraud)
    weights = np.where(is_fraud, settings.fraud_weight, 1.0).astype(np.float32)
    if len(genuine) <= settings.most_genuine_rows:
        return np.arange(len(is_fraud)), weights
    sample = np.random.default_rng(settings.seed).choice(genuine, settings.most_genuine_rows, replace=False)
    keep = np.sort(np.concatenate([np.flatnonzero(is_fraud), sample]))
    weights[genuine] = len(genuine) / settings.most_genuine_rows
    return keep, weights[keep]
