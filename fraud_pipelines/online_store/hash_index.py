"""Finds numbered lines by a text in them: a hash table in arrays, chained from each line to the one before.

To add a line is to write three numbers, and what is not there is mostly known after one look, whether it is one text or
hundreds at once. Nothing is ever sorted or copied again: when a table is full another one begins, and the oldest one
goes as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Numbers that one table covers, a power of two. Its arrays have no memory before they are written to.
_TABLE_LINES = 2**19
# Of so many lines or texts at once, NumPy's calls cost less than a step of Python for each.
_MANY = 24


class HashIndex:
    """In which lines a text occurs, by a hash of 32 bits: a few lines of other texts may be among them.

    Sixteen bytes per line.
    """

    def __init__(self) -> None:
        self._tables: list[_Table] = []

    def add(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        """Add lines, in ascending order, that come after all others. Both of shape (n,)."""
        while len(numbers):
            first, last = numbers.item(0), numbers.item(-1)
            if not self._tables or first > self._tables[-1].last:
                self._tables.append(_Table(first))
            table = self._tables[-1]
            if last <= table.last:
                table.add(hashes, numbers)
                return
            fitting = numbers.searchsorted(table.last, "right")
            table.add(hashes[:fitting], numbers[:fitting])
            hashes, numbers = hashes[fitting:], numbers[fitting:]

    def find(self, hashed: int, after: int = 0) -> list[int]:
        """Lines of a text after a number, the newest first."""
        found: list[int] = []
        for table in reversed(self._tables):
            if table.last <= after:
                break
            found += table.find(hashed, after)
        return found

    def find_each(self, hashes: Sequence[int]) -> dict[int, list[int]]:
        """Of those texts that occur, by their position in `hashes`, the lines, the newest first."""
        found: dict[int, list[int]] = {}
        if len(hashes) < _MANY:
            for position, hashed in enumerate(hashes):
                if numbers := self.find(hashed):
                    found[position] = numbers
            return found
        wanted = np.array(hashes, np.uint32)
        for table in reversed(self._tables):
            for position, number in table.find_each(wanted):
                found.setdefault(position, []).append(number)
        return found

    def drop(self, number: int) -> None:
        """Lines up to a number need not be found any more; those that lie with later ones still are."""
        while self._tables and self._tables[0].last <= number:
            del self._tables[0]


class _Table:
    """The lines from number `first` to `last`. Each has a place, counted from 1; 0 is none."""

    def __init__(self, first: int) -> None:
        self.first, self.last = first, first + _TABLE_LINES - 1
        # Twice as many buckets as lines, so that three of four are empty on average, until the table is full.
        self._mask = 2 * _TABLE_LINES - 1
        self._newest = np.zeros(2 * _TABLE_LINES, np.int32)
        self._hashes = np.zeros(_TABLE_LINES + 1, np.uint32)
        self._before = np.zeros(_TABLE_LINES + 1, np.int32)
        # The same memory: one number of it costs a third of what NumPy takes for it.
        self._each = self._newest.data, self._hashes.data, self._before.data

    def add(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        if len(hashes) >= _MANY:
            self._add_many(hashes, numbers)
            return
        newest, all_hashes, before = self._each
        for hashed, number in zip(hashes.tolist(), numbers.tolist(), strict=True):
            place, bucket = number - self.first + 1, hashed & self._mask
            all_hashes[place] = hashed
            before[place] = newest[bucket]
            newest[bucket] = place

    def _add_many(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        places, buckets = (numbers - (self.first - 1)).astype(np.int32), hashes & self._mask
        self._hashes[places] = hashes
        # Lines of one bucket come to lie beside each other, the oldest first: it follows what is in the bucket now,
        # and the newest stays in it.
        order = buckets.argsort(kind="stable")
        places, buckets = places[order], buckets[order]
        before = np.empty(len(places), np.int32)
        before[1:] = places[:-1]
        is_first, is_last = np.ones(len(places), bool), np.ones(len(places), bool)
        np.not_equal(buckets[1:], buckets[:-1], out=is_first[1:])
        is_last[:-1] = is_first[1:]
        before[is_first] = self._newest[buckets[is_first]]
        self._before[places] = before
        self._newest[buckets[is_last]] = places[is_last]

    def find(self, hashed: int, after: int) -> list[int]:
        newest, hashes, before = self._each
        found, place, known = [], newest[hashed & self._mask], max(after - self.first + 1, 0)
        while place > known:
            if hashes[place] == hashed:
                found.append(self.first + place - 1)
            place = before[place]
        return found

    def find_each(self, wanted: NDArray[np.uint32]) -> list[tuple[int, int]]:
        """Position in `wanted` and number of each line that has one of the hashes; of one hash the newest first."""
        found: list[tuple[int, int]] = []
        places = self._newest[wanted & self._mask]
        positions = places.nonzero()[0]
        places = places[positions]
        while len(positions):
            is_found = self._hashes[places] == wanted[positions]
            if is_found.any():
                numbers = places[is_found].astype(np.int64) + (self.first - 1)
                found += zip(positions[is_found].tolist(), numbers.tolist(), strict=True)
            places = self._before[places]
            is_left = places.nonzero()[0]
            places, positions = places[is_left], positions[is_left]
        return found
