"""Rows of many cards or merchants in shared arrays, as compiled code reads them: no copy per card, no object per row.

Each owner has one block of consecutive places. Block sizes are powers of two, so that what one leaves fits another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fraud_pipelines.features.kernel import (
    AMOUNT,
    CAPACITY,
    FIRST_LABEL,
    NEVER_US,
    SIZE,
    START,
    TIME,
    Codes,
    Double,
    Flags,
    Int64,
    compiled,
)

_SMALLEST = 16


class Blocks:
    """Columns of rows and, by number of the owner, where its rows are.

    `columns` are arrays of shape (lines, places); `spans` has the lines START, SIZE and CAPACITY of the kernel and a
    column per owner.

    Args:
        lines: how many lines of which type each array of `columns` has.
        places: reserved ahead; the system gives memory only to those written to. Past them the arrays double.
    """

    def __init__(self, lines: Sequence[tuple[int, type[np.generic]]], places: int) -> None:
        self.columns = [np.empty((count, max(places, _SMALLEST)), kind) for count, kind in lines]
        self.spans: Int64 = np.zeros((3, _SMALLEST), np.int64)
        self._end = 0  # no block reaches so far
        self._free: dict[int, list[int]] = {}  # starts of blocks nobody has, by size

    def give(self, owner: int, rows: int) -> None:
        """A block for at least so many rows to an owner that has none."""
        while owner >= self.spans.shape[1]:
            self.spans = np.concatenate([self.spans, np.zeros_like(self.spans)], axis=1)
        capacity = _capacity(rows)
        self.spans[:, owner] = self._take(capacity), 0, capacity

    def take_back(self, owner: int) -> None:
        """The block of an owner that needs it no longer."""
        start, size, capacity = self.spans[:, owner].tolist()
        self._leave(start, size, capacity)
        self.spans[:, owner] = 0

    def size(self, owner: int) -> int:
        """Rows of an owner."""
        return int(self.spans[SIZE, owner])

    def is_full(self, owner: int) -> bool:
        """Whether the next row needs `make_room`."""
        return bool(self.spans[SIZE, owner] == self.spans[CAPACITY, owner])

    def rows(self, owner: int) -> slice:
        """The places of an owner's rows."""
        start, size, _ = self.spans[:, owner].tolist()
        return slice(start, start + size)

    def make_room(self, owner: int, gone: int, more: int = 1) -> None:
        """Drop the first `gone` rows of an owner; give the others a block with room for `more`, and a quarter."""
        start, size, capacity = self.spans[:, owner].tolist()
        kept = size - gone
        wanted = _capacity(kept + max(kept // 4, more))
        target = start if wanted == capacity else self._take(wanted)
        for column in self.columns:
            column[:, target : target + kept] = column[:, start + gone : start + size]
        if target != start:
            self._leave(start, size, capacity)
        else:
            self._clear(start + kept, start + size)
        self.spans[:, owner] = target, kept, wanted

    def open(self, owner: int, row: int) -> int:
        """The place of a new row before row `row` of an owner that has room."""
        start, size, _ = self.spans[:, owner].tolist()
        for column in self.columns:
            column[:, start + row + 1 : start + size + 1] = column[:, start + row : start + size]
        self.spans[SIZE, owner] += 1
        return int(start + row)

    def _leave(self, start: int, size: int, capacity: int) -> None:
        self._clear(start, start + size)
        self._free.setdefault(capacity, []).append(start)

    def _clear(self, start: int, stop: int) -> None:
        for column in self.columns:
            if column.dtype.hasobject:  # objects that nobody reads any more must not stay in memory
                column[:, start:stop] = None

    def _take(self, capacity: int) -> int:
        free = self._free.get(capacity)
        if free:
            return free.pop()
        start, self._end = self._end, self._end + capacity
        places = self.columns[0].shape[1]
        if self._end > places:
            wider = [np.empty((len(column), max(2 * places, self._end)), column.dtype) for column in self.columns]
            for new, old in zip(wider, self.columns, strict=True):
                new[:, :start] = old[:, :start]
            self.columns = wider
        return start


def _capacity(rows: int) -> int:
    return max(_SMALLEST, 1 << (rows - 1).bit_length())


@compiled
def lacks_room(owners: Int64, spans: Int64) -> Flags:
    """Which of some new rows would find the block of their owner full, were all added in order; see Blocks."""
    is_lacking = np.zeros(len(owners), np.bool_)
    for row in range(len(owners)):
        spans[SIZE, owners[row]] += 1
        is_lacking[row] = spans[SIZE, owners[row]] > spans[CAPACITY, owners[row]]
    for row in range(len(owners)):
        spans[SIZE, owners[row]] -= 1
    return is_lacking


@compiled
def append(
    owners: Int64, new_times: Int64, new_amounts: Int64, new_codes: Codes, new_places: Double,
    newest: Int64, spans: Int64, numbers: Int64, codes: Codes, places: Double, label_spans: Int64, labels: Int64,
) -> tuple[Int64, Flags]:  # fmt: skip
    """Add transactions to their owners' blocks, which have room, where they come after all that are there.

    Where each was put, -1 of one that is not later than the `newest` of its owner, and which may have a label already:
    a label counts after its transaction, so one that came late has an owner whose last label arrival is later than it.
    """
    at = np.full(len(owners), -1, np.int64)
    may_have_label = np.zeros(len(owners), np.bool_)
    for row in range(len(owners)):
        owner, time = owners[row], new_times[row]
        if time <= newest[owner]:
            continue
        place = spans[START, owner] + spans[SIZE, owner]
        numbers[TIME, place], numbers[AMOUNT, place], numbers[FIRST_LABEL, place] = time, new_amounts[row], NEVER_US
        for attribute in range(len(codes)):
            codes[attribute, place] = new_codes[attribute, row]
        for line in range(len(places)):
            places[line, place] = new_places[line, row]
        last = label_spans[START, owner] + label_spans[SIZE, owner] - 1
        may_have_label[row] = label_spans[SIZE, owner] > 0 and labels[TIME, last] > time
        spans[SIZE, owner] += 1
        newest[owner] = time
        at[row] = place
    return at, may_have_label
