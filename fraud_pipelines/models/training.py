"""Training: contenders compete on past blocks of days, the winner is fitted on everything and given its thresholds.

    learning rows -> blocks -> members fitted per block -> comparison -> winner -> thresholds on the validation days
                                                                  \\-> members fitted on all rows -> bundle
The same rows, settings and seed give the same bundle.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from fraud_pipelines import limits
from fraud_pipelines.errors import ContractBroken, SettingInvalid
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models import contenders
from fraud_pipelines.models.additive_model import AdditiveModel
from fraud_pipelines.models.autoencoder import fit_autoencoder
from fraud_pipelines.models.bands import observed_bands
from fraud_pipelines.models.bundle import MOST_REFERENCE_ROWS, Bundle, sigmoid
from fraud_pipelines.models.contenders import CONTENDERS, Member, Weights
from fraud_pipelines.models.evaluation import ranking_metrics
from fraud_pipelines.models.folds import Fold, learning_rows, time_folds
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.metrics import precision_recall_points, roc_points
from fraud_pipelines.models.policy import (
    DEFAULT_THRESHOLDS,
    CostMatrix,
    PolicyBasis,
    ReviewCapacity,
    Thresholds,
    choose_thresholds,
)
from fraud_pipelines.models.selection import judge
from fraud_pipelines.models.splits import TEST, TRAIN, VALIDATION
from fraud_pipelines.models.training_set import TrainingSet

AUTOENCODER = "autoencoder"
# Documented beside the model in every evaluation.
BASELINES = ("single_tree", "logistic_regression", "xgboost")


@dataclass(frozen=True)
class TrainingParameters:
    """Settings of one training: who competes, how each is fitted, what a decision costs.

    `workers` fits run at the same time, each on `learner.threads` threads; they change nothing but the time it takes.

    Raises:
        SettingInvalid: a contender is unknown, or none is named.
    """

    learner: LearnerParameters = field(default_factory=LearnerParameters)
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    costs: CostMatrix = field(default_factory=CostMatrix)
    capacity: ReviewCapacity = field(default_factory=ReviewCapacity)
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)

    def __post_init__(self) -> None:
        unknown = [name for name in self.contenders if name not in CONTENDERS]
        if unknown or not self.contenders:
            raise SettingInvalid(
                f"TrainingParameters: contenders must be some of {list(CONTENDERS)}; found {list(self.contenders)}."
            )

    def of_the_fit(self) -> dict[str, Any]:
        """The plain values; costs and capacity are kept with the thresholds they lead to."""
        unchanging = {name: value for name, value in self.learner.as_dict().items() if name != "threads"}
        return {**unchanging, "contenders": ", ".join(name for name in CONTENDERS if name in self.contenders)}


@dataclass(frozen=True)
class Trained:
    """A new bundle, and the validation rows its thresholds were chosen on (empty without validation days)."""

    bundle: Bundle
    validation_is_fraud: np.ndarray
    validation_probabilities: np.ndarray


Progress = Callable[[int, int], None]


def train(
    training_set: TrainingSet,
    spec: FeatureSpec,
    parameters: TrainingParameters | None = None,
    *,
    code_version: str = "",
    progress: Progress | None = None,
) -> Trained:
    """Let the contenders compete, fit the winner on all rows, choose its thresholds on the validation days.

    What thresholds and comparison are based on was said by fits that knew no row or label of the days they judge.

    Args:
        training_set: rows of parts 'train' and 'validation' are used, 'test' never.
        progress: called with (fits done, fits in total).
    Raises:
        ContractBroken: the compiled model does not say what the libraries that fitted it say.
    """
    settings = parameters or TrainingParameters()
    # The matrices of one step are small: BLAS threads would spend nine times as long waiting for each other.
    with threadpool_limits(settings.learner.threads, user_api="blas"):
        return _train(training_set, spec, settings, code_version, progress)


def _train(
    training_set: TrainingSet,
    spec: FeatureSpec,
    settings: TrainingParameters,
    code_version: str,
    progress: Progress | None,
) -> Trained:
    rows = learning_rows(training_set)
    features, truth = to_matrix(rows, spec.names), rows["is_fraud"].to_numpy(bool)
    folds = time_folds(rows, training_set.split)
    fits_per_block = len(contenders.members_of(settings.contenders))
    counter = _Counter(progress, (len(folds) + 1) * max(fits_per_block, len(BASELINES)) + 1)
    judged = judge(
        rows,
        features,
        folds,
        settings.learner,
        names=[name for name in CONTENDERS if name in settings.contenders],
        label_delay=timedelta(days=training_set.split.label_delay_days),
        report=counter.one_more,
        workers=settings.workers,
    )
    winner = judged.comparison.winner
    anomaly = None
    needed = contenders.members_of([winner, *BASELINES])
    if any(member.endswith(contenders.ON_ANOMALY) for member in needed):
        anomaly = contenders.fit_anomaly(features, settings.learner)

    def fit(member: str) -> Member:
        fitted = contenders.fit_member(member, features, truth, settings.learner, anomaly)
        counter.one_more()
        return fitted

    with ThreadPoolExecutor(settings.workers) as pool:
        fits = {member: pool.submit(fit, member) for member in needed[::-1]}  # longest first
        autoencoder = pool.submit(fit_autoencoder, features, truth, settings.learner)
        fitted = {member: fits[member].result() for member in needed}
        baselines = {AUTOENCODER: autoencoder.result()}
    counter.finish()
    for name in BASELINES:
        weights = judged.weights.get(name) or contenders.unweighed(settings.learner)
        baselines[name] = contenders.assembled([fitted[member] for member in CONTENDERS[name]], weights).onnx_bytes
    members, weights = [fitted[member] for member in CONTENDERS[winner]], judged.weights[winner]
    model = contenders.assembled(members, weights)
    sample = np.sort(np.random.default_rng(settings.learner.seed).permutation(len(rows))[:MOST_REFERENCE_ROWS])
    require_agreement(members, weights, model, features[sample])
    if anomaly is not None:
        require_same_anomaly_score(anomaly, features[sample])
    validation = _validation(training_set, rows, folds, judged.log_odds[winner], settings)
    counted = [member for member, weight in zip(members, weights.weights, strict=True) if weight > 0]
    boosters = [member.booster_bytes for member in counted if member.booster_bytes is not None]
    bundle = Bundle(
        model=model,
        contender=winner,
        weights={**dict(zip(CONTENDERS[winner], weights.weights, strict=True)), "intercept": weights.intercept},
        spec_text=spec.text,
        feature_names=tuple(spec.names),
        spec_hash=spec.hash,
        thresholds=validation.thresholds,
        split=training_set.split,
        data_hash=training_set.data_hash,
        parameters=settings.of_the_fit(),
        metrics=validation.metrics,
        row_counts={
            f"{part}_{kind}": count(part)
            for part in (TRAIN, VALIDATION, TEST)
            for kind, count in (("rows", training_set.rows), ("frauds", training_set.frauds))
        },
        reference=rows.loc[sample, list(spec.names)].astype(np.float64).reset_index(drop=True),
        code_version=code_version,
        policy=validation.basis,
        bands=observed_bands(validation.truth, validation.probabilities) if validation.basis else (),
        comparison=judged.comparison,
        booster_bytes=boosters[0] if boosters else None,
        baselines=baselines,
    )
    return Trained(bundle, validation.truth, validation.probabilities)


def require_agreement(members: list[Member], weights: Weights, model: AdditiveModel, features: np.ndarray) -> None:
    """Refuse a compiled model that says something else than the libraries that fitted it.

    Args:
        features: shape (n, f), rows to compare on.
    Raises:
        ContractBroken: the log-odds differ by more than limits.LARGEST_COMPILED_DIFFERENCE somewhere.
    """
    _require_equal(contenders.native_log_odds(members, weights, features), model.margin(features), "log-odds")


def require_same_anomaly_score(anomaly: contenders.Anomaly, features: np.ndarray) -> None:
    """Refuse an isolation forest whose compiled score is not scikit-learn's; arguments and errors as above."""
    scorer = AdditiveModel(features.shape[1], trees=anomaly.isolation.trees, isolation=anomaly.isolation)
    _require_equal(anomaly.native(features), scorer.inputs(features)[:, -1], "anomaly score")


def _require_equal(native: np.ndarray, compiled: np.ndarray, what: str) -> None:
    worst = float(np.max(np.abs(native - compiled), initial=0.0))
    if not worst <= limits.LARGEST_COMPILED_DIFFERENCE:
        raise ContractBroken(
            f"The compiled model and the libraries that fitted it differ by {worst:.2g} in {what}, expected at most "
            f"{limits.LARGEST_COMPILED_DIFFERENCE:.0e} (fraud_pipelines/limits.py). Nothing was registered; the "
            "versions installed may not be those of uv.lock: fraud doctor"
        )


def validation_curves(trained: Trained) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(recall, precision) and (false positive rate, recall) on the validation days; empty without them."""
    truth, probabilities = trained.validation_is_fraud, trained.validation_probabilities
    return precision_recall_points(truth, probabilities), roc_points(truth, probabilities)


def run_tags(bundle: Bundle) -> dict[str, str]:
    """What a registered version says about where it comes from."""
    split = bundle.split
    return {
        "contender": bundle.contender,
        "training_window": f"[{split.train_since:%Y-%m-%d}, {split.train_until:%Y-%m-%d})",
        "test_window": f"[{split.test_since:%Y-%m-%d}, {split.test_until:%Y-%m-%d})",
        "as_of": split.as_of.isoformat(),
        "data_hash": bundle.data_hash,
        "spec_hash": bundle.spec_hash,
        "code_version": bundle.code_version,
    }


@dataclass(frozen=True)
class _Validation:
    """What the validation days give: thresholds, what they were chosen with, and how well the winner ranked."""

    truth: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=bool))
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    basis: PolicyBasis | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)


def _validation(
    training_set: TrainingSet, rows: pd.DataFrame, folds: list[Fold], log_odds: np.ndarray, settings: TrainingParameters
) -> _Validation:
    since, until = training_set.split.window(VALIDATION)
    if not folds or folds[-1].since != since or np.isnan(log_odds[folds[-1].judge]).any():
        return _Validation()
    judged = rows.iloc[folds[-1].judge].reset_index(drop=True)
    truth, probabilities = judged["is_fraud"].to_numpy(bool), sigmoid(log_odds[folds[-1].judge])
    days = training_set.split.validation_days
    basis = PolicyBasis(
        costs=settings.costs,
        capacity=settings.capacity,
        reviews_per_day=settings.capacity.reviews_per_day(len(judged), days),
        since=since,
        until=until,
        rows=len(judged),
        fraud_count=int(truth.sum()),
    )
    thresholds = choose_thresholds(
        truth,
        probabilities,
        judged["amount_minor"].to_numpy(),
        days=days,
        costs=basis.costs,
        reviews_per_day=basis.reviews_per_day,
    )
    return _Validation(truth, probabilities, thresholds, basis, ranking_metrics(judged, probabilities))


class _Counter:
    """Fits done so far, told as they end; safe from several threads."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done, self._lock = progress, total, 0, Lock()

    def one_more(self) -> None:
        with self._lock:
            self._done = min(self._done + 1, self._total)
            if self._progress:
                self._progress(self._done, self._total)

    def finish(self) -> None:
        """Fits that turned out not to be needed count as done."""
        if self._progress and self._done < self._total:
            self._done = self._total
            self._progress(self._done, self._total)
