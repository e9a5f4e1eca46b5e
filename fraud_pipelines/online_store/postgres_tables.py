"""Tables of the online store on PostgreSQL."""

from __future__ import annotations

import random
from typing import Any

from fraud_pipelines.online_store import following, state

# Any fixed number: processes that open an empty store at the same time create its tables one after the other.
_CREATION_LOCK = 7_146_001

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
create table if not exists online_store.changes (
    sequence bigint primary key, is_label smallint not null, body text not null);
create table if not exists online_store.decisions (
    transaction_id text collate "C" primary key, event_time_us bigint not null, decision bytea not null);
create table if not exists online_store.state (
    only_row integer primary key check (only_row = 1), layout integer not null,
    as_of_us bigint, transactions_reach_us bigint, labels_reach_us bigint, rebuilds bigint not null);
"""


def create_tables(cursor: Any) -> None:
    """Create what is missing, inside the caller's transaction; tables of another layout are emptied."""
    cursor.execute("select pg_advisory_xact_lock(%s)", (_CREATION_LOCK,))
    row_of_state: tuple[int | None, ...] = (None, None, None)
    cursor.execute("select to_regclass('online_store.state')")
    if cursor.fetchone()[0] is not None:
        cursor.execute("select layout from online_store.state")
        row = cursor.fetchone()
        if row is not None and row[0] == state.LAYOUT:
            return
        if row is not None:
            cursor.execute("drop schema online_store cascade")
            row_of_state = state.EMPTIED
    cursor.execute(_TABLES)
    cursor.execute(
        "insert into online_store.state values (1, %s, %s, %s, %s, 0) on conflict do nothing",
        (state.LAYOUT, *row_of_state),
    )
    # Stands for nothing having happened yet, so that every position is the number of a row.
    cursor.execute(
        "insert into online_store.changes values (%s, 0, 'null')",
        (random.getrandbits(following.LOT_BITS),),
    )
