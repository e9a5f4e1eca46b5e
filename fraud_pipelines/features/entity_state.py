"""The recent events of one card or merchant in arrays, as the compiled engine reads them: they grow, nothing is copied.

Rows are in the order of every engine, by time and then by transaction_id, whatever the order of arrival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np

from fraud_pipelines.features.engine import ATTRIBUTES, NEVER_US
from fraud_pipelines.features.kernel import Codes, Double, Int64

_FIRST_CAPACITY = 16


class EntityState:
    """Transactions and label arrivals of one card or merchant, in memory.

    Attribute values (merchants, countries, devices, categories of a card; cards of a merchant) are numbered per entity:
    a window never crosses one. -1 is null.

    Args:
        entity: card or merchant.
        keep_us: what is older than the newest transaction by more may be forgotten when space runs out.
        known_since_us: how far back (exclusive) it is complete, transactions and labels.
    """

    __slots__ = (
        *("first_label_us", "ids", "is_card", "keep_us", "known_since_us", "label_amount", "label_fraud"),
        *("label_ids", "label_time_us", "labels", "labels_known_since_us", "latitude", "longitude", "numbers", "size"),
        *("amount_minor", "codes", "time_us"),
    )

    def __init__(self, entity: str, *, keep_us: int, known_since_us: int, labels_known_since_us: int) -> None:
        self.is_card = entity == "card"
        self.keep_us, self.known_since_us, self.labels_known_since_us = keep_us, known_since_us, labels_known_since_us
        self.size = self.labels = 0
        self.ids: list[str] = []
        self.label_ids: dict[str, int] = {}  # transaction_id -> when its first label counts from
        self.numbers: tuple[dict[str, int], ...] = tuple({} for _ in ATTRIBUTES[entity])
        self.time_us = np.empty(_FIRST_CAPACITY, np.int64)
        self.amount_minor = np.empty(_FIRST_CAPACITY, np.int64)
        self.first_label_us = np.empty(_FIRST_CAPACITY, np.int64)
        self.codes = np.empty((len(self.numbers), _FIRST_CAPACITY), np.int32)
        places = _FIRST_CAPACITY if self.is_card else 0
        self.latitude, self.longitude = np.empty(places), np.empty(places)
        self.label_time_us = np.empty(_FIRST_CAPACITY, np.int64)
        self.label_fraud = np.empty(_FIRST_CAPACITY, np.int64)
        self.label_amount = np.empty(_FIRST_CAPACITY, np.int64)

    @classmethod
    def whole(cls, entity: str, events: Sequence[tuple[Any, ...]], labels: Sequence[tuple[Any, ...]]) -> EntityState:
        """One of everything there is; events and labels as of `load`."""
        state = cls(entity, keep_us=NEVER_US, known_since_us=-NEVER_US, labels_known_since_us=-NEVER_US)
        state.load(events, labels)
        return state

    @property
    def rows(self) -> int:
        """Transactions and labels held."""
        return self.size + self.labels

    def load(self, events: Sequence[tuple[Any, ...]], labels: Sequence[tuple[Any, ...]]) -> None:
        """Take over what a store holds, ascending, as online.CardEvent or MerchantEvent and online.Label rows."""
        if labels:
            times, ids, frauds, amounts = zip(*labels, strict=True)
            self.label_time_us, self.label_fraud, self.label_amount = (
                np.array(values, np.int64) for values in (times, frauds, amounts)
            )
            self.labels = len(times)
            for id_, counts_from_us in zip(ids, times, strict=True):
                self.label_ids.setdefault(id_, counts_from_us)  # ascending: the first one stays
        if events:
            event_times, event_ids, event_amounts, *attributes = zip(*events, strict=True)
            self.size, self.ids = len(events), list(event_ids)
            self.time_us = np.array(event_times, np.int64)
            self.amount_minor = np.array(event_amounts, np.int64)
            first = self.label_ids.get
            self.first_label_us = np.array([first(id_, NEVER_US) for id_ in event_ids], np.int64)
            values = attributes[: len(self.numbers)]
            self.codes = np.array(
                [[self._number(i, value) for value in column] for i, column in enumerate(values)], np.int32
            )
            if self.is_card:
                self.latitude, self.longitude = (np.array(column, np.float64) for column in attributes[-2:])

    def add_event(
        self,
        time_us: int,
        transaction_id: str,
        amount_minor: int,
        attributes: Sequence[str | None],
        latitude: float | None = None,
        longitude: float | None = None,
        *,
        asked_from_us: int | None = None,
    ) -> bool:
        """Add a transaction in its place; False when it is there already.

        Args:
            asked_from_us: earliest moment whose history will be asked for next: it is not forgotten to make room.
        """
        row = self.size
        if row and time_us <= self.time_us[row - 1]:
            first = bisect_left(self.time_us, time_us, 0, row)
            ties = bisect_right(self.time_us, time_us, first, row)
            row = bisect_left(self.ids, transaction_id, first, ties)
            if row < ties and self.ids[row] == transaction_id:
                return False
        elif time_us <= self.known_since_us:
            return False  # before what is held; whoever needs it reads further back
        if self.size == len(self.time_us):
            earliest_us = time_us if asked_from_us is None else min(time_us, asked_from_us)
            row -= self._make_room(earliest_us)
        self._open(row)
        self.ids.insert(row, transaction_id)
        self.time_us[row] = time_us
        self.amount_minor[row] = amount_minor
        self.first_label_us[row] = self.label_ids.get(transaction_id, NEVER_US)
        for i, value in enumerate(attributes):
            self.codes[i, row] = self._number(i, value)
        if self.is_card:
            self.latitude[row] = np.nan if latitude is None else latitude
            self.longitude[row] = np.nan if longitude is None else longitude
        self.size += 1
        return True

    def add_label(
        self, counts_from_us: int, transaction_id: str, is_fraud: bool, amount_minor: int, event_time_us: int
    ) -> None:
        """Add a label arrival that is not held yet; `event_time_us` is its transaction's."""
        if counts_from_us <= self.labels_known_since_us:
            return
        if self.labels == len(self.label_time_us):
            for name in ("label_time_us", "label_fraud", "label_amount"):
                more = np.empty(max(self.labels, _FIRST_CAPACITY), np.int64)
                setattr(self, name, np.concatenate([getattr(self, name), more]))
        row = bisect_right(self.label_time_us, counts_from_us, 0, self.labels)
        for array, value in (
            (self.label_time_us, counts_from_us),
            (self.label_fraud, int(is_fraud)),
            (self.label_amount, amount_minor),
        ):
            array[row + 1 : self.labels + 1] = array[row : self.labels].copy()
            array[row] = value
        self.labels += 1
        if counts_from_us < self.label_ids.get(transaction_id, NEVER_US):
            self.label_ids[transaction_id] = counts_from_us
            row = bisect_left(self.time_us, event_time_us, 0, self.size)
            while row < self.size and self.time_us[row] == event_time_us:
                if self.ids[row] == transaction_id:
                    self.first_label_us[row] = counts_from_us
                row += 1

    def code_of(self, attribute: int, value: str | None) -> int:
        """The number of a value, a new one where it was never seen; -1 is null."""
        if value is None:
            return -1
        numbers = self.numbers[attribute]
        return numbers.get(value, len(numbers))

    def _number(self, attribute: int, value: str | None) -> int:
        return -1 if value is None else self.numbers[attribute].setdefault(value, len(self.numbers[attribute]))

    def _open(self, row: int) -> None:
        """Make row `row` free by moving the later ones."""
        if row == self.size:
            return
        for array in (self.time_us, self.amount_minor, self.first_label_us, *self.codes, *self._places()):
            array[row + 1 : self.size + 1] = array[row : self.size].copy()

    def _make_room(self, earliest_us: int) -> int:
        """Forget what no window from `earliest_us` on can reach, else double the space; how many rows went."""
        horizon_us = min(int(self.time_us[self.size - 1]), earliest_us) - self.keep_us
        gone = bisect_right(self.time_us, horizon_us, 0, self.size)
        if gone < self.size // 4:
            gone = 0
        capacity = max(2 * (self.size - gone), _FIRST_CAPACITY)
        places = ("latitude", "longitude") if self.is_card else ()
        for name in ("time_us", "amount_minor", "first_label_us", "codes", *places):
            old: Int64 | Codes | Double = getattr(self, name)
            new = np.empty((*old.shape[:-1], capacity), old.dtype)
            new[..., : self.size - gone] = old[..., gone : self.size]
            setattr(self, name, new)
        if gone:
            del self.ids[:gone]
            self.size -= gone
            self.known_since_us = max(self.known_since_us, horizon_us)
            self._forget_labels(horizon_us)
            self._forget_values()
        return gone

    def _forget_values(self) -> None:
        """Number anew where most values are of transactions that went: the engine counts in arrays of this length."""
        for i, numbers in enumerate(self.numbers):
            if len(numbers) > 2 * self.size + _FIRST_CAPACITY:
                codes = self.codes[i, : self.size]
                used = np.unique(codes[codes >= 0])
                codes[codes >= 0] = np.searchsorted(used, codes[codes >= 0])
                names = {number: name for name, number in numbers.items()}
                numbers.clear()
                numbers.update((names[number], new) for new, number in enumerate(used.tolist()))

    def _forget_labels(self, horizon_us: int) -> None:
        gone = bisect_right(self.label_time_us, horizon_us, 0, self.labels)
        if gone:
            for name in ("label_time_us", "label_fraud", "label_amount"):
                setattr(self, name, getattr(self, name)[gone:].copy())
            self.labels -= gone
            self.labels_known_since_us = max(self.labels_known_since_us, horizon_us)
            self.label_ids = {id_: at for id_, at in self.label_ids.items() if at > horizon_us}

    def _places(self) -> tuple[Double, ...]:
        return (self.latitude, self.longitude) if self.is_card else ()
