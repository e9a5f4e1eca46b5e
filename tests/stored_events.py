"""Events for tests of the online store, tables as the warehouse gives them, and the store in its plainest form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import pyarrow as pa

from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import OF_LARGE, FeatureSpec, load_spec
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import OPTIONAL, from_us, to_us

SPEC = load_spec()
MINUTE_US, HOUR_US, DAY_US = 60_000_000, 3_600_000_000, 86_400_000_000
# Longest windows: 7 days, where the project's own spec has 44 (14 and the baseline of 30 of large amounts) and 30.
SHORT_SPEC = replace(
    SPEC, features=tuple(f for f in SPEC.features if (f.window_us or 0) <= 7 * DAY_US and f.of not in OF_LARGE)
)
NOON = datetime(2026, 6, 1, 12)
NOON_US = to_us(NOON)
LATENESS_US = 2 * DAY_US
# Backends that forget what is old of a card or merchant with its next event; the log of the embedded one does later.
FORGETTING = ["sqlite, folded", "postgres", "redis"]


def payment(
    transaction_id: str, at_us: int, amount_minor: int = 100, card: str = "tok_a", merchant: str = "m1", **optional
) -> ScoredTransaction:
    return ScoredTransaction(transaction_id, at_us, card, merchant, amount_minor, "EUR", **optional)


def label(
    transaction_id: str,
    known_at_us: int,
    is_fraud: bool = True,
    card: str = "tok_a",
    merchant: str = "m1",
    event_time_us: int = 0,
    amount_minor: int = 100,
) -> LabelArrival:
    return LabelArrival(transaction_id, event_time_us, known_at_us, is_fraud, card, merchant, amount_minor)


def tables_of(transactions: Iterable[ScoredTransaction], labels: Iterable[LabelArrival]) -> tuple[pa.Table, pa.Table]:
    """What OnlineStore.rebuild takes."""
    transactions, labels = list(transactions), list(labels)
    time, place = pa.timestamp("us"), pa.float64()
    return (
        pa.table(
            {
                "transaction_id": pa.array([t.transaction_id for t in transactions], pa.string()),
                "event_time": pa.array([from_us(t.event_time_us) for t in transactions], time),
                "card_id": pa.array([t.card_id for t in transactions], pa.string()),
                "merchant_id": pa.array([t.merchant_id for t in transactions], pa.string()),
                "amount_minor": pa.array([t.amount_minor for t in transactions], pa.int64()),
                "currency": pa.array([t.currency for t in transactions], pa.string()),
                **{
                    name: pa.array([getattr(t, name) for t in transactions], place if "tude" in name else pa.string())
                    for name in OPTIONAL
                },
            }
        ),
        pa.table(
            {
                "transaction_id": pa.array([a.transaction_id for a in labels], pa.string()),
                "event_time": pa.array([from_us(a.event_time_us) for a in labels], time),
                "known_at": pa.array([from_us(a.known_at_us) for a in labels], time),
                "is_fraud": pa.array([a.is_fraud for a in labels], pa.bool_()),
                "amount_minor": pa.array([a.amount_minor for a in labels], pa.int64()),
                "card_id": pa.array([a.card_id for a in labels], pa.string()),
                "merchant_id": pa.array([a.merchant_id for a in labels], pa.string()),
            }
        ),
    )


def fill(url: str, as_of: datetime = NOON) -> None:
    """Fill the store of a URL from a warehouse that holds nothing yet; what was served stays, as at every rebuild."""
    store = open_online_store(url)
    try:
        store.rebuild(*tables_of([], []), as_of)
    finally:
        store.close()


def amounts(history: EntityHistory) -> list[int]:
    """Of the transactions, in order."""
    return [event[2] for event in history.events]


def ids(history: EntityHistory) -> list[str]:
    """Of the transactions, in order."""
    return [event[1] for event in history.events]


class NaiveStore:
    """Two dicts that never forget: what the online store says, as long as a question is not older than it promises."""

    def __init__(self) -> None:
        self._transactions: dict[str, tuple[ScoredTransaction, bool]] = {}
        self._labels: dict[tuple[str, int], tuple[LabelArrival, bool]] = {}

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        is_new = transaction.transaction_id not in self._transactions
        self._transactions.setdefault(transaction.transaction_id, (transaction, False))
        return is_new

    def record_label(self, arrival: LabelArrival) -> bool:
        identity = (arrival.transaction_id, arrival.known_at_us)
        is_new = identity not in self._labels
        self._labels.setdefault(identity, (arrival, False))
        return is_new

    def rebuild(self, transactions: Iterable[ScoredTransaction], labels: Iterable[LabelArrival], as_of_us: int) -> None:
        self._transactions = {
            id_: (t, of_warehouse)
            for id_, (t, of_warehouse) in self._transactions.items()
            if not of_warehouse or t.event_time_us >= as_of_us
        } | {t.transaction_id: (t, True) for t in transactions if t.event_time_us < as_of_us}
        self._labels = {
            identity: (a, of_warehouse)
            for identity, (a, of_warehouse) in self._labels.items()
            if not of_warehouse or a.counts_from_us >= as_of_us
        } | {(a.transaction_id, a.known_at_us): (a, True) for a in labels if a.counts_from_us < as_of_us}

    def history(self, card_id: str, merchant_id: str, at_us: int, spec: FeatureSpec = SPEC) -> History:
        # By code point: the order of Python's text.
        events = sorted((t for t, _ in self._transactions.values()), key=lambda t: (t.event_time_us, t.transaction_id))
        arrivals = sorted(
            (a for a, _ in self._labels.values()), key=lambda a: (a.counts_from_us, a.transaction_id, a.known_at_us)
        )

        def past(entity: str, of: str) -> list[ScoredTransaction]:
            since = at_us - spec.transactions_reach_us(entity)
            return [t for t in events if getattr(t, f"{entity}_id") == of and since < t.event_time_us < at_us]

        def known(entity: str, of: str) -> list[tuple[int, str, int, int]]:
            since = at_us - spec.labels_reach_us(entity)
            return [
                (a.counts_from_us, a.transaction_id, int(a.is_fraud), a.amount_minor)
                for a in arrivals
                if getattr(a, f"{entity}_id") == of and since < a.counts_from_us <= at_us
            ]

        return History(
            card=EntityHistory([card_event(t) for t in past("card", card_id)], known("card", card_id)),
            merchant=EntityHistory(
                [(t.event_time_us, t.transaction_id, t.amount_minor, t.card_id) for t in past("merchant", merchant_id)],
                known("merchant", merchant_id),
            ),
        )


def card_event(transaction: ScoredTransaction) -> tuple:
    """The transaction as the history of its card has it."""
    t = transaction
    return (
        t.event_time_us,
        t.transaction_id,
        t.amount_minor,
        t.merchant_id,
        *(getattr(t, name) for name in OPTIONAL[:5]),
    )


def record_all(url: str, transactions: Sequence[ScoredTransaction], labels: Sequence[LabelArrival]) -> tuple[int, int]:
    """Record everything from a store of this process's own; how many of each were new. For tests with processes."""
    store = open_online_store(url)
    try:
        return sum(map(store.record_transaction, transactions)), sum(map(store.record_label, labels))
    finally:
        store.close()
