"""The online engine: one transaction's feature vector from the recent events of its card and merchant.

Computes with the same engine as the DuckDB warehouse. Reads no store and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from fraud_pipelines.features.engine import NEVER_US, Asked, EntityEngine, Known, OwnEngine, OwnValues, Past
from fraud_pipelines.features.kernel import Codes, Double, Int64
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
    """Computes the vector of a spec. Holds no state; safe to share between threads."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._own = OwnEngine(spec)
        self._card, self._merchant = EntityEngine(spec, "card"), EntityEngine(spec, "merchant")
        self._computed = [
            feature.name for engine in (self._own, self._card, self._merchant) for feature in engine.features
        ]

    def vector(self, transaction: ScoredTransaction, history: History) -> dict[str, float | None]:
        """Every feature of the spec by name, in the order of the spec; None is missing."""
        values = [float(value[0]) for value in self._own.compute(_own_values(transaction))]
        values += self._card.compute(*_of_card(transaction, history.card))[:, 0].tolist()
        values += self._merchant.compute(*_of_merchant(transaction, history.merchant))[:, 0].tolist()
        found = {name: None if value != value else value for name, value in zip(self._computed, values, strict=True)}
        return {name: found[name] for name in self.spec.names}


_ONE = np.array([0, 1])
_NOWHERE = np.empty(0)


def _of_card(now: ScoredTransaction, history: EntityHistory[CardEvent]) -> tuple[Past, Known, Asked]:
    times, ids, amounts, *attributes, latitudes, longitudes = (
        zip(*history.events, strict=True) if history.events else ((),) * 9
    )
    own = (now.merchant_id, now.country, now.device_id, now.category)
    codes = [_codes(values, value) for values, value in zip(attributes, own, strict=True)]
    past = Past(
        starts=np.array([0, len(times)]),
        time_us=np.array(times, np.int64),
        amount_minor=np.array(amounts, np.int64),
        first_label_us=_first_labels(ids, history.labels),
        codes=np.stack([rows for rows, _ in codes]),
        latitude=np.array(latitudes, np.float64),
        longitude=np.array(longitudes, np.float64),
    )
    asked = Asked(
        starts=_ONE,
        time_us=np.array([now.event_time_us]),
        amount_minor=np.array([now.amount_minor]),
        codes=np.stack([value for _, value in codes]),
        latitude=np.array([now.merchant_latitude], np.float64),
        longitude=np.array([now.merchant_longitude], np.float64),
    )
    return past, _known(history.labels), asked


def _of_merchant(now: ScoredTransaction, history: EntityHistory[MerchantEvent]) -> tuple[Past, Known, Asked]:
    times, ids, amounts, cards = zip(*history.events, strict=True) if history.events else ((),) * 4
    codes, own = _codes(cards, now.card_id)
    past = Past(
        starts=np.array([0, len(times)]),
        time_us=np.array(times, np.int64),
        amount_minor=np.array(amounts, np.int64),
        first_label_us=_first_labels(ids, history.labels),
        codes=codes[np.newaxis],
        latitude=_NOWHERE,
        longitude=_NOWHERE,
    )
    asked = Asked(
        starts=_ONE,
        time_us=np.array([now.event_time_us]),
        amount_minor=np.array([now.amount_minor]),
        codes=own[np.newaxis],
        latitude=_NOWHERE,
        longitude=_NOWHERE,
    )
    return past, _known(history.labels), asked


def _codes(values: Sequence[str | None], own: str | None) -> tuple[Codes, Codes]:
    """Numbers for the values of a history and for the transaction's own; -1 is null."""
    numbers: dict[str | None, int] = {None: -1}
    codes = [numbers.setdefault(value, len(numbers) - 1) for value in values]
    return np.array(codes, np.int32), np.array([numbers.setdefault(own, len(numbers) - 1)], np.int32)


def _first_labels(ids: Sequence[str], labels: Sequence[Label]) -> Int64:
    first: dict[str, int] = {}
    for counts_from_us, transaction_id, _, _ in labels:
        first.setdefault(transaction_id, counts_from_us)  # ascending: the first one stays
    return np.array([first.get(id_, NEVER_US) for id_ in ids], np.int64)


def _known(labels: Sequence[Label]) -> Known:
    times, _, frauds, amounts = zip(*labels, strict=True) if labels else ((),) * 4
    return Known(
        starts=np.array([0, len(times)]),
        time_us=np.array(times, np.int64),
        is_fraud=np.array(frauds, np.int64),
        amount_minor=np.array(amounts, np.int64),
    )


def _own_values(now: ScoredTransaction) -> OwnValues:
    return OwnValues(
        time_us=np.array([now.event_time_us]),
        amount_minor=np.array([now.amount_minor]),
        is_online=_is_channel(now, "online"),
        is_atm=_is_channel(now, "atm"),
        home_latitude=np.array([now.home_latitude], np.float64),
        home_longitude=np.array([now.home_longitude], np.float64),
        merchant_latitude=np.array([now.merchant_latitude], np.float64),
        merchant_longitude=np.array([now.merchant_longitude], np.float64),
    )


def _is_channel(now: ScoredTransaction, channel: str) -> Double:
    return np.array([None if now.channel is None else now.channel == channel], np.float64)
