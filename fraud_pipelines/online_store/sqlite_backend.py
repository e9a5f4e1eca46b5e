"""The embedded online store: one SQLite file in WAL mode, so that readers never wait for a writer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import state

if TYPE_CHECKING:
    import pyarrow as pa

# A writer waits this long for another one; a rebuild of a million events holds the lock for a few seconds.
BUSY_SECONDS = 30.0

# The indexes cover the reads: a score never touches the tables themselves.
_TABLES = """
create table if not exists transactions (
    transaction_id text primary key, event_time_us integer not null, card_id text not null,
    merchant_id text not null, amount_minor integer not null, from_warehouse integer not null) without rowid;
create index if not exists transactions_of_card on transactions (card_id, event_time_us, amount_minor);
create index if not exists transactions_of_merchant on transactions (merchant_id, event_time_us, amount_minor);
create table if not exists label_arrivals (
    transaction_id text not null, known_at_us integer not null, counts_from_us integer not null, card_id text not null,
    merchant_id text not null, is_fraud integer not null, from_warehouse integer not null,
    primary key (transaction_id, known_at_us)) without rowid;
create index if not exists labels_of_card on label_arrivals (card_id, counts_from_us, is_fraud);
create index if not exists labels_of_merchant on label_arrivals (merchant_id, counts_from_us, is_fraud);
create table if not exists state (only_row integer primary key check (only_row = 1), as_of_us integer);
"""
_DROPS = "drop table if exists transactions; drop table if exists label_arrivals; drop table if exists state;"
_HISTORY = state.history_statement("", "?")
_T = ", ".join(state.TRANSACTION_COLUMNS)
_L = ", ".join(state.LABEL_COLUMNS)
_INSERT_TRANSACTION = (
    f"insert into transactions ({_T}, from_warehouse) values (?, ?, ?, ?, ?, 0) on conflict do nothing"
)
_INSERT_LABEL = f"insert into label_arrivals ({_L}, from_warehouse) values (?, ?, ?, ?, ?, ?, 0) on conflict do nothing"
# The warehouse's row takes the place of the one that serving recorded.
_REPLACE_TRANSACTION = f"insert or replace into transactions ({_T}, from_warehouse) values (?, ?, ?, ?, ?, 1)"
_REPLACE_LABEL = f"insert or replace into label_arrivals ({_L}, from_warehouse) values (?, ?, ?, ?, ?, ?, 1)"


class SqliteOnlineStore:
    """See OnlineStore. One connection per thread, because SQLite serializes a shared one."""

    def __init__(self, path: str, spec: FeatureSpec) -> None:
        self._path = Path(path)
        self._retention = state.Retention(spec)
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unavailable(error) from error
        with self._writing() as connection:
            (layout,) = connection.execute("pragma user_version").fetchone()
            if layout not in (0, state.LAYOUT):
                _run_script(connection, _DROPS)
            _run_script(connection, _TABLES)
            connection.execute(f"pragma user_version = {state.LAYOUT}")

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        parameters = state.history_parameters(card_id, merchant_id, at_us, self._retention.window_us)
        try:
            return state.history_of(self._connection().execute(_HISTORY, parameters))
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        t = transaction
        with self._writing() as connection:
            row = (t.transaction_id, t.event_time_us, t.card_id, t.merchant_id, t.amount_minor)
            is_new = connection.execute(_INSERT_TRANSACTION, row).rowcount == 1
            if is_new:
                self._prune(connection, "transactions", "event_time_us", t.card_id, t.merchant_id, t.event_time_us)
        return is_new

    def record_label(self, arrival: LabelArrival) -> bool:
        a = arrival
        with self._writing() as connection:
            row = (a.transaction_id, a.known_at_us, a.counts_from_us, a.card_id, a.merchant_id, int(a.is_fraud))
            is_new = connection.execute(_INSERT_LABEL, row).rowcount == 1
            if is_new:
                self._prune(connection, "label_arrivals", "counts_from_us", a.card_id, a.merchant_id, a.counts_from_us)
        return is_new

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime) -> None:
        as_of_us = state.to_us(as_of)
        # Converted before the lock is taken: scoring waits only for the writing.
        new_transactions = state.transaction_rows(transactions, self._retention, as_of_us)
        new_labels = state.label_rows(labels, self._retention, as_of_us)
        with self._writing() as connection:
            horizon = as_of_us - self._retention.keep_us
            for table, time in (("transactions", "event_time_us"), ("label_arrivals", "counts_from_us")):
                connection.execute(
                    f"delete from {table} where {time} < ? and (from_warehouse = 1 or {time} <= ?)", (as_of_us, horizon)
                )
            connection.executemany(_REPLACE_TRANSACTION, new_transactions)
            connection.executemany(_REPLACE_LABEL, new_labels)
            connection.execute("insert or replace into state (only_row, as_of_us) values (1, ?)", (as_of_us,))

    def as_of(self) -> datetime | None:
        try:
            row = self._connection().execute("select as_of_us from state").fetchone()
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        return None if row is None else state.from_us(row[0])

    def sizes(self) -> dict[str, int]:
        try:
            return {
                table: self._connection().execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("transactions", "label_arrivals")
            }
        except sqlite3.Error as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        with self._lock:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            self._local = threading.local()

    def _prune(
        self, connection: sqlite3.Connection, table: str, time: str, card: str, merchant: str, at_us: int
    ) -> None:
        row = connection.execute("select as_of_us from state").fetchone()
        horizon = self._retention.horizon_us(at_us, None if row is None else row[0])
        connection.execute(f"delete from {table} where card_id = ? and {time} <= ?", (card, horizon))
        connection.execute(f"delete from {table} where merchant_id = ? and {time} <= ?", (merchant, horizon))

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            try:
                # Closing happens in close(), which may be another thread's call.
                connection = sqlite3.connect(
                    self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
                )
                connection.execute("pragma journal_mode = wal")
                # WAL with NORMAL survives a killed process; after a power cut the state is rebuilt from the warehouse.
                connection.execute("pragma synchronous = normal")
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
            with self._lock:
                self._opened.append(connection)
            self._local.connection = connection
        return connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
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


def _run_script(connection: sqlite3.Connection, script: str) -> None:
    # executescript() would commit the open transaction.
    for statement in filter(str.strip, script.split(";")):
        connection.execute(statement)
