"""How a rebuild of the embedded online store finds what the warehouse says differently, and writes only that."""

from __future__ import annotations

import sqlite3

from fraud_pipelines.online_store import sqlite_log
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US
from fraud_pipelines.online_store.sqlite_tables import BODIES, INDEXES, INSERTS
from fraud_pipelines.online_store.state import Reach, Table


def fill_temporary(connection: sqlite3.Connection, table: Table, rows: list[tuple]) -> None:
    """temp.new_*: what the warehouse says now."""
    connection.execute(f"create temporary table new_{table.name} {BODIES[table.name]}")
    connection.execute("begin")
    markers = ", ".join("?" for _ in table.columns)
    connection.executemany(
        f"insert into new_{table.name} ({', '.join(table.columns)}, from_warehouse) values ({markers}, 1)", rows
    )
    connection.execute("commit")


def find_differences(connection: sqlite3.Connection, table: Table, as_of_us: int, reach: Reach) -> None:
    """temp.fresh_*: rows of temp.new_* that the store lacks; temp.gone_*: keys of rows that have to go."""
    name, key = table.name, ", ".join(table.key)
    same_key = " and ".join(f"o.{column} = n.{column}" for column in table.key)
    same_rest = " and ".join(f"o.{column} is n.{column}" for column in table.columns if column not in table.key)
    for temporary in (f"fresh_{name}", f"gone_{name}"):
        connection.execute(f"drop table if exists temp.{temporary}")
    connection.execute(
        f"create temporary table fresh_{name} as select * from temp.new_{name} n where not exists "
        f"(select 1 from main.{name} o where {same_key} and {same_rest} and o.from_warehouse = 1)"
    )
    connection.execute(
        f"create temporary table gone_{name} as select {key} from main.{name} o where {table.time} <= ? or "
        f"(from_warehouse = 1 and {table.time} < ? and not exists (select 1 from temp.new_{name} n where {same_key}))",
        (reach.horizon_us(table, as_of_us), as_of_us),
    )


def apply_differences(connection: sqlite3.Connection, table: Table) -> None:
    name, key, identity = table.name, ", ".join(table.key), ", ".join(table.identity)
    connection.execute(f"delete from main.{name} where ({key}) in (select {key} from temp.gone_{name})")
    # The warehouse's row takes the place of the one that serving recorded, even under another card or time.
    connection.execute(f"delete from main.{name} where ({identity}) in (select {identity} from temp.fresh_{name})")
    (fresh,) = connection.execute(f"select count(*) from temp.fresh_{name}").fetchone()
    (kept,) = connection.execute(f"select count(*) from main.{name}").fetchone()
    # Where most rows are new, indexes are made faster than kept.
    indexes = INDEXES[name] if fresh > kept else {}
    for index in indexes:
        connection.execute(f"drop index main.{index}")
    connection.execute(f"insert into main.{name} select * from temp.fresh_{name}")
    for index, definition in indexes.items():
        connection.execute(definition.format(index=index))


def left_by_the_warehouse(connection: sqlite3.Connection, folded: int) -> dict[Table, list[tuple]]:
    """Events of the log that temp.new_* does not have."""
    left = _events_after(connection, folded)
    for table, rows in left.items():
        same = " and ".join(f"{column} = ?" for column in table.key)
        ask, places = f"select 1 from temp.new_{table.name} where {same}", [table.columns.index(c) for c in table.key]
        left[table] = [row for row in rows if not connection.execute(ask, [row[p] for p in places]).fetchone()]
    return left


def take_over(
    connection: sqlite3.Connection, left: dict[Table, list[tuple]], seen: int, as_of_us: int, reach: Reach
) -> None:
    """Move from the log into the tables of histories what is `left`, and what was recorded after number `seen`.

    What no window reaches any more is dropped; of an event that the warehouse brought its row stays. The log keeps the
    decisions that are still returned.
    """
    for table, newer in _events_after(connection, seen).items():
        time, horizon_us = table.columns.index(table.time), reach.horizon_us(table, as_of_us)
        rows = [row for row in (*left[table], *newer) if row[time] > horizon_us]
        connection.executemany(INSERTS[table], rows)
    sqlite_log.set_folded(connection, sqlite_log.numbers(connection).newest, by_rebuild=True)
    connection.execute("delete from log where newest_us <= ? or decisions is null", (as_of_us - DECISIONS_KEPT_US,))


def _events_after(connection: sqlite3.Connection, number: int) -> dict[Table, list[tuple]]:
    """Rows of each table for the events of the log after a number."""
    return sqlite_log.table_rows(line for _, lines in sqlite_log.rows_after(connection, number) for line in lines)
