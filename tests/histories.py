"""Small transaction histories for tests: readable by hand, or drawn by Hypothesis where they hurt most."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import pandas as pd
from hypothesis import strategies as st

from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.online_store.state import to_us

START = datetime(2026, 3, 1)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

# Distances at which an off-by-one shows: ties, window lengths, and one microsecond on either side of each.
_LENGTHS = (timedelta(0), HOUR, DAY, 7 * DAY, 30 * DAY)
_STEPS = tuple({length + shift for length in _LENGTHS for shift in (-MICROSECOND, timedelta(0), MICROSECOND)})
_STEPS_FORWARD = sorted(step for step in _STEPS if step >= timedelta(0))

_CARDS = ("tok_a", "karte-ä🂡", "'; drop table x; --")
_MERCHANTS = ("m1", "商店")


@st.composite
def histories(draw: st.DrawFn, *, largest_amount: int = 3_000_000_000) -> tuple[list[Payment], list[Verdict]]:
    """Up to 14 payments of 3 cards at 2 merchants over a few months, and labels early, late, twice or never."""
    moments = [START + draw(st.sampled_from((timedelta(0), -MICROSECOND, 6 * HOUR, 7 * HOUR)))]
    for _ in range(draw(st.integers(0, 13))):
        # From any earlier moment, so that several distances from one payment meet.
        moments.append(draw(st.sampled_from(moments)) + draw(st.sampled_from(_STEPS_FORWARD)))
    amounts = st.one_of(st.integers(1, 20_000), st.sampled_from((1, 99, largest_amount - 1, largest_amount)))
    payments = [
        Payment(
            f"t{position}é",
            moment,
            draw(st.sampled_from(_CARDS)),
            draw(st.sampled_from(_MERCHANTS)),
            draw(amounts),
        )
        for position, moment in enumerate(moments)
    ]
    delays = st.sampled_from((-HOUR, *_STEPS_FORWARD))
    verdicts = [
        Verdict(payment.transaction_id, payment.event_time + delay, draw(st.booleans()))
        for payment in payments
        for delay in draw(st.sets(delays, max_size=2))
    ]
    return payments, verdicts


def simulated_history(
    *, payments: int = 3_000, cards: int = 30, merchants: int = 12, days: int = 70, seed: int = 1
) -> tuple[list[Payment], list[Verdict]]:
    """A seeded history with whole-second times, so that ties happen, and labels about seven days late."""
    draw = random.Random(seed)
    made = [
        Payment(
            f"t{position:05d}",
            START + timedelta(seconds=draw.randrange(days * 86_400 // 300) * 300 + draw.randrange(3)),
            f"tok_{draw.randrange(cards):032x}",
            f"m{draw.randrange(merchants)}",
            draw.randrange(1, 50_000),
        )
        for position in range(payments)
    ]
    verdicts = [
        Verdict(
            p.transaction_id,
            p.event_time + timedelta(seconds=draw.randrange(3_600, 20 * 86_400)),
            draw.random() < 0.1,
        )
        for p in made
        if draw.random() < 0.95
    ]
    return made, verdicts


def transactions_frame(payments: Sequence[Payment]) -> pd.DataFrame:
    """Rows of raw.transactions."""
    return pd.DataFrame(
        {
            "transaction_id": pd.Series([p.transaction_id for p in payments], dtype="str"),
            "event_time": pd.Series([p.event_time for p in payments], dtype="datetime64[us]"),
            "card_id": pd.Series([p.card_id for p in payments], dtype="str"),
            "merchant_id": pd.Series([p.merchant_id for p in payments], dtype="str"),
            "amount_minor": pd.Series([p.amount_minor for p in payments], dtype="int64"),
            "currency": "EUR",
            "source": "test",
            "ingestion_id": "i1",
        }
    )


def labels_frame(payments: Sequence[Payment], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Rows of raw.labels."""
    times = {p.transaction_id: p.event_time for p in payments}
    return pd.DataFrame(
        {
            "transaction_id": pd.Series([v.transaction_id for v in verdicts], dtype="str"),
            "event_time": pd.Series([times[v.transaction_id] for v in verdicts], dtype="datetime64[us]"),
            "known_at": pd.Series([v.known_at for v in verdicts], dtype="datetime64[us]"),
            "is_fraud": pd.Series([v.is_fraud for v in verdicts], dtype="bool"),
            "label_source": "file",
            "ingestion_id": "i1",
        }
    )


def scored(payment: Payment) -> ScoredTransaction:
    """The payment as the scoring service sees it."""
    return ScoredTransaction(
        payment.transaction_id,
        to_us(payment.event_time),
        payment.card_id,
        payment.merchant_id,
        payment.amount_minor,
        "EUR",
    )


def arrival(payments: Sequence[Payment], verdict: Verdict) -> LabelArrival:
    """The verdict as the online store takes it."""
    payment = next(p for p in payments if p.transaction_id == verdict.transaction_id)
    return LabelArrival(
        verdict.transaction_id,
        to_us(payment.event_time),
        to_us(verdict.known_at),
        verdict.is_fraud,
        payment.card_id,
        payment.merchant_id,
    )
