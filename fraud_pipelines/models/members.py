"""Fitting each learner that can stand alone or be a member of the stack; same rows and seed, same result.

Each takes a matrix of inputs and gives trees or linear terms, ready to be added up (see additive_model.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.models.additive_model import Linear, signed_log

if TYPE_CHECKING:
    import xgboost
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

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
    forest_genuine_rows: int = 60_000
    isolation_trees: int = 100
    isolation_rows: int = 256
    regularisation: float = 1e-4
    seed: int = 20180822
    # More threads are faster on an idle machine and collapse on a busy one.
    threads: int = 1

    def __post_init__(self) -> None:
        least = {
            **dict.fromkeys(("trees", "max_depth", "most_genuine_rows", "forest_trees", "forest_depth"), 1),
            **dict.fromkeys(("forest_genuine_rows", "isolation_trees", "threads"), 1),
            **dict.fromkeys(("max_bin", "isolation_rows"), 2),
            "min_child_weight": 0,
        }
        problems = [
            f"{name} must be at least {bound}, found {value}"
            for name, bound in least.items()
            if not (value := getattr(self, name)) >= bound
        ]
        problems += [
            f"{name} must be above 0, found {value}"
            for name in (
                "fraud_weight",
                "learning_rate",
                "subsample",
                "colsample_bytree",
                "regularisation",
                "base_score",
            )
            if not (value := getattr(self, name)) > 0
        ]
        problems += [
            f"{name} must be at most 1, found {value}"
            for name in ("subsample", "colsample_bytree")
            if (value := getattr(self, name)) > 1
        ]
        if self.base_score >= 1:
            problems.append(f"base_score must be below 1, found {self.base_score}")
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


def fit_random_forest(
    matrix: np.ndarray, is_fraud: np.ndarray, settings: LearnerParameters
) -> "RandomForestClassifier":
    """Deep trees on resampled rows; arguments as `fit_boosted_trees`."""
    from sklearn.ensemble import RandomForestClassifier

    keep, weights = sampled(is_fraud, settings, most_genuine_rows=settings.forest_genuine_rows)
    forest = RandomForestClassifier(
        settings.forest_trees,
        max_depth=settings.forest_depth,
        min_samples_leaf=5,
        random_state=settings.seed,
        n_jobs=settings.threads,
    )
    return forest.fit(matrix[keep], is_fraud[keep], sample_weight=weights)


def fit_single_tree(matrix: np.ndarray, is_fraud: np.ndarray, settings: LearnerParameters) -> "DecisionTreeClassifier":
    """One tree that a person can read; arguments as `fit_boosted_trees`."""
    from sklearn.tree import DecisionTreeClassifier

    keep, weights = sampled(is_fraud, settings)
    tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=20, random_state=settings.seed)
    return tree.fit(matrix[keep], is_fraud[keep], sample_weight=weights)


def fit_isolation_forest(matrix: np.ndarray, settings: LearnerParameters) -> "IsolationForest":
    """Trees that tell single rows from all others, without any label; `matrix` as in `fit_boosted_trees`."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(
        n_estimators=settings.isolation_trees,
        max_samples=min(settings.isolation_rows, len(matrix)),
        random_state=settings.seed,
        n_jobs=settings.threads,
    )
    return forest.fit(matrix)


def fit_logistic_regression(
    matrix: np.ndarray, is_fraud: np.ndarray, settings: LearnerParameters
) -> tuple[Linear, float]:
    """Terms and intercept of a logistic regression on signed logarithms, standardised, and on what is missing.

    Arguments as `fit_boosted_trees`. An input that is the same in every row gets no weight.
    """
    from sklearn.linear_model import LogisticRegression

    keep, weights = sampled(is_fraud, settings)
    rows = matrix[keep]
    fill = typical(rows)
    design = np.hstack(signed_log(rows, fill))
    center = np.average(design, axis=0, weights=weights)
    spread = np.sqrt(np.average((design - center) ** 2, axis=0, weights=weights))
    varies = spread > 1e-9
    design = np.divide(design - center, spread, out=np.zeros_like(design), where=varies)
    fitted = LogisticRegression(C=1 / (settings.regularisation * len(rows)), max_iter=500)
    fitted.fit(design, is_fraud[keep], sample_weight=weights)
    weight = np.divide(fitted.coef_[0], spread, out=np.zeros_like(spread), where=varies)
    (of_values, values_center), (of_missing, missing_share) = (
        part.astype(np.float32) for part in np.split(np.stack([weight, center]), 2, axis=1)
    )
    return Linear(of_values, of_missing, fill, values_center, missing_share), float(fitted.intercept_[0])


def typical(rows: np.ndarray) -> np.ndarray:
    """Signed logarithm of each input's median, 0 where every row lacks it: what a missing value counts as."""
    medians = np.zeros(rows.shape[1])
    for column in range(rows.shape[1]):
        present = rows[~np.isnan(rows[:, column]), column]
        medians[column] = np.median(present) if len(present) else 0.0
    return (np.sign(medians) * np.log1p(np.abs(medians))).astype(np.float32)


def sampled(
    is_fraud: np.ndarray, settings: LearnerParameters, *, most_genuine_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on, ascending, and their weights: those of genuine rows add up to all of them."""
    most = min(most_genuine_rows or settings.most_genuine_rows, settings.most_genuine_rows)
    genuine = np.flatnonzero(~is_fraud)
    weights = np.where(is_fraud, settings.fraud_weight, 1.0).astype(np.float32)
    if len(genuine) <= most:
        return np.arange(len(is_fraud)), weights
    sample = np.random.default_rng(settings.seed).choice(genuine, most, replace=False)
    keep = np.sort(np.concatenate([np.flatnonzero(is_fraud), sample]))
    weights[genuine] = len(genuine) / most
    return keep, weights[keep]
