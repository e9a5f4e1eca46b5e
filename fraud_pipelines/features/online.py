"""The online engine: one transaction's feature vector from the recent events of its card and merchant.

Computes with the same engine as the DuckDB warehouse. Reads no store and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np

from fraud_pipelines.features.engine import Asked, EntityEngine, OwnEngine, OwnValues
from fraud_pipelines.features.entity_state import Entities, EventColumns, degrees, whole
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


@dataclass(frozen=True, slots=True)
class TransactionColumns:
    """The values of some transactions, column by column: numbers as arrays, NaN is null, and texts as they are."""

    ids: Sequence[str]
    time_us: Int64
    card_ids: Sequence[str]
    merchant_ids: Sequence[str]
    amount_minor: Int64
    channels: Sequence[str | None]
    countries: Sequence[str | None]
    device_ids: Sequence[str | None]
    categories: Sequence[str | None]
    home: Double
    place: Double

    @classmethod
    def of(cls, transactions: Sequence[ScoredTransaction]) -> TransactionColumns:
        """Those of at least one transaction."""
        ids, times, cards, merchants, amounts, channels, countries, devices, categories, *degrees_of = zip(
            *map(_VALUES, transactions), strict=True
        )
        latitudes_and_longitudes = np.stack([*map(degrees, degrees_of)])
        return cls(
            *(ids, np.array(times, np.int64), cards, merchants, np.array(amounts, np.int64)),
            *(channels, countries, devices, categories),
            *(latitudes_and_longitudes[:2], latitudes_and_longitudes[2:]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Int64) -> TransactionColumns:
        """Those of some of the transactions."""

        def of(column: Any) -> Any:
            return column.take(rows, axis=-1) if isinstance(column, np.ndarray) else [column[row] for row in rows]

        return TransactionColumns(*(of(getattr(self, column.name)) for column in fields(self)))

    @property
    def of_cards(self) -> EventColumns:
        """As their cards know them."""
        attributes = (self.merchant_ids, self.countries, self.device_ids, self.categories)
        return EventColumns(self.ids, self.time_us, self.amount_minor, attributes, self.place)

    @property
    def of_merchants(self) -> EventColumns:
        """As their merchants know them."""
        return EventColumns(self.ids, self.time_us, self.amount_minor, (self.card_ids,), self.place[:0])


_VALUES = attrgetter(
    *("transaction_id", "event_time_us", "card_id", "merchant_id", "amount_minor"),
    *("channel", "country", "device_id", "category"),
    *("home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude"),
)


@dataclass(frozen=True, slots=True)
class Context:
    """Some transactions, and the card and merchant of each as they are held. These may hold the transactions themselves
    and later ones: what counts is the time."""

    transactions: TransactionColumns
    cards: Entities
    merchants: Entities

    def take(self, rows: Int64) -> Context:
        """Some of the transactions."""
        return Context(self.transactions.take(rows), self.cards.take(rows), self.merchants.take(rows))


class OnlineEngine:
    """Computes the vectors of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._own = OwnEngine(spec)
        self._card, self._merchant = EntityEngine(spec, "card"), EntityEngine(spec, "merchant")
        engines = (self._own, self._card, self._merchant)
        position = {name: i for i, name in enumerate(spec.names)}
        self._columns = [np.array([position[f.name] for f in engine.features], np.int64) for engine in engines]

    def matrix(self, context: Context) -> Double:
        """Features of shape (n, features), columns in the order of the spec; NaN is missing."""
        transactions = context.transactions
        found = np.empty((len(transactions), len(self.spec.names)))
        found[:, self._columns[0]] = np.array(self._own.compute(_own_values(transactions))).T
        for engine, columns, entities, events in (
            (self._card, self._columns[1], context.cards, transactions.of_cards),
            (self._merchant, self._columns[2], context.merchants, transactions.of_merchants),
        ):
            owners, starts, order = _by_entity(entities.owners, events.time_us)
            held = entities.states
            asked = _asked(entities, events, starts, order)
            engine.compute_held(owners, held.events, held.labels, asked, found, order, columns)
        return found

    def vector(self, transaction: ScoredTransaction, history: History) -> dict[str, float | None]:
        """Every feature of the spec by name, in the order of the spec; None is missing."""
        card = whole("card", history.card.events, history.card.labels)
        merchant = whole("merchant", history.merchant.events, history.merchant.labels)
        context = Context(TransactionColumns.of([transaction]), card, merchant)
        return named(self.matrix(context)[0], self.spec.names)

    def warm_up(self) -> None:
        """Hold one transaction and compute its vector, so that everything that needs is compiled."""
        transaction = TransactionColumns.of([ScoredTransaction("warm-up", 0, "card", "merchant", 0, "EUR")])
        card, merchant = whole("card", (), ()), whole("merchant", (), ())
        card = card.states.add(card.owners, transaction.of_cards)
        merchant = merchant.states.add(merchant.owners, transaction.of_merchants)
        self.matrix(Context(transaction, card, merchant))


def named(vector: Double, names: Sequence[str]) -> dict[str, float | None]:
    """One row of a matrix by feature; None is missing."""
    return {name: None if value != value else value for name, value in zip(names, vector.tolist(), strict=True)}


_ONE = np.array([0, 1])
_NOWHERE = np.empty(0)


def _by_entity(owners: Int64, times_us: Int64) -> tuple[Int64, Int64, Int64]:
    """Each owner once, where its transactions start in an order by owner and time, and that order."""
    if len(owners) == 1:
        return owners, _ONE, _ONE[:1]
    order = np.lexsort((times_us, owners))
    owners = owners[order]
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1], [True]]))
    return owners[starts[:-1]], starts, order


def _asked(entities: Entities, events: EventColumns, starts: Int64, order: Int64) -> Asked:
    codes = entities.codes
    if codes is None:
        codes = entities.states.codes(entities.owners, events.attributes)
    latitude, longitude = [column[order] for column in events.places] or (_NOWHERE, _NOWHERE)
    return Asked(
        starts=starts,
        time_us=events.time_us[order],
        amount_minor=events.amount_minor[order],
        # As every other array: of another memory layout the engine would be compiled anew, at the first such group.
        codes=codes.take(order, axis=1),
        latitude=latitude,
        longitude=longitude,
    )


def _own_values(transactions: TransactionColumns) -> OwnValues:
    def is_channel(channel: str) -> Double:
        return np.array([None if own is None else own == channel for own in transactions.channels], np.float64)

    return OwnValues(
        transactions.time_us, transactions.amount_minor, is_channel("online"), is_channel("atm"),
        *transactions.home, *transactions.place,
    )  # fmt: skip
