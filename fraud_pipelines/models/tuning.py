"""Tuning: which settings of the boosted trees rank best on blocks of time that each could have been trained before.

Optuna proposes (tree-structured Parzen estimator, median pruning); folds.py cuts the blocks, with the label delay as
gap; the base on record is the first trial, and stays unless the best gains more than chance explains.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines import limits
from fraud_pipelines.errors import EmptySample, SettingInvalid, TrialFailed
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.folds import Fold, learning_rows, time_folds
from fraud_pipelines.models.intervals import (
    RankedDays,
    day_numbers,
    draw_days,
    mean_average_precision,
    p_value_of_the_best,
    resampled,
)
from fraud_pipelines.models.members import LearnerParameters, fit_boosted_trees
from fraud_pipelines.models.metrics import average_precision
from fraud_pipelines.models.training_set import TrainingSet

if TYPE_CHECKING:
    import optuna

INTEGER, REAL = "integer", "real"
UNWEIGHTED, WEIGHTED, BALANCED = "unweighted", "weighted", "balanced"
COMPLETE, PRUNED, STOPPED = "complete", "pruned", "stopped"

# Trials that are judged on every block before any is pruned, the base among them.
_TRIALS_BEFORE_PRUNING = 5


@dataclass(frozen=True)
class Range:
    """Values of one setting that are tried, both ends included."""

    name: str
    low: float
    high: float
    kind: str
    is_logarithmic: bool
    meaning: str


# The search space. A base beyond a range widens it.
SPACE = (
    Range("trees", 50, 600, INTEGER, True, "boosted trees"),
    Range("learning_rate", 0.01, 0.3, REAL, True, "share of each tree's correction that is applied"),
    Range("max_depth", 2, 8, INTEGER, False, "splits from the root of a tree to a leaf, at most"),
    Range("min_child_weight", 0.1, 100.0, REAL, True, "sum of second derivatives a leaf needs"),
    Range("subsample", 0.5, 1.0, REAL, False, "share of the rows each tree sees"),
    Range("colsample_bytree", 0.2, 1.0, REAL, False, "share of the features each tree sees"),
)
# How imbalance is handled: a choice between these, then the weight where it is free, and the genuine rows to keep.
IMBALANCE = {
    UNWEIGHTED: "a fraud counts once",
    WEIGHTED: "a fraud counts `fraud_weight` times",
    BALANCED: "all frauds together count as much as all genuine rows, the usual recipe",
}
FRAUD_WEIGHT = Range("fraud_weight", 0.5, 20.0, REAL, True, "how many times a fraud counts, where weighted")
# Of these, the ones below the number of genuine rows; and the base's own.
MOST_GENUINE_ROWS = (20_000, 60_000, 200_000)


@dataclass(frozen=True)
class Trial:
    """One set of parameters, judged.

    `value` is the mean average precision over the blocks, None unless the state is 'complete'; 'pruned' after some
    blocks looked worse than the median trial, 'stopped' when the time budget ended. `fold_values` has one average
    precision per block judged, oldest first.
    """

    number: int
    state: str
    parameters: LearnerParameters
    imbalance: str
    fold_values: tuple[float, ...]
    value: float | None
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class Tuning:
    """Every trial, and what was chosen: the best one, or trial 0 (the base) where its gain may be chance.

    `gain` is the relative gain of the best trial's value over the base's, as selected: flattered by having been the
    best of many. `p_value` is corrected for that; None where it cannot be told (too few days, or no other trial). No
    row or label later than `known_by` had a say.
    """

    tuning_id: str
    trials: tuple[Trial, ...]
    trials_wanted: int
    seed: int
    best: int
    chosen: int
    gain: float
    p_value: float | None
    folds: tuple[Fold, ...]
    as_of: datetime
    known_by: datetime
    data_hash: str
    spec_hash: str

    @property
    def base(self) -> Trial:
        return self.trials[0]

    @property
    def parameters(self) -> LearnerParameters:
        """Those chosen."""
        return self.trials[self.chosen].parameters

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)


class _OutOfTime(Exception):
    pass


def tuning_id(
    training_set: TrainingSet, base: LearnerParameters, *, trials: int, seed: int, seconds: float | None = None
) -> str:
    """Twelve hexadecimal digits; the same for the same rows, base, search space, seed and budget."""
    space = [asdict(item) for item in (*SPACE, FRAUD_WEIGHT)], list(IMBALANCE), MOST_GENUINE_ROWS
    facts = [training_set.data_hash, training_set.spec_hash, base.as_dict(), space, trials, seed, seconds]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def tune(
    training_set: TrainingSet,
    spec: FeatureSpec,
    base: LearnerParameters,
    *,
    trials: int = limits.TUNING_TRIALS,
    seconds: float | None = None,
    seed: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Tuning:
    """Judge `base` and what Optuna proposes after it on blocks of time, and choose.

    The same rows, base, seed and number of trials give the same trials, unless the time budget ends them.

    Args:
        training_set: rows of parts 'train' and 'validation' are used, 'test' never.
        trials: the base included; at least 1.
        seconds: no work is begun or continued after so many; the base is judged whole all the same.
        seed: of the proposals; the base's own by default. The learners always use the base's.
        progress: called with (trials done, trials in total).
        on_trial: called with each trial as it ends.
    Raises:
        SettingInvalid: the budget is below one trial or not above 0 seconds.
        EmptySample: no block has enough before it to learn from.
        TrialFailed: a trial cannot be fitted.
    """
    if trials < 1 or (seconds is not None and not seconds > 0):
        raise SettingInvalid(
            f"Tuning needs at least 1 trial and a time budget above 0 seconds, found {trials} and {seconds}. "
            "Run: fraud tune --trials 30"
        )
    seed = base.seed if seed is None else seed
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    blocks = _Blocks(training_set, spec)
    study = _study(seed)
    study.enqueue_trial(_as_proposal(base))
    judged: list[Trial] = []
    progress(0, trials)
    while len(judged) < trials and (not judged or time.monotonic() < deadline):
        # Without its base a tuning says nothing.
        trial = _judge(study, blocks, base, judged, deadline if judged else math.inf)
        judged.append(trial)
        on_trial(trial)
        progress(len(judged), trials)
    best, gain, p_value = blocks.best_of(judged)
    return Tuning(
        tuning_id=tuning_id(training_set, base, trials=trials, seed=seed, seconds=seconds),
        trials=tuple(judged),
        trials_wanted=trials,
        seed=seed,
        best=best,
        chosen=best if p_value is not None and p_value <= limits.TUNING_P_VALUE else 0,
        gain=gain,
        p_value=p_value,
        folds=tuple(blocks.folds),
        as_of=training_set.split.as_of,
        known_by=training_set.split.test_since,
        data_hash=training_set.data_hash,
        spec_hash=training_set.spec_hash,
    )


class _Blocks:
    """The blocks of one training set, and how each complete trial ranked their days."""

    def __init__(self, training_set: TrainingSet, spec: FeatureSpec) -> None:
        rows, split = learning_rows(training_set), training_set.split
        truth = rows["is_fraud"].to_numpy(bool)
        self.folds = [fold for fold in time_folds(rows, split) if fold.keeps_delay and truth[fold.judge].any()]
        if not self.folds:
            raise EmptySample(
                f"Training rows {split.train_since:%Y-%m-%d} to {split.train_until:%Y-%m-%d}: no block of "
                f"{split.validation_days} days with frauds has enough frauds {split.label_delay_days} days (the label "
                "delay) or more before it to learn from. Run: fraud tune --train-days N --validation-days 7, "
                "with more days or with longer blocks"
            )
        self.matrix = to_matrix(rows, spec.names)
        self.is_fraud = truth
        genuine = int(np.count_nonzero(~self.is_fraud))
        self.balance = genuine / int(np.count_nonzero(self.is_fraud))
        # What a block can learn from at most is what sampling can act on.
        self.most_genuine = max(int(np.count_nonzero(~self.is_fraud[fold.learn])) for fold in self.folds)
        self._days = [day_numbers(rows["event_time"].iloc[fold.judge]) for fold in self.folds]
        self._copies = draw_days(sum(int(day.max()) + 1 for day in self._days))
        self._resampled: dict[int, np.ndarray] = {}
        self._days_with_frauds = 0

    def scores(self, fold: Fold, parameters: LearnerParameters, report: Callable[[int], None]) -> np.ndarray:
        """Log-odds of the rows to judge, by trees that learnt before them; shape (rows of the block,)."""
        booster = fit_boosted_trees(self.matrix[fold.learn], self.is_fraud[fold.learn], parameters, report)
        return booster.inplace_predict(self.matrix[fold.judge], predict_type="margin").astype(np.float64)

    def value(self, fold: Fold, scores: np.ndarray) -> float:
        """Average precision on one block; defined, as a block has frauds."""
        return float(average_precision(self.is_fraud[fold.judge], scores) or 0.0)

    def remember(self, number: int, scores: Sequence[np.ndarray]) -> None:
        """Keep how a complete trial fares on copies of the days, for `best_of`."""
        ranked = [
            RankedDays(self.is_fraud[fold.judge], of_fold, day)
            for fold, of_fold, day in zip(self.folds, scores, self._days, strict=True)
        ]
        self._days_with_frauds = sum(block.days_with_frauds for block in ranked)
        self._resampled[number] = resampled(lambda some: mean_average_precision(ranked, some), self._copies)

    def best_of(self, judged: Sequence[Trial]) -> tuple[int, float, float | None]:
        """Number of the best complete trial (the earliest of equals), its relative gain over the base, its p-value."""
        values = {trial.number: trial.value for trial in judged if trial.value is not None}
        best = max(values, key=lambda number: (values[number], -number))
        others = [number for number in values if number]
        if best == 0 or not values[0]:
            return best, 0.0, None
        gains = np.array([values[number] for number in others]) / values[0] - 1.0
        copies = np.column_stack([self._resampled[number] for number in others]) / self._resampled[0][:, None] - 1.0
        return best, float(gains.max()), p_value_of_the_best(gains, copies, self._days_with_frauds)


def _study(seed: int) -> "optuna.Study":
    import optuna

    # The level of its own loggers alone: each trial is told by `on_trial`.
    logging.getLogger("optuna").setLevel(logging.WARNING)
    return optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        # One block alone (step 0) is too noisy to prune on.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_TRIALS_BEFORE_PRUNING, n_warmup_steps=1),
    )


def _judge(
    study: "optuna.Study", blocks: _Blocks, base: LearnerParameters, judged: Sequence[Trial], deadline: float
) -> Trial:
    """Propose, fit and judge one trial, block after block."""
    import optuna

    started = time.monotonic()
    proposal = study.ask()
    parameters, imbalance = _proposed(proposal, base, blocks)
    scores: list[np.ndarray] = []
    values: list[float] = []

    def ended(state: str, value: float | None = None) -> Trial:
        study.tell(proposal, value, state=None if state == COMPLETE else optuna.trial.TrialState.PRUNED)
        seconds = time.monotonic() - started
        return Trial(proposal.number, state, parameters, imbalance, tuple(values), value, seconds)

    def report(trees: int) -> None:
        if time.monotonic() > deadline:
            raise _OutOfTime

    for step, fold in enumerate(blocks.folds):
        try:
            scores.append(blocks.scores(fold, parameters, report))
        except _OutOfTime:
            return ended(STOPPED)
        except Exception as error:
            raise TrialFailed(
                f"Trial {proposal.number} of the tuning cannot be fitted before {fold.since:%Y-%m-%d} with "
                f"{_shown(parameters)}: {error}. Start from the defaults: fraud tune --from-defaults"
            ) from error
        values.append(blocks.value(fold, scores[-1]))
        if judged:
            # Against the base, because blocks differ more from each other than trials do: the median pruner compares
            # a trial's best step so far, which would otherwise be the easiest block's.
            proposal.report(float(np.mean(values) - np.mean(judged[0].fold_values[: step + 1])), step)
            if step + 1 < len(blocks.folds) and proposal.should_prune():
                return ended(PRUNED)
        else:
            proposal.report(0.0, step)
    blocks.remember(proposal.number, scores)
    return ended(COMPLETE, float(np.mean(values)))


def _as_proposal(base: LearnerParameters) -> dict[str, Any]:
    """The base as Optuna would have proposed it."""
    fixed = {item.name: getattr(base, item.name) for item in SPACE}
    weight = {} if base.fraud_weight == 1.0 else {FRAUD_WEIGHT.name: base.fraud_weight}
    imbalance = WEIGHTED if weight else UNWEIGHTED
    return {**fixed, **weight, "imbalance": imbalance, "most_genuine_rows": base.most_genuine_rows}


def _proposed(proposal: "optuna.Trial", base: LearnerParameters, blocks: _Blocks) -> tuple[LearnerParameters, str]:
    """The next parameters, and how they handle imbalance."""
    changes = {item.name: _suggest(proposal, item, getattr(base, item.name)) for item in SPACE}
    imbalance = str(proposal.suggest_categorical("imbalance", list(IMBALANCE)))
    match imbalance:
        case "unweighted":
            weight = 1.0
        case "weighted":
            weight = _suggest(proposal, FRAUD_WEIGHT, base.fraud_weight)
        case _:
            weight = blocks.balance
    counts = {count for count in MOST_GENUINE_ROWS if count < blocks.most_genuine} | {base.most_genuine_rows}
    most = proposal.suggest_categorical("most_genuine_rows", sorted(counts))
    return replace(base, **changes, fraud_weight=weight, most_genuine_rows=most), imbalance


def _suggest(proposal: "optuna.Trial", item: Range, base: float) -> Any:
    low, high = min(item.low, base), max(item.high, base)
    if item.kind == INTEGER:
        return proposal.suggest_int(item.name, int(low), int(high), log=item.is_logarithmic)
    return proposal.suggest_float(item.name, low, high, log=item.is_logarithmic)


def _shown(parameters: LearnerParameters) -> str:
    names = (*(item.name for item in SPACE), FRAUD_WEIGHT.name, "most_genuine_rows")
    return ", ".join(f"{name}={getattr(parameters, name)}" for name in names)
