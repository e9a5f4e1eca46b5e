"""The embedded online store: one SQLite file in WAL mode, so that readers never wait for a writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import sqlite_log, sqlite_rebuild, state
from fraud_pipelines.online_store.following import Entry, Outcome, Position, Snapshot, Wanted, touches
from fraud_pipelines.online_store.sqlite_log import Decided, LogIndex
from fraud_pipelines.online_store.sqlite_snapshot import SqliteSnapshot, Stored, sizes
from fraud_pipelines.online_store.sqlite_tables import create_tables
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TABLES, TRANSACTIONS, Reach
from fraud_pipelines.write_ahead_log import use_write_ahead_log

if TYPE_CHECKING:
    import pyarrow as pa

# A writer waits this long for another one. Measured with the Handbook's data (440,000 transactions and 307,000 labels
# within reach): the first rebuild holds the lock for 5 s, one a day later for 1 s.
BUSY_SECONDS = 30.0
# Of hundreds of decisions that are recorded together each takes a tenth less time than with SQLite's usual pages, of
# half the size; a single one would take a tenth more with pages twice as large.
_PAGE_BYTES = 8 * 1024
# Pages that a connection keeps in memory, kibibytes: those that an hour of payments touches; SQLite's own are 2,000.
_CACHE_KIB = 65_536
# Bytes recorded after which the write-ahead log is written back, beside the payments; and bytes of it after which that
# does not wait any longer.
_CHECKPOINT_BYTES = 4 * 2**20
_LONGEST_LOG_BYTES = 64 * 2**20
# Pages that a rebuild keeps in memory, kibibytes; its rows of merchants and identifiers go all over the file.
_REBUILD_CACHE_KIB = 65_536
# A rebuild's log gives the space above this back.
_LARGEST_IDLE_LOG_BYTES = 16 * 2**20


class SqliteOnlineStore:
    """See OnlineStore. One connection per thread, because SQLite serializes a shared one."""

    def __init__(self, path: str, spec: FeatureSpec) -> None:
        self._path = Path(path)
        self._needed, self._windows = Reach.of(spec), state.Windows.of(spec)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        # Taken before a reader's snapshot, so that none is older than the index; and inside a writer's transaction, for
        # there is nothing newer than that.
        self._index, self._index_lock = LogIndex(), threading.Lock()
        self._unwritten_bytes = 0
        self._checkpoint: threading.Thread | None = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error
        with self._writing(self._connection()) as connection:
            create_tables(connection)

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        windows = self._windows
        card = Wanted(card_id, at_us - windows.card_us, at_us - windows.card_labels_us)
        merchant = Wanted(merchant_id, at_us - windows.merchant_us, at_us - windows.merchant_labels_us)
        with self._snapshot() as now:
            self._needed.require(now.reach, self._path)
            return History(card=now.card(card, until_us=at_us), merchant=now.merchant(merchant, until_us=at_us))

    def read(
        self,
        since: Position | None,
        transaction_ids: Sequence[str] = (),
        cards: Sequence[Wanted] = (),
        merchants: Sequence[Wanted] = (),
    ) -> Snapshot:
        with self._snapshot() as now:
            self._needed.require(now.reach, self._path)
            is_reset, changes = now.changes(since)
            there = now.there(transaction_ids)
            self._local.new = now.position, {id_ for id_ in transaction_ids if id_ not in there}
            return Snapshot(
                position=now.position,
                is_reset=is_reset,
                changes=changes,
                decisions=now.decisions(there),
                stored=frozenset(id_ for id_, found in there.items() if found.is_stored),
                as_of_us=now.as_of_us,
                cards={wanted.id: now.card(wanted) for wanted in cards},
                merchants={wanted.id: now.merchant(wanted) for wanted in merchants},
            )

    def append(self, since: Position, entries: Sequence[Entry]) -> Outcome:
        with self._recording() as now:
            is_reset, changes = now.changes(since)
            if is_reset or touches(changes, entries):
                return Outcome(False, now.position, is_reset, changes)
            ids = [entry.transaction.transaction_id for entry in entries]
            there = now.there(self._unknown(now.position, ids))
            decided = now.decisions(there)
            stored = {id_ for id_, found in there.items() if found.is_stored}
            fresh: dict[str, Entry] = {}
            for id_, entry in zip(ids, entries, strict=True):
                if id_ in decided:
                    continue
                if fresh.setdefault(id_, entry) is not entry:
                    decided[id_] = fresh[id_].decision
            if fresh:
                now.write(
                    [Decided(id_, t.event_time_us) if id_ in stored else t for id_, (t, _) in fresh.items()],
                    [decision for _, decision in fresh.values()],
                )
            position = Position(now.position.epoch, now.numbers.newest)
            return Outcome(True, position, changes=changes, decided=decided, stored=frozenset(stored & fresh.keys()))

    def transaction(self, transaction_id: str) -> ScoredTransaction | None:
        with self._snapshot() as now:
            return now.transaction(transaction_id)

    def decision(self, transaction_id: str) -> bytes | None:
        with self._snapshot() as now:
            return now.decisions(now.there([transaction_id])).get(transaction_id)

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        id_ = transaction.transaction_id
        with self._recording() as now:
            there = now.there([id_])
            is_new = not (id_ in there and there[id_].is_stored)
            if is_new:
                now.write([transaction])
        return is_new

    def record_label(self, arrival: LabelArrival) -> bool:
        with self._recording() as now:
            is_new = not now.has_label(arrival)
            if is_new:
                now.write([arrival])
        return is_new

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
            as_of_us = Stored.of(connection).as_of_us
        return None if as_of_us is None else state.from_us(as_of_us)

    def reach(self) -> Reach | None:
        with self._reading() as connection:
            return Stored.of(connection).reach

    def require_reach(self) -> None:
        self._needed.require(self.reach(), self._path)

    def sizes(self) -> dict[str, int]:
        with self._reading() as connection:
            return sizes(connection)

    def close(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.join()
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()

    def _unknown(self, position: Position, ids: Sequence[str]) -> list[str]:
        """Those of some identifiers that were not looked for already by this thread, at this very position."""
        looked_at, new = getattr(self._local, "new", (None, ()))
        return [id_ for id_ in ids if id_ not in new] if looked_at == position else list(ids)

    def _replaced(self, connection: sqlite3.Connection, as_of_us: int, reach: Reach) -> bool:
        """Make the warehouse's rows what the temporary tables hold; False when another rebuild came between.

        Finding the differences takes most of the time and no lock; writers wait only for those to be written.
        """
        with self._reading(connection):
            before = Stored.of(connection)
            for table in TABLES:
                sqlite_rebuild.find_differences(connection, table, as_of_us, reach)
            log = sqlite_log.numbers(connection)
            left = sqlite_rebuild.left_by_the_warehouse(connection, log.folded)
        with self._writing(connection):
            if Stored.of(connection).rebuilds != before.rebuilds:
                return False
            for table in TABLES:
                sqlite_rebuild.apply_differences(connection, table)
            sqlite_rebuild.take_over(connection, left, log.newest, as_of_us, reach)
            connection.execute(
                "insert or replace into state values (1, ?, ?, ?, ?)",
                (as_of_us, reach.transactions_us, reach.labels_us, before.rebuilds + 1),
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
            # For a new file alone.
            connection.execute(f"pragma page_size = {_PAGE_BYTES}")
            use_write_ahead_log(connection, busy_seconds=BUSY_SECONDS)
            # WAL with NORMAL survives a killed process; after a power cut the state is rebuilt from the warehouse.
            connection.execute("pragma synchronous = normal")
            connection.execute(f"pragma cache_size = -{_CACHE_KIB}")
            connection.execute(f"pragma wal_autocheckpoint = {_LONGEST_LOG_BYTES // _PAGE_BYTES}")
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

    @contextmanager
    def _snapshot(self) -> Iterator[SqliteSnapshot]:
        with self._index_lock, self._reading() as connection:
            yield SqliteSnapshot(connection, self._index, self._needed)

    @contextmanager
    def _recording(self) -> Iterator[SqliteSnapshot]:
        with self._writing(self._connection()) as connection, self._index_lock:
            now = SqliteSnapshot(connection, self._index, self._needed)
            yield now
        if now.wrote is not None:
            with self._index_lock:
                self._index.wrote(now.wrote)
                self._write_back(now.wrote.size)

    def _write_back(self, more_bytes: int) -> None:
        """Bring SQLite's write-ahead log into its file now and then, in a thread: it waits for the disk."""
        self._unwritten_bytes += more_bytes
        is_busy = self._checkpoint is not None and self._checkpoint.is_alive()
        if self._unwritten_bytes > _CHECKPOINT_BYTES and not is_busy:
            self._unwritten_bytes = 0
            thread = threading.Thread(target=self._write_back_now, name="checkpoint", daemon=True)
            with suppress(RuntimeError):  # the system has no thread to give, and what was recorded stands all the same
                thread.start()
                self._checkpoint = thread

    def _write_back_now(self) -> None:
        # What fails here is done by the next one, or by a writer once the log has become long.
        with suppress(sqlite3.Error, OnlineStoreUnavailable), closing(self._connect()) as connection:
            connection.execute("pragma wal_checkpoint(passive)")

    def _unavailable(self, error: Exception) -> OnlineStoreUnavailable:
        return OnlineStoreUnavailable(f"The online store {self._path} cannot be used: {error}. Run: fraud doctor")
