"""The embedded online store: one SQLite file in WAL mode, so that readers never wait for a writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import following, sqlite_rebuild, state
from fraud_pipelines.online_store.following import (
    DECISIONS_KEPT_US,
    Change,
    Entry,
    Outcome,
    Position,
    Snapshot,
    Wanted,
    decode,
    encode,
    is_time_to_trim,
    touches,
)
from fraud_pipelines.online_store.sqlite_tables import create_tables
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TABLES, TRANSACTIONS, Reach, Table
from fraud_pipelines.write_ahead_log import use_write_ahead_log

if TYPE_CHECKING:
    import pyarrow as pa

# A writer waits this long for another one. Measured with the Handbook's data (440,000 transactions and 307,000 labels
# within reach): the first rebuild holds the lock for 5 s, one a day later for 1 s.
BUSY_SECONDS = 30.0
# Pages that a connection keeps in memory, kibibytes: those that an hour of payments touches; SQLite's own are 2,000.
_CACHE_KIB = 65_536
# A payment changes some pages of the file; writing them back costs a few milliseconds each time.
_CHECKPOINT_PAGES = 1_000
# Pages that a rebuild keeps in memory, kibibytes; its rows of merchants and identifiers go all over the file.
_REBUILD_CACHE_KIB = 65_536
# A rebuild's log gives the space above this back.
_LARGEST_IDLE_LOG_BYTES = 16 * 2**20

_READ_STATE = f"select {', '.join(state.STATE_COLUMNS)} from state"

_CARD_EVENTS = """select event_time_us, transaction_id, amount_minor, merchant_id, country, device_id, category,
    merchant_latitude, merchant_longitude
    from transactions where card_id = ? and event_time_us > ? and event_time_us < ?
    order by event_time_us, transaction_id"""
_MERCHANT_EVENTS = """select event_time_us, transaction_id, amount_minor, card_id
    from transactions where merchant_id = ? and event_time_us > ? and event_time_us < ?
    order by event_time_us, transaction_id"""
_LABELS = """select counts_from_us, transaction_id, is_fraud, amount_minor
    from label_arrivals where {entity} = ? and counts_from_us > ? and counts_from_us <= ?
    order by counts_from_us, transaction_id, known_at_us"""
# The largest number SQLite can hold: no event is later.
_EVER = 2**63 - 1
_CARD_LABELS, _MERCHANT_LABELS = _LABELS.format(entity="card_id"), _LABELS.format(entity="merchant_id")


class SqliteOnlineStore:
    """See OnlineStore. One connection per thread, because SQLite serializes a shared one."""

    def __init__(self, path: str, spec: FeatureSpec) -> None:
        self._path = Path(path)
        self._needed, self._windows = Reach.of(spec), state.Windows.of(spec)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error
        with self._writing(self._connection()) as connection:
            create_tables(connection)

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        windows = self._windows
        with self._reading() as connection:
            self._needed.require(Reach.of_row(connection.execute(_READ_STATE).fetchone()), self._path)
            ask = connection.execute
            return History(
                card=EntityHistory(
                    ask(_CARD_EVENTS, (card_id, at_us - windows.card_us, at_us)).fetchall(),
                    ask(_CARD_LABELS, (card_id, at_us - windows.card_labels_us, at_us)).fetchall(),
                ),
                merchant=EntityHistory(
                    ask(_MERCHANT_EVENTS, (merchant_id, at_us - windows.merchant_us, at_us)).fetchall(),
                    ask(_MERCHANT_LABELS, (merchant_id, at_us - windows.merchant_labels_us, at_us)).fetchall(),
                ),
            )

    def read(
        self,
        since: Position | None,
        transaction_ids: Sequence[str] = (),
        cards: Sequence[Wanted] = (),
        merchants: Sequence[Wanted] = (),
    ) -> Snapshot:
        with self._reading() as connection:
            ask = connection.execute
            state_row = ask(_READ_STATE).fetchone()
            self._needed.require(Reach.of_row(state_row), self._path)
            position, is_reset, changes = _changes(connection, since)
            return Snapshot(
                position=position,
                is_reset=is_reset,
                changes=changes,
                decisions=_decisions(connection, transaction_ids),
                stored=_stored(connection, transaction_ids),
                as_of_us=None if state_row is None else state_row[0],
                cards={
                    id_: EntityHistory(
                        ask(_CARD_EVENTS, (id_, events_since, _EVER)).fetchall(),
                        ask(_CARD_LABELS, (id_, labels_since, _EVER)).fetchall(),
                    )
                    for id_, events_since, labels_since in cards
                },
                merchants={
                    id_: EntityHistory(
                        ask(_MERCHANT_EVENTS, (id_, events_since, _EVER)).fetchall(),
                        ask(_MERCHANT_LABELS, (id_, labels_since, _EVER)).fetchall(),
                    )
                    for id_, events_since, labels_since in merchants
                },
            )

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        with self._writing(self._connection()) as connection:
            position, is_reset, changes = _changes(connection, since)
            if is_reset or touches(changes, entries):
                return Outcome(False, position, is_reset, changes)
            ids = [entry.transaction.transaction_id for entry in entries]
            decided, there = _decisions(connection, ids), _stored(connection, ids)
            twice: dict[str, bytes] = {}
            fresh: dict[str, Entry] = {}
            for entry in entries:
                id_ = entry.transaction.transaction_id
                if id_ not in decided and fresh.setdefault(id_, entry) is not entry:
                    twice[id_] = fresh[id_].decision
            connection.executemany(
                _INSERT_DECISION,
                [(id_, entry.transaction.event_time_us, entry.decision) for id_, entry in fresh.items()],
            )
            recorded = [entry.transaction for id_, entry in fresh.items() if id_ not in there]
            connection.executemany(_INSERTS[TRANSACTIONS], map(state.transaction_row, recorded))
            if recorded:
                self._log(connection, recorded)
                # One card and merchant per call: a batch must not pay for each of its rows.
                first = recorded[0]
                self._forget(connection, TRANSACTIONS, first.card_id, first.merchant_id, first.event_time_us)
            return Outcome(
                True,
                Position(position.epoch, position.sequence + len(recorded)),
                changes=changes,
                decided={**decided, **twice},
                stored=there.intersection(fresh),
            )

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        with self._reading() as connection:
            row = connection.execute(_TRANSACTION, (transaction_id,)).fetchone()
        return None if row is None else state.stored_transaction(row)

    def decision(self, transaction_id: str) -> bytes | None:
        with self._reading() as connection:
            row = connection.execute(
                "select decision from decisions where transaction_id = ?", (transaction_id,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        t = transaction
        return self._record(TRANSACTIONS, t, state.transaction_row(t), t.card_id, t.merchant_id, t.event_time_us)

    def record_label(self, arrival: LabelArrival) -> bool:
        a = arrival
        return self._record(LABEL_ARRIVALS, a, state.label_row(a), a.card_id, a.merchant_id, a.counts_from_us)

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime, *, reach: Reach | None = None) -> None:
        as_of_us, reach = state.to_us(as_of), reach or self._needed
        rows = {
            TRANSACTIONS: state.transaction_rows(transactions, reach, as_of_us),
            LABEL_ARRIVALS: state.label_rows(labels, reach, as_of_us),
        }
        # A connection of its own takes the temporary tables with it when it ends.
        with closing(self._connect()) as connection:
            try:
                connection.execute(f"pragma cache_size = -{_REBUILD_CACHE_KIB}")
                for table, new in rows.items():
                    sqlite_rebuild.fill_temporary(connection, table, new)
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
            while not self._replaced(connection, as_of_us, reach):
                pass  # another rebuild ended since the comparison

    def as_of(self) -> datetime | None:
        with self._reading() as connection:
            row = connection.execute(_READ_STATE).fetchone()
        return None if row is None or row[0] is None else state.from_us(row[0])

    def reach(self) -> Reach | None:
        with self._reading() as connection:
            return Reach.of_row(connection.execute(_READ_STATE).fetchone())

    def require_reach(self) -> None:
        self._needed.require(self.reach(), self._path)

    def sizes(self) -> dict[str, int]:
        with self._reading() as connection:
            return {
                table.name: connection.execute(f"select count(*) from {table.name}").fetchone()[0] for table in TABLES
            }

    def close(self) -> None:
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()

    def _record(self, table: Table, change: Change, row: tuple, card_id: str, merchant_id: str, at_us: int) -> bool:
        with self._writing(self._connection()) as connection:
            is_new = connection.execute(_INSERTS[table], row).rowcount == 1
            if is_new:
                self._log(connection, [change])
                self._forget(connection, table, card_id, merchant_id, at_us)
        return is_new

    def _log(self, connection: sqlite3.Connection, recorded: Sequence[Change]) -> None:
        connection.executemany("insert into changes (is_label, body) values (?, ?)", map(encode, recorded))
        newest = _newest(connection)
        if is_time_to_trim(newest, len(recorded)):
            connection.execute("delete from changes where sequence <= ?", (newest - following.CHANGES_KEPT,))

    def _forget(self, connection: sqlite3.Connection, table: Table, card_id: str, merchant_id: str, at_us: int) -> None:
        """Delete what an event at `at_us` makes superfluous of its card and merchant."""
        built = connection.execute(_READ_STATE).fetchone()
        horizon_us = state.horizon_after(table, at_us, self._needed, built)
        for entity, id_ in (("card_id", card_id), ("merchant_id", merchant_id)):
            connection.execute(f"delete from {table.name} where {entity} = ? and {table.time} <= ?", (id_, horizon_us))

    def _replaced(self, connection: sqlite3.Connection, as_of_us: int, reach: Reach) -> bool:
        """Make the warehouse's rows what the temporary tables hold; False when another rebuild came between.

        Finding the differences takes most of the time and no lock; writers wait only for those to be written.
        """
        with self._reading(connection):
            before = _rebuilds(connection)
            for table in TABLES:
                sqlite_rebuild.find_differences(connection, table, as_of_us, reach)
        with self._writing(connection):
            if _rebuilds(connection) != before:
                return False
            for table in TABLES:
                sqlite_rebuild.apply_differences(connection, table)
            connection.execute("delete from decisions where event_time_us <= ?", (as_of_us - DECISIONS_KEPT_US,))
            connection.execute(
                "insert or replace into state values (1, ?, ?, ?, ?)",
                (as_of_us, reach.transactions_us, reach.labels_us, before + 1),
            )
        return True

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            with self._lock:
                self._opened.append(connection)
            self._local.connection = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        try:
            # Closing happens in close(), which may be another thread's call.
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            use_write_ahead_log(connection, busy_seconds=BUSY_SECONDS)
            # WAL with NORMAL survives a killed process; after a power cut the state is rebuilt from the warehouse.
            connection.execute("pragma synchronous = normal")
            connection.execute(f"pragma cache_size = -{_CACHE_KIB}")
            connection.execute(f"pragma wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            connection.execute(f"pragma journal_size_limit = {_LARGEST_IDLE_LOG_BYTES}")
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        return connection

    @contextmanager
    def _reading(self, connection: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection]:
        """One snapshot for every statement inside."""
        connection = self._connection() if connection is None else connection
        try:
            connection.execute("begin")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _writing(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        try:
            # IMMEDIATE waits for the other writer at the start; a later upgrade of a read lock would fail at once.
            connection.execute("begin immediate")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> OnlineStoreUnavailable:
        return OnlineStoreUnavailable(f"The online store {self._path} cannot be used: {error}. Run: fraud doctor")


def _insert(table: Table) -> str:
    markers = ", ".join("?" for _ in table.columns)
    return (
        f"insert into {table.name} ({', '.join(table.columns)}, from_warehouse) "
        f"values ({markers}, 0) on conflict do nothing"
    )


_INSERTS = {table: _insert(table) for table in TABLES}
_INSERT_DECISION = (
    "insert into decisions (transaction_id, event_time_us, decision) values (?, ?, ?) on conflict do nothing"
)
_TRANSACTION = f"select {', '.join(TRANSACTIONS.columns)} from transactions where transaction_id = ?"


def _decisions(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, bytes]:
    """The decisions there are on some transactions."""
    marks = ", ".join("?" * len(ids))
    found = connection.execute(f"select transaction_id, decision from decisions where transaction_id in ({marks})", ids)
    return dict(found.fetchall())


def _stored(connection: sqlite3.Connection, ids: Sequence[str]) -> frozenset[str]:
    """Which of some transactions are there."""
    marks = ", ".join("?" * len(ids))
    found = connection.execute(f"select transaction_id from transactions where transaction_id in ({marks})", ids)
    return frozenset(id_ for (id_,) in found)


def _newest(connection: sqlite3.Connection) -> int:
    """Number of the last change, 0 without one."""
    return int(connection.execute("select coalesce(max(sequence), 0) from changes").fetchone()[0])


def _changes(connection: sqlite3.Connection, since: Position | None) -> tuple[Position, bool, list[Change]]:
    """Where the store is, whether a process at `since` must forget what it knows, and else what happened since."""
    now = Position(_rebuilds(connection), _newest(connection))
    if since is None or since.epoch != now.epoch or since.sequence > now.sequence:
        return now, True, []
    if since.sequence == now.sequence:
        return now, False, []
    rows = connection.execute(
        "select is_label, body from changes where sequence > ? order by sequence", (since.sequence,)
    ).fetchall()
    if len(rows) < now.sequence - since.sequence:  # the oldest of them are no longer kept
        return now, True, []
    return now, False, [decode(*row) for row in rows]


def _rebuilds(connection: sqlite3.Connection) -> int:
    row = connection.execute("select rebuilds from state").fetchone()
    return 0 if row is None else int(row[0])
