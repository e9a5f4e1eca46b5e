"""Small transaction histories for tests: readable by hand, or drawn by Hypothesis where they hurt most."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import pandas as pd
from hypothesis import strategies as st

from fraud_pipelines import tables
from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.online_store.state import to_us

START = datetime(2026, 3, 1)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
# What a source may lack, in the order of raw.transactions.
OPTIONAL = tuple(name for name in tables.TRANSACTIONS.columns if hasattr(Payment("", START, "", "", 0), name))[5:]

# Distances at which an off-by-one shows: ties, the spec's window lengths, and one microsecond on either side of each.
_LENGTHS = (timedelta(0), HOUR, 6 * HOUR, *(days * DAY for days in (1, 3, 7, 14, 28, 30)))
_STEPS = sorted(
    {max(length + shift, timedelta(0)) for length in _LENGTHS for shift in (-MICROSECOND, timedelta(0), MICROSECOND)}
)

_CARDS = ("tok_a", "karte-ä🂡", "'; drop table x; --")
_MERCHANTS = ("m1", "商店")
# By code point: ' T9 't 1' t-1 t10 t9 tB t_1 tb tz tä t～ t😀 é. A collation, numbers compared as numbers, UTF-16 units
# or letters without case would order them otherwise.
_IDS = ("t9", "t10", "t 1", "t-1", "t_1", "tB", "tb", "tä", "tz", "T9", "t～", "t😀", "é", "'")
_BERLIN, _LONDON = (52.52, 13.405), (51.5074, -0.1278)
_PLACES = (
    *(_BERLIN, (52.520001, 13.405), _LONDON, (-52.52, -166.595)),  # the last is the antipode of the first
    *((90.0, 0.0), (90.0, 135.0), (-90.0, 0.0), (0.0, 180.0), (0.0, -180.0)),  # poles, one meridian twice
    *((None, None), (52.52, None), (None, 13.405)),
)


@st.composite
def histories(draw: st.DrawFn, *, largest_amount: int = 3_000_000_000) -> tuple[list[Payment], list[Verdict]]:
    """Up to 14 payments of 3 cards at 2 merchants over a few months; labels early, late, often, flipped or never."""
    moments = [START + draw(st.sampled_from((timedelta(0), -MICROSECOND, 6 * HOUR, 7 * HOUR)))]
    for _ in range(draw(st.integers(0, 13))):
        # From any earlier moment, so that several distances from one payment meet.
        moments.append(draw(st.sampled_from(moments)) + draw(st.sampled_from(_STEPS)))
    amounts = st.one_of(
        st.integers(0, 20_000), st.sampled_from((0, 1, 99, 100, 250, 251, largest_amount - 1, largest_amount))
    )
    places = st.sampled_from(_PLACES)
    cards = st.sampled_from(draw(st.sampled_from((_CARDS, _CARDS[:1]))))
    ids = draw(st.permutations(_IDS))
    payments = [
        Payment(
            transaction_id,
            moment,
            draw(cards),
            draw(st.sampled_from(_MERCHANTS)),
            draw(amounts),
            draw(st.sampled_from((None, "grocery", "旅行"))),
            draw(st.sampled_from((None, "pos", "online", "atm"))),
            draw(st.sampled_from((None, "DE", "FR"))),
            draw(st.sampled_from((None, "d1", "D1", "d1 "))),
            *draw(places),
            *draw(places),
        )
        for transaction_id, moment in zip(ids, moments, strict=False)
    ]
    # Known at another transaction's very moment, at a midnight, at a window's edge, or before it happened.
    midnights = [START + days * DAY for days in (0, 1, 7, 30)]
    verdicts = [
        Verdict(payment.transaction_id, known_at, draw(st.booleans()))
        for payment in payments
        for known_at in sorted(
            draw(
                st.sets(
                    st.one_of(
                        st.sampled_from([payment.event_time + step for step in (-HOUR, *_STEPS)]),
                        st.sampled_from([*moments, *midnights]),
                    ),
                    max_size=3,
                )
            )
        )
    ]
    # A label may overtake its transaction's file: it is nobody's then.
    verdicts += [Verdict("overtook", known_at, True) for known_at in moments[: draw(st.integers(0, 1))]]
    return payments, verdicts


def simulated_history(
    *,
    payments: int = 3_000,
    cards: int = 30,
    merchants: int = 12,
    days: int = 70,
    seed: int = 1,
    with_optional: bool = True,
) -> tuple[list[Payment], list[Verdict]]:
    """A seeded history with whole-second times, so that ties happen, and labels up to 20 days late, some flipped.

    Without `with_optional` it is that of a source that has none of the columns in OPTIONAL.
    """
    draw = random.Random(seed)

    def choice(*values: str) -> str | None:
        return draw.choice(values) if draw.random() < 0.9 else None

    def place(key: int) -> tuple[float | None, float | None]:
        at = random.Random(key)
        return (at.uniform(-90, 90), at.uniform(-180, 180)) if draw.random() < 0.9 else (None, None)

    made = []
    for position in range(payments):
        card, merchant = draw.randrange(cards), draw.randrange(merchants)
        moment = START + timedelta(seconds=draw.randrange(days * 86_400 // 300) * 300 + draw.randrange(3))
        # One in ten is large for its card.
        amount = draw.randrange(1, 50_000) * draw.choice((1,) * 9 + (10,))
        optional = (
            choice("grocery", "travel", "games", "fuel"),
            choice("pos", "online", "atm"),
            choice("DE", "DE", "DE", "FR", "PL"),
            choice(*(f"d{card}-{n}" for n in range(4))),
            *place(card),
            *place(-1 - merchant),
        )
        made.append(
            Payment(
                # In no order of time: who ties is ordered by this.
                f"t{position * 7_919 % 99_991}",
                moment,
                f"tok_{card:032x}",
                f"m{merchant}",
                amount,
                *(optional if with_optional else ()),
            )
        )
    verdicts = []
    for payment in made:
        if draw.random() < 0.95:
            known_at = payment.event_time + timedelta(seconds=draw.randrange(3_600, 20 * 86_400))
            is_fraud = draw.random() < 0.1
            verdicts.append(Verdict(payment.transaction_id, known_at, is_fraud))
            if not is_fraud and draw.random() < 0.05:  # a chargeback after the analyst's word
                verdicts.append(Verdict(payment.transaction_id, known_at + draw.randrange(1, 200) * HOUR, True))
    return made, verdicts


def transactions_frame(payments: Sequence[Payment]) -> pd.DataFrame:
    """Rows of raw.transactions."""
    types = {tables.TEXT: "str", tables.BIGINT: "int64", tables.DOUBLE: "float64", tables.TIMESTAMP: "datetime64[us]"}
    fixed = {"customer_id": None, "currency": "EUR", "source": "test", "ingestion_id": "i1"}
    return pd.DataFrame(
        {
            name: pd.Series(
                [fixed[name] if name in fixed else getattr(p, name) for p in payments], dtype=types[column.type]
            )
            for name, column in tables.TRANSACTIONS.columns.items()
        }
    )


def labels_frame(payments: Sequence[Payment], verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """Rows of raw.labels."""
    happened = {v.transaction_id: v.known_at for v in verdicts} | {p.transaction_id: p.event_time for p in payments}
    return pd.DataFrame(
        {
            "transaction_id": pd.Series([v.transaction_id for v in verdicts], dtype="str"),
            "event_time": pd.Series([happened[v.transaction_id] for v in verdicts], dtype="datetime64[us]"),
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
        **{name: getattr(payment, name) for name in OPTIONAL},
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
        payment.amount_minor,
    )


def online_history(payments: Iterable[Payment], verdicts: Iterable[Verdict], now: Payment) -> History:
    """All that ever happened with the payment's card and merchant, itself and what comes later included."""
    by_id = {p.transaction_id: p for p in payments}
    arrivals = [arrival([by_id[v.transaction_id]], v) for v in verdicts if v.transaction_id in by_id]

    def labels(own: str) -> list[tuple]:
        return sorted(
            (a.counts_from_us, a.transaction_id, int(a.is_fraud), a.amount_minor)
            for a in arrivals
            if getattr(a, own) == getattr(now, own)
        )

    def events(own: str, columns: tuple[str, ...]) -> list[tuple]:
        found = sorted((p for p in by_id.values() if getattr(p, own) == getattr(now, own)), key=_moment_and_id)
        return [(*_moment_and_id(p), *(getattr(p, name) for name in columns)) for p in found]

    places = ("merchant_latitude", "merchant_longitude")
    return History(
        card=EntityHistory(
            events("card_id", ("amount_minor", "merchant_id", "country", "device_id", "category", *places)),
            labels("card_id"),
        ),
        merchant=EntityHistory(events("merchant_id", ("amount_minor", "card_id")), labels("merchant_id")),
    )


def _moment_and_id(payment: Payment) -> tuple[int, str]:
    return to_us(payment.event_time), payment.transaction_id
