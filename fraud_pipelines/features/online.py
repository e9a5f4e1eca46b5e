"""The online engine: one transaction's feature vector from the recent events of its card and merchant.

Computes with the same engine as the DuckDB warehouse. Reads no store and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, TypeVar

import numpy as np

from fraud_pipelines.features.engine import Asked, EntityEngine, OwnEngine, OwnValues
from fraud_pipelines.features.entity_state import EntityState, codes_of_asked, degrees
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
            cards, merchants: of each transaction, each from one EntityStates, the same object for the same card or
                merchant. They may hold the transactions themselves and later ones: what counts is the time.
        """
        found = np.empty((len(transactions), len(self.spec.names)))
        found[:, self._columns[0]] = np.array(self._own.compute(_own_values(transactions))).T
        for engine, columns, states in (
            (self._card, self._columns[1], cards),
            (self._merchant, self._columns[2], merchants),
        ):
            owners, starts, order = _by_entity(transactions, states)
            asked = _asked(transactions, states, starts, order)
            held = states[0].states
            engine.compute_held(owners, held.events, held.labels, asked, found, order, columns)
        return found

    def vector(self, transaction: ScoredTransaction, history: History) -> dict[str, float | None]:
        """Every feature of the spec by name, in the order of the spec; None is missing."""
        card = EntityState.whole("card", history.card.events, history.card.labels)
        merchant = EntityState.whole("merchant", history.merchant.events, history.merchant.labels)
        return named(self.matrix([transaction], [card], [merchant])[0], self.spec.names)

    def warm_up(self) -> None:
        """Compute one vector, so that everything it needs is compiled."""
        self.vector(ScoredTransaction("warm-up", 0, "card", "merchant", 0, "EUR"), History())


def named(vector: Double, names: Sequence[str]) -> dict[str, float | None]:
    """One row of a matrix by feature; None is missing."""
    return {name: None if value != value else value for name, value in zip(names, vector.tolist(), strict=True)}


_ONE = np.array([0, 1])
_NOWHERE = np.empty(0)
_NAMES = {
    "card": (
        *("event_time_us", "transaction_id", "amount_minor", "merchant_id", "country", "device_id", "category"),
        *("merchant_latitude", "merchant_longitude"),
    ),
    "merchant": ("event_time_us", "transaction_id", "amount_minor", "card_id"),
}
card_event, merchant_event = (attrgetter(*_NAMES[entity]) for entity in ("card", "merchant"))
"""A transaction as its card and its merchant know it: a CardEvent, a MerchantEvent."""


def _by_entity(transactions: Sequence[ScoredTransaction], states: Sequence[EntityState]) -> tuple[Int64, Int64, Int64]:
    """The owner of each entity, where its transactions start in an order by entity and time, and that order."""
    owner = np.array([state.owner for state in states], np.int64)
    if len(states) == 1:
        return owner, _ONE, _ONE[:1]
    order = np.lexsort((np.array([now.event_time_us for now in transactions], np.int64), owner))
    owner = owner[order]
    starts = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1], [True]]))
    return owner[starts[:-1]], starts, order


def _asked(
    transactions: Sequence[ScoredTransaction], states: Sequence[EntityState], starts: Int64, order: Int64
) -> Asked:
    is_card = states[0].states.is_card
    times, _, amounts, *values = zip(*map(card_event if is_card else merchant_event, transactions), strict=True)
    attributes, places = (values[:-2], values[-2:]) if is_card else (values, [])
    latitude, longitude = [degrees(column)[order] for column in places] or (_NOWHERE, _NOWHERE)
    return Asked(
        starts=starts,
        time_us=np.array(times, np.int64)[order],
        amount_minor=np.array(amounts, np.int64)[order],
        # As every other array: of another memory layout the engine would be compiled anew, at the first such group.
        codes=codes_of_asked(states, attributes).take(order, axis=1),
        latitude=latitude,
        longitude=longitude,
    )


def add_transactions(
    transactions: Sequence[ScoredTransaction],
    cards: Sequence[EntityState | None],
    merchants: Sequence[EntityState | None],
    *,
    asked_from_us: int | None = None,
) -> None:
    """Let transactions count for later ones of their cards and merchants, where these are held (not None).

    Again changes nothing.

    Args:
        asked_from_us: see EntityStates.add.
    """
    for states, event in ((cards, card_event), (merchants, merchant_event)):
        held = [state for state in states if state is not None]
        if held:
            events = [event(now) for now, state in zip(transactions, states, strict=True) if state is not None]
            held[0].states.add(held, events, asked_from_us=asked_from_us)


def _own_values(transactions: Sequence[ScoredTransaction]) -> OwnValues:
    times, amounts, channels, *places = zip(*map(_OWN, transactions), strict=True)

    def is_channel(channel: str) -> Double:
        return np.array([None if own is None else own == channel for own in channels], np.float64)

    return OwnValues(
        np.array(times, np.int64), np.array(amounts, np.int64), is_channel("online"), is_channel("atm"),
        *map(degrees, places),
    )  # fmt: skip


_OWN = attrgetter(
    *("event_time_us", "amount_minor", "channel", "home_latitude", "home_longitude"),
    *("merchant_latitude", "merchant_longitude"),
)
