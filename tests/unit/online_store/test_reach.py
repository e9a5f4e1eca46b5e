"""How far back a store goes: what it may forget, what it must not, and how it says that it is too short."""

import sqlite3
from dataclasses import replace

import psycopg2
import pytest
import redis
from sqlalchemy.engine import make_url

from fraud_pipelines.errors import OnlineStateTooShort
from fraud_pipelines.features.spec import OF_BASELINE
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import Reach
from tests.stored_events import (
    DAY_US,
    FORGETTING,
    LATENESS_US,
    NOON,
    NOON_US,
    SHORT_SPEC,
    SPEC,
    amounts,
    ids,
    label,
    payment,
    tables_of,
)

REACH = Reach.of(SPEC)


def test_the_reach_is_that_of_the_features():
    assert (SPEC.transactions_reach_us("card"), SPEC.transactions_reach_us("merchant")) == (44 * DAY_US, 44 * DAY_US)
    assert Reach(44 * DAY_US, 30 * DAY_US) == REACH
    assert Reach(7 * DAY_US, 7 * DAY_US) == Reach.of(SHORT_SPEC)


def test_a_card_is_read_as_far_back_as_its_features_see_and_a_merchant_less_far(url):
    unmeasured = tuple(f for f in SPEC.features if not (f.entity == "merchant" and f.of in OF_BASELINE))
    store = open_online_store(url, spec=replace(SPEC, features=unmeasured))
    for entity, reach_us in (("card", 44 * DAY_US), ("merchant", 30 * DAY_US)):
        for shift in (0, 1):
            store.record_transaction(payment(f"{entity} {shift}", NOON_US - reach_us + shift))
    for shift in (0, 1):
        store.record_label(label(f"{shift}", NOON_US - 30 * DAY_US + shift))
    history = store.history("tok_a", "m1", NOON_US)
    assert ids(history.card) == ["card 1", "merchant 0", "merchant 1"]
    assert ids(history.merchant) == ["merchant 1"]
    assert [id_ for _, id_, _, _ in history.card.labels] == ["1"]
    assert [id_ for _, id_, _, _ in history.merchant.labels] == ["1"]
    store.close()


@pytest.mark.parametrize("url", FORGETTING, indirect=True)
def test_state_per_card_and_merchant_is_bounded(store):
    for day in range(100):
        store.record_transaction(payment(f"t{day}", NOON_US + day * DAY_US))
        store.record_label(label(f"t{day}", NOON_US + day * DAY_US))
    # What features see, and two days for late events.
    assert store.sizes() == {"transactions": 44 + 2, "label_arrivals": 30 + 2}


@pytest.mark.parametrize("url", FORGETTING, indirect=True)
@pytest.mark.parametrize("shared", ["card", "merchant"])
def test_an_event_takes_along_what_is_old_of_its_card_or_merchant(store, shared):
    others = {"card": "tok_b", "merchant": "m2"}
    del others[shared]
    store.record_transaction(payment("old", NOON_US))
    store.record_label(label("old", NOON_US))
    for entities, left in (({"card": "tok_c", "merchant": "m3"}, 2), (others, 2)):
        store.record_transaction(payment(f"t {entities}", NOON_US + 46 * DAY_US, **entities))
        store.record_label(label(f"t {entities}", NOON_US + 32 * DAY_US, **entities))
        assert store.sizes() == {"transactions": left, "label_arrivals": left}


def test_pruning_takes_nothing_a_window_can_reach(store):
    oldest = NOON_US - 44 * DAY_US + 1
    store.record_transaction(payment("oldest", oldest, 3))
    store.record_transaction(payment("newest", NOON_US, 4))
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [3]
    # An event that is two days late still finds its own history.
    late = NOON_US - LATENESS_US
    store.record_transaction(payment("oldest of the late", late - 44 * DAY_US + 1, 2))
    store.record_transaction(payment("another newest", NOON_US, 5))
    assert amounts(store.history("tok_a", "m1", late).card) == [2, 3]


def test_an_event_with_a_wrong_year_does_not_empty_its_card(store):
    store.rebuild(*tables_of([payment("t", NOON_US - DAY_US, 8)], []), NOON)
    store.record_transaction(payment("typing error", NOON_US + 20_000 * DAY_US))
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [8]


def test_rebuild_forgets_what_was_served_when_no_window_reaches_it(store):
    for table, keep in (("t", 46 * DAY_US), ("l", 32 * DAY_US)):
        for age, suffix in ((keep, "old"), (keep - 1, "kept")):
            entity = {"card": f"tok_{table}{suffix}", "merchant": f"m{table}{suffix}"}
            if table == "t":
                store.record_transaction(payment(suffix, NOON_US - age, **entity))
            else:
                store.record_label(label(suffix, NOON_US - age, **entity))
    store.rebuild(*tables_of([], []), NOON)
    assert store.sizes() == {"transactions": 1, "label_arrivals": 1}


def test_rebuild_leaves_out_what_no_window_reaches(store):
    transactions = [payment("old", NOON_US - 46 * DAY_US), payment("kept", NOON_US - 46 * DAY_US + 1)]
    labels = [label("old", NOON_US - 32 * DAY_US), label("kept", NOON_US - 32 * DAY_US + 1)]
    store.rebuild(*tables_of(transactions, labels), NOON)
    assert store.sizes() == {"transactions": 1, "label_arrivals": 1}


def test_a_store_filled_for_shorter_windows_refuses_until_it_is_filled_again(url):
    short = open_online_store(url, spec=SHORT_SPEC)
    warehouse = tables_of([payment("t", NOON_US - 40 * DAY_US, 6)], [])
    short.rebuild(*warehouse, NOON)
    assert short.history("tok_a", "m1", NOON_US).card.events == []
    short.require_reach()
    full = open_online_store(url)
    words = (
        "filled with 7 days of transactions and 7 days of labels, but the feature spec looks back 44 days of "
        "transactions and 30 days of labels. Run: fraud materialize operations/online_state"
    )
    with pytest.raises(OnlineStateTooShort, match=words):
        full.history("tok_a", "m1", NOON_US)
    with pytest.raises(OnlineStateTooShort, match=words) as caught:
        full.require_reach()
    assert "postgres:postgres" not in str(caught.value)
    # It still takes what happens, so that nothing is missing afterwards.
    assert full.record_transaction(payment("served", NOON_US - 1, 7)) is True
    full.rebuild(*warehouse, NOON)
    assert amounts(full.history("tok_a", "m1", NOON_US).card) == [6, 7]
    # What reaches further also serves a model that looks back less.
    assert amounts(short.history("tok_a", "m1", NOON_US).card) == [7]
    short.close()
    full.close()


@pytest.mark.parametrize("shorter", [Reach(44 * DAY_US - 1, 30 * DAY_US), Reach(44 * DAY_US, 30 * DAY_US - 1)])
def test_a_microsecond_is_too_short(store, shorter):
    store.rebuild(*tables_of([], []), NOON, reach=shorter)
    assert store.reach() == shorter
    with pytest.raises(OnlineStateTooShort):
        store.history("tok_a", "m1", NOON_US)


def test_before_the_first_rebuild_there_is_nothing_to_miss(url):
    open_online_store(url, spec=SHORT_SPEC).close()
    store = open_online_store(url)
    store.require_reach()
    store.record_transaction(payment("t", NOON_US - 1, 6))
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [6]
    store.close()


def test_a_model_of_shorter_windows_prunes_nothing_another_one_needs(url, store):
    store.rebuild(*tables_of([payment("t", NOON_US - 43 * DAY_US, 6)], [label("t", NOON_US - 29 * DAY_US)]), NOON)
    short = open_online_store(url, spec=SHORT_SPEC)
    short.record_transaction(payment("served", NOON_US, 7))
    short.record_label(label("served", NOON_US))
    short.close()
    history = store.history("tok_a", "m1", NOON_US)
    assert amounts(history.card) == [6]
    assert len(history.card.labels) == 2


def test_a_rebuild_may_reach_further_than_the_spec(store):
    further = Reach(60 * DAY_US, 50 * DAY_US)
    transactions = [payment("t", NOON_US - 61 * DAY_US), payment("too old", NOON_US - 62 * DAY_US)]
    labels = [label("t", NOON_US - 51 * DAY_US), label("too old", NOON_US - 52 * DAY_US)]
    store.rebuild(*tables_of(transactions, labels), NOON, reach=further)
    assert store.reach() == further
    # Also for what is served from then on.
    store.record_transaction(payment("served", NOON_US - 2 * DAY_US))
    store.record_label(label("served", NOON_US - 2 * DAY_US))
    assert store.sizes() == {"transactions": 2, "label_arrivals": 2}


def test_a_store_of_another_layout_is_emptied_and_refuses_until_it_is_filled(url, store):
    store.rebuild(*tables_of([payment("t", NOON_US - 1)], [label("t", NOON_US - 1)]), NOON)
    store.close()
    older_layout(url)
    again = open_online_store(url)
    assert (again.as_of(), again.reach()) == (None, Reach(0, 0))
    assert again.sizes() == {"transactions": 0, "label_arrivals": 0}
    # A history was there and is not: to score on nothing would be worse than not to score.
    again.record_transaction(payment("served", NOON_US - 2, 3))
    with pytest.raises(OnlineStateTooShort, match="0 days of transactions"):
        again.history("tok_a", "m1", NOON_US)
    again.rebuild(*tables_of([payment("t", NOON_US - 1, 4)], [label("t", NOON_US - 1)]), NOON)
    assert amounts(again.history("tok_a", "m1", NOON_US).card) == [3, 4]
    again.close()


def older_layout(url):
    """Replace the store by one of layout 2 with a row in each table."""
    transactions = """create table {schema}transactions (
        transaction_id text primary key, event_time_us bigint not null, card_id text not null,
        merchant_id text not null, amount_minor bigint not null, from_warehouse integer not null)"""
    labels = """create table {schema}label_arrivals (
        transaction_id text not null, known_at_us bigint not null, counts_from_us bigint not null,
        card_id text not null, merchant_id text not null, is_fraud integer not null, from_warehouse integer not null,
        primary key (transaction_id, known_at_us))"""
    rows = (
        "insert into {schema}transactions values ('t', 1, 'tok_a', 'm1', 100, 1)",
        "insert into {schema}label_arrivals values ('t', 2, 2, 'tok_a', 'm1', 1, 1)",
    )
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            client.flushdb()
            client.hset("online_store:state", "layout", 2)
            client.zadd("online_store:card:tok_a", {"t": 1})
        return
    if url.startswith("sqlite"):
        connection = sqlite3.connect(make_url(url).database)
        for name in ("transactions", "label_arrivals", "state"):
            connection.execute(f"drop table {name}")
        state = "create table state (only_row integer primary key check (only_row = 1), as_of_us integer)"
        for statement in (transactions, labels, state, *rows, "insert into state values (1, 3)"):
            connection.execute(statement.format(schema=""))
        connection.execute("pragma user_version = 2")
        connection.commit()
    else:
        parts = make_url(url)
        connection = psycopg2.connect(
            host=parts.host, port=parts.port, user=parts.username, password=parts.password, dbname=parts.database
        )
        state = """create table online_store.state (
            only_row integer primary key check (only_row = 1), layout integer not null, as_of_us bigint)"""
        with connection, connection.cursor() as cursor:
            cursor.execute("drop schema online_store cascade; create schema online_store")
            for statement in (transactions, labels, state, *rows, "insert into online_store.state values (1, 2, 3)"):
                cursor.execute(statement.format(schema="online_store."))
    connection.close()
