"""Cutting the days before a test window into blocks, each judged by a model that could have been trained before it.

    |-- rows to learn from --|-- label delay --|-- block 1 --|
    |-- rows to learn from ----------------|-- label delay --|-- block 2 --|
    |-- rows to learn from ------------------------------|-- label delay --|-- block 3 --|     train_until

Tuning, stacking and the choice between models judge on these blocks. The last one is the validation window.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from fraud_pipelines.models.policy import FEWEST_FRAUDS
from fraud_pipelines.models.splits import TEST, TimeSplit
from fraud_pipelines.models.training_set import TrainingSet, mark_known_compromised

# Blocks of the default split: five of seven days leave three weeks to learn from before the first.
BLOCKS = 5


@dataclass(frozen=True)
class Fold:
    """One block [since, until): positions among `learning_rows` to learn from and to judge on, both ascending.

    What is learnt from is at least the label delay older than the block, with a label that was known when it began,
    unless `keeps_delay` is false (see `time_folds`). Of the block, cards already known as
    compromised on their day are left out, as in evaluation.
    """

    since: datetime
    until: datetime
    learn: np.ndarray = field(repr=False)
    judge: np.ndarray = field(repr=False)
    keeps_delay: bool = True


def learning_rows(training_set: TrainingSet) -> pd.DataFrame:
    """Rows of parts 'train' and 'validation', ordered by event time and transaction."""
    frame = training_set.frame
    return frame[frame["part"] != TEST].reset_index(drop=True)


def time_folds(rows: pd.DataFrame, split: TimeSplit, blocks: int = BLOCKS) -> list[Fold]:
    """The last blocks before the end of training, oldest first, each as long as the validation window.

    Blocks with too little before them are left out: fewer than FEWEST_FRAUDS frauds, or no genuine row. The last one,
    the validation window, then learns from all rows before it, so that thresholds can be chosen on little data, too.
    Without a validation window there are no blocks.

    Args:
        rows: as `learning_rows`; shape (n, ...).
    """
    is_fraud, least = rows["is_fraud"].to_numpy(bool), FEWEST_FRAUDS
    found = []
    for number in range(blocks, 0, -1):
        since = split.train_until - number * timedelta(days=split.validation_days)
        until = since + timedelta(days=split.validation_days)
        if since == until or since <= split.train_since:
            continue
        fold = _fold(rows, split, since, until)
        if number == 1 and not _can_learn(is_fraud[fold.learn]):
            fold = replace(fold, learn=np.flatnonzero(rows["event_time"] < since), keeps_delay=False)
            least = 1
        if _can_learn(is_fraud[fold.learn], least) and len(fold.judge):
            found.append(fold)
    return found


def _can_learn(is_fraud: np.ndarray, fewest: int = FEWEST_FRAUDS) -> bool:
    return bool(is_fraud.sum() >= fewest and not is_fraud.all())


def _fold(rows: pd.DataFrame, split: TimeSplit, since: datetime, until: datetime) -> Fold:
    moment, known_at, is_fraud = rows["event_time"], rows["label_known_at"], rows["is_fraud"].astype(bool)
    delay = timedelta(days=split.label_delay_days)
    learn = (moment < since - delay) & (known_at <= since)
    block = (moment >= since) & (moment < until)
    # A known card is blocked already: judging it would flatter every model.
    watched = since - delay - timedelta(days=split.known_card_days)
    frauds = rows[is_fraud & (moment >= watched) & (known_at < until)]
    history = frauds[["card_id", "transaction_id", "is_fraud"]].assign(known_at=frauds["label_known_at"])
    position = np.flatnonzero(block)
    of_block = rows.iloc[position]
    is_known = (
        of_block["card_is_known_compromised"].to_numpy(bool)  # marked already, as every window that is judged
        if since == split.validation_since
        else mark_known_compromised(of_block, history)
    )
    return Fold(since, until, np.flatnonzero(learn), position[~is_known])
