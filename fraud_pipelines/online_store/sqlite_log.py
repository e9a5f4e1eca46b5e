"""The log of the embedded online store: what was recorded since the last rebuild, a row per call.

Writing one row at the end of a table costs a tenth of writing each event where its card, its merchant and its
identifier lie in the tables of histories. A rebuild brings nearly all of it from the warehouse anyway; what it does not
bring is put into those tables then. Until then every process finds events in the log by a small index that it keeps in
memory, twelve bytes per text and event.

Every event, and every decision on a transaction that was there already, has a number, in the order they were recorded.
A row has the number of its last one, and a line for each:

    T[...]  a transaction, its values in the order of ScoredTransaction
    L[...]  a label arrival
    D[...]  identifier and event time of a transaction that was there already, and is decided now
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple
from zlib import crc32

import numpy as np
import orjson
from numpy.typing import NDArray

from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.online_store import state
from fraud_pipelines.online_store.following import Change, decode, encode
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TRANSACTIONS, Table

_INSERT = (
    "insert into log (number, newest_us, transactions, labels, hashes, lines, decisions, decision_sizes) "
    "values (?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNTS = {TRANSACTIONS: "transactions", LABEL_ARRIVALS: "labels"}
"""The column of `log` that counts a row's events of each table."""
# New places are kept in a dictionary until there are so many, then sorted among the others.
_SORTED_EVERY = 1_024
_NEAR = 16


class Numbers(NamedTuple):
    """Of the last event that was recorded, of the last one that is in the tables of histories, or was dropped, and of
    the last one at the last rebuild."""

    newest: int
    folded: int
    rebuilt: int


class Decided(NamedTuple):
    """A transaction that was there already, and is decided now."""

    transaction_id: str
    event_time_us: int


Line = ScoredTransaction | LabelArrival | Decided


Hashes = NDArray[np.uint32]
"""Of some lines, shape (3, n): of their identifiers, cards and merchants; 0 where a line has none."""


class Written(NamedTuple):
    """A row that was appended: where the log was and is, what its lines are found by, and how many bytes it has."""

    before: Numbers
    after: Numbers
    hashes: Hashes
    size: int


def numbers(connection: sqlite3.Connection) -> Numbers:
    """Where the log is."""
    newest, folded, rebuilt = connection.execute(
        "select (select max(number) from log), number, by_rebuild from folded"
    ).fetchone()
    return Numbers(max(newest or 0, folded), folded, rebuilt)


def write(
    connection: sqlite3.Connection, now: Numbers, lines: Sequence[Line], decisions: Sequence[bytes] | None = None
) -> Written:
    """Append a row, with a decision for each line where there are decisions."""
    newest = now.newest + len(lines)
    transactions = sum(type(line) is ScoredTransaction for line in lines)
    labels = sum(type(line) is LabelArrival for line in lines)
    written, all_decisions, sizes = b"\n".join(map(_encoded, lines)), None, None
    if decisions is not None:
        all_decisions, sizes = b"".join(decisions), orjson.dumps([len(decision) for decision in decisions])
    newest_us = max(line.event_time_us for line in lines)
    hashes = np.array([_hashes(line) for line in lines], np.uint32).T
    connection.execute(
        _INSERT, (newest, newest_us, transactions, labels, hashes.tobytes(), written, all_decisions, sizes)
    )
    return Written(now, now._replace(newest=newest), hashes, len(written) + len(all_decisions or b""))


def set_folded(connection: sqlite3.Connection, number: int, *, by_rebuild: bool) -> None:
    """Say up to which number events are in the tables of histories, or were dropped."""
    connection.execute("update folded set number = ?", (number,))
    if by_rebuild:
        connection.execute("update folded set by_rebuild = number")


def rows_after(connection: sqlite3.Connection, number: int) -> Iterator[tuple[int, list[Line]]]:
    """Rows after a number, one after the other: the number of the last line, and the lines."""
    for last, written in connection.execute(
        "select number, lines from log where number > ? order by number", (number,)
    ):
        yield last, [_decoded(line) for line in written.split(b"\n")]


def table_rows(lines: Iterable[Line]) -> dict[Table, list[tuple]]:
    """The events among some lines as rows of their tables."""
    found: dict[Table, list[tuple]] = {TRANSACTIONS: [], LABEL_ARRIVALS: []}
    for line in lines:
        if isinstance(line, ScoredTransaction):
            found[TRANSACTIONS].append(state.transaction_row(line))
        elif isinstance(line, LabelArrival):
            found[LABEL_ARRIVALS].append(state.label_row(line))
    return found


def changes_after(connection: sqlite3.Connection, number: int) -> list[Change]:
    """The events after a number."""
    return [line for _, lines in rows_after(connection, number) for line in lines if not isinstance(line, Decided)]


def decision_of(connection: sqlite3.Connection, found: Found) -> bytes:
    """The decision beside a line that has one."""
    row, place = found.row, found.number - found.row.first
    start = sum(row.decision_sizes[:place])
    (decision,) = connection.execute(
        "select substr(decisions, ?, ?) from log where number = ?", (start + 1, row.decision_sizes[place], row.number)
    ).fetchone()
    return decision or b""  # SQLite has no part of nothing


def _hashes(line: Line) -> tuple[int, int, int]:
    id_ = crc32(line.transaction_id.encode())
    if isinstance(line, Decided):
        return id_, 0, 0
    return id_, crc32(line.card_id.encode()), crc32(line.merchant_id.encode())


def _encoded(line: Line) -> bytes:
    if isinstance(line, Decided):
        return b"D" + orjson.dumps([line.transaction_id, line.event_time_us])
    is_label, body = encode(line)
    return (b"L" if is_label else b"T") + body


def _decoded(line: bytes) -> Line:
    kind, body = line[:1], line[1:]
    return Decided(*orjson.loads(body)) if kind == b"D" else decode(kind == b"L", body)


class LogIndex:
    """Finds lines of the log by identifier, card and merchant. Not safe for threads.

    `follow` brings it up to a snapshot; what it finds then is what that snapshot holds. Snapshots must not go back.
    """

    def __init__(self) -> None:
        self._newest = self._dropped = 0
        self._of_id, self._of_card, self._of_merchant = _Places(), _Places(), _Places()

    def follow(self, connection: sqlite3.Connection, now: Numbers) -> None:
        """Take in what was recorded since, up to where the log is in this snapshot."""
        if now.newest > self._newest:
            rows = connection.execute(
                "select number, hashes from log where number > ? order by number", (self._newest,)
            ).fetchall()
            if rows:
                hashes = [np.frombuffer(written, np.uint32).reshape(3, -1) for _, written in rows]
                ends = [(last - one.shape[1] + 1, last + 1) for (last, _), one in zip(rows, hashes, strict=True)]
                self._add(np.hstack(hashes), np.concatenate([np.arange(*end) for end in ends]), now.folded)
            self._newest = now.newest
        # Those that are folded are not looked at, either way: they go when they have become many.
        if now.folded - self._dropped > max(_SORTED_EVERY, (now.newest - now.folded) // 4):
            self._dropped = now.folded
            # Four bytes for each of three hashes of a line.
            before = connection.execute(
                "select number - length(hashes) / 12 from log order by number limit 1"
            ).fetchone()
            self._of_id.drop(before[0] if before else now.newest)
            for places in (self._of_card, self._of_merchant):
                places.drop(now.folded)

    def wrote(self, written: Written) -> None:
        """Take in lines that were just written, without reading them."""
        before, after = written.before, written.after
        if self._newest == before.newest:
            self._add(written.hashes, np.arange(before.newest + 1, after.newest + 1), after.folded)
            self._newest = after.newest

    def of_ids(self, connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, list[Found]]:
        """Every line of these identifiers, in the order they were recorded; identifiers without one are left out."""
        found: dict[str, list[Found]] = {}
        for id_, numbers in self._of_id.find(ids):
            lines = [one for one in _lines(connection, numbers) if one.line.transaction_id == id_]
            if lines:
                found[id_] = lines
        return found

    def of_card(self, connection: sqlite3.Connection, card_id: str, after: int) -> list[Change]:
        """Events of a card after a number, in the order they were recorded."""
        return self._events(connection, self._of_card, card_id, after, attrgetter("card_id"))

    def of_merchant(self, connection: sqlite3.Connection, merchant_id: str, after: int) -> list[Change]:
        """Events of a merchant after a number, in the order they were recorded."""
        return self._events(connection, self._of_merchant, merchant_id, after, attrgetter("merchant_id"))

    def _add(self, hashes: Hashes, numbers: NDArray[np.int64], folded: int) -> None:
        self._of_id.add(hashes[0], numbers)
        is_logged = numbers > folded
        for places, own in ((self._of_card, hashes[1]), (self._of_merchant, hashes[2])):
            places.add(own[is_logged], numbers[is_logged])

    def _events(
        self, connection: sqlite3.Connection, places: _Places, id_: str, after: int, whose: Callable[[Line], str]
    ) -> list[Change]:
        for _, numbers in places.find([id_]):
            lines = _lines(connection, [number for number in numbers if number > after])
            # By hash: other texts may be among them.
            return [one.line for one in lines if not isinstance(one.line, Decided) and whose(one.line) == id_]
        return []


class _Row(NamedTuple):
    number: int
    lines: list[bytes]
    decision_sizes: list[int]

    @property
    def first(self) -> int:
        return self.number - len(self.lines) + 1


class Found(NamedTuple):
    """A line that was looked for. Its row has a decision for each of its lines, or none at all."""

    number: int
    line: Line
    row: _Row

    @property
    def is_decided(self) -> bool:
        return bool(self.row.decision_sizes)


def _lines(connection: sqlite3.Connection, numbers: Sequence[int]) -> Iterator[Found]:
    """The lines of these numbers that are still there, ascending."""
    wanted = sorted(numbers)
    position = 0
    while position < len(wanted):
        rows = connection.execute(
            "select number, lines, decision_sizes from log where number >= ? order by number", (wanted[position],)
        )
        for last, written, sizes in rows:
            # What is near is come to sooner by reading on than by looking for it.
            if wanted[position] > last + _NEAR:
                break
            if wanted[position] > last:
                continue
            row = _Row(last, written.split(b"\n"), orjson.loads(sizes) if sizes else [])
            while position < len(wanted) and wanted[position] <= last:
                if wanted[position] >= row.first:
                    yield Found(wanted[position], _decoded(row.lines[wanted[position] - row.first]), row)
                position += 1
            if position == len(wanted):
                return
        else:
            return


class _Places:
    """In which lines a text occurs, by a hash of 32 bits: a few lines of other texts may be among them."""

    def __init__(self) -> None:
        # The newest: a number, or all of them where there are several. Most texts occur once in so few lines.
        self._fresh: dict[int, int | list[int]] = {}
        self._fresh_lines = 0
        self._hashes, self._numbers = np.empty(0, np.uint32), np.empty(0, np.int64)

    def add(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        """Add lines that come after all others."""
        if len(hashes) >= _SORTED_EVERY:
            self._merge(hashes, numbers)
            return
        fresh = self._fresh
        for hashed, number in zip(hashes.tolist(), numbers.tolist(), strict=True):
            fresh[hashed] = [*_listed(fresh[hashed]), number] if hashed in fresh else number
        self._fresh_lines += len(hashes)
        if self._fresh_lines >= _SORTED_EVERY:
            self._sort()

    def find(self, texts: Sequence[str]) -> Iterator[tuple[str, list[int]]]:
        """Of each text that may occur anywhere, the numbers of the lines."""
        hashes = [crc32(text.encode()) for text in texts]
        wanted = np.array(hashes, np.uint32)
        starts, ends = self._hashes.searchsorted(wanted).tolist(), self._hashes.searchsorted(wanted, "right").tolist()
        for text, hashed, start, end in zip(texts, hashes, starts, ends, strict=True):
            if end > start or hashed in self._fresh:
                yield text, [*self._numbers[start:end].tolist(), *_listed(self._fresh.get(hashed, []))]

    def drop(self, number: int) -> None:
        """Forget the lines up to a number."""
        self._sort()
        is_kept = self._numbers > number
        self._hashes, self._numbers = self._hashes[is_kept], self._numbers[is_kept]

    def _sort(self) -> None:
        places = [(hashed, number) for hashed, found in self._fresh.items() for number in _listed(found)]
        self._fresh.clear()
        self._fresh_lines = 0
        if places:
            hashes, numbers = zip(*places, strict=True)
            self._merge(np.array(hashes, np.uint32), np.array(numbers, np.int64))

    def _merge(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        order = hashes.argsort(kind="stable")
        # Two copies of everything cost less than sorting everything again.
        at = self._hashes.searchsorted(hashes[order], "right")
        self._hashes = np.insert(self._hashes, at, hashes[order])
        self._numbers = np.insert(self._numbers, at, numbers[order])


def _listed(numbers: int | list[int]) -> list[int]:
    return [numbers] if isinstance(numbers, int) else numbers
