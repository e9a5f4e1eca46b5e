"""Rows of many cards or merchants in shared arrays, as compiled code reads them: no copy per card, no object per row.

Each owner has one block of consecutive places. Block sizes are powers of two, so that what one leaves fits another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fraud_pipelines.features.kernel import CAPACITY, SIZE, Int64

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
