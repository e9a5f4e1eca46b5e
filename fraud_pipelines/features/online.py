"""The online engine: one transaction's feature vector from the recent events of its card and merchant.

Whole numbers until the last expression, whose operand order is that of the dbt macro feature_expression: the doubles
are the warehouse's to the last bit. Reads no store and no clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fraud_pipelines.features.spec import Feature, FeatureSpec

_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US


@dataclass(frozen=True, slots=True)
class ScoredTransaction:
    """A transaction to score: event time in microseconds since 1970-01-01 UTC, amount in minor units of `currency`."""

    transaction_id: str
    event_time_us: int
    card_id: str
    merchant_id: str
    amount_minor: int
    currency: str
    customer_id: str | None = None
    category: str | None = None
    channel: str | None = None
    country: str | None = None
    device_id: str | None = None
    home_latitude: float | None = None
    home_longitude: float | None = None
    merchant_latitude: float | None = None
    merchant_longitude: float | None = None


@dataclass(frozen=True, slots=True)
class LabelArrival:
    """A label, and whose it is: the transaction's card and merchant. Times in microseconds."""

    transaction_id: str
    event_time_us: int
    known_at_us: int
    is_fraud: bool
    card_id: str
    merchant_id: str

    @property
    def counts_from_us(self) -> int:
        """When it starts to count: known_at, but a microsecond after its transaction at the earliest."""
        return max(self.known_at_us, self.event_time_us + 1)


@dataclass(frozen=True, slots=True)
class EntityHistory:
    """Events of one card or merchant, ascending in time; equal positions belong together.

    transaction_times_us and amounts_minor: transactions by event time. label_times_us and label_is_fraud (0 or 1):
    label arrivals by the moment they count from. It may hold more than a window needs, even the scored transaction.
    """

    transaction_times_us: Sequence[int] = ()
    amounts_minor: Sequence[int] = ()
    label_times_us: Sequence[int] = ()
    label_is_fraud: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What the online store knows of the card and of the merchant of one transaction."""

    card: EntityHistory = field(default_factory=EntityHistory)
    merchant: EntityHistory = field(default_factory=EntityHistory)


@dataclass(frozen=True, slots=True)
class _Window:
    """The part of a history inside one window: sums are exact Python integers."""

    count: int
    amounts: Sequence[int]
    previous_time_us: int | None
    labels: int
    frauds: int


Measure = Callable[[_Window, ScoredTransaction], float | None]


class OnlineEngine:
    """Computes the vector of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._own = [(f.name, _OWN_VALUES[f.of]) for f in spec.features if f.entity == "transaction"]
        # Features that share a window share its bounds: (entity, window) -> [(name, measure, value when empty)].
        self._groups: dict[tuple[str, int], list[tuple[str, Measure, float | None]]] = {}
        for feature in spec.features:
            if feature.window_us is not None:
                group = self._groups.setdefault((feature.entity, feature.window_us), [])
                group.append((feature.name, _measure(feature), 0.0 if feature.when_empty == "zero" else None))

    def vector(self, transaction: ScoredTransaction, history: History) -> dict[str, float | None]:
        """Every feature of the spec by name, in the order of the spec; None is missing."""
        found: dict[str, float | None] = {name: own(transaction) for name, own in self._own}
        for (entity, window_us), features in self._groups.items():
            past = history.card if entity == "card" else history.merchant
            window = _cut(past, transaction.event_time_us, window_us)
            for name, measure, empty in features:
                value = measure(window, transaction)
                found[name] = empty if value is None else value
        return {name: found[name] for name in self.spec.names}


def _cut(past: EntityHistory, now_us: int, window_us: int) -> _Window:
    # Transactions with 0 < age < window, label arrivals with 0 <= age < window.
    first = bisect_right(past.transaction_times_us, now_us - window_us)
    last = bisect_left(past.transaction_times_us, now_us)
    first_label = bisect_right(past.label_times_us, now_us - window_us)
    last_label = bisect_right(past.label_times_us, now_us)
    return _Window(
        count=last - first,
        amounts=past.amounts_minor[first:last],
        previous_time_us=past.transaction_times_us[last - 1] if last > first else None,
        labels=last_label - first_label,
        frauds=sum(past.label_is_fraud[first_label:last_label]),
    )


_OWN_VALUES: dict[str, Callable[[ScoredTransaction], float]] = {
    "amount": lambda t: float(t.amount_minor) / 100.0,
    "hour_of_day": lambda t: float(t.event_time_us // _HOUR_US % 24),
    # 1970-01-01 was a Thursday: 3 days after Monday.
    "day_of_week": lambda t: float(_day_of_week(t)),
    "is_weekend": lambda t: 1.0 if _day_of_week(t) >= 5 else 0.0,
    "is_night": lambda t: 1.0 if t.event_time_us // _HOUR_US % 24 <= 6 else 0.0,
}


def _day_of_week(transaction: ScoredTransaction) -> int:
    return (transaction.event_time_us // _DAY_US + 3) % 7


def _measure(feature: Feature) -> Measure:
    return _WINDOW_MEASURES[feature.measure, feature.of]


def _mean(window: _Window, _: ScoredTransaction) -> float | None:
    return float(sum(window.amounts)) / (100.0 * float(window.count)) if window.count else None


def _std(window: _Window, _: ScoredTransaction) -> float | None:
    n = window.count
    if n < 2:
        return None
    total = sum(window.amounts)
    squares = sum(x * x for x in window.amounts)
    return math.sqrt(float(n * squares - total * total) / float(n * (n - 1))) / 100.0


def _ratio_to_mean(window: _Window, now: ScoredTransaction) -> float | None:
    total = sum(window.amounts)
    return float(now.amount_minor) * float(window.count) / float(total) if total > 0 else None


def _minutes_since_previous(window: _Window, now: ScoredTransaction) -> float | None:
    if window.previous_time_us is None:
        return None
    return float(now.event_time_us - window.previous_time_us) / 60_000_000.0


_WINDOW_MEASURES: dict[tuple[str, str], Measure] = {
    ("count", "transactions"): lambda w, _: float(w.count),
    ("sum", "amount"): lambda w, _: float(sum(w.amounts)) / 100.0,
    ("mean", "amount"): _mean,
    ("std", "amount"): _std,
    ("max", "amount"): lambda w, _: float(max(w.amounts)) / 100.0 if w.count else None,
    ("ratio_to_mean", "amount"): _ratio_to_mean,
    ("time_since_previous", "transactions"): _minutes_since_previous,
    ("count", "labels"): lambda w, _: float(w.labels),
    ("count", "frauds"): lambda w, _: float(w.frauds),
    ("share", "frauds"): lambda w, _: float(w.frauds) / float(w.labels) if w.labels else None,
}
