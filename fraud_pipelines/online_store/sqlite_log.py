"""The log of the embedded online store: what was recorded since the last rebuild, a row per call.

Writing one row at the end of a table costs a tenth of writing each event where its card, its merchant and its
identifier lie in the tables of histories. A rebuild brings nearly all of it from the warehouse anyway; what it does not
bring is put into those tables then. Until then every process finds events in the log by an index of hashes that it
keeps in memory.

Every event, and every decision on a transaction that was there already, has a number, in the order they were recorded.
A row has the number of its last one, and a line for each:

    T[...]  a transaction, its values in the order of ScoredTransaction
    L[...]  a label arrival
    D[...]  identifier and event time of a transaction that was there already, and is decided now
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import orjson
from numpy.typing import NDArray

from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.online_store import following, state
from fraud_pipelines.online_store.following import Change
from fraud_pipelines.online_store.hash_index import HashIndex
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TRANSACTIONS, Table

_INSERT = (
    "insert into log (number, newest_us, transactions, labels, hashes, lines, decisions, decision_sizes) "
    "values (?, ?, ?, ?, ?, ?, ?, ?)"
)
COUNTS = {TRANSACTIONS: "transactions", LABEL_ARRIVALS: "labels"}
"""The column of `log` that counts a row's events of each table."""
_NEAR = 16
# The index lets go of what is folded once so many lines are.
_FORGOTTEN_EVERY = 65_536


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

    # Nothing, of which the hash is 0: it is no event of its card and merchant.
    @property
    def card_id(self) -> str:
        return ""

    @property
    def merchant_id(self) -> str:
        return ""


Line = ScoredTransaction | LabelArrival | Decided
_LETTERS: dict[type[Line], tuple[bytes, Callable[[Any], tuple]]] = {
    ScoredTransaction: (b"T", following.TRANSACTION_VALUES),
    LabelArrival: (b"L", following.LABEL_VALUES),
    Decided: (b"D", tuple),
}
_KINDS: dict[bytes, type[Line]] = {letter: kind for kind, (letter, _) in _LETTERS.items()}
_ID_OF, _CARD_OF, _MERCHANT_OF = attrgetter("transaction_id"), attrgetter("card_id"), attrgetter("merchant_id")

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
    kinds = list(map(type, lines))
    transactions, labels = kinds.count(ScoredTransaction), kinds.count(LabelArrival)
    written, all_decisions, sizes = _encoded(lines), None, None
    if decisions is not None:
        all_decisions, sizes = b"".join(decisions), orjson.dumps(list(map(len, decisions)))
    newest_us = max(line.event_time_us for line in lines)
    hashes = _hashes(lines)
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


def _crc(texts: Iterable[str]) -> list[int]:
    return list(map(crc32, map(str.encode, texts)))


def _hashes(lines: Sequence[Line]) -> Hashes:
    return np.array([_crc(map(text_of, lines)) for text_of in (_ID_OF, _CARD_OF, _MERCHANT_OF)], np.uint32)


def _encoded(lines: Sequence[Line]) -> bytes:
    encoded = []
    for line in lines:
        letter, values_of = _LETTERS[type(line)]
        encoded.append(letter + orjson.dumps(values_of(line)))
    return b"\n".join(encoded)


def _decoded(line: bytes) -> Line:
    return _KINDS[line[:1]](*orjson.loads(line[1:]))


class LogIndex:
    """Finds lines of the log by identifier, card and merchant. Not safe for threads.

    `follow` brings it up to a snapshot; what it finds then is what that snapshot holds. Snapshots must not go back.
    """

    def __init__(self) -> None:
        self._newest = self._dropped = 0
        self._of_id, self._of_card, self._of_merchant = HashIndex(), HashIndex(), HashIndex()

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
        if now.folded - self._dropped >= _FORGOTTEN_EVERY:
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
        numbers = {number for of_one in self._of_id.find_each(_crc(ids)).values() for number in of_one}
        asked, found = set(ids), dict[str, list[Found]]()
        # All at once: a batch that is sent again would else read each of its rows for each of its payments.
        for one in _lines(connection, numbers):
            id_ = one.line.transaction_id
            if id_ in asked:  # by hash: other texts may be among them
                found.setdefault(id_, []).append(one)
        return found

    def of_card(self, connection: sqlite3.Connection, card_id: str, after: int) -> list[Change]:
        """Events of a card after a number, in the order they were recorded."""
        return self._events(connection, self._of_card, card_id, after, _CARD_OF)

    def of_merchant(self, connection: sqlite3.Connection, merchant_id: str, after: int) -> list[Change]:
        """Events of a merchant after a number, in the order they were recorded."""
        return self._events(connection, self._of_merchant, merchant_id, after, _MERCHANT_OF)

    def _add(self, hashes: Hashes, numbers: NDArray[np.int64], folded: int) -> None:
        self._of_id.add(hashes[0], numbers)
        if numbers.item(0) <= folded:
            is_logged = numbers > folded
            hashes, numbers = hashes[:, is_logged], numbers[is_logged]
        self._of_card.add(hashes[1], numbers)
        self._of_merchant.add(hashes[2], numbers)

    def _events(
        self, connection: sqlite3.Connection, places: HashIndex, id_: str, after: int, whose: Callable[[Line], str]
    ) -> list[Change]:
        lines = _lines(connection, places.find(crc32(id_.encode()), after))
        # By hash: other texts may be among them.
        return [one.line for one in lines if not isinstance(one.line, Decided) and whose(one.line) == id_]


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


def _lines(connection: sqlite3.Connection, numbers: Collection[int]) -> Iterator[Found]:
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
