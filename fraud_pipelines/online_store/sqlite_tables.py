"""Tables of the embedded online store."""

from __future__ import annotations

import sqlite3

from fraud_pipelines.online_store import state
from fraud_pipelines.online_store.state import TABLES, Table

# Rows of a card lie beside each other in the order they are read; a merchant's are in an index that covers its reads.
# The same definition makes a rebuild's temporary tables.
_TRANSACTIONS = """(
    card_id text not null, event_time_us integer not null, transaction_id text not null, amount_minor integer not null,
    merchant_id text not null, country text, device_id text, category text,
    merchant_latitude real, merchant_longitude real, customer_id text, channel text,
    home_latitude real, home_longitude real, currency text not null, from_warehouse integer not null,
    primary key (card_id, event_time_us, transaction_id)) without rowid"""
_LABEL_ARRIVALS = """(
    card_id text not null, counts_from_us integer not null, transaction_id text not null, known_at_us integer not null,
    is_fraud integer not null, amount_minor integer not null, merchant_id text not null,
    from_warehouse integer not null,
    primary key (card_id, counts_from_us, transaction_id, known_at_us)) without rowid"""
BODIES = {"transactions": _TRANSACTIONS, "label_arrivals": _LABEL_ARRIVALS}
INDEXES = {
    "transactions": {
        "transactions_once": "create unique index {index} on transactions (transaction_id)",
        "transactions_of_merchant": "create index {index} "
        "on transactions (merchant_id, event_time_us, transaction_id, amount_minor, card_id)",
    },
    "label_arrivals": {
        "labels_once": "create unique index {index} on label_arrivals (transaction_id, known_at_us)",
        "labels_of_merchant": "create index {index} "
        "on label_arrivals (merchant_id, counts_from_us, transaction_id, known_at_us, is_fraud, amount_minor)",
    },
}
# `rebuilds` counts them, so that a rebuild notices another one.
_STATE = """create table if not exists state (
    only_row integer primary key check (only_row = 1), as_of_us integer,
    transactions_reach_us integer not null, labels_reach_us integer not null, rebuilds integer not null)"""


# See sqlite_log.py.
_LOG = {
    "log": """(
        number integer primary key, newest_us integer not null, transactions integer not null, labels integer not null,
        hashes blob not null, lines blob not null, decisions blob, decision_sizes blob)""",
    "folded": """(
        only_row integer primary key check (only_row = 1), number integer not null, by_rebuild integer not null)""",
}
_OF_EARLIER_LAYOUTS = ("changes", "decisions")


def create_tables(connection: sqlite3.Connection) -> None:
    """Create what is missing, inside the caller's transaction; tables of another layout are emptied."""
    (layout,) = connection.execute("pragma user_version").fetchone()
    is_emptied = layout not in (0, state.LAYOUT)
    if is_emptied:
        for name in (*BODIES, "state", *_LOG, *_OF_EARLIER_LAYOUTS):
            connection.execute(f"drop table if exists {name}")
    for name, body in BODIES.items():
        connection.execute(f"create table if not exists {name} {body}")
        for index, definition in INDEXES[name].items():
            connection.execute(definition.format(index=f"if not exists {index}"))
    connection.execute(_STATE)
    for name, body in _LOG.items():
        connection.execute(f"create table if not exists {name} {body}")
    connection.execute("insert or ignore into folded values (1, 0, 0)")
    if is_emptied:
        connection.execute("insert into state values (1, ?, ?, ?, 0)", state.EMPTIED)
    connection.execute(f"pragma user_version = {state.LAYOUT}")


def _insert(table: Table) -> str:
    markers = ", ".join("?" for _ in table.columns)
    return (
        f"insert into {table.name} ({', '.join(table.columns)}, from_warehouse) "
        f"values ({markers}, 0) on conflict do nothing"
    )


INSERTS = {table: _insert(table) for table in TABLES}
"""Adds a row that serving recorded, unless there is one of its identity."""
