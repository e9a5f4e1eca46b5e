"""From a probability to a decision: two thresholds, chosen on validation rows and stored with the model."""

from dataclasses import dataclass
from typing import overload

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.metrics import count_by_threshold

APPROVE, REVIEW, BLOCK = "APPROVE", "REVIEW", "BLOCK"
DECISIONS = (APPROVE, REVIEW, BLOCK)

PRECISION_FLOOR = 0.95
REVIEW_SHARE = 0.01
# Below these a validation sample says too little, and DEFAULT_THRESHOLDS are used instead.
FEWEST_FRAUDS = 20
FEWEST_BLOCKED = 10


@dataclass(frozen=True)
class Thresholds:
    """APPROVE below `review`, REVIEW from `review` to below `block`, BLOCK from `block` on.

    Raises:
        ContractBroken: not 0 <= review <= block <= 1.
    """

    review: float
    block: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.review <= self.block <= 1.0:
            raise ContractBroken(
                f"Thresholds: expected 0 <= review <= block <= 1, found review {self.review}, block {self.block}."
            )

    @overload
    def decide(self, probability: float) -> str: ...
    @overload
    def decide(self, probability: np.ndarray) -> np.ndarray: ...
    def decide(self, probability: float | np.ndarray) -> str | np.ndarray:
        """The decision word for one probability, or an object array of words for many.

        Raises:
            ContractBroken: a probability is NaN; it would compare as APPROVE.
        """
        values = np.asarray(probability, dtype=np.float64)
        if np.isnan(values).any():
            raise ContractBroken("Thresholds.decide: a fraud probability is NaN; a decision needs a number in [0, 1].")
        words = np.array(DECISIONS, dtype=object)[(values >= self.review).astype(int) + (values >= self.block)]
        return str(words) if values.ndim == 0 else words


# Source: the APPROVE < 0.3 <= REVIEW < 0.7 <= BLOCK convention of published scoring services; used when there are
# too few validation frauds to choose from.
DEFAULT_THRESHOLDS = Thresholds(review=0.30, block=0.70)


def choose_thresholds(
    is_fraud: np.ndarray,
    probabilities: np.ndarray,
    *,
    precision_floor: float = PRECISION_FLOOR,
    review_share: float = REVIEW_SHARE,
) -> Thresholds:
    """Thresholds for one validation sample.

    `block` is the smallest threshold at which at least `precision_floor` of the rows blocked are frauds (and at least
    FEWEST_BLOCKED rows are blocked); where none is, it lies above every score seen and at or above the default.
    `review` is then the smallest threshold that sends at most `review_share` of all rows to review.
    With fewer than FEWEST_FRAUDS frauds the answer is DEFAULT_THRESHOLDS.

    Args:
        is_fraud, probabilities: shape (n,), validation rows only: never test rows.
        precision_floor: share in (0, 1] of blocked rows that must be frauds.
        review_share: review capacity as a share of all rows, in [0, 1].
    """
    counts = count_by_threshold(is_fraud, probabilities)
    if counts.fraud_count < FEWEST_FRAUDS:
        return DEFAULT_THRESHOLDS
    flagged = counts.true_positives + counts.false_positives
    good = np.flatnonzero((counts.true_positives >= precision_floor * flagged) & (flagged >= FEWEST_BLOCKED))
    if len(good):
        block = float(counts.thresholds[good[-1]])
        blocked = int(flagged[good[-1]])
    else:
        block = float(min(1.0, max(DEFAULT_THRESHOLDS.block, np.nextafter(counts.thresholds[0], 2.0))))
        blocked = 0
    capacity = review_share * len(np.asarray(probabilities))
    fits = np.flatnonzero((flagged - blocked <= capacity) & (counts.thresholds <= block))
    review = float(counts.thresholds[fits[-1]]) if len(fits) else block
    return Thresholds(review=min(review, block), block=block)
