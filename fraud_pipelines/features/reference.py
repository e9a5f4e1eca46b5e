"""The definitions in plain Python: exact fractions, one loop per feature, no shortcut.

Slow on purpose. It shares no code with the online engine or the SQL: three routes to one number can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from fractions import Fraction

from fraud_pipelines.errors import SpecInvalid
from fraud_pipelines.features.spec import Feature, FeatureSpec

EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Payment:
    """A transaction: `event_time` naive UTC, `amount_minor` in hundredths."""

    transaction_id: str
    event_time: datetime
    card_id: str
    merchant_id: str
    amount_minor: int


@dataclass(frozen=True)
class Verdict:
    """A label of a transaction and the moment it was known, naive UTC."""

    transaction_id: str
    known_at: datetime
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
        (by_id[v.transaction_id], max(v.known_at, by_id[v.transaction_id].event_time + MICROSECOND), v.is_fraud)
        for v in verdicts
        if v.transaction_id in by_id
    ]
    return {
        now.transaction_id: {feature.name: _value(feature, now, payments, arrivals) for feature in spec.features}
        for now in payments
    }


def _value(
    feature: Feature,
    now: Payment,
    payments: Sequence[Payment],
    arrivals: Sequence[tuple[Payment, datetime, bool]],
) -> float | None:
    if feature.entity == "transaction":
        return _own_value(feature.of, now)
    window = timedelta(microseconds=feature.window_us or 0)
    past = [
        payment
        for payment in payments
        if _entity(feature, payment) == _entity(feature, now)
        and timedelta(0) < now.event_time - payment.event_time < window
    ]
    known = [
        is_fraud
        for payment, known_at, is_fraud in arrivals
        if _entity(feature, payment) == _entity(feature, now) and timedelta(0) <= now.event_time - known_at < window
    ]
    value = _window_value(feature, now, past, known)
    if value is None:
        return 0.0 if feature.when_empty == "zero" else None
    return float(value)


def _entity(feature: Feature, payment: Payment) -> str:
    return payment.card_id if feature.entity == "card" else payment.merchant_id


def _own_value(of: str, now: Payment) -> float:
    moment = now.event_time.replace(tzinfo=UTC)
    if of == "amount":
        return float(Fraction(now.amount_minor, 100))
    return float(
        {
            "hour_of_day": moment.hour,
            "day_of_week": moment.weekday(),
            "is_weekend": moment.weekday() in (5, 6),
            "is_night": moment.hour in range(7),
        }[of]
    )


def _window_value(feature: Feature, now: Payment, past: list[Payment], known: list[bool]) -> Fraction | float | None:
    amounts = [Fraction(p.amount_minor, 100) for p in past]
    match (feature.measure, feature.of):
        case ("count", "transactions"):
            return Fraction(len(past))
        case ("sum", "amount"):
            return sum(amounts, Fraction(0))
        case ("mean", "amount"):
            return sum(amounts) / Fraction(len(amounts)) if amounts else None
        case ("std", "amount"):
            return _sample_deviation(amounts) if len(amounts) > 1 else None
        case ("max", "amount"):
            return max(amounts) if amounts else None
        case ("ratio_to_mean", "amount"):
            total = sum(amounts, Fraction(0))
            return Fraction(now.amount_minor, 100) / (total / len(amounts)) if total > 0 else None
        case ("time_since_previous", "transactions"):
            latest = max((p.event_time for p in past), default=None)
            return Fraction((now.event_time - latest) // MICROSECOND, 60_000_000) if latest is not None else None
        case ("count", "labels"):
            return Fraction(len(known))
        case ("count", "frauds"):
            return Fraction(known.count(True))
        case ("share", "frauds"):
            return Fraction(known.count(True), len(known)) if known else None
    raise SpecInvalid(f"{feature.name}: the reference has no definition of {feature.measure} of {feature.of}.")


def _sample_deviation(values: list[Fraction]) -> float:
    """sqrt(sum (v - mean)^2 / (n - 1)), worked with 60 digits."""
    mean = sum(values, Fraction(0)) / len(values)
    variance = sum(((v - mean) ** 2 for v in values), Fraction(0)) / (len(values) - 1)
    with localcontext() as context:
        context.prec = 60
        return float((Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt())
