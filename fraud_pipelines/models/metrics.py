"""Numbers that say how well scores separate frauds.

Everywhere: `is_fraud` bool of shape (n,), `scores` float of shape (n,), larger means more suspicious; tied scores
are one group, never an order. A number that the sample does not define (no frauds, no genuine rows) is None, not NaN.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CARDS_PER_DAY = 100
CALIBRATION_BINS = 20


@dataclass(frozen=True)
class Counts:
    """True and false positives when every row with a score >= `thresholds[i]` is flagged; thresholds descend."""

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    fraud_count: int
    genuine_count: int


def count_by_threshold(is_fraud: np.ndarray, scores: np.ndarray) -> Counts:
    """Cumulative counts at every distinct score, from the highest down."""
    truth = np.asarray(is_fraud, dtype=bool)
    values = np.asarray(scores, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    truth, values = truth[order], values[order]
    last_of_group = np.flatnonzero(np.append(np.diff(values) != 0, True)) if len(values) else np.array([], dtype=int)
    frauds = np.cumsum(truth)[last_of_group]
    return Counts(
        thresholds=values[last_of_group],
        true_positives=frauds,
        false_positives=last_of_group + 1 - frauds,
        fraud_count=int(truth.sum()),
        genuine_count=int(len(truth) - truth.sum()),
    )


def average_precision(is_fraud: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the precision-recall steps: Σ (R_i - R_{i-1}) P_i over falling thresholds, in [0, 1].

    None without frauds. Source: scikit-learn's average_precision_score uses the same sum (no interpolation).
    """
    counts = count_by_threshold(is_fraud, scores)
    if counts.fraud_count == 0:
        return None
    gained = np.diff(counts.true_positives, prepend=0)
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    # Only the steps where recall rises: intervals.py sums the same terms in the same order, so equal to the last bit.
    rises = gained > 0
    return float(np.sum(gained[rises] * precision[rises]) / counts.fraud_count)


def roc_auc(is_fraud: np.ndarray, scores: np.ndarray) -> float | None:
    """Probability that a random fraud scores above a random genuine row, ties counting one half, in [0, 1].

    None unless both kinds are present.
    """
    counts = count_by_threshold(is_fraud, scores)
    if counts.fraud_count == 0 or counts.genuine_count == 0:
        return None
    genuine = np.diff(counts.false_positives, prepend=0)
    # A genuine row loses to every fraud above it, and half to every fraud tied with it.
    above = counts.true_positives - np.diff(counts.true_positives, prepend=0)
    tied = counts.true_positives - above
    return float(np.sum(genuine * (above + tied / 2)) / (counts.fraud_count * counts.genuine_count))


def recall_at_false_positive_rate(is_fraud: np.ndarray, scores: np.ndarray, limit: float) -> float | None:
    """Largest share of frauds flagged by a threshold that flags at most `limit` of the genuine rows, in [0, 1].

    Flagging nothing is always allowed, so the smallest value is 0. None unless both kinds are present.
    """
    counts = count_by_threshold(is_fraud, scores)
    if counts.fraud_count == 0 or counts.genuine_count == 0:
        return None
    allowed = counts.true_positives[counts.false_positives <= limit * counts.genuine_count]
    return float(allowed[-1] / counts.fraud_count) if len(allowed) else 0.0


def card_precision_at_k(
    event_time: "pd.Series", card_id: "pd.Series", is_fraud: np.ndarray, scores: np.ndarray, k: int = CARDS_PER_DAY
) -> float | None:
    """Mean over days of the share of compromised cards among the k most suspicious cards of the day, in [0, 1].

    None without rows. See `card_precision_by_day`.
    """
    shares = card_precision_by_day(event_time, card_id, is_fraud, scores, k)
    return float(np.mean(shares)) if len(shares) else None


def card_precision_by_day(
    event_time: "pd.Series", card_id: "pd.Series", is_fraud: np.ndarray, scores: np.ndarray, k: int = CARDS_PER_DAY
) -> np.ndarray:
    """Share of compromised cards among the k most suspicious cards, per UTC day that has rows, in order of time.

    A card has its largest score of the day and counts as compromised when one of its rows is fraud. Compromised
    cards found leave all later days. The share is always of k, also on a day with fewer cards, so a perfect ranker
    can stay below 1. Ties go to the smaller card identifier.

    Returns:
        Shares in [0, 1], shape (days,).
    Source: Fraud Detection Handbook, chapter 4, "Card Precision top-k".
    """
    import pandas as pd

    rows = pd.DataFrame(
        {
            "day": pd.DatetimeIndex(event_time).normalize(),
            "card_id": np.asarray(card_id, dtype=object),
            "is_fraud": np.asarray(is_fraud, dtype=bool),
            "score": np.asarray(scores, dtype=np.float64),
        }
    )
    cards = rows.groupby(["day", "card_id"], as_index=False).agg(is_fraud=("is_fraud", "max"), score=("score", "max"))
    cards = cards.sort_values(["day", "score", "card_id"], ascending=[True, False, True])
    found: set[str] = set()
    shares = []
    for _, day in cards.groupby("day", sort=True):
        top = day[~day["card_id"].isin(found)].head(k)
        compromised = top.loc[top["is_fraud"], "card_id"]
        found.update(compromised)
        shares.append(len(compromised) / k)
    return np.array(shares, dtype=np.float64)


def brier(is_fraud: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Mean squared difference between probability and outcome, in [0, 1]; 0 is perfect. None without rows."""
    if len(probabilities) == 0:
        return None
    return float(np.mean((np.asarray(probabilities, dtype=np.float64) - np.asarray(is_fraud, dtype=np.float64)) ** 2))


def calibration_error(is_fraud: np.ndarray, probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> float | None:
    """Expected calibration error: Σ (n_b / n) |mean probability - fraud share| over equal-width bins of [0, 1].

    None without rows. Source: Naeini, Cooper and Hauskrecht, AAAI 2015.
    """
    if len(probabilities) == 0:
        return None
    values = np.asarray(probabilities, dtype=np.float64)
    bin_of = calibration_bin(values, bins)
    predicted = np.bincount(bin_of, weights=values, minlength=bins)
    observed = np.bincount(bin_of, weights=np.asarray(is_fraud, dtype=np.float64), minlength=bins)
    return float(np.abs(predicted - observed).sum() / len(values))


def calibration_bin(probabilities: np.ndarray, bins: int = CALIBRATION_BINS) -> np.ndarray:
    """Number of the equal-width bin of [0, 1] each probability falls in, 0 to bins - 1; 1.0 belongs to the last."""
    return np.minimum((np.asarray(probabilities, dtype=np.float64) * bins).astype(int), bins - 1)


def precision_recall_points(is_fraud: np.ndarray, scores: np.ndarray, most: int = 500) -> list[tuple[float, float]]:
    """(recall, precision) from the highest threshold down, thinned to at most `most` points; empty without frauds."""
    counts = count_by_threshold(is_fraud, scores)
    if counts.fraud_count == 0:
        return []
    recall = counts.true_positives / counts.fraud_count
    precision = counts.true_positives / (counts.true_positives + counts.false_positives)
    return _thinned(recall, precision, most)


def roc_points(is_fraud: np.ndarray, scores: np.ndarray, most: int = 500) -> list[tuple[float, float]]:
    """(false positive rate, recall) from (0, 0) to (1, 1), thinned; empty unless both kinds are present."""
    counts = count_by_threshold(is_fraud, scores)
    if counts.fraud_count == 0 or counts.genuine_count == 0:
        return []
    false_rate = np.append(0.0, counts.false_positives / counts.genuine_count)
    recall = np.append(0.0, counts.true_positives / counts.fraud_count)
    return _thinned(false_rate, recall, most)


def _thinned(x: np.ndarray, y: np.ndarray, most: int) -> list[tuple[float, float]]:
    # Evenly along the curve, not along the thresholds: nearly all thresholds lie where nothing happens.
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    if len(x) > most:
        wanted = np.linspace(0.0, length[-1], most)
        keep = np.unique(np.clip(np.searchsorted(length, wanted), 0, len(x) - 1))
        x, y = x[keep], y[keep]
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
