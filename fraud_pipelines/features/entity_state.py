"""The recent events of cards or merchants in memory, in the shared arrays that the compiled engine reads.

Rows are in the order of every engine, by time and then by transaction_id, whatever the order of arrival.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count, repeat
from typing import Any, NamedTuple

import numpy as np

from fraud_pipelines.features import kernel
from fraud_pipelines.features.blocks import Blocks
from fraud_pipelines.features.engine import ATTRIBUTES
from fraud_pipelines.features.kernel import AMOUNT, FIRST_LABEL, IS_FRAUD, NEVER_US, SIZE, TIME, Codes, Double, Int64

# Values an entity may have numbered beyond those its rows need: the engine counts in arrays of this length.
_SPARE_NUMBERS = 16
_FEWEST_OWNERS = 16


class EventColumns(NamedTuple):
    """Transactions as their cards know them (online.CardEvent), or their merchants (MerchantEvent), by column.

    `attributes` are those of engine.ATTRIBUTES, None is null; `places` of a card's, shape (2, n), are degrees, NaN is
    null; a merchant's have none, shape (0, n).
    """

    ids: Sequence[str]
    time_us: Int64
    amount_minor: Int64
    attributes: Sequence[Sequence[str | None]]
    places: Double


class Entities(NamedTuple):
    """The card or the merchant of each of some transactions: the numbers they have where they are held.

    `codes`, of shape (attributes, n), are the numbers of the transactions' own values, where these are known already.
    """

    states: EntityStates
    owners: Int64
    codes: Codes | None = None

    def take(self, rows: Int64) -> Entities:
        """Those of some of the transactions."""
        return Entities(self.states, self.owners[rows], None if self.codes is None else self.codes.take(rows, axis=1))


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


class EntityStates:
    """Transactions and label arrivals of some cards, or of some merchants. Each has a number while it is held.

    Args:
        entity: card or merchant.
        keep_us: what is older than an entity's newest transaction by more may be forgotten when its block is full.
        places: rows to reserve for; see Blocks.

    Attributes, by number:
        known_since_us, labels_known_since_us: how far back (exclusive) transactions and labels are complete.
    """

    def __init__(self, entity: str, *, keep_us: int, places: int = 0) -> None:
        self.is_card, self.keep_us = entity == "card", keep_us
        self._attributes = len(ATTRIBUTES[entity])
        lines: list[tuple[int, type[np.generic]]] = [
            (3, np.int64),
            (self._attributes, np.int32),
            (2 if self.is_card else 0, np.float64),
            (1, np.object_),
        ]
        self.events = Blocks(lines, places)
        self.labels = Blocks([(3, np.int64)], places)
        self.known_since_us, self.labels_known_since_us, self._newest_us, self._last_found = np.zeros(
            (4, _FEWEST_OWNERS), np.int64
        )
        self._questions = 0
        self._owner_of: dict[str, int] = {}
        self._values: list[Numbers] = []
        self._label_ids: list[dict[str, int]] = []  # transaction_id -> when its first label counts from
        self._free_owners: list[int] = []

    def __contains__(self, name: str) -> bool:
        """Whether a card or merchant is held."""
        return name in self._owner_of

    @property
    def rows(self) -> int:
        """Transactions and labels held, of all."""
        return int(self.events.spans[SIZE].sum() + self.labels.spans[SIZE].sum())

    def rows_of(self, owner: int) -> int:
        """Transactions and labels held of one."""
        return self.events.size(owner) + self.labels.size(owner)

    def find(self, names: Iterable[str]) -> Int64:
        """The numbers of cards or merchants; -1 of one that is not held."""
        owners = np.fromiter(map(self._owner_of.get, names, repeat(-1)), np.int64)
        self._questions += 1
        self._last_found[owners] = self._questions  # with -1, the last one's: it lives a little longer
        return owners

    def least_recently_found(self) -> list[str]:
        """Those that are held, the one that was not looked for for longest first."""
        last_found = self._last_found.tolist()
        return sorted(self._owner_of, key=lambda name: last_found[self._owner_of[name]])

    def hold(
        self,
        name: str,
        events: Sequence[tuple[Any, ...]],
        labels: Sequence[tuple[Any, ...]],
        known_since_us: int,
        labels_known_since_us: int,
    ) -> int:
        """A new entity with what a store holds of it, ascending: online.CardEvent or MerchantEvent, and Label rows."""
        owner = self._new_owner()
        self._owner_of[name] = owner
        self.known_since_us[owner], self.labels_known_since_us[owner] = known_since_us, labels_known_since_us
        self._newest_us[owner], self._last_found[owner] = known_since_us, self._questions
        self.labels.give(owner, len(labels))
        if labels:
            counts_from_us, label_ids, is_fraud, amounts = zip(*labels, strict=True)
            self.labels.spans[SIZE, owner] = len(labels)
            place = self.labels.rows(owner)
            for line, whole_numbers in zip(self.labels.columns[0], (counts_from_us, amounts, is_fraud), strict=True):
                line[place] = whole_numbers
            # The first one stays: they ascend, and of two the later to be set is the one kept.
            self._label_ids[owner] = dict(zip(reversed(label_ids), reversed(counts_from_us), strict=True))
        self.events.give(owner, len(events))
        if events:
            times, ids, amounts, *values = zip(*events, strict=True)
            self.events.spans[SIZE, owner] = len(events)
            place = self.events.rows(owner)
            numbers, codes, places, all_ids = self.events.columns
            self._newest_us[owner] = times[-1]
            first_labels = tuple(map(self._label_ids[owner].get, ids, repeat(NEVER_US)))
            for line, whole_numbers in zip(numbers, (times, amounts, first_labels), strict=True):
                line[place] = whole_numbers
            own = self._values[owner] = Numbers(chain.from_iterable(values[: self._attributes]))
            for line, column in zip(codes, values, strict=False):
                line[place] = -1 if _is_null(column) else [*map(own.__getitem__, column)]
            for line, column in zip(places, values[self._attributes :], strict=True):
                line[place] = degrees(column)
            all_ids[0, place] = ids
        return owner

    def let_go(self, name: str) -> None:
        """Forget an entity; another takes its number, so what was held of it cannot be used any more."""
        owner = self._owner_of.pop(name)
        self.events.take_back(owner)
        self.labels.take_back(owner)
        self._values[owner], self._label_ids[owner] = Numbers(), {}
        self._free_owners.append(owner)

    def add(self, owners: Int64, events: EventColumns, *, asked_from_us: int | None = None) -> Entities:
        """Add each of some transactions to its entity, in its place; one that is there already changes nothing.

        Args:
            owners: the number of the entity of each.
            asked_from_us: earliest moment whose history will be asked for next: it is not forgotten to make room.
        """
        is_lacking = kernel.lacks_room(owners, self.events.spans)
        if is_lacking.any():
            new = Counter(owners.tolist())
            earliest_us = int(events.time_us.min())
            earliest_us = earliest_us if asked_from_us is None else min(earliest_us, asked_from_us)
            for owner in np.unique(owners[is_lacking]).tolist():
                self._make_room(owner, earliest_us, new[owner])
        # Only now: to make room, for all that are new, may give values other numbers.
        values = [self._values[owner] for owner in owners.tolist()]
        new_codes = np.empty((self._attributes, len(owners)), np.int32)
        for line, column in zip(new_codes, events.attributes, strict=True):
            line[:] = -1 if _is_null(column) else [own[value] for own, value in zip(values, column, strict=True)]
        numbers, codes, places, ids = self.events.columns
        at, has_label = kernel.append(
            *(owners, events.time_us, events.amount_minor, new_codes, events.places),
            *(self._newest_us, self.events.spans, numbers, codes, places),
            *(self.labels.spans, self.labels.columns[0]),
        )
        if has_label.any():
            for row in np.flatnonzero(has_label).tolist():
                first = self._label_ids[int(owners[row])].get(events.ids[row], NEVER_US)
                numbers[FIRST_LABEL, at[row]] = first
        is_late = at < 0
        if not is_late.any():
            ids[0, at] = events.ids
        else:
            for row in np.flatnonzero(~is_late).tolist():
                ids[0, at[row]] = events.ids[row]
            for row in np.flatnonzero(is_late).tolist():
                self._insert(int(owners[row]), events, new_codes, row)
        return Entities(self, owners, new_codes)

    def codes(self, owners: Int64, attributes: Sequence[Sequence[str | None]]) -> Codes:
        """The numbers of some transactions' values with their entities, one line per attribute.

        A value that an entity never had gets a number that nothing has.
        """
        values = [self._values[owner] for owner in owners.tolist()]
        codes = np.empty((len(attributes), len(owners)), np.int32)
        for line, column in zip(codes, attributes, strict=True):
            line[:] = (
                -1
                if _is_null(column)
                else [own.get(value, len(own)) for own, value in zip(values, column, strict=True)]
            )
        return codes

    def add_label(
        self,
        owner: int,
        counts_from_us: int,
        transaction_id: str,
        is_fraud: bool,
        amount_minor: int,
        event_time_us: int,
    ) -> None:
        """Add a label arrival that is not held yet; `event_time_us` is its transaction's."""
        if counts_from_us <= self.labels_known_since_us[owner]:
            return
        if self.labels.is_full(owner):
            self.labels.make_room(owner, 0)
        (arrivals,) = self.labels.columns
        row = bisect_right(arrivals[TIME, self.labels.rows(owner)], counts_from_us)
        at = self.labels.open(owner, row)
        arrivals[TIME, at], arrivals[IS_FRAUD, at], arrivals[AMOUNT, at] = counts_from_us, is_fraud, amount_minor
        label_ids = self._label_ids[owner]
        if counts_from_us < label_ids.get(transaction_id, NEVER_US):
            label_ids[transaction_id] = counts_from_us
            place = self.events.rows(owner)
            numbers, _, _, ids = self.events.columns
            times = numbers[TIME, place]
            row = bisect_left(times, event_time_us)
            while row < len(times) and times[row] == event_time_us:
                if ids[0, place.start + row] == transaction_id:
                    numbers[FIRST_LABEL, place.start + row] = counts_from_us
                row += 1

    def _new_owner(self) -> int:
        if self._free_owners:
            owner = self._free_owners.pop()
        else:
            owner = len(self._values)
            self._values.append(Numbers())
            self._label_ids.append({})
            if owner == len(self._newest_us):
                own = (self.known_since_us, self.labels_known_since_us, self._newest_us, self._last_found)
                wider = (np.concatenate([column, np.zeros_like(column)]) for column in own)
                self.known_since_us, self.labels_known_since_us, self._newest_us, self._last_found = wider
        return owner

    def _insert(self, owner: int, events: EventColumns, new_codes: Codes, row: int) -> None:
        """Add one row in its place, for which there is room, unless it is there already or before all that is held."""
        time_us, id_ = int(events.time_us[row]), events.ids[row]
        numbers, codes, places, ids = self.events.columns
        place = self.events.rows(owner)
        if place.start == place.stop and time_us <= self._newest_us[owner]:
            return  # before what is held; whoever needs it reads further back
        times, held_ids = numbers[TIME, place], ids[0, place]
        first = bisect_left(times, time_us)
        ties = bisect_right(times, time_us, first)
        at = bisect_left(held_ids, id_, first, ties)
        if at < ties and held_ids[at] == id_:
            return
        at = self.events.open(owner, at)
        ids[0, at] = id_
        numbers[TIME, at], numbers[AMOUNT, at] = time_us, events.amount_minor[row]
        numbers[FIRST_LABEL, at] = self._label_ids[owner].get(id_, NEVER_US)
        codes[:, at] = new_codes[:, row]
        places[:, at] = events.places[:, row]

    def _make_room(self, owner: int, earliest_us: int, more: int) -> None:
        """Forget what no window from `earliest_us` on can reach, and take space for `more`."""
        times = self.events.columns[0][TIME, self.events.rows(owner)]
        newest_us = int(times[-1]) if len(times) else earliest_us
        horizon_us = min(newest_us, earliest_us) - self.keep_us
        gone = bisect_right(times, horizon_us)
        if gone < len(times) // 4:
            gone = 0
        self.events.make_room(owner, gone, more)
        if gone:
            self.known_since_us[owner] = max(self.known_since_us[owner], horizon_us)
            self._forget_labels(owner, horizon_us)
            self._forget_values(owner)

    def _forget_values(self, owner: int) -> None:
        """Number anew where most values are of transactions that went."""
        place, values = self.events.rows(owner), self._values[owner]
        if len(values) > 2 * (place.stop - place.start) * self._attributes + _SPARE_NUMBERS:
            codes = self.events.columns[1]
            names = {number: name for name, number in values.items()}
            own = self._values[owner] = Numbers(map(names.__getitem__, np.unique(codes[:, place]).tolist()))
            new = {number: own[name] for number, name in names.items() if name in own}
            codes[:, place] = [[*map(new.__getitem__, line)] for line in codes[:, place].tolist()]

    def _forget_labels(self, owner: int, horizon_us: int) -> None:
        gone = bisect_right(self.labels.columns[0][TIME, self.labels.rows(owner)], horizon_us)
        if gone:
            self.labels.make_room(owner, gone)
            self.labels_known_since_us[owner] = max(self.labels_known_since_us[owner], horizon_us)
            kept = {id_: at for id_, at in self._label_ids[owner].items() if at > horizon_us}
            self._label_ids[owner] = kept


def whole(entity: str, events: Sequence[tuple[Any, ...]], labels: Sequence[tuple[Any, ...]]) -> Entities:
    """The card or merchant of one transaction, with everything there is of it; see EntityStates.hold."""
    states = EntityStates(entity, keep_us=NEVER_US)
    owner = states.hold("", events, labels, -NEVER_US, -NEVER_US)
    return Entities(states, np.array([owner]))


def degrees(column: Sequence[float | None]) -> Double:
    """A coordinate of some transactions; NaN is null."""
    return np.full(len(column), np.nan) if _is_null(column) else np.array(column, np.float64)


def _is_null(column: Sequence[object]) -> bool:
    """Whether nothing of a column is known, as of most columns of most sources; quicker than to look at each value."""
    return column.count(None) == len(column)
