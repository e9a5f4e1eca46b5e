"""The online store on PostgreSQL: schema `online_store`, shared by any number of scoring processes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from fraud_pipelines.errors import OnlineStoreUnavailable
from fraud_pipelines.features.online import EntityHistory, History, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import state
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, TABLES, TRANSACTIONS, Reach, Table

if TYPE_CHECKING:
    import pyarrow as pa

# Any fixed numbers: processes that open an empty store at the same time create its tables one after the other, and one
# rebuild waits for another.
_CREATION_LOCK, _REBUILD_LOCK = 7_146_001, 7_146_002

# Text compares by code point, as in every engine: collation "C" is the order of UTF-8 bytes.
_TABLES = """
create schema if not exists online_store;
create table if not exists online_store.transactions (
    card_id text collate "C" not null, event_time_us bigint not null,
    transaction_id text collate "C" primary key, amount_minor bigint not null, merchant_id text collate "C" not null,
    country text, device_id text, category text,
    merchant_latitude double precision, merchant_longitude double precision, customer_id text, channel text,
    home_latitude double precision, home_longitude double precision, currency text not null,
    from_warehouse smallint not null);
create index if not exists transactions_of_card
    on online_store.transactions (card_id, event_time_us, transaction_id);
create index if not exists transactions_of_merchant
    on online_store.transactions (merchant_id, event_time_us, transaction_id) include (amount_minor, card_id);
create table if not exists online_store.label_arrivals (
    card_id text collate "C" not null, counts_from_us bigint not null,
    transaction_id text collate "C" not null, known_at_us bigint not null, is_fraud smallint not null,
    amount_minor bigint not null, merchant_id text collate "C" not null, from_warehouse smallint not null,
    primary key (transaction_id, known_at_us));
create index if not exists labels_of_card on online_store.label_arrivals
    (card_id, counts_from_us, transaction_id, known_at_us) include (is_fraud, amount_minor);
create index if not exists labels_of_merchant on online_store.label_arrivals
    (merchant_id, counts_from_us, transaction_id, known_at_us) include (is_fraud, amount_minor);
create table if not exists online_store.state (
    only_row integer primary key check (only_row = 1), layout integer not null,
    as_of_us bigint, transactions_reach_us bigint, labels_reach_us bigint);
"""
_READ_STATE = f"select {', '.join(state.STATE_COLUMNS)} from online_store.state"

# One statement, hence one snapshot, for all a score needs. Kinds 0 and 1 are transactions of the card and the merchant,
# 2 and 3 their label arrivals, 4 is the store's own row of STATE_COLUMNS.
_KIND, _CARD_EVENT, _MERCHANT_EVENT, _STATE = 0, slice(1, 10), slice(1, 5), slice(10, 13)
_HISTORY = """
select 0 as kind, event_time_us as moment_us, transaction_id, amount_minor, merchant_id, country, device_id, category,
    merchant_latitude, merchant_longitude, null::bigint as number_1, null::bigint as number_2, null::bigint as number_3
from online_store.transactions
where card_id = %(card)s and event_time_us > %(card_since)s and event_time_us < %(at)s
union all
select 1, event_time_us, transaction_id, amount_minor, card_id, null, null, null, null, null, null, null, null
from online_store.transactions
where merchant_id = %(merchant)s and event_time_us > %(merchant_since)s and event_time_us < %(at)s
union all
select 2, counts_from_us, transaction_id, amount_minor, null, null, null, null, null, null, is_fraud, known_at_us, null
from online_store.label_arrivals
where card_id = %(card)s and counts_from_us > %(card_labels_since)s and counts_from_us <= %(at)s
union all
select 3, counts_from_us, transaction_id, amount_minor, null, null, null, null, null, null, is_fraud, known_at_us, null
from online_store.label_arrivals
where merchant_id = %(merchant)s and counts_from_us > %(merchant_labels_since)s and counts_from_us <= %(at)s
union all
select 4, 0, null, null, null, null, null, null, null, null, as_of_us, transactions_reach_us, labels_reach_us
from online_store.state
order by kind, moment_us, transaction_id, number_2
"""


class PostgresOnlineStore:
    """See OnlineStore. Connections come from a pool and are tried before use, so a restarted server is survived."""

    def __init__(self, url: str, spec: FeatureSpec) -> None:
        import sqlalchemy

        self._needed, self._windows = Reach.of(spec), state.Windows.of(spec)
        self._engine = sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24)
        with self._cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
            row_of_state: tuple[int | None, ...] = (None, None, None)
            cursor.execute("select to_regclass('online_store.state')")
            if cursor.fetchone()[0] is not None:
                cursor.execute("select layout from online_store.state")
                row = cursor.fetchone()
                if row is not None and row[0] != state.LAYOUT:
                    cursor.execute("drop schema online_store cascade")
                    row_of_state = state.EMPTIED
            cursor.execute(_TABLES)
            cursor.execute(
                "insert into online_store.state values (1, %s, %s, %s, %s) on conflict do nothing",
                (state.LAYOUT, *row_of_state),
            )

    def history(self, card_id: str, merchant_id: str, at_us: int) -> History:
        windows = self._windows
        asked = {
            "card": card_id,
            "merchant": merchant_id,
            "at": at_us,
            "card_since": at_us - windows.card_us,
            "merchant_since": at_us - windows.merchant_us,
            "card_labels_since": at_us - windows.card_labels_us,
            "merchant_labels_since": at_us - windows.merchant_labels_us,
        }
        with self._cursor(autocommit=True) as cursor:
            cursor.execute(_HISTORY, asked)
            rows = cursor.fetchall()
        self._needed.require(Reach.of_row(rows[-1][_STATE]), self._place())
        kinds: tuple[list[tuple], ...] = ([], [], [], [], [])
        for row in rows:
            kinds[row[_KIND]].append(row)
        return History(
            card=EntityHistory([row[_CARD_EVENT] for row in kinds[0]], [_label(row) for row in kinds[2]]),
            merchant=EntityHistory([row[_MERCHANT_EVENT] for row in kinds[1]], [_label(row) for row in kinds[3]]),
        )

    def record_transaction(self, transaction: ScoredTransaction) -> bool:
        t = transaction
        return self._record(TRANSACTIONS, state.transaction_row(t), t.card_id, t.merchant_id, t.event_time_us)

    def record_label(self, arrival: LabelArrival) -> bool:
        a = arrival
        return self._record(LABEL_ARRIVALS, state.label_row(a), a.card_id, a.merchant_id, a.counts_from_us)

    def rebuild(self, transactions: pa.Table, labels: pa.Table, as_of: datetime, *, reach: Reach | None = None) -> None:
        as_of_us, reach = state.to_us(as_of), reach or self._needed
        rows = {
            TRANSACTIONS: state.transaction_rows(transactions, reach, as_of_us),
            LABEL_ARRIVALS: state.label_rows(labels, reach, as_of_us),
        }
        # No lock on a table: readers see the old rows until the end, and a writer waits only where it records the very
        # transaction that is being taken over.
        with self._cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(%s)", (_REBUILD_LOCK,))
            for table, new in rows.items():
                _copy(cursor, table, new)
                _replace(cursor, table, as_of_us, reach)
            cursor.execute(
                "update online_store.state set as_of_us = %s, transactions_reach_us = %s, labels_reach_us = %s",
                (as_of_us, reach.transactions_us, reach.labels_us),
            )

    def as_of(self) -> datetime | None:
        as_of_us = self._state()[0]
        return None if as_of_us is None else state.from_us(as_of_us)

    def reach(self) -> Reach | None:
        return Reach.of_row(self._state())

    def require_reach(self) -> None:
        self._needed.require(self.reach(), self._place())

    def sizes(self) -> dict[str, int]:
        with self._cursor(autocommit=True) as cursor:
            cursor.execute(f"select {', '.join(f'(select count(*) from online_store.{t.name})' for t in TABLES)}")
            return dict(zip((table.name for table in TABLES), cursor.fetchone(), strict=True))

    def close(self) -> None:
        self._engine.dispose()

    def _state(self) -> tuple[int | None, ...]:
        with self._cursor(autocommit=True) as cursor:
            cursor.execute(_READ_STATE)
            row: tuple[int | None, ...] = cursor.fetchone()
        return row

    def _record(self, table: Table, row: tuple, card_id: str, merchant_id: str, at_us: int) -> bool:
        with self._cursor() as cursor:
            cursor.execute(_INSERTS[table], row)
            is_new: bool = cursor.rowcount == 1
            if is_new:
                cursor.execute(_READ_STATE)
                horizon_us = state.horizon_after(table, at_us, self._needed, cursor.fetchone())
                # Locked rows are left to whoever holds them: two writers of one card and merchant must not wait for
                # each other.
                cursor.execute(
                    f"""delete from online_store.{table.name} where ctid in (
                        select ctid from online_store.{table.name}
                        where (card_id = %s and {table.time} <= %s) or (merchant_id = %s and {table.time} <= %s)
                        for update skip locked)""",
                    (card_id, horizon_us, merchant_id, horizon_us),
                )
        return is_new

    def _place(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _cursor(self, *, autocommit: bool = False) -> Iterator[Any]:
        """A cursor in one transaction: committed at exit, rolled back on any exception.

        Args:
            autocommit: for a single statement, which is a transaction of its own and saves two round trips.
        """
        import sqlalchemy.exc

        try:
            connection = self._engine.raw_connection()
            try:
                connection.dbapi_connection.autocommit = autocommit  # type: ignore[union-attr]
                cursor = connection.cursor()
                yield cursor
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            finally:
                connection.close()
        except (self._engine.dialect.loaded_dbapi.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            raise OnlineStoreUnavailable(
                f"The online store {self._place()} cannot be used: {error}. Run: fraud doctor"
            ) from error


def _label(row: tuple) -> tuple:
    return (row[1], row[2], row[10], row[3])


def _insert(table: Table) -> str:
    markers = ", ".join("%s" for _ in table.columns)
    return (
        f"insert into online_store.{table.name} ({', '.join(table.columns)}, from_warehouse) "
        f"values ({markers}, 0) on conflict do nothing"
    )


_INSERTS = {table: _insert(table) for table in TABLES}


_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _written(value: Any) -> str:
    """A value as COPY reads it; a double by its shortest text that reads back the same."""
    if value is None:
        return "\\N"
    return value.translate(_ESCAPES) if isinstance(value, str) else repr(value)


def _copy(cursor: Any, table: Table, rows: Sequence[tuple]) -> None:
    """Temporary table new_*: what the warehouse says now."""
    columns = ", ".join(table.columns)
    cursor.execute(
        f"create temporary table new_{table.name} on commit drop as "
        f"select {columns} from online_store.{table.name} with no data"
    )
    text = io.StringIO("".join("\t".join(map(_written, row)) + "\n" for row in rows))
    cursor.copy_expert(f"copy new_{table.name} ({columns}) from stdin", text)
    cursor.execute(f"analyze new_{table.name}")


def _replace(cursor: Any, table: Table, as_of_us: int, reach: Reach) -> None:
    """Write what differs: most rows of the day before are the same, and each one rewritten would leave a dead one."""
    name, columns, identity = table.name, ", ".join(table.columns), ", ".join(table.identity)
    same_key = " and ".join(f"o.{column} = n.{column}" for column in table.key)
    same_rest = " and ".join(
        f"o.{column} is not distinct from n.{column}" for column in table.columns if column not in table.key
    )
    cursor.execute(f"delete from online_store.{name} where {table.time} <= %s", (reach.horizon_us(table, as_of_us),))
    cursor.execute(
        f"delete from online_store.{name} o where from_warehouse = 1 and {table.time} < %s "
        f"and not exists (select 1 from new_{name} n where {same_key})",
        (as_of_us,),
    )
    # The warehouse's row takes the place of the one that serving recorded, even under another card or time. In order
    # of the key, so that a card's rows lie beside each other.
    cursor.execute(
        f"insert into online_store.{name} ({columns}, from_warehouse) select {columns}, 1 from new_{name} n "
        f"where not exists (select 1 from online_store.{name} o where {same_key} and {same_rest} "
        f"and o.from_warehouse = 1) order by {', '.join(table.key)} on conflict ({identity}) do update "
        f"set {', '.join(f'{column} = excluded.{column}' for column in (*table.columns, 'from_warehouse'))}"
    )
