"""The online store on PostgreSQL: schema `online_store`, shared by any number of scoring processes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import state

if TYPE_CHECKING:
    import pyarrow as pa

# Any fixed number: processes that open an empty store at the same time create its tables one after the other.
_CREATION_LOCK = 7_146_001

_TABLES = """
create schema if not exists online_store;
create table if not exists online_store.transactions (
    transaction_id text primary key, event_time_us bigint not null, card_id text not null,
    merchant_id text not null, amount_minor bigint not null, from_warehouse integer not null);
create index if not exists transactions_of_card
    on online_store.transactions (card_id, event_time_us) include (amount_minor);
create index if not exists transactions_of_merchant
    on online_store.transactions (merchant_id, event_time_us) include (amount_minor);
create table if not exists online_store.label_arrivals (
    transaction_id text not null, known_at_us bigint not null, counts_from_us bigint not null, card_id text not null,
    merchant_id text not null, is_fraud integer not null, from_warehouse integer not null,
    primary key (transaction_id, known_at_us));
create index if not exists labels_of_card on online_store.label_arrivals (card_id, counts_from_us) include (is_fraud);
create index if not exists labels_of_merchant
    on online_store.label_arrivals (merchant_id, counts_from_us) include (is_fraud);
create table if not exists online_store.state (
    only_row integer primary key check (only_row = 1), layout integer not null, as_of_us bigint);
"""
_HISTORY = state.history_statement("online_store.", "%s")
_T = ", ".join(state.TRANSACTION_COLUMNS)
_L = ", ".join(state.LABEL_COLUMNS)
_INSERT_TRANSACTION = (
    f"insert into online_store.transactions ({_T}, from_warehouse) values (%s, %s, %s, %s, %s, 0) "
    "on conflict do nothing"
)
_INSERT_LABEL = (
    f"insert into online_store.label_arrivals ({_L}, from_warehouse) values (%s, %s, %s, %s, %s, %s, 0) "
    "on conflict do nothing"
)


class PostgresOnlineStore:
    """See OnlineStore. Connections come from a pool and are tried before use, so a restarted server is survived."""

    def __init__(self, url: str, spec: FeatureSpec) -> None:
        import sqlalchemy

        self._retention = state.Retention(spec)
        self._engine = sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24)
        with self._cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
            cursor.execute("select to_regclass('online_store.state')")
            if cursor.fetchone()[0] is not None:
                cursor.execute("select layout from online_store.state")
                row = cursor.fetchone()
                if row is not None and row[0] != state.LAYOUT:
                    cursor.execute("drop schema online_store cascade")
            cursor.execute(_TABLES)
            cursor.execute(
                "insert into online_store.state values (1, %s, null) on conflict do nothing", (state.LAYOUT,)
            )

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        with self._cursor() as cursor:
            cursor.execute(_HISTORY, state.history_parameters(card_id, merchant_id, at_us, self._retention.window_us))
            return state.history_of(cursor)

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        t = transaction
        with self._cursor() as cursor:
            row = (t.transaction_id, t.event_time_us, t.card_id, t.merchant_id, t.amount_minor)
            cursor.execute(_INSERT_TRANSACTION, row)
            is_new = cursor.rowcount == 1
            if is_new:
                self._prune(cursor, "transactions", "event_time_us", t.card_id, t.merchant_id, t.event_time_us)
        return is_new

    def record_label(self, arrival: LabelArrival) -> bool:
        a = arrival
        with self._cursor() as cursor:
            row = (a.transaction_id, a.known_at_us, a.counts_from_us, a.card_id, a.merchant_id, int(a.is_fraud))
            cursor.execute(_INSERT_LABEL, row)
            is_new = cursor.rowcount == 1
            if is_new:
                self._prune(cursor, "label_arrivals", "counts_from_us", a.card_id, a.merchant_id, a.counts_from_us)
        return is_new

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime) -> None:
        as_of_us = state.to_us(as_of)
        new_transactions = state.transaction_rows(transactions, self._retention, as_of_us)
        new_labels = state.label_rows(labels, self._retention, as_of_us)
        with self._cursor() as cursor:
            _copy(cursor, "transactions", _T, new_transactions)
            _copy(cursor, "label_arrivals", _L, new_labels)
            # Readers go on; writers wait, so that none of their rows meets a half-replaced table.
            cursor.execute(
                "lock table online_store.transactions, online_store.label_arrivals in share row exclusive mode"
            )
            horizon = as_of_us - self._retention.keep_us
            for table, time, columns, key in (
                ("transactions", "event_time_us", _T, "transaction_id"),
                ("label_arrivals", "counts_from_us", _L, "transaction_id, known_at_us"),
            ):
                cursor.execute(
                    f"delete from online_store.{table} where {time} < %s and (from_warehouse = 1 or {time} <= %s)",
                    (as_of_us, horizon),
                )
                # The warehouse's row takes the place of the one that serving recorded.
                cursor.execute(f"delete from online_store.{table} where ({key}) in (select {key} from new_{table})")
                cursor.execute(
                    f"insert into online_store.{table} ({columns}, from_warehouse) select {columns}, 1 "
                    f"from new_{table} on conflict do nothing"
                )
            cursor.execute("update online_store.state set as_of_us = %s", (as_of_us,))

    def as_of(self) -> datetime | None:
        with self._cursor() as cursor:
            cursor.execute("select as_of_us from online_store.state")
            (as_of_us,) = cursor.fetchone()
        return None if as_of_us is None else state.from_us(as_of_us)

    def sizes(self) -> dict[str, int]:
        with self._cursor() as cursor:
            cursor.execute(
                "select (select count(*) from online_store.transactions), "
                "(select count(*) from online_store.label_arrivals)"
            )
            transactions, label_arrivals = cursor.fetchone()
        return {"transactions": transactions, "label_arrivals": label_arrivals}

    def close(self) -> None:
        self._engine.dispose()

    def _prune(self, cursor: Any, table: str, time: str, card: str, merchant: str, at_us: int) -> None:
        cursor.execute("select as_of_us from online_store.state")
        horizon = self._retention.horizon_us(at_us, cursor.fetchone()[0])
        # Locked rows are left to whoever holds them: two writers of one card and merchant must not wait for each other.
        cursor.execute(
            f"""delete from online_store.{table} where ctid in (
                select ctid from online_store.{table}
                where (card_id = %s and {time} <= %s) or (merchant_id = %s and {time} <= %s)
                for update skip locked)""",
            (card, horizon, merchant, horizon),
        )

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor in one transaction: committed at exit, rolled back on any exception."""
        import sqlalchemy.exc

        try:
            connection = self._engine.raw_connection()
            try:
                cursor = connection.cursor()
                yield cursor
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            finally:
                connection.close()
        except (self._engine.dialect.loaded_dbapi.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            place = self._engine.url.render_as_string(hide_password=True)
            raise OnlineStoreUnavailable(
                f"The online store {place} cannot be used: {error}. Run: fraud doctor"
            ) from error


def _copy(cursor: Any, table: str, columns: str, rows: Sequence[tuple]) -> None:
    cursor.execute(
        f"create temporary table new_{table} on commit drop as select {columns} from online_store.{table} with no data"
    )
    text = io.StringIO()
    # Quoted, because an unquoted empty text would arrive as null.
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    text.seek(0)
    cursor.copy_expert(f"copy new_{table} ({columns}) from stdin with (format csv)", text)
