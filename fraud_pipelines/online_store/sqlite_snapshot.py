"""One moment of the embedded online store: what its tables of histories and its log hold together."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fraud_pipelines.features.online import EntityHistory, LabelArrival, ScoredTransaction
from fraud_pipelines.online_store import following, sqlite_log, state
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US, Change, Position, Wanted
from fraud_pipelines.online_store.sqlite_log import Found, Line, LogIndex, Written
from fraud_pipelines.online_store.sqlite_tables import INSERTS
from fraud_pipelines.online_store.state import TABLES, TRANSACTIONS, Reach, Table

# Events in the log that no rebuild brought or took over. With more, an append moves twice as many as it brings into the
# tables of histories: several times dearer, but histories are not looked for in ever more of the log. Decisions stay in
# it until a rebuild ends them, and their identifiers in the index.
MOST_UNFOLDED = 500_000

_CARD_EVENTS = """select event_time_us, transaction_id, amount_minor, merchant_id, country, device_id, category,
    merchant_latitude, merchant_longitude
    from transactions where card_id = ? and event_time_us > ? and event_time_us < ?
    order by event_time_us, transaction_id"""
_MERCHANT_EVENTS = """select event_time_us, transaction_id, amount_minor, card_id
    from transactions where merchant_id = ? and event_time_us > ? and event_time_us < ?
    order by event_time_us, transaction_id"""
_LABELS = """select counts_from_us, transaction_id, is_fraud, amount_minor{known_at}
    from label_arrivals where {entity} = ? and counts_from_us > ? and counts_from_us <= ?
    order by counts_from_us, transaction_id, known_at_us"""
_TRANSACTION = f"select {', '.join(TRANSACTIONS.columns)} from transactions where transaction_id = ?"
# The largest number SQLite can hold: no event is later.
_EVER = 2**63 - 1


class Stored(NamedTuple):
    """The last rebuild: its moment and how far back it went, None before the first; and how many there were."""

    as_of_us: int | None
    reach: Reach | None
    rebuilds: int

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Stored:
        row = connection.execute(f"select {', '.join(state.STATE_COLUMNS)}, rebuilds from state").fetchone()
        return cls(None, None, 0) if row is None else cls(row[0], Reach.of_row(row), row[3])


@dataclass(frozen=True, slots=True)
class There:
    """What there is of one transaction: its lines in the log, and whether its event counts."""

    lines: Sequence[Found]
    is_stored: bool


class SqliteSnapshot:
    """What a connection's transaction sees. Holds the index: one at a time.

    Attributes:
        position: where the store is; `numbers` is where its log is, after `write` as well.
        wrote: what `write` did, for the index to hear of once it is committed.
    """

    def __init__(self, connection: sqlite3.Connection, index: LogIndex, needed: Reach) -> None:
        self._connection, self._index, self._needed = connection, index, needed
        self.as_of_us, self.reach, rebuilds = Stored.of(connection)
        self.numbers = sqlite_log.numbers(connection)
        self.position = Position(rebuilds, self.numbers.newest)
        self.wrote: Written | None = None
        index.follow(connection, self.numbers)

    def changes(self, since: Position | None) -> tuple[bool, list[Change]]:
        """Whether a process at `since` must forget what it knows, and else what happened since."""
        here = self.position
        if since is None or since.epoch != here.epoch or since.sequence > here.sequence:
            return True, []
        if since.sequence == here.sequence:
            return False, []
        if here.sequence - since.sequence > following.CHANGES_KEPT:
            return True, []
        return False, sqlite_log.changes_after(self._connection, since.sequence)

    def there(self, ids: Sequence[str]) -> dict[str, There]:
        """Those of some transactions of which there is anything."""
        if not ids:
            return {}
        marks = ", ".join("?" * len(ids))
        rows = self._connection.execute(
            f"select transaction_id from transactions where transaction_id in ({marks})", list(ids)
        )
        found = {id_: There((), True) for (id_,) in rows}
        for id_, lines in self._index.of_ids(self._connection, ids).items():
            is_event = any(isinstance(line, ScoredTransaction) for line in self._unfolded(lines))
            found[id_] = There(lines, is_event or id_ in found)
        return found

    def decisions(self, there: Mapping[str, There]) -> dict[str, bytes]:
        """The decisions that stand on these transactions, while they are kept."""
        decisions: dict[str, bytes] = {}
        for id_, found in there.items():
            for one in found.lines:
                if one.is_decided and not self._is_expired(one):
                    decisions[id_] = sqlite_log.decision_of(self._connection, one)
                    break
        return decisions

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        """A transaction whose event counts."""
        lines = self._index.of_ids(self._connection, [transaction_id]).get(transaction_id, ())
        for line in self._unfolded(lines):
            if isinstance(line, ScoredTransaction):
                return line
        row = self._connection.execute(_TRANSACTION, (transaction_id,)).fetchone()
        return None if row is None else state.stored_transaction(row)

    def has_label(self, arrival: LabelArrival) -> bool:
        """Whether the very label arrival is there."""
        identity = arrival.transaction_id, arrival.known_at_us
        lines = self._index.of_ids(self._connection, identity[:1]).get(arrival.transaction_id, ())
        for line in self._unfolded(lines):
            if isinstance(line, LabelArrival) and line.known_at_us == arrival.known_at_us:
                return True
        known = "select 1 from label_arrivals where transaction_id = ? and known_at_us = ?"
        return self._connection.execute(known, identity).fetchone() is not None

    def card(self, wanted: Wanted, until_us: int | None = None) -> EntityHistory:
        """The history of a card: transactions before a moment, labels that count from it or earlier."""
        changes = self._index.of_card(self._connection, wanted.id, self.numbers.folded)
        return self._history("card_id", _CARD_EVENTS, _card_event, wanted, changes, until_us)

    def merchant(self, wanted: Wanted, until_us: int | None = None) -> EntityHistory:
        """The history of a merchant, likewise."""
        changes = self._index.of_merchant(self._connection, wanted.id, self.numbers.folded)
        return self._history("merchant_id", _MERCHANT_EVENTS, _merchant_event, wanted, changes, until_us)

    def write(self, lines: Sequence[Line], decisions: Sequence[bytes] | None = None) -> None:
        """Append to the log; see sqlite_log.write."""
        self.wrote = sqlite_log.write(self._connection, self.numbers, lines, decisions)
        self.numbers = self.wrote.after
        if self.numbers.newest - self.numbers.folded > MOST_UNFOLDED:
            self._fold(2 * len(lines))

    def _unfolded(self, found: Sequence[Found]) -> list[Line]:
        """Lines whose events are in the log alone."""
        return [one.line for one in found if one.number > self.numbers.folded]

    def _is_expired(self, found: Found) -> bool:
        # A rebuild ends what is old then; on an older payment that comes later the decision is kept until the next one.
        if self.as_of_us is None or found.number > self.numbers.rebuilt:
            return False
        return found.line.event_time_us <= self.as_of_us - DECISIONS_KEPT_US

    def _history(self, entity, events_sql, event_of, wanted, changes, until_us) -> EntityHistory:  # type: ignore[no-untyped-def]
        id_, since_us, labels_since_us = wanted
        ask, until = self._connection.execute, _EVER if until_us is None else until_us
        events = ask(events_sql, (id_, since_us, until)).fetchall()
        if not changes:
            sql = _LABELS.format(entity=entity, known_at="")
            return EntityHistory(events, ask(sql, (id_, labels_since_us, until)).fetchall())
        sql = _LABELS.format(entity=entity, known_at=", known_at_us")
        labels = ask(sql, (id_, labels_since_us, until)).fetchall()
        for change in changes:
            if isinstance(change, LabelArrival):
                if labels_since_us < change.counts_from_us <= until:
                    c = change
                    labels.append((c.counts_from_us, c.transaction_id, int(c.is_fraud), c.amount_minor, c.known_at_us))
            elif since_us < change.event_time_us < until:
                events.append(event_of(change))
        events.sort(key=lambda event: event[:2])
        labels.sort(key=lambda label: (*label[:2], label[4]))
        return EntityHistory(events, [label[:4] for label in labels])

    def _fold(self, least: int) -> None:
        """Move the oldest events of the log into the tables of histories: so many, and the rest of the last row."""
        moved: list[Line] = []
        folded = self.numbers.folded
        for last, lines in sqlite_log.rows_after(self._connection, folded):
            moved += lines
            folded = last
            if len(moved) >= least:
                break
        for table, rows in sqlite_log.table_rows(moved).items():
            self._connection.executemany(INSERTS[table], rows)
            if rows:
                self._forget(table, dict(zip(table.columns, rows[0], strict=True)))
        sqlite_log.set_folded(self._connection, folded, by_rebuild=False)
        self.numbers = self.numbers._replace(folded=folded)

    def _forget(self, table: Table, event: Mapping[str, int | str]) -> None:
        """Delete what an event makes superfluous of its card and merchant; others must not pay for each event."""
        built = None if self.reach is None else (self.as_of_us, self.reach.transactions_us, self.reach.labels_us)
        horizon_us = state.horizon_after(table, int(event[table.time]), self._needed, built)
        for entity in ("card_id", "merchant_id"):
            self._connection.execute(
                f"delete from {table.name} where {entity} = ? and {table.time} <= ?", (event[entity], horizon_us)
            )


def sizes(connection: sqlite3.Connection) -> dict[str, int]:
    """How many events of each table there are, in it and in the log."""
    found = {}
    for table in TABLES:
        (there,) = connection.execute(f"select count(*) from {table.name}").fetchone()
        (logged,) = connection.execute(
            f"select coalesce(sum({sqlite_log.COUNTS[table]}), 0) from log where number > (select number from folded)"
        ).fetchone()
        found[table.name] = there + logged
    return found


def _card_event(t: ScoredTransaction) -> tuple:
    return (
        *(t.event_time_us, t.transaction_id, t.amount_minor, t.merchant_id, t.country, t.device_id, t.category),
        *(t.merchant_latitude, t.merchant_longitude),
    )


def _merchant_event(t: ScoredTransaction) -> tuple:
    return t.event_time_us, t.transaction_id, t.amount_minor, t.card_id
