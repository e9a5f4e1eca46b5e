"""How sure a metric is: intervals and a paired test from a bootstrap over whole days.

Payments of one day share what happened that day (an attack, a holiday, a merchant breached), so drawing single rows
would give intervals that are too narrow. Whole UTC days are drawn with replacement instead, each with all its rows.
Days count as independent of each other: a compromise that lasts several days makes intervals somewhat too narrow still.

No resample is ever built. A draw is a number of copies per day, and each metric follows from counts or sums per day:
everywhere here `copies` has shape (resamples, days), and a statistic returns shape (resamples,) with NaN where a
resample does not define it. With one copy of each day a statistic is the metric of metrics.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from fraud_pipelines import limits
from fraud_pipelines.models.metrics import CALIBRATION_BINS, calibration_bin

if TYPE_CHECKING:
    import pandas as pd

Statistic = Callable[[np.ndarray], np.ndarray]

# The outermost quantile needed, for five days, is 0.1 %: two of 2,000.
RESAMPLES = 2_000
SEED = 0
# Resamples worked on at once: 25 by 500 fraud scores stay in the processor's cache, and are too few for BLAS to wake
# its threads; on a busy two-core machine, 200 at once took 17 times the CPU.
AT_ONCE = 25


@dataclass(frozen=True)
class Interval:
    """Bounds of a 95 % interval (limits.INTERVAL_CONFIDENCE), in the unit of its metric."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Gain:
    """Relative gain of average precision over another model on the same rows; 0.02 is 2 % more.

    `interval` and `p_value` (one-sided, of no gain) are None when fewer than FEWEST_BOOTSTRAP_DAYS of the `days` with
    frauds are there. `value` is None without frauds.
    """

    value: float | None
    interval: Interval | None
    p_value: float | None
    days: int


def day_numbers(event_time: "pd.Series") -> np.ndarray:
    """Number of each row's UTC day among the days that have rows, from 0, in order of time; shape (n,)."""
    import pandas as pd

    return np.unique(pd.DatetimeIndex(event_time).normalize(), return_inverse=True)[1]


def draw_days(days: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Copies of each day when as many days as there are were drawn with replacement; shape (resamples, days)."""
    return np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=resamples).astype(np.float64)


class RankedDays:
    """Scores of one model per day, sorted once. Tied scores are one group, never an order.

    Only thresholds at which a fraud lies are kept: recall changes nowhere else. Per threshold (falling) and day there
    are the frauds at or above it, the genuine rows at or above it, and the genuine rows exactly on it.

    Args:
        is_fraud, scores, day: shape (n,); `day` as of `day_numbers`.
    """

    def __init__(self, is_fraud: np.ndarray, scores: np.ndarray, day: np.ndarray) -> None:
        truth, values = np.asarray(is_fraud, dtype=bool), np.asarray(scores, dtype=np.float64)
        days = int(day.max()) + 1 if len(day) else 0
        thresholds = np.unique(values[truth])[::-1]
        self.frauds = np.bincount(day[truth], minlength=days).astype(np.float64)
        self.genuine = np.bincount(day[~truth], minlength=days).astype(np.float64)
        self._true_positives = np.zeros((days, len(thresholds)))
        self._false_positives = np.zeros((days, len(thresholds)))
        self._tied = np.zeros((days, len(thresholds)))
        for number in range(days):
            today = day == number
            frauds, genuine = np.sort(values[today & truth]), np.sort(values[today & ~truth])
            self._true_positives[number] = len(frauds) - np.searchsorted(frauds, thresholds, side="left")
            self._false_positives[number] = len(genuine) - np.searchsorted(genuine, thresholds, side="left")
            above = len(genuine) - np.searchsorted(genuine, thresholds, side="right")
            self._tied[number] = self._false_positives[number] - above

    @property
    def days_with_frauds(self) -> int:
        return int(np.count_nonzero(self.frauds))

    def average_precision(self, copies: np.ndarray) -> np.ndarray:
        """As metrics.average_precision; NaN in a resample without frauds."""
        found = copies @ self._true_positives
        flagged = found + copies @ self._false_positives
        gained = np.diff(found, axis=1, prepend=0.0)
        # Where nothing is flagged nothing was gained either; 1 only avoids 0 / 0.
        steps = gained * (found / np.maximum(flagged, 1.0))
        return _ratio(steps.sum(axis=1), copies @ self.frauds)

    def roc_auc(self, copies: np.ndarray) -> np.ndarray:
        """As metrics.roc_auc; NaN in a resample that lacks frauds or genuine rows."""
        gained = np.diff(copies @ self._true_positives, axis=1, prepend=0.0)
        genuine = copies @ self.genuine
        beaten = genuine[:, None] - copies @ self._false_positives + copies @ self._tied / 2
        return _ratio((gained * beaten).sum(axis=1), copies @ self.frauds * genuine)

    def recall_at_false_positive_rate(self, copies: np.ndarray, limit: float) -> np.ndarray:
        """As metrics.recall_at_false_positive_rate; NaN in a resample that lacks frauds or genuine rows."""
        genuine = copies @ self.genuine
        is_allowed = copies @ self._false_positives <= limit * genuine[:, None]
        found = np.max(np.where(is_allowed, copies @ self._true_positives, 0.0), axis=1, initial=0.0)
        recall = _ratio(found, copies @ self.frauds)
        return np.where(genuine > 0, recall, np.nan)


def ratio_statistic(part: np.ndarray, whole: np.ndarray, day: np.ndarray) -> Statistic:
    """Σ part / Σ whole over all rows, such as a share, a mean (whole = 1) or a cost per transaction.

    Args:
        part, whole: shape (n,), numbers of each row; day: as of `day_numbers`.
    """
    parts, wholes = np.bincount(day, weights=part), np.bincount(day, weights=whole)
    return lambda copies: _ratio(copies @ parts, copies @ wholes)


def mean_of_days(values: np.ndarray) -> Statistic:
    """Mean of one number per day, shape (days,), such as card precision.

    Card precision keeps the days' own order: a card found on one day stays removed from the later days, also in a
    resample that lacks the day it was found on. Days drawn in another order would be another history.
    """
    return lambda copies: (copies * values).sum(axis=1) / copies.sum(axis=1)


def calibration_statistic(
    is_fraud: np.ndarray, probabilities: np.ndarray, day: np.ndarray, bins: int = CALIBRATION_BINS
) -> Statistic:
    """As metrics.calibration_error. Its interval leans upward: the noise of drawing adds to any calibration error."""
    days = int(day.max()) + 1
    gap = np.asarray(probabilities, dtype=np.float64) - np.asarray(is_fraud, dtype=np.float64)
    cell = day * bins + calibration_bin(probabilities, bins)
    gaps = np.bincount(cell, weights=gap, minlength=days * bins).reshape(days, bins)
    rows = np.bincount(day, minlength=days).astype(np.float64)
    return lambda copies: np.abs(copies @ gaps).sum(axis=1) / (copies @ rows)


def interval(value: float | None, statistic: Statistic, copies: np.ndarray, *, days_that_count: int) -> Interval | None:
    """Percentile interval of a metric, widened for few days; None where it is undefined or the days are too few.

    With n days, percentile intervals are too narrow by √((n - 1) / n) and by the normal in place of Student's
    distribution (88 % instead of 95 % for a week), so quantiles further out are taken. Source: Hesterberg, What
    Teachers Should Know About the Bootstrap, The American Statistician 69 (2015), "expanded percentile interval".
    The interval always contains `value`, which a metric with a bias upward would not guarantee.

    Args:
        value: the metric itself.
        days_that_count: days that bear on it, such as those with frauds; resamples without any are left out.
    """
    if value is None or days_that_count < limits.FEWEST_BOOTSTRAP_DAYS:
        return None
    return _percentiles(value, resampled(statistic, copies), days_that_count)


def resampled(statistic: Statistic, copies: np.ndarray) -> np.ndarray:
    """The statistic of every resample, a few at a time to bound memory; shape (resamples,)."""
    return np.concatenate([statistic(copies[first : first + AT_ONCE]) for first in range(0, len(copies), AT_ONCE)])


def average_precision_gain(ours: RankedDays, theirs: RankedDays, copies: np.ndarray) -> Gain:
    """Relative gain of average precision of one model over another on the same rows, tested on the same days.

    Both models are judged on the same copies of days in each resample, so what makes a day hard for both cancels out.
    The p-value is the share of resamples without a gain, one added to both counts (Davison and Hinkley, Bootstrap
    Methods and Their Application, 1997, section 4.2), taken from the normal to Student's distribution as in `interval`.
    """
    days = ours.days_with_frauds
    if days == 0:
        return Gain(None, None, None, 0)
    once = np.ones((1, copies.shape[1]))
    value = float(ours.average_precision(once)[0] / theirs.average_precision(once)[0]) - 1.0
    if days < limits.FEWEST_BOOTSTRAP_DAYS:
        return Gain(value, None, None, days)
    gains = resampled(lambda some: ours.average_precision(some) / theirs.average_precision(some) - 1.0, copies)
    gains = gains[~np.isnan(gains)]
    share = (np.count_nonzero(gains <= 0.0) + 1) / (len(gains) + 1)
    p_value = float(stdtr(days - 1, ndtri(share) * np.sqrt((days - 1) / days)))
    return Gain(value, _percentiles(value, gains, days), p_value, days)


def mean_average_precision(blocks: Sequence[RankedDays], copies: np.ndarray) -> np.ndarray:
    """Mean of the blocks' average precisions, each block ranked by itself; NaN in a resample without frauds.

    A block counts by the share of its days that were drawn, and not at all where these have no fraud; with one copy of
    each day it is the plain mean.

    Args:
        blocks: each with days of its own, numbered from 0.
        copies: shape (resamples, days of all blocks), block after block.
    """
    total, weights, first = np.zeros(len(copies)), np.zeros(len(copies)), 0
    for block in blocks:
        days = len(block.frauds)
        some = copies[:, first : first + days]
        value = block.average_precision(some)
        weight = np.where(np.isnan(value), 0.0, some.mean(axis=1))
        total, weights, first = total + weight * np.nan_to_num(value), weights + weight, first + days
    return _ratio(total, weights)


def p_value_of_the_best(gains: np.ndarray, resampled_gains: np.ndarray, days: int) -> float | None:
    """One-sided p-value of no gain for the largest of many gains over the same base, all judged on the same days.

    The best of thirty that are no better than the base looks better by chance alone. So its gain, in standard errors,
    is compared with the largest of all (resampled minus observed, in standard errors) of each resample: the single-step
    max-t method of Westfall and Young (Resampling-Based Multiple Testing, 1993) and of Romano and Wolf (Econometrica
    2005). The p-value is taken from the normal to Student's distribution as in `interval`.

    Args:
        gains: shape (k,); resampled_gains: shape (resamples, k), from the same copies of days.
        days: those with frauds.
    Returns:
        None with fewer than FEWEST_BOOTSTRAP_DAYS, or when the best never differs from the base.
    """
    spread, best = np.nanstd(resampled_gains, axis=0), int(np.argmax(gains))
    if days < limits.FEWEST_BOOTSTRAP_DAYS or not spread[best] > 0:
        return None
    differs = spread > 0
    by_chance = (resampled_gains[:, differs] - gains[differs]) / spread[differs]
    largest = by_chance[~np.isnan(by_chance).any(axis=1)].max(axis=1)
    share = (np.count_nonzero(largest >= gains[best] / spread[best]) + 1) / (len(largest) + 1)
    return float(stdtr(days - 1, ndtri(share) * np.sqrt((days - 1) / days)))


def _percentiles(value: float, values: np.ndarray, days: int) -> Interval:
    student = stdtrit(days - 1, (1 + limits.INTERVAL_CONFIDENCE) / 2)
    tail = float(ndtr(-student * np.sqrt(days / (days - 1))))
    lower, upper = np.nanquantile(values, [tail, 1 - tail])
    return Interval(min(float(lower), value), max(float(upper), value))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
