"""The compiled engine: every feature of a card or merchant for many transactions at once.

The DuckDB warehouse and the scoring service both compute with it, so their features are equal by construction;
PostgreSQL computes in SQL. The edges of each window and all running totals are worked out once and shared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from fraud_pipelines.features import kernel
from fraud_pipelines.features.kernel import Codes, Double, Int64, compiled
from fraud_pipelines.features.spec import OF_CARD, Feature, FeatureSpec

NEVER_US = np.iinfo(np.int64).max
"""First label of a transaction that has none."""
ATTRIBUTES = {"card": OF_CARD, "merchant": ("card",)}
"""What the rows of `codes` are, by entity."""


@dataclass(frozen=True, slots=True)
class Past:
    """Transactions of some cards or merchants, sorted by entity, time and transaction id.

    `starts` has one entry per entity and one more: rows starts[e] to starts[e + 1] are those of entity e. Times are
    microseconds, amounts minor units, `first_label_us` the earliest label arrival or NEVER_US. `codes` has one row per
    attribute of ATTRIBUTES and numbers its values, -1 is null; places are degrees, NaN is null.
    """

    starts: Int64
    time_us: Int64
    amount_minor: Int64
    first_label_us: Int64
    codes: Codes
    latitude: Double
    longitude: Double


@dataclass(frozen=True, slots=True)
class Known:
    """Label arrivals of the same entities, sorted by entity and by the moment they count from."""

    starts: Int64
    time_us: Int64
    is_fraud: Int64
    amount_minor: Int64


@dataclass(frozen=True, slots=True)
class Asked:
    """The transactions whose features are asked for, of the same entities, sorted by entity and time."""

    starts: Int64
    time_us: Int64
    amount_minor: Int64
    codes: Codes
    latitude: Double
    longitude: Double


class _Op(IntEnum):
    """One per (measure, of) of the spec that has its own loop."""

    COUNT = 0
    COUNT_SAME = 1
    COUNT_LARGE = 2
    COUNT_UNLABELLED = 3
    SUM = 4
    MEAN = 5
    STD = 6
    MAX = 7
    MAX_RATIO = 8
    MIN = 9
    RATIO_TO_MEAN = 10
    ZSCORE = 11
    SHARE_OF_NIGHT = 12
    SHARE_OF_WEEKEND = 13
    DISTINCT = 14
    IS_NEW = 15
    IS_CHANGED = 16
    SINCE_TRANSACTION = 17
    SINCE_LARGE = 18
    DISTANCE = 19
    SPEED = 20
    # From here on over label arrivals.
    COUNT_LABELS = 21
    COUNT_FRAUDS = 22
    SHARE_OF_FRAUDS = 23
    LAST_LABEL = 24
    STREAK = 25
    STREAK_AGE = 26
    SINCE_FRAUD = 27
    SINCE_GENUINE = 28
    RATIO_TO_GENUINE = 29


_OPS = {
    ("count", "transactions"): _Op.COUNT,
    ("count", "same_merchant"): _Op.COUNT_SAME,
    ("count", "large_amounts"): _Op.COUNT_LARGE,
    ("count", "unlabelled"): _Op.COUNT_UNLABELLED,
    ("sum", "amount"): _Op.SUM,
    ("mean", "amount"): _Op.MEAN,
    ("std", "amount"): _Op.STD,
    ("max", "amount"): _Op.MAX,
    ("max", "amount_ratio"): _Op.MAX_RATIO,
    ("min", "amount"): _Op.MIN,
    ("ratio_to_mean", "amount"): _Op.RATIO_TO_MEAN,
    ("zscore", "amount"): _Op.ZSCORE,
    ("share", "night"): _Op.SHARE_OF_NIGHT,
    ("share", "weekend"): _Op.SHARE_OF_WEEKEND,
    **{("distinct", of): _Op.DISTINCT for of in (*OF_CARD, "card")},
    **{("is_new", of): _Op.IS_NEW for of in OF_CARD},
    **{("is_changed", of): _Op.IS_CHANGED for of in OF_CARD},
    ("time_since_last", "transaction"): _Op.SINCE_TRANSACTION,
    ("time_since_last", "large_amount"): _Op.SINCE_LARGE,
    ("distance_from_last", "place"): _Op.DISTANCE,
    ("speed_from_last", "place"): _Op.SPEED,
    ("count", "labels"): _Op.COUNT_LABELS,
    ("count", "frauds"): _Op.COUNT_FRAUDS,
    ("share", "frauds"): _Op.SHARE_OF_FRAUDS,
    ("last", "label"): _Op.LAST_LABEL,
    ("streak", "frauds"): _Op.STREAK,
    ("streak_age", "frauds"): _Op.STREAK_AGE,
    ("time_since_last", "fraud"): _Op.SINCE_FRAUD,
    ("time_since_last", "genuine"): _Op.SINCE_GENUINE,
    ("ratio_to_mean", "genuine_amount"): _Op.RATIO_TO_GENUINE,
}


class EntityEngine:
    """Computes the features of one entity of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec, entity: str) -> None:
        self.features = spec.of_entity(entity)
        attributes = ATTRIBUTES[entity]
        self._widths = _distinct_windows(self.features)
        # One row per feature: operation, window, attribute.
        self._plan = np.array(
            [
                (
                    _OPS[feature.measure, feature.of],
                    self._widths.index(feature.window_us),
                    attributes.index(feature.of) if feature.of in attributes else 0,
                )
                for feature in self.features
            ],
            np.int64,
        ).reshape(len(self.features), 3)
        self._empties = np.array([0.0 if feature.when_empty == "zero" else math.nan for feature in self.features])
        large = spec.large_amount
        self._large = (large.baseline_us, large.at_least, large.limit_tenths) if large else (0, 1, 1)
        self._windows = np.array(self._widths, np.int64)

    def compute(self, past: Past, known: Known, asked: Asked) -> Double:
        """One row per feature in the order of the spec, one column per asked transaction; NaN is missing."""
        # Each entity's rows in the order of their first label.
        entity = np.repeat(np.arange(len(past.starts) - 1), np.diff(past.starts))
        by_label = np.lexsort((past.first_label_us, entity))
        return _compute(
            self._plan, self._windows, self._empties, *self._large,
            past.starts, past.time_us, past.amount_minor, past.first_label_us, by_label, past.codes,
            past.latitude, past.longitude,
            known.starts, known.time_us, known.is_fraud, known.amount_minor,
            asked.starts, asked.time_us, asked.amount_minor, asked.codes, asked.latitude, asked.longitude,
        )  # fmt: skip


def _distinct_windows(features: Sequence[Feature]) -> list[int]:
    return sorted({feature.window_us for feature in features if feature.window_us is not None})


@compiled
def _compute(
    plan: Int64, widths: Int64, empties: Double, baseline_us: int, at_least: int, limit_tenths: int,
    starts: Int64, times: Int64, amounts: Int64, first_label: Int64, by_label: Int64, codes: Codes,
    latitude: Double, longitude: Double,
    label_starts: Int64, label_times: Int64, label_frauds: Int64, label_amounts: Int64,
    asked_starts: Int64, asked: Int64, asked_amounts: Int64, asked_codes: Codes,
    asked_latitude: Double, asked_longitude: Double,
) -> Double:  # fmt: skip
    """See EntityEngine.compute."""
    rows = np.arange(len(times) + 1)
    sums = kernel.running(amounts)
    squares = amounts * amounts
    squares_high, squares_low = kernel.running(squares >> 32), kernel.running(squares & 0xFFFFFFFF)
    values = amounts.astype(np.float64)
    nights, weekends = kernel.nights_and_weekends(times)
    ratios, is_large = kernel.own_ratios(times, starts, amounts, sums, baseline_us, at_least, limit_tenths)
    large = kernel.running(is_large)
    last_large = kernel.latest(is_large)

    moment_starts, moments, labels, frauds, genuine_amounts = kernel.moments(
        label_starts, label_times, label_frauds, label_amounts
    )
    label_sums, fraud_sums = kernel.running(labels), kernel.running(frauds)
    genuine_sums, genuine_amount_sums = label_sums - fraud_sums, kernel.running(genuine_amounts)
    last_fraud, last_genuine = kernel.latest(frauds > 0), kernel.latest(labels > frauds)

    # A transaction counts from an age of 1 microsecond on, a label from 0 on.
    present = kernel.rows_after(times, starts, asked, asked_starts, 1)
    label_present = kernel.rows_after(moments, moment_starts, asked, asked_starts, 0)
    edges = np.empty((len(widths), len(asked)), np.int64)
    label_edges = np.empty((len(widths), len(asked)), np.int64)
    for w in range(len(widths)):
        edges[w] = kernel.rows_after(times, starts, asked, asked_starts, widths[w])
        label_edges[w] = kernel.rows_after(moments, moment_starts, asked, asked_starts, widths[w])

    out = np.empty((len(plan), len(asked)))
    for i in range(len(plan)):
        op, window, attribute = plan[i]
        empty = empties[i]
        is_of_labels = op >= _Op.COUNT_LABELS
        low, high = (label_edges[window], label_present) if is_of_labels else (edges[window], present)
        if op == _Op.COUNT:
            out[i] = kernel.total(rows, low, high, 1.0)
        elif op == _Op.SUM:
            out[i] = kernel.total(sums, low, high, 100.0)
        elif op == _Op.MEAN:
            out[i] = kernel.mean(sums, low, high, empty)
        elif op == _Op.STD:
            out[i] = kernel.std(sums, squares_high, squares_low, low, high, empty)
        elif op == _Op.ZSCORE:
            out[i] = kernel.zscore(asked_amounts, sums, squares_high, squares_low, low, high, empty)
        elif op == _Op.MAX:
            out[i] = kernel.largest(values, low, high, empty * 100.0) / 100.0
        elif op == _Op.MIN:
            out[i] = kernel.largest(-values, low, high, empty * -100.0) / -100.0
        elif op == _Op.RATIO_TO_MEAN:
            out[i] = kernel.ratio_to_mean(asked_amounts, sums, rows, low, high, empty)
        elif op == _Op.SHARE_OF_NIGHT:
            out[i] = kernel.share(nights, rows, low, high, empty)
        elif op == _Op.SHARE_OF_WEEKEND:
            out[i] = kernel.share(weekends, rows, low, high, empty)
        elif op == _Op.DISTINCT:
            out[i] = kernel.distinct(codes[attribute], low, high, empty)
        elif op == _Op.COUNT_SAME:
            out[i] = kernel.same(codes[0], asked_codes[0], low, high)
        elif op == _Op.IS_NEW:
            out[i] = kernel.is_new(codes[attribute], asked_codes[attribute], low, high, empty)
        elif op == _Op.IS_CHANGED:
            out[i] = kernel.is_changed(codes[attribute], asked_codes[attribute], low, high, empty)
        elif op == _Op.SINCE_TRANSACTION:
            out[i] = kernel.minutes_since(times, rows - 1, asked, low, high, empty)
        elif op == _Op.DISTANCE:
            out[i] = kernel.distance_from_last(latitude, longitude, asked_latitude, asked_longitude, low, high, empty)
        elif op == _Op.SPEED:
            away = kernel.distance_from_last(latitude, longitude, asked_latitude, asked_longitude, low, high, math.nan)
            out[i] = kernel.speed_from_last(away, times, asked, low, high, empty)
        elif op == _Op.MAX_RATIO:
            out[i] = kernel.largest(ratios, low, high, empty)
        elif op == _Op.COUNT_LARGE:
            out[i] = kernel.total(large, low, high, 1.0)
        elif op == _Op.SINCE_LARGE:
            out[i] = kernel.minutes_since(times, last_large, asked, low, high, empty)
        elif op == _Op.COUNT_UNLABELLED:
            out[i] = kernel.unlabelled(first_label, by_label, starts, asked, asked_starts, low, high)
        elif op == _Op.COUNT_LABELS:
            out[i] = kernel.total(label_sums, low, high, 1.0)
        elif op == _Op.COUNT_FRAUDS:
            out[i] = kernel.total(fraud_sums, low, high, 1.0)
        elif op == _Op.SHARE_OF_FRAUDS:
            out[i] = kernel.share(fraud_sums, label_sums, low, high, empty)
        elif op == _Op.LAST_LABEL:
            out[i] = kernel.last_is_fraud(frauds, low, high, empty)
        elif op == _Op.STREAK:
            out[i] = kernel.streak(fraud_sums, last_genuine, low, high)
        elif op == _Op.STREAK_AGE:
            out[i] = kernel.streak_minutes(moments, last_genuine, asked, low, high, empty)
        elif op == _Op.SINCE_FRAUD:
            out[i] = kernel.minutes_since(moments, last_fraud, asked, low, high, empty)
        elif op == _Op.SINCE_GENUINE:
            out[i] = kernel.minutes_since(moments, last_genuine, asked, low, high, empty)
        elif op == _Op.RATIO_TO_GENUINE:
            out[i] = kernel.ratio_to_mean(asked_amounts, genuine_amount_sums, genuine_sums, low, high, empty)
    return out
