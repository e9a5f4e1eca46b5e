"""The recent events of cards or merchants in memory, in the shared arrays that the compiled engine reads.

Rows are in the order of every engine, by time and then by transaction_id, whatever the order of arrival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, count, repeat
from typing import Any

import numpy as np

from fraud_pipelines.features import kernel
from fraud_pipelines.features.blocks import Blocks
from fraud_pipelines.features.engine import ATTRIBUTES, NEVER_US
from fraud_pipelines.features.kernel import AMOUNT, FIRST_LABEL, IS_FRAUD, TIME, Codes, Double, Int64

# Values an entity may have numbered beyond those its rows need: the engine counts in arrays of this length.
_SPARE_NUMBERS = 16
# From so many transactions on it is cheaper to turn their columns into arrays than to write one after the other.
_MANY = 4


class Numbers(dict[str | None, int]):
    """Numbers of the values of one entity's attributes, given when first looked up; -1 is null.

    All attributes share them: codes are only compared within one attribute. A window never crosses an entity.
    """

    __slots__ = ()

    def __init__(self, values: Iterable[str | None] = ()) -> None:
        super().__init__(zip(dict.fromkeys(chain((None,), values)), count()))
        self[None] = -1

    def __missing__(self, value: str) -> int:
        number = self[value] = len(self)
        return number


class EntityState:
    """What one card or merchant of an EntityStates is known by, beside its rows in the shared arrays.

    `known_since_us` and `labels_known_since_us`: how far back (exclusive) transactions and labels are complete.
    """

    __slots__ = (
        *("ids", "known_since_us", "label_ids", "labels_known_since_us", "newest_us", "numbers", "owner", "states"),
    )

    def __init__(self, states: EntityStates, owner: int, known_since_us: int, labels_known_since_us: int) -> None:
        self.states, self.owner = states, owner
        self.known_since_us, self.labels_known_since_us = known_since_us, labels_known_since_us
        self.newest_us = known_since_us  # time of the last row
        self.ids: list[str] = []
        self.label_ids: dict[str, int] = {}  # transaction_id -> when its first label counts from
        self.numbers = Numbers()

    @classmethod
    def whole(cls, entity: str, events: Sequence[tuple[Any, ...]], labels: Sequence[tuple[Any, ...]]) -> EntityState:
        """One of everything there is; events and labels as of EntityStates.hold."""
        return EntityStates(entity, keep_us=NEVER_US).hold(events, labels, -NEVER_US, -NEVER_US)

    @property
    def rows(self) -> int:
        """Transactions and labels held."""
        return self.states.events.size(self.owner) + self.states.labels.size(self.owner)


class EntityStates:
    """Transactions and label arrivals of some cards, or of some merchants.

    Args:
        entity: card or merchant.
        keep_us: what is older than an entity's newest transaction by more may be forgotten when its block is full.
        places: rows to reserve for; see Blocks.
    """

    def __init__(self, entity: str, *, keep_us: int, places: int = 0) -> None:
        self.is_card, self.keep_us = entity == "card", keep_us
        self._attributes = len(ATTRIBUTES[entity])
        lines: list[tuple[int, type[np.generic]]] = [
            (3, np.int64),
            (self._attributes, np.int32),
            (2 if self.is_card else 0, np.float64),
        ]
        self.events = Blocks(lines, places)
        self.labels = Blocks([(3, np.int64)], places)
        self._owners, self._free_owners = 0, list[int]()

    def hold(
        self,
        events: Sequence[tuple[Any, ...]],
        labels: Sequence[tuple[Any, ...]],
        known_since_us: int,
        labels_known_since_us: int,
    ) -> EntityState:
        """A new entity with what a store holds of it, ascending: online.CardEvent or MerchantEvent, and Label rows."""
        if self._free_owners:
            owner = self._free_owners.pop()
        else:
            owner, self._owners = self._owners, self._owners + 1
        state = EntityState(self, owner, known_since_us, labels_known_since_us)
        self.labels.give(owner, len(labels))
        if labels:
            counts_from_us, label_ids, is_fraud, amounts = zip(*labels, strict=True)
            self.labels.spans[kernel.SIZE, owner] = len(labels)
            place = self.labels.rows(owner)
            for line, whole_numbers in zip(self.labels.columns[0], (counts_from_us, amounts, is_fraud), strict=True):
                line[place] = _whole_numbers(whole_numbers)
            # The first one stays: they ascend, and of two the later to be set is the one kept.
            state.label_ids = dict(zip(reversed(label_ids), reversed(counts_from_us), strict=True))
        self.events.give(owner, len(events))
        if events:
            times, ids, amounts, *values = zip(*events, strict=True)
            self.events.spans[kernel.SIZE, owner] = len(events)
            place = self.events.rows(owner)
            numbers, codes, places = self.events.columns
            state.ids, state.newest_us = list(ids), times[-1]
            first_labels = tuple(map(state.label_ids.get, ids, repeat(NEVER_US)))
            for line, whole_numbers in zip(numbers, (times, amounts, first_labels), strict=True):
                line[place] = _whole_numbers(whole_numbers)
            state.numbers = Numbers(chain.from_iterable(values[: self._attributes]))
            for line, column in zip(codes, values, strict=False):
                line[place] = -1 if _is_null(column) else [*map(state.numbers.__getitem__, column)]
            for line, column in zip(places, values[self._attributes :], strict=True):
                line[place] = degrees(column)
        return state

    def let_go(self, state: EntityState) -> None:
        """Forget an entity; others take its place, so the state cannot be used any more."""
        self.events.take_back(state.owner)
        self.labels.take_back(state.owner)
        self._free_owners.append(state.owner)
        del state.owner

    def add(
        self,
        states: Sequence[EntityState],
        events: Sequence[tuple[Any, ...]],
        *,
        asked_from_us: int | None = None,
    ) -> None:
        """Add a transaction to each of some states, in its place; one that is there already changes nothing.

        Args:
            states: the same one again for another transaction of the same entity.
            events: online.CardEvent or MerchantEvent.
            asked_from_us: earliest moment whose history will be asked for next: it is not forgotten to make room.
        """
        if len(states) < _MANY:
            for state, event in zip(states, events, strict=True):
                self._insert(state, event, asked_from_us)
            return
        at_the_end: list[tuple[Any, ...]] = []
        owners: list[EntityState] = []
        late: list[tuple[EntityState, tuple[Any, ...]]] = []
        for state, event in zip(states, events, strict=True):
            time_us, id_ = event[0], event[1]
            if time_us > state.newest_us or (time_us == state.newest_us and state.ids and id_ > state.ids[-1]):
                state.newest_us = time_us
                state.ids.append(id_)
                owners.append(state)
                at_the_end.append(event)
            else:
                late.append((state, event))
        if at_the_end:
            self._append(owners, at_the_end, asked_from_us)
        for state, event in late:
            self._insert(state, event, asked_from_us)

    def add_label(
        self,
        state: EntityState,
        counts_from_us: int,
        transaction_id: str,
        is_fraud: bool,
        amount_minor: int,
        event_time_us: int,
    ) -> None:
        """Add a label arrival that is not held yet; `event_time_us` is its transaction's."""
        if counts_from_us <= state.labels_known_since_us:
            return
        owner = state.owner
        if self.labels.is_full(owner):
            self.labels.make_room(owner, 0)
        (arrivals,) = self.labels.columns
        row = bisect_right(arrivals[TIME, self.labels.rows(owner)], counts_from_us)
        at = self.labels.open(owner, row)
        arrivals[TIME, at], arrivals[IS_FRAUD, at], arrivals[AMOUNT, at] = counts_from_us, is_fraud, amount_minor
        if counts_from_us < state.label_ids.get(transaction_id, NEVER_US):
            state.label_ids[transaction_id] = counts_from_us
            place = self.events.rows(owner)
            numbers = self.events.columns[0]
            times = numbers[TIME, place]
            row = bisect_left(times, event_time_us)
            while row < len(times) and times[row] == event_time_us:
                if state.ids[row] == transaction_id:
                    numbers[FIRST_LABEL, place.start + row] = counts_from_us
                row += 1

    def _append(
        self, states: Sequence[EntityState], events: Sequence[tuple[Any, ...]], asked_from_us: int | None
    ) -> None:
        """Add rows that come after all that their entities have; `ids` has them already."""
        times, ids, amounts, *values = zip(*events, strict=True)
        owners = np.array([state.owner for state in states], np.int64)
        lacking = self.events.lacking(owners)
        if lacking:
            of_owner = {state.owner: state for state in states}
            earliest_us = min(times) if asked_from_us is None else min(*times, asked_from_us)
            for owner, more in lacking:
                self._make_room(of_owner[owner], earliest_us, more)
        # Only now: to make room may give values other numbers.
        at = self.events.append(owners)
        numbers, codes, places = self.events.columns
        first_labels = [state.label_ids.get(id_, NEVER_US) for state, id_ in zip(states, ids, strict=True)]
        for line, whole_numbers in zip(numbers, (times, amounts, first_labels), strict=True):
            line[at] = _whole_numbers(whole_numbers)
        for line, column in zip(codes, values, strict=False):
            line[at] = (
                -1 if _is_null(column) else [state.numbers[value] for state, value in zip(states, column, strict=True)]
            )
        for line, column in zip(places, values[self._attributes :], strict=True):
            line[at] = degrees(column)

    def _insert(self, state: EntityState, event: tuple[Any, ...], asked_from_us: int | None) -> None:
        """Add one row in its place, unless it is there already or before all that is held."""
        time_us, id_, amount_minor, *values = event
        owner = state.owner
        if time_us > state.newest_us:
            state.newest_us = time_us
            row = len(state.ids)
        elif state.ids:
            times = self.events.columns[0][TIME, self.events.rows(owner)]
            first = bisect_left(times, time_us)
            ties = bisect_right(times, time_us, first)
            row = bisect_left(state.ids, id_, first, ties)
            if row < ties and state.ids[row] == id_:
                return
        else:
            return  # before what is held; whoever needs it reads further back
        if self.events.is_full(owner):
            earliest_us = time_us if asked_from_us is None else min(time_us, asked_from_us)
            row -= self._make_room(state, earliest_us)
        state.ids.insert(row, id_)
        at = self.events.open(owner, row)
        numbers, codes, places = self.events.columns
        numbers[TIME, at], numbers[AMOUNT, at] = time_us, amount_minor
        numbers[FIRST_LABEL, at] = state.label_ids.get(id_, NEVER_US)
        codes[:, at] = [state.numbers[value] for value in values[: self._attributes]]
        places[:, at] = [np.nan if value is None else value for value in values[self._attributes :]]

    def _make_room(self, state: EntityState, earliest_us: int, more: int = 1) -> int:
        """Forget what no window from `earliest_us` on can reach, and take space for `more`; how many rows went."""
        times = self.events.columns[0][TIME, self.events.rows(state.owner)]
        newest_us = int(times[-1]) if len(times) else earliest_us
        horizon_us = min(newest_us, earliest_us) - self.keep_us
        gone = bisect_right(times, horizon_us)
        if gone < len(times) // 4:
            gone = 0
        self.events.make_room(state.owner, gone, more)
        if gone:
            del state.ids[:gone]
            state.known_since_us = max(state.known_since_us, horizon_us)
            self._forget_labels(state, horizon_us)
            self._forget_values(state)
        return gone

    def _forget_values(self, state: EntityState) -> None:
        """Number anew where most values are of transactions that went."""
        place = self.events.rows(state.owner)
        if len(state.numbers) > 2 * (place.stop - place.start) * self._attributes + _SPARE_NUMBERS:
            codes = self.events.columns[1]
            names = {number: name for name, number in state.numbers.items()}
            state.numbers = Numbers(map(names.__getitem__, np.unique(codes[:, place]).tolist()))
            new = {number: state.numbers[name] for number, name in names.items() if name in state.numbers}
            codes[:, place] = [[*map(new.__getitem__, line)] for line in codes[:, place].tolist()]

    def _forget_labels(self, state: EntityState, horizon_us: int) -> None:
        gone = bisect_right(self.labels.columns[0][TIME, self.labels.rows(state.owner)], horizon_us)
        if gone:
            self.labels.make_room(state.owner, gone)
            state.labels_known_since_us = max(state.labels_known_since_us, horizon_us)
            state.label_ids = {id_: at for id_, at in state.label_ids.items() if at > horizon_us}


def degrees(column: Sequence[float | None]) -> Double:
    """A coordinate of some transactions; NaN is null."""
    return np.full(len(column), np.nan) if _is_null(column) else np.array(column, np.float64)


def codes_of_asked(states: Sequence[EntityState], values: Sequence[Sequence[str | None]]) -> Codes:
    """The numbers of some transactions' values in the states of their entities, one line per attribute.

    A value that an entity never had gets a number that nothing has.
    """
    codes = np.empty((len(values), len(states)), np.int32)
    for line, column in zip(codes, values, strict=True):
        line[:] = (
            -1
            if _is_null(column)
            else [state.numbers.get(value, len(state.numbers)) for state, value in zip(states, column, strict=True)]
        )
    return codes


def _is_null(column: Sequence[object]) -> bool:
    """Whether nothing of a column is known, as of most columns of most sources; quicker than to look at each value."""
    return column.count(None) == len(column)


def _whole_numbers(column: Sequence[int]) -> Int64:
    return np.fromiter(column, np.int64, len(column))
