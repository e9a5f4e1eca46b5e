"""Choosing what is registered: contenders judged on blocks of days they had not seen, the simplest within noise taken.

For each block every member is fitted on what was known when the block began; its weights are learnt from earlier blocks
whose labels were known by then. So what a contender says of a block is what it would have said on those days.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

import numpy as np
import pandas as pd

from fraud_pipelines.errors import EmptySample
from fraud_pipelines.models import contenders
from fraud_pipelines.models.comparison import Comparison, compare
from fraud_pipelines.models.contenders import CONTENDERS, Weights, fit_weights
from fraud_pipelines.models.folds import Fold
from fraud_pipelines.models.members import LearnerParameters

# A fit that only judges learns from fewer genuine rows: with 60,000 in place of 200,000, average precision on three
# handbook weeks of summer 2018 was 0.7597 in place of 0.7603.
_GENUINE_ROWS_OF_A_BLOCK = 60_000
_FOREST_ROWS_OF_A_BLOCK = 15_000


@dataclass(frozen=True)
class Judged:
    """What the blocks gave: per contender its log-odds (n,), NaN outside what it was judged on, and its weights."""

    comparison: Comparison
    log_odds: dict[str, np.ndarray] = field(repr=False)
    weights: dict[str, Weights] = field(repr=False)


def judge(
    rows: pd.DataFrame,
    features: np.ndarray,
    folds: Sequence[Fold],
    settings: LearnerParameters,
    *,
    names: Sequence[str] = tuple(CONTENDERS),
    label_delay: timedelta,
    report: Callable[[], None] = lambda: None,
    workers: int = 1,
) -> Judged:
    """Fit the members for each block, weigh them, compare the contenders.

    Args:
        rows: columns event_time, is_fraud, label_known_at; shape (n, ...). features: shape (n, f).
        folds: as `time_folds`, oldest first.
        names: who competes.
        report: called after each fit.
        workers: fits at the same time.
    Raises:
        EmptySample: no contender can be registered, as each has several members and there is too little to weigh them.
    """
    truth = rows["is_fraud"].to_numpy(bool)
    members = contenders.members_of(names)
    said = {member: np.full(len(rows), np.nan) for member in members}
    of_a_block = replace(
        settings,
        most_genuine_rows=min(settings.most_genuine_rows, _GENUINE_ROWS_OF_A_BLOCK),
        forest_genuine_rows=min(settings.forest_genuine_rows, _FOREST_ROWS_OF_A_BLOCK),
    )

    def fit(fold: Fold, member: str, anomaly: contenders.Anomaly | None) -> np.ndarray:
        fitted = contenders.fit_member(member, features[fold.learn], truth[fold.learn], of_a_block, anomaly)
        values = fitted.says(features[fold.judge])
        report()
        return values

    with ThreadPoolExecutor(workers) as pool:
        for fold in folds:
            anomaly = None
            if any(member.endswith(contenders.ON_ANOMALY) for member in members):
                anomaly = contenders.fit_anomaly(features[fold.learn], of_a_block)
            # The longest fits stand last in CONTENDERS; begun first, they leave no core idle at the end.
            order = members[::-1]
            for member, values in zip(order, pool.map(partial(fit, fold, anomaly=anomaly), order), strict=True):
                said[member][fold.judge] = values
    everything = np.concatenate([fold.judge for fold in folds]) if folds else np.empty(0, dtype=int)
    weights: dict[str, Weights] = {}
    log_odds = {}
    for name in names:
        of_members = np.column_stack([said[member] for member in CONTENDERS[name]])
        is_alone = of_members.shape[1] == 1
        found = fit_weights(of_members[everything], truth[everything])
        if found is None and is_alone:
            found = contenders.unweighed(settings)
        if found is not None:
            weights[name] = found
        log_odds[name] = _honest_log_odds(of_members, rows, folds, label_delay, otherwise=found if is_alone else None)
    if not weights:
        raise EmptySample(
            f"None of {list(names)} can be weighed: the days before {rows['event_time'].max():%Y-%m-%d} hold too few "
            f"frauds in blocks to judge on ({int(truth[everything].sum())}, expected "
            f"{contenders.FEWEST_FRAUDS_TO_WEIGH}). Train on more days (fraud train --train-days N), "
            "or let a single model compete, too"
        )
    return Judged(compare(rows, log_odds, possible=tuple(weights)), log_odds, weights)


def _honest_log_odds(
    said: np.ndarray, rows: pd.DataFrame, folds: Sequence[Fold], label_delay: timedelta, *, otherwise: Weights | None
) -> np.ndarray:
    """Log-odds block by block, with weights from the blocks whose labels were known when it began; shape (n,).

    Where that was too little to place them: NaN, or the weights `otherwise`. One member gets those of all blocks: they
    cannot change the order within a block, and thresholds are then on the scale of the model that is registered.
    """
    truth, known_at = rows["is_fraud"].to_numpy(bool), rows["label_known_at"]
    found = np.full(len(rows), np.nan)
    for position, fold in enumerate(folds):
        earlier = [before.judge for before in folds[:position] if before.until <= fold.since - label_delay]
        learn = np.concatenate(earlier) if earlier else np.empty(0, dtype=int)
        learn = learn[(known_at.iloc[learn] <= fold.since).to_numpy()]
        weights = fit_weights(said[learn], truth[learn]) if len(learn) else None
        weights = weights or otherwise
        if weights is not None:
            found[fold.judge] = weights.of(said[fold.judge])
    return found
