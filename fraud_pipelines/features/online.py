"""The online engine: one transaction's feature vector from the recent events of its card and merchant.

Computes with the same engine as the DuckDB warehouse. Reads no store and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from fraud_pipelines.features.engine import Asked, EntityEngine, Known, OwnEngine, OwnValues, Past
from fraud_pipelines.features.entity_state import EntityState
from fraud_pipelines.features.kernel import Double, Int64
from fraud_pipelines.features.spec import FeatureSpec


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
    """A label, and whose it is: the transaction's card, merchant and amount in minor units. Times in microseconds."""

    transaction_id: str
    event_time_us: int
    known_at_us: int
    is_fraud: bool
    card_id: str
    merchant_id: str
    amount_minor: int

    @property
    def counts_from_us(self) -> int:
        """When it starts to count: known_at, but a microsecond after its transaction at the earliest."""
        return max(self.known_at_us, self.event_time_us + 1)


CardEvent = tuple[int, str, int, str, str | None, str | None, str | None, float | None, float | None]
"""event_time_us, transaction_id, amount_minor, merchant_id, country, device_id, category, and the merchant's place."""
MerchantEvent = tuple[int, str, int, str]
"""event_time_us, transaction_id, amount_minor, card_id."""
Label = tuple[int, str, int, int]
"""counts_from_us, transaction_id, is_fraud (0 or 1), amount_minor."""
Event = TypeVar("Event", CardEvent, MerchantEvent)


@dataclass(frozen=True, slots=True)
class EntityHistory(Generic[Event]):
    """What happened with one card or merchant, ascending by time, then transaction_id.

    It may hold more than a window needs, even the scored transaction.
    """

    events: Sequence[Event] = ()
    labels: Sequence[Label] = ()


@dataclass(frozen=True, slots=True)
class History:
    """What the online store knows of the card and of the merchant of one transaction."""

    card: EntityHistory[CardEvent] = field(default_factory=EntityHistory)
    merchant: EntityHistory[MerchantEvent] = field(default_factory=EntityHistory)


class OnlineEngine:
    """Computes the vectors of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._own = OwnEngine(spec)
        self._card, self._merchant = EntityEngine(spec, "card"), EntityEngine(spec, "merchant")
        engines = (self._own, self._card, self._merchant)
        position = {name: i for i, name in enumerate(spec.names)}
        self._columns = [np.array([position[f.name] for f in engine.features], np.int64) for engine in engines]

    def matrix(
        self, transactions: Sequence[ScoredTransaction], cards: Sequence[EntityState], merchants: Sequence[EntityState]
    ) -> Double:
        """Features of shape (n, features), columns in the order of the spec; NaN is missing.

        Args:
            cards, merchants: of each transaction, the same object for the same card or merchant. They may hold the
                transactions themselves and later ones: what counts is the time.
        """
        found = np.empty((len(transactions), len(self.spec.names)))
        found[:, self._columns[0]] = np.array(self._own.compute(_own_values(transactions))).T
        for engine, columns, states in (
            (self._card, self._columns[1], cards),
            (self._merchant, self._columns[2], merchants),
        ):
            order, different = _by_entity(transactions, states)
            values = engine.compute(_past(different), _known(different), _asked(transactions, states, order, different))
            found[np.array(order)[:, np.newaxis], columns] = values.T
        return found

    def vector(self, transaction: ScoredTransaction, history: History) -> dict[str, float | None]:
        """Every feature of the spec by name, in the order of the spec; None is missing."""
        card = EntityState.whole("card", history.card.events, history.card.labels)
        merchant = EntityState.whole("merchant", history.merchant.events, history.merchant.labels)
        return named(self.matrix([transaction], [card], [merchant])[0], self.spec.names)


def named(vector: Double, names: Sequence[str]) -> dict[str, float | None]:
    """One row of a matrix by feature; None is missing."""
    return {name: None if value != value else value for name, value in zip(names, vector.tolist(), strict=True)}


_ONE = np.array([0, 1])
_NOWHERE = np.empty(0)


def _by_entity(
    transactions: Sequence[ScoredTransaction], states: Sequence[EntityState]
) -> tuple[list[int], list[tuple[EntityState, int]]]:
    """Row numbers by entity, then time; and every entity with how many of the transactions are its own."""
    if len(transactions) == 1:
        return [0], [(states[0], 1)]
    of_entity: dict[int, list[int]] = {}
    for row, state in enumerate(states):
        of_entity.setdefault(id(state), []).append(row)
    order, different = [], []
    for rows in of_entity.values():
        rows.sort(key=lambda row: transactions[row].event_time_us)
        order += rows
        different.append((states[rows[0]], len(rows)))
    return order, different


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _starts(sizes: list[int]) -> Int64:
    starts = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    return starts


def _past(different: list[tuple[EntityState, int]]) -> Past:
    states = [state for state, _ in different]
    is_card = states[0].is_card
    return Past(
        starts=_starts([state.size for state in states]),
        time_us=_joined([state.time_us[: state.size] for state in states]),
        amount_minor=_joined([state.amount_minor[: state.size] for state in states]),
        first_label_us=_joined([state.first_label_us[: state.size] for state in states]),
        codes=np.ascontiguousarray(_joined([state.codes[:, : state.size] for state in states])),
        latitude=_joined([state.latitude[: state.size] for state in states]) if is_card else _NOWHERE,
        longitude=_joined([state.longitude[: state.size] for state in states]) if is_card else _NOWHERE,
    )


def _known(different: list[tuple[EntityState, int]]) -> Known:
    states = [state for state, _ in different]
    return Known(
        starts=_starts([state.labels for state in states]),
        time_us=_joined([state.label_time_us[: state.labels] for state in states]),
        is_fraud=_joined([state.label_fraud[: state.labels] for state in states]),
        amount_minor=_joined([state.label_amount[: state.labels] for state in states]),
    )


def _asked(
    transactions: Sequence[ScoredTransaction],
    states: Sequence[EntityState],
    order: list[int],
    different: list[tuple[EntityState, int]],
) -> Asked:
    rows = [transactions[row] for row in order]
    is_card = states[0].is_card
    codes = [
        [state.code_of(i, value) for i, value in enumerate(_attributes(now, is_card))]
        for now, state in zip(rows, (states[row] for row in order), strict=True)
    ]
    return Asked(
        starts=_ONE if len(rows) == 1 else _starts([count for _, count in different]),
        time_us=np.array([now.event_time_us for now in rows], np.int64),
        amount_minor=np.array([now.amount_minor for now in rows], np.int64),
        codes=np.array(codes, np.int32).T.copy(),
        latitude=np.array([now.merchant_latitude for now in rows], np.float64) if is_card else _NOWHERE,
        longitude=np.array([now.merchant_longitude for now in rows], np.float64) if is_card else _NOWHERE,
    )


def _attributes(now: ScoredTransaction, is_card: bool) -> tuple[str | None, ...]:
    """What an entity's history numbers, in the order of engine.ATTRIBUTES."""
    return (now.merchant_id, now.country, now.device_id, now.category) if is_card else (now.card_id,)


def add_transaction(
    transaction: ScoredTransaction,
    card: EntityState | None,
    merchant: EntityState | None,
    *,
    asked_from_us: int | None = None,
) -> None:
    """Let a transaction count for later ones of its card and merchant, where they are held; again changes nothing.

    Args:
        asked_from_us: see EntityState.add_event.
    """
    t = transaction
    event = (t.event_time_us, t.transaction_id, t.amount_minor)
    if card is not None:
        place = (t.merchant_latitude, t.merchant_longitude)
        card.add_event(*event, _attributes(t, True), *place, asked_from_us=asked_from_us)
    if merchant is not None:
        merchant.add_event(*event, _attributes(t, False), asked_from_us=asked_from_us)


def _own_values(transactions: Sequence[ScoredTransaction]) -> OwnValues:
    def numbers(name: str) -> Double:
        return np.array([getattr(now, name) for now in transactions], np.float64)

    def is_channel(channel: str) -> Double:
        return np.array([None if now.channel is None else now.channel == channel for now in transactions], np.float64)

    return OwnValues(
        time_us=np.array([now.event_time_us for now in transactions], np.int64),
        amount_minor=np.array([now.amount_minor for now in transactions], np.int64),
        is_online=is_channel("online"),
        is_atm=is_channel("atm"),
        home_latitude=numbers("home_latitude"),
        home_longitude=numbers("home_longitude"),
        merchant_latitude=numbers("merchant_latitude"),
        merchant_longitude=numbers("merchant_longitude"),
    )
