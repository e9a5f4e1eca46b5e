"""The definitions in plain Python: exact fractions, one line or loop per measure, no shortcut.

Slow on purpose. It shares no code with the compiled engine or the SQL: three routes to one number can be compared.
Every value is the double nearest to the exact one, but for three that are no fractions: std and zscore are worked with
60 digits, and a distance (hence a speed) is as good as double trigonometry, about 1e-15 of the Earth's radius.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.features.spec import Feature, FeatureSpec, LargeAmount

MICROSECOND = timedelta(microseconds=1)
ID_COLUMNS = {"card": "card_id", "merchant": "merchant_id"}
VALUE_COLUMNS = {**ID_COLUMNS, "country": "country", "device": "device_id", "category": "category"}


@dataclass(frozen=True)
class Payment:
    """A transaction: `event_time` naive UTC, `amount_minor` in hundredths, places in degrees, None where unknown."""

    transaction_id: str
    event_time: datetime
    card_id: str
    merchant_id: str
    amount_minor: int
    category: str | None = None
    channel: str | None = None
    country: str | None = None
    device_id: str | None = None
    home_latitude: float | None = None
    home_longitude: float | None = None
    merchant_latitude: float | None = None
    merchant_longitude: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A label of a transaction and the moment it was known, naive UTC."""

    transaction_id: str
    known_at: datetime
    is_fraud: bool


@dataclass(frozen=True)
class Arrival:
    """A label as the features count it: of which payment, from when, and what it says."""

    payment: Payment
    counts_from: datetime
    is_fraud: bool


def reference_features(
    payments: Sequence[Payment], verdicts: Sequence[Verdict], spec: FeatureSpec
) -> dict[str, dict[str, float | None]]:
    """Every feature of every payment, by transaction id and feature name; None is missing.

    Args:
        payments: distinct transaction ids, any order.
        verdicts: any number per payment; those of unknown transactions belong to no card or merchant and do not count.
    """
    by_id = {payment.transaction_id: payment for payment in payments}
    arrivals = [
        Arrival(by_id[v.transaction_id], max(v.known_at, by_id[v.transaction_id].event_time + MICROSECOND), v.is_fraud)
        for v in verdicts
        if v.transaction_id in by_id
    ]
    histories = {entity: _Histories(payments, arrivals, entity, spec.large_amount) for entity in ID_COLUMNS}
    return {
        now.transaction_id: {
            feature.name: _own_value(feature, now)
            if feature.entity == "transaction"
            else _window_value(feature, now, histories[feature.entity])
            for feature in spec.features
        }
        for now in payments
    }


class _Histories:
    """Payments and label arrivals by card, or by merchant, and which of the payments were unusually large."""

    def __init__(
        self, payments: Sequence[Payment], arrivals: Sequence[Arrival], entity: str, large: LargeAmount | None
    ) -> None:
        self.column = ID_COLUMNS[entity]
        self.payments: dict[str, list[Payment]] = defaultdict(list)
        self.arrivals: dict[str, list[Arrival]] = defaultdict(list)
        self.arrivals_of: dict[str, list[Arrival]] = defaultdict(list)
        # Text compares by code point.
        for payment in sorted(payments, key=lambda p: (p.event_time, p.transaction_id)):
            self.payments[getattr(payment, self.column)].append(payment)
        for arrival in arrivals:
            self.arrivals[getattr(arrival.payment, self.column)].append(arrival)
            self.arrivals_of[arrival.payment.transaction_id].append(arrival)
        self.large = large
        self.own_ratios = {p.transaction_id: self._ratio_to_baseline(p, p.event_time) for p in payments}

    @cache  # noqa: B019 - lives as long as one call of reference_features
    def past(self, now: Payment, window_us: int) -> list[Payment]:
        return self._before(now.event_time, now, window_us)

    @cache  # noqa: B019
    def known(self, now: Payment, window_us: int) -> list[Arrival]:
        own, window = self.arrivals[getattr(now, self.column)], window_us * MICROSECOND
        return [a for a in own if timedelta(0) <= now.event_time - a.counts_from < window]

    def is_labelled(self, payment: Payment, now: Payment) -> bool:
        return any(a.counts_from <= now.event_time for a in self.arrivals_of[payment.transaction_id])

    def is_large(self, payment: Payment) -> bool:
        return self._is_above_limit(self.own_ratios[payment.transaction_id])

    @cache  # noqa: B019
    def is_ordinary(self, arrival: Arrival) -> bool:
        return not self._is_above_limit(self._ratio_to_baseline(arrival.payment, arrival.counts_from))

    def _is_above_limit(self, ratio: Fraction | None) -> bool:
        return ratio is not None and self.large is not None and ratio > Fraction(self.large.limit_tenths, 10)

    def _ratio_to_baseline(self, payment: Payment, moment: datetime) -> Fraction | None:
        """The payment's amount over the mean of the baseline before a moment."""
        if self.large is None:
            return None
        amounts = [p.amount_minor for p in self._before(moment, payment, self.large.baseline_us)]
        return _ratio_to_mean(payment, amounts) if len(amounts) >= self.large.at_least else None

    def _before(self, moment: datetime, of: Payment, window_us: int) -> list[Payment]:
        own, window = self.payments[getattr(of, self.column)], window_us * MICROSECOND
        return [p for p in own if timedelta(0) < moment - p.event_time < window]


def _own_value(feature: Feature, now: Payment) -> float | None:
    moment = now.event_time
    match feature.of:
        case "amount":
            return float(Fraction(now.amount_minor, 100))
        case "hour_of_day":
            return float(moment.hour)
        case "day_of_week":
            return float(moment.weekday())
        case "is_weekend":
            return float(_is_weekend(now))
        case "is_night":
            return float(_is_night(now))
        case "is_online" | "is_atm":
            return None if now.channel is None else float(now.channel == feature.of.removeprefix("is_"))
        case "home_distance":
            home = now.home_latitude, now.home_longitude
            return _distance_km(*home, now.merchant_latitude, now.merchant_longitude)
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _window_value(feature: Feature, now: Payment, histories: _Histories) -> float | None:
    past = histories.past(now, feature.window_us or 0)
    known = histories.known(now, feature.window_us or 0)
    value: Fraction | float | None
    if feature.of_labels:
        value = _label_value(feature, now, known, histories)
    elif feature.of in VALUE_COLUMNS:
        value = _comparison(feature, now, past, VALUE_COLUMNS[feature.of])
    elif feature.of == "amount":
        value = _amount_value(feature, now, [p.amount_minor for p in past])
    else:
        value = _transaction_value(feature, now, past, histories)
    if value is None:
        return 0.0 if feature.when_empty == "zero" else None
    return float(value)


def _amount_value(feature: Feature, now: Payment, amounts: list[int]) -> Fraction | float | None:
    """Measures of the amounts in past, in minor units there and in major units here."""
    match feature.measure:
        case "sum":
            return Fraction(sum(amounts), 100)
        case "mean":
            return Fraction(sum(amounts), 100 * len(amounts)) if amounts else None
        case "max":
            return Fraction(max(amounts), 100) if amounts else None
        case "min":
            return Fraction(min(amounts), 100) if amounts else None
        case "ratio_to_mean":
            return _ratio_to_mean(now, amounts)
        case "std":
            return float(_sample_deviation([Fraction(a, 100) for a in amounts])) if len(amounts) >= 2 else None
        case "zscore":
            return _zscore(now, amounts) if len(amounts) >= 2 else None
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _transaction_value(
    feature: Feature, now: Payment, past: list[Payment], histories: _Histories
) -> Fraction | float | None:
    """Measures of the transactions in past."""
    large = [p for p in past if feature.of.startswith("large") and histories.is_large(p)]
    last = past[-1] if past else None
    match (feature.measure, feature.of):
        case ("count", "transactions"):
            return Fraction(len(past))
        case ("count", "same_merchant"):
            return Fraction(sum(p.merchant_id == now.merchant_id for p in past))
        case ("count", "large_amounts"):
            return Fraction(len(large))
        case ("count", "unlabelled"):
            return Fraction(sum(not histories.is_labelled(p, now) for p in past))
        case ("max", "amount_ratio"):
            ratios = [histories.own_ratios[p.transaction_id] for p in past]
            return max((ratio for ratio in ratios if ratio is not None), default=None)
        case ("share", "night"):
            return Fraction(sum(map(_is_night, past)), len(past)) if past else None
        case ("share", "weekend"):
            return Fraction(sum(map(_is_weekend, past)), len(past)) if past else None
        case ("time_since_last", "transaction"):
            return _minutes(now.event_time - last.event_time) if last else None
        case ("time_since_last", "large_amount"):
            return _minutes(now.event_time - large[-1].event_time) if large else None
        case ("distance_from_last", "place"):
            return _distance_from(last, now) if last else None
        case ("speed_from_last", "place"):
            km = _distance_from(last, now) if last else None
            return km / ((now.event_time - last.event_time) / timedelta(hours=1)) if last and km is not None else None
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _comparison(feature: Feature, now: Payment, past: list[Payment], column: str) -> Fraction | None:
    """Measures of the different values of a column in past; nulls are no value."""
    values = [getattr(p, column) for p in past]
    own = getattr(now, column)
    match feature.measure:
        case "distinct":
            different = set(values) - {None}
            return Fraction(len(different)) if different else None
        case "is_new":
            return None if own is None else Fraction(own not in values)
        case "is_changed":
            return None if not values or own is None or values[-1] is None else Fraction(own != values[-1])
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _label_value(feature: Feature, now: Payment, known: list[Arrival], histories: _Histories) -> Fraction | None:
    """Measures of the label arrivals in known."""
    frauds = [a for a in known if a.is_fraud]
    ordinary = [a for a in frauds if feature.of.startswith("ordinary") and histories.is_ordinary(a)]
    genuine = [a for a in known if not a.is_fraud]
    streak = [a.counts_from for a in frauds if all(a.counts_from > g.counts_from for g in genuine)]
    match (feature.measure, feature.of):
        case ("count", "labels"):
            return Fraction(len(known))
        case ("count", "frauds"):
            return Fraction(len(frauds))
        case ("count", "ordinary_frauds"):
            return Fraction(len(ordinary))
        case ("share", "frauds"):
            return Fraction(len(frauds), len(known)) if known else None
        case ("last", "label"):
            last = max((a.counts_from for a in known), default=None)
            return Fraction(any(a.counts_from == last for a in frauds)) if known else None
        case ("streak", "frauds"):
            return Fraction(len(streak))
        case ("streak_age", "frauds"):
            return _minutes(now.event_time - min(streak)) if streak else None
        case ("time_since_last", "fraud"):
            return _minutes(now.event_time - max(a.counts_from for a in frauds)) if frauds else None
        case ("time_since_last", "ordinary_fraud"):
            return _minutes(now.event_time - max(a.counts_from for a in ordinary)) if ordinary else None
        case ("time_since_last", "genuine"):
            return _minutes(now.event_time - max(a.counts_from for a in genuine)) if genuine else None
        case ("ratio_to_mean", "genuine_amount"):
            return _ratio_to_mean(now, [a.payment.amount_minor for a in genuine])
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _is_night(payment: Payment) -> bool:
    return payment.event_time.hour in range(7)


def _is_weekend(payment: Payment) -> bool:
    return payment.event_time.weekday() in (5, 6)


def _minutes(age: timedelta) -> Fraction:
    return Fraction(age // MICROSECOND, 60_000_000)


def _ratio_to_mean(now: Payment, amounts: list[int]) -> Fraction | None:
    return now.amount_minor / Fraction(sum(amounts), len(amounts)) if sum(amounts) > 0 else None


def _sample_deviation(values: list[Fraction]) -> Decimal:
    """sqrt(sum (v - mean)^2 / (n - 1)) to 60 digits."""
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / (len(values) - 1)
    with localcontext(prec=60):
        return (Decimal(variance.numerator) / variance.denominator).sqrt()


def _zscore(now: Payment, amounts: list[int]) -> float | None:
    """(x - mean) / std to 60 digits; None while the amounts are all the same."""
    deviation = _sample_deviation([Fraction(a) for a in amounts])
    above = now.amount_minor - Fraction(sum(amounts), len(amounts))
    with localcontext(prec=60):
        return float(above.numerator / (above.denominator * deviation)) if deviation else None


def _distance_from(last: Payment, now: Payment) -> float | None:
    place = last.merchant_latitude, last.merchant_longitude
    return _distance_km(*place, now.merchant_latitude, now.merchant_longitude)


def _distance_km(*degrees: float | None) -> float | None:
    """Great-circle distance of (latitude, longitude, latitude, longitude); None when one of them is.

    Vincenty's formula for a sphere: another one than that of the SQL and the engine.
    """
    known = [math.radians(value) for value in degrees if value is not None]
    if len(known) < 4:
        return None
    phi, lambda_1, psi, lambda_2 = known
    turn = lambda_2 - lambda_1
    east = math.cos(psi) * math.sin(turn)
    north = math.cos(phi) * math.sin(psi) - math.sin(phi) * math.cos(psi) * math.cos(turn)
    along = math.sin(phi) * math.sin(psi) + math.cos(phi) * math.cos(psi) * math.cos(turn)
    return 6371.0088 * math.atan2(math.hypot(east, north), along)
