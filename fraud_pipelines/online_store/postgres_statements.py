"""Statements of the online store on PostgreSQL, and how their rows become histories, changes and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fraud_pipelines.features.online import EntityHistory
from fraud_pipelines.online_store import state
from fraud_pipelines.online_store.following import Change, Position, Wanted, decode
from fraud_pipelines.online_store.state import TABLES, TRANSACTIONS, Table

# Any fixed numbers. One rebuild waits for another.
REBUILD_LOCK = 7_146_002
# Whoever writes holds this one until the transaction ends, so numbers of changes are in the order of the commits. A
# sequence alone gives them in the order in which writers ask: 8 may be there before 7, and who has read up to 8 would
# never see 7. It also means that no two writers wait for each other's rows.
_WRITE_LOCK = 7_146_003
# A commit may be lost in a crash of the server: the service's journal is what makes decisions durable, the state can be
# rebuilt, and waiting for the disk while everybody else waits for the lock would bound what all of them can write.
BEGIN_WRITING = f"""begin; set local synchronous_commit = off; select pg_advisory_xact_lock({_WRITE_LOCK});"""
LOCK_WRITERS = f"select pg_advisory_xact_lock({_WRITE_LOCK})"
# Every later statement sees what the first one does.
BEGIN_SNAPSHOT = "begin isolation level repeatable read read only;"

STATE_COLUMNS = ", ".join(state.STATE_COLUMNS)
READ_STATE = f"select {STATE_COLUMNS} from online_store.state"

# One statement, hence one snapshot, for all a score needs. Kinds 0 and 1 are transactions of the card and the merchant,
# 2 and 3 their label arrivals, 4 is the store's own row of STATE_COLUMNS.
KIND, CARD_EVENT, MERCHANT_EVENT, STATE = 0, slice(1, 10), slice(1, 5), slice(10, 13)
HISTORY = """
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

# The store's row (kind 0) with the number of the last change, the changes from a number on (1) if the store was not
# rebuilt, decisions (2) and identifiers of transactions (3). The change at the position itself comes along where it is
# still there: who knows another number knows something the store has lost or no longer keeps.
NEWS = f"""
select 0 as kind, (select max(sequence) from online_store.changes) as number, null::text as text, null::bytea as body,
    rebuilds, {STATE_COLUMNS}
from online_store.state
union all
select 1, sequence, body, null, is_label, null, null, null from online_store.changes
where sequence >= %(sequence)s and %(epoch)s = (select rebuilds from online_store.state)
"""
_ASKED = """
union all
select 2, 0, transaction_id, decision, null, null, null, null from online_store.decisions
where transaction_id = any(%(ids)s)
union all
select 3, 0, transaction_id, null, null, null, null, null from online_store.transactions
where transaction_id = any(%(ids)s)
"""
NEWS_ORDER = "order by kind, number"
NEWS_AND_ASKED = NEWS + _ASKED + NEWS_ORDER

# Kinds 0 and 1 are transactions of cards and merchants, 2 and 3 their label arrivals.
WANTED = """
select 0 as kind, wanted.id, event_time_us as moment_us, transaction_id, amount_minor, merchant_id, country, device_id,
    category, merchant_latitude, merchant_longitude, null::bigint as is_fraud, null::bigint as known_at_us
from unnest(%(cards)s::text[], %(cards_since)s::bigint[]) as wanted (id, since_us)
join online_store.transactions on card_id = wanted.id and event_time_us > since_us
union all
select 1, wanted.id, event_time_us, transaction_id, amount_minor, card_id, null, null, null, null, null, null, null
from unnest(%(merchants)s::text[], %(merchants_since)s::bigint[]) as wanted (id, since_us)
join online_store.transactions on merchant_id = wanted.id and event_time_us > since_us
union all
select 2, wanted.id, counts_from_us, transaction_id, amount_minor, null, null, null, null, null, null,
    is_fraud, known_at_us
from unnest(%(cards)s::text[], %(cards_labels_since)s::bigint[]) as wanted (id, since_us)
join online_store.label_arrivals on card_id = wanted.id and counts_from_us > since_us
union all
select 3, wanted.id, counts_from_us, transaction_id, amount_minor, null, null, null, null, null, null,
    is_fraud, known_at_us
from unnest(%(merchants)s::text[], %(merchants_labels_since)s::bigint[]) as wanted (id, since_us)
join online_store.label_arrivals on merchant_id = wanted.id and counts_from_us > since_us
order by moment_us, transaction_id, known_at_us
"""


def _pruned(table: Table) -> str:
    # Locked rows are left to whoever holds them; the next event takes them along.
    return f"""pruned as (delete from online_store.{table.name} where ctid in (
        select ctid from online_store.{table.name}
        where (card_id = %(card)s and {table.time} <= %(horizon)s)
            or (merchant_id = %(merchant)s and {table.time} <= %(horizon)s)
        for update skip locked))"""


def _record(table: Table) -> str:
    markers = ", ".join(f"%({column})s" for column in table.columns)
    return f"""
with inserted as (
    insert into online_store.{table.name} ({", ".join(table.columns)}, from_warehouse) values ({markers}, 0)
    on conflict do nothing returning 1
), logged as (
    insert into online_store.changes select %(sequence)s, %(is_label)s, %(body)s from inserted
), {_pruned(table)}
select count(*) from inserted"""


RECORD = {table: _record(table) for table in TABLES}

_TYPES = {
    **dict.fromkeys(("event_time_us", "amount_minor"), "bigint"),
    **dict.fromkeys((name for name in TRANSACTIONS.columns if name.endswith("tude")), "double precision"),
}
_ARRAYS = ", ".join(f"%({column})s::{_TYPES.get(column, 'text')}[]" for column in TRANSACTIONS.columns)
_COLUMNS = ", ".join(TRANSACTIONS.columns)
# What was there before the statement, no part of it changes in the eyes of another: `before` are earlier decisions.
APPEND = f"""
with entered as (
    select * from unnest({_ARRAYS}, %(bodies)s::text[], %(decisions)s::bytea[]) with ordinality
        as entered ({_COLUMNS}, body, decision, place)
), decided as (
    insert into online_store.decisions select transaction_id, event_time_us, decision from entered order by place
    on conflict do nothing returning transaction_id
), inserted as (
    insert into online_store.transactions ({_COLUMNS}, from_warehouse)
    select {_COLUMNS}, 0 from entered where transaction_id in (select transaction_id from decided) order by place
    on conflict do nothing returning transaction_id
), logged as (
    insert into online_store.changes
    select %(sequence)s + ((row_number() over (order by place)) << %(lot_bits)s), 0, body
    from entered join inserted using (transaction_id)
    returning sequence
), {_pruned(TRANSACTIONS)}
select transaction_id, before.decision, inserted.transaction_id is not null, (select max(sequence) from logged)
from entered
left join online_store.decisions before using (transaction_id)
left join inserted using (transaction_id)
"""


def changes_of(
    rows: Sequence[tuple], since: Position | None
) -> tuple[Position, bool, list[Change], tuple[int | None, ...]]:
    """From rows of NEWS, ascending: where the store is, whether to forget, what happened, its row of STATE_COLUMNS."""
    _, newest, _, _, rebuilds, *state_row = rows[0]
    happened = [row for row in rows if row[KIND] == 1]
    is_reset = since is None or not happened or happened[0][1] != since.sequence
    changes = [] if is_reset else [decode(is_label, body) for _, _, body, _, is_label, *_ in happened[1:]]
    return Position(rebuilds, newest), is_reset, changes, tuple(state_row)


def asked_for(cards: Sequence[Wanted], merchants: Sequence[Wanted]) -> dict[str, list]:
    """Parameters of WANTED; whoever is wanted twice is asked for once."""
    asked: dict[str, list] = {}
    for name, wanted in (("cards", cards), ("merchants", merchants)):
        once = list({one.id: one for one in wanted}.values())
        asked[name] = [one.id for one in once]
        asked[f"{name}_since"] = [one.transactions_since_us for one in once]
        asked[f"{name}_labels_since"] = [one.labels_since_us for one in once]
    return asked


def histories_of(rows: Sequence[tuple], ids: Sequence[str], kind: int) -> dict[str, EntityHistory[Any]]:
    """From rows of WANTED: the histories of cards (kind 0) or merchants (1)."""
    width = CARD_EVENT.stop if kind == 0 else MERCHANT_EVENT.stop
    found: dict[str, EntityHistory[Any]] = {id_: EntityHistory([], []) for id_ in ids}
    for row in rows:
        if row[KIND] == kind:
            found[row[1]].events.append(row[2 : width + 1])  # type: ignore[attr-defined]
        elif row[KIND] == kind + 2:
            _, _, moment_us, transaction_id, amount_minor, *_, is_fraud, _ = row
            found[row[1]].labels.append((moment_us, transaction_id, is_fraud, amount_minor))  # type: ignore[attr-defined]
    return found


def label_of(row: tuple) -> tuple:
    """A label from a row of HISTORY."""
    return (row[1], row[2], row[10], row[3])


TRANSACTION = f"select {_COLUMNS} from online_store.transactions where transaction_id = %s"
DECISION = "select decision from online_store.decisions where transaction_id = %s"
SIZES = f"select {', '.join(f'(select count(*) from online_store.{table.name})' for table in TABLES)}"
