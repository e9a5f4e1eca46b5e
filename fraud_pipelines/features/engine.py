"""The compiled engine: every feature of a card or merchant for many transactions at once.

The DuckDB warehouse and the scoring service both compute with it, so their features are equal by construction;
PostgreSQL computes in SQL. The edges of each window and all running totals are worked out once and shared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fraud_pipelines.features import kernel
from fraud_pipelines.features.blocks import Blocks
from fraud_pipelines.features.kernel import Codes, Double, Int64
from fraud_pipelines.features.spec import OF_CARD, OF_LARGE, OF_ORDINARY, FeatureSpec

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


@dataclass(frozen=True, slots=True)
class OwnValues:
    """What some transactions say of themselves. `is_online`, `is_atm`: whether the channel is; places are degrees.

    NaN is null.
    """

    time_us: Int64
    amount_minor: Int64
    is_online: Double
    is_atm: Double
    home_latitude: Double
    home_longitude: Double
    merchant_latitude: Double
    merchant_longitude: Double


class OwnEngine:
    """Computes the features of entity transaction, which need no history."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.features = spec.of_entity("transaction")

    def compute(self, own: OwnValues) -> list[Double]:
        """One array per feature in the order of the spec, one value per transaction; NaN is missing."""
        return [_OWN[feature.of](own) for feature in self.features]


_OWN: dict[str, Callable[[OwnValues], Double]] = {
    "amount": lambda own: own.amount_minor.astype(np.float64) / 100.0,
    "hour_of_day": lambda own: kernel.hours(own.time_us).astype(np.float64),
    "day_of_week": lambda own: kernel.days_of_week(own.time_us).astype(np.float64),
    "is_weekend": lambda own: (kernel.days_of_week(own.time_us) >= 5).astype(np.float64),
    "is_night": lambda own: (kernel.hours(own.time_us) <= 6).astype(np.float64),
    "is_online": lambda own: own.is_online,
    "is_atm": lambda own: own.is_atm,
    "home_distance": lambda own: kernel.distances(
        own.home_latitude, own.home_longitude, own.merchant_latitude, own.merchant_longitude
    ),
}


_OPS = {
    ("count", "transactions"): kernel.Op.COUNT,
    ("count", "same_merchant"): kernel.Op.COUNT_SAME,
    ("count", "large_amounts"): kernel.Op.COUNT_LARGE,
    ("count", "unlabelled"): kernel.Op.COUNT_UNLABELLED,
    ("sum", "amount"): kernel.Op.SUM,
    ("mean", "amount"): kernel.Op.MEAN,
    ("std", "amount"): kernel.Op.STD,
    ("max", "amount"): kernel.Op.MAX,
    ("max", "amount_ratio"): kernel.Op.MAX_RATIO,
    ("min", "amount"): kernel.Op.MIN,
    ("ratio_to_mean", "amount"): kernel.Op.RATIO_TO_MEAN,
    ("zscore", "amount"): kernel.Op.ZSCORE,
    ("share", "night"): kernel.Op.SHARE_OF_NIGHT,
    ("share", "weekend"): kernel.Op.SHARE_OF_WEEKEND,
    **{("distinct", of): kernel.Op.DISTINCT for of in (*OF_CARD, "card")},
    **{("is_new", of): kernel.Op.IS_NEW for of in OF_CARD},
    **{("is_changed", of): kernel.Op.IS_CHANGED for of in OF_CARD},
    ("time_since_last", "transaction"): kernel.Op.SINCE_TRANSACTION,
    ("time_since_last", "large_amount"): kernel.Op.SINCE_LARGE,
    ("distance_from_last", "place"): kernel.Op.DISTANCE,
    ("speed_from_last", "place"): kernel.Op.SPEED,
    ("count", "labels"): kernel.Op.COUNT_LABELS,
    ("count", "frauds"): kernel.Op.COUNT_FRAUDS,
    ("count", "ordinary_frauds"): kernel.Op.COUNT_ORDINARY,
    ("share", "frauds"): kernel.Op.SHARE_OF_FRAUDS,
    ("last", "label"): kernel.Op.LAST_LABEL,
    ("streak", "frauds"): kernel.Op.STREAK,
    ("streak_age", "frauds"): kernel.Op.STREAK_AGE,
    ("time_since_last", "fraud"): kernel.Op.SINCE_FRAUD,
    ("time_since_last", "ordinary_fraud"): kernel.Op.SINCE_ORDINARY,
    ("time_since_last", "genuine"): kernel.Op.SINCE_GENUINE,
    ("ratio_to_mean", "genuine_amount"): kernel.Op.RATIO_TO_GENUINE,
}


class EntityEngine:
    """Computes the features of one entity of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec, entity: str) -> None:
        self.features = spec.of_entity(entity)
        attributes = ATTRIBUTES[entity]
        # Those whose codes features look at; the lines of the others may hold anything.
        looked_at = {"merchant" if feature.of == "same_merchant" else feature.of for feature in self.features}
        self.attributes = looked_at & {*attributes}
        widths = sorted({feature.window_us or 0 for feature in self.features})
        # One row per feature: operation, window, attribute.
        self._plan = np.array(
            [
                (
                    _OPS[feature.measure, feature.of],
                    widths.index(feature.window_us or 0),
                    attributes.index(feature.of) if feature.of in attributes else 0,
                )
                for feature in self.features
            ],
            np.int64,
        ).reshape(len(self.features), 3)
        self._empties = np.array([0.0 if feature.when_empty == "zero" else math.nan for feature in self.features])
        self._large = (0, 0, 1, 1)
        if spec.large_amount is not None:
            large, asked = spec.large_amount, {feature.of for feature in self.features}
            own_us, label_us = (large.baseline_us if asked.intersection(of) else 0 for of in (OF_LARGE, OF_ORDINARY))
            self._large = (own_us, label_us, large.at_least, large.limit_tenths)
        self._widths = np.array(widths, np.int64)

    def compute(self, past: Past, known: Known, asked: Asked) -> Double:
        """One row per feature in the order of the spec, one column per asked transaction; NaN is missing."""
        return kernel.compute(
            self._plan, self._widths, self._empties, *self._large,
            past.starts, past.time_us, past.amount_minor, past.first_label_us, past.codes,
            past.latitude, past.longitude,
            known.starts, known.time_us, known.is_fraud, known.amount_minor,
            asked.starts, asked.time_us, asked.amount_minor, asked.codes, asked.latitude, asked.longitude,
        )  # fmt: skip

    def compute_held(
        self, owners: Int64, events: Blocks, labels: Blocks, asked: Asked, matrix: Double, lines: Int64, columns: Int64
    ) -> None:
        """The same of histories held in memory, each asked transaction's in its line of a matrix, by feature.

        Args:
            owners: the number of each entity in `events` and `labels`, which are those of an EntityStates.
        """
        numbers, codes, places = events.columns[:3]
        (arrivals,) = labels.columns
        kernel.compute_held(
            self._plan, self._widths, self._empties, *self._large,
            owners, events.spans, numbers, codes, places, labels.spans, arrivals,
            asked.starts, asked.time_us, asked.amount_minor, asked.codes, asked.latitude, asked.longitude,
            matrix, lines, columns,
        )  # fmt: skip


def order_by_entity(entity: Codes, entities: int, time_us: Int64) -> tuple[Int64, Int64]:
    """The order of rows by entity and time, stable, and where in it each entity starts (one entry more, the end)."""
    in_time = np.argsort(time_us, kind="stable")  # fast where rows come in time order, as most do
    order, starts = kernel.grouped(entity[in_time], entities)
    return in_time[order], starts
