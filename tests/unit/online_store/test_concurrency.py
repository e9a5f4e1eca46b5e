"""Threads and processes that write and read at once: nothing is lost, nothing counts twice, no read is torn."""

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from fraud_pipelines.online_store import open_online_store, postgres_rebuild, redis_rebuild, sqlite_rebuild
from fraud_pipelines.online_store.following import Entry
from tests.stored_events import (
    DAY_US,
    FORGETTING,
    NOON,
    NOON_US,
    NaiveStore,
    amounts,
    ids,
    label,
    payment,
    record_all,
    tables_of,
)


def test_threads_that_write_the_same_and_other_cards_lose_nothing_and_count_nothing_twice(url, store):
    others = [open_online_store(url) for _ in range(3)]
    stores = [store, *others]

    def write(worker):
        chosen = stores[worker % 4]
        new = 0
        for number in range(60):
            entities = {"card": f"tok_{number % 2}", "merchant": f"m{number % 3}"}
            new += chosen.record_transaction(payment(f"t{number}", NOON_US - number, number, **entities))
            new += chosen.record_label(label(f"t{number}", NOON_US - number, **entities))
        return new

    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(write, range(8)))
    assert sum(new) == 120  # each was new exactly once
    assert store.sizes() == {"transactions": 60, "label_arrivals": 60}
    assert sorted(amounts(store.history("tok_0", "m0", NOON_US + 1).card)) == list(range(0, 60, 2))
    for other in others:
        other.close()


@pytest.mark.parametrize("url", FORGETTING, indirect=True)
def test_threads_that_prune_the_same_card_never_block_each_other_and_keep_what_counts(url, store):
    others = [open_online_store(url) for _ in range(3)]
    expected = NaiveStore()

    def write(worker):
        for day in range(80):
            made = payment(f"{worker} {day}", NOON_US + day * DAY_US + worker + 1, day)
            assert others[worker].record_transaction(made) is True
            assert others[worker].record_label(label(made.transaction_id, made.event_time_us)) is True
            expected.record_transaction(made)
            expected.record_label(label(made.transaction_id, made.event_time_us))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    last = NOON_US + 80 * DAY_US
    assert store.history("tok_a", "m1", last) == expected.history("tok_a", "m1", last)
    # The last event takes along what a thread that had fallen behind brought too late.
    store.record_transaction(payment("last", last))
    store.record_label(label("last", last))
    assert store.sizes() == {"transactions": 3 * 45 + 3 + 1, "label_arrivals": 3 * 31 + 3 + 1}
    for other in others:
        other.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Three, for every kind of store: starting them takes longer than what they do."""
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_processes_that_write_while_the_state_is_rebuilt_lose_nothing_and_count_nothing_twice(url, store, processes):
    # Everybody delivers the same 120 payments and labels of three cards; each has as many of its own, half of them of
    # those cards, and everybody's arrive in another order. The warehouse knows every third one of the common ones.
    def made(prefix, count, cards, merchants):
        moments = [(number, NOON_US - number * 3_571 * 1_000_000) for number in range(count)]
        return (
            [payment(f"{prefix}{n}", at, n, f"tok_{n % cards}", f"m{n % merchants}") for n, at in moments],
            [
                label(f"{prefix}{n}", at + DAY_US, n % 7 == 0, f"tok_{n % cards}", f"m{n % merchants}")
                for n, at in moments
            ],
        )

    common = made("common ", 120, 3, 2)
    own = [made(f"own {worker} ", 120, 6, 4) for worker in range(3)]
    warehouse = common[0][::3], common[1][::3]
    expected = NaiveStore()
    expected.rebuild(*warehouse, NOON_US)
    for transactions, labels in (common, *own):
        for transaction, arrival in zip(transactions, labels, strict=True):
            expected.record_transaction(transaction)
            expected.record_label(arrival)

    futures = [
        processes.submit(
            record_all,
            url,
            [*own[worker][0], *common[0]][:: -1 if worker % 2 else 1],
            [*common[1], *own[worker][1]][:: -1 if worker % 2 else 1],
        )
        for worker in range(3)
    ]
    rebuilds = 0
    while rebuilds < 3 or not all(future.done() for future in futures):
        store.rebuild(*tables_of(*warehouse), NOON)
        rebuilds += 1
    new = [future.result() for future in futures]
    # Of the common ones, what the warehouse had brought first was new to nobody.
    for kind, of_warehouse in ((0, len(warehouse[0])), (1, len(warehouse[1]))):
        assert 480 - of_warehouse <= sum(counts[kind] for counts in new) <= 480
    assert store.sizes() == {"transactions": 480, "label_arrivals": 480}
    for card in range(6):
        for merchant in range(4):
            asked = (f"tok_{card}", f"m{merchant}", NOON_US + 2 * DAY_US)
            assert store.history(*asked) == expected.history(*asked)


def test_a_read_is_one_snapshot_while_others_write(url, store):
    writer, stop = open_online_store(url), threading.Event()

    def write():
        number = 0
        while not stop.is_set() and number < 1_000:
            # Every payment of this card is at this merchant, and its label comes after it.
            writer.record_transaction(payment(f"t{number:06}", NOON_US + number, number))
            writer.record_label(label(f"t{number:06}", NOON_US + number))
            number += 1
        return number

    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(write)
        seen = []
        try:
            while len(seen) < 100 or seen[-1] < 50:
                history = store.history("tok_a", "m1", NOON_US + DAY_US)
                assert ids(history.card) == ids(history.merchant)
                assert history.card.labels == history.merchant.labels
                assert len(history.card.events) - len(history.card.labels) in (0, 1)
                seen.append(len(history.card.events))
        finally:
            stop.set()
        assert written.result() >= seen[-1]
    assert seen == sorted(seen)
    writer.close()


def test_readers_see_the_old_or_the_new_state_during_a_rebuild(url, store):
    def generation(amount):
        moments = [(f"t{number}", NOON_US - 1 - number) for number in range(300)]
        return tables_of(
            [payment(id_, at, amount) for id_, at in moments],
            [label(id_, at, amount_minor=amount, event_time_us=at - 1) for id_, at in moments],
        )

    store.rebuild(*generation(1), NOON)
    writer = open_online_store(url)
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [writer.rebuild(*generation(amount), NOON) for amount in (2, 3, 2, 3)])
        while not done.done():
            history = store.history("tok_a", "m1", NOON_US)
            for entity in (history.card, history.merchant):
                seen.add((len(entity.events), len(entity.labels)))
            every = {event[2] for entity in (history.card, history.merchant) for event in entity.events}
            every |= {arrival[3] for entity in (history.card, history.merchant) for arrival in entity.labels}
            assert len(every) == 1
        done.result()
    writer.close()
    assert seen == {(300, 300)}
    assert set(amounts(store.history("tok_a", "m1", NOON_US).card)) == {3}


def change_everything(url):
    """A connection in a transaction that has changed every transaction of the store and is not yet at its end."""
    statement = "update {schema}transactions set amount_minor = 9"
    if url.startswith("sqlite"):
        other = sqlite3.connect(make_url(url).database, isolation_level=None)
        other.execute("begin exclusive")
        other.execute(statement.format(schema=""))
    else:
        parts = make_url(url)
        other = psycopg2.connect(
            host=parts.host, port=parts.port, user=parts.username, password=parts.password, dbname=parts.database
        )
        other.cursor().execute(statement.format(schema="online_store."))
    return other


@pytest.mark.parametrize(
    "url", ["sqlite", "sqlite, folded", "postgres"], indirect=True
)  # Redis has no transaction that stays open
def test_a_reader_waits_for_no_writer(url, store):
    store.record_transaction(payment("t", NOON_US - 1, 5))
    other = change_everything(url)
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [5]
    other.rollback()
    other.close()


def test_on_postgres_a_writer_waits_for_nobody_who_prunes(fresh_postgres_url):
    store = open_online_store(f"{fresh_postgres_url}?options=-clock_timeout=2000")
    store.record_transaction(payment("old", NOON_US))
    other = change_everything(fresh_postgres_url)
    assert store.record_transaction(payment("new", NOON_US + 46 * DAY_US)) is True
    other.rollback()
    other.close()
    assert store.sizes()["transactions"] == 2  # the old one goes with the next event
    store.record_transaction(payment("newest", NOON_US + 47 * DAY_US))
    assert store.sizes()["transactions"] == 2
    store.close()


@pytest.fixture
def between(url, monkeypatch):
    """Has a function called once, when a rebuild has compared the first table and written nothing for others to see."""

    def call(function):
        module, name = {
            "sqlite": (sqlite_rebuild, "find_differences"),
            "postgresql+psycopg2": (postgres_rebuild, "find_differences"),
            "redis": (redis_rebuild, "load"),
        }[url.split(":")[0]]
        original, waiting = getattr(module, name), [function]

        def with_call(*arguments):
            original(*arguments)
            while waiting:
                waiting.pop()()

        monkeypatch.setattr(module, name, with_call)

    return call


def test_what_is_recorded_while_a_rebuild_compares_waits_for_nothing_and_stays(url, store, between):
    store.rebuild(*tables_of([payment("known", NOON_US - 9, 1)], [label("known", NOON_US - 8)]), NOON)
    recorder = open_online_store(url)

    def record():
        recorder.record_transaction(payment("meanwhile", NOON_US - 2, 3))
        recorder.record_label(label("meanwhile", NOON_US - 1))
        assert recorder.record_transaction(payment("known", NOON_US - 9, 7)) is False
        # What is being written shows to nobody yet.
        assert amounts(recorder.history("tok_a", "m1", NOON_US).card) == [1, 3]

    between(record)
    labels = [label("known", NOON_US - 8), label("new", NOON_US - 3)]
    store.rebuild(*tables_of([payment("known", NOON_US - 9, 1), payment("new", NOON_US - 5, 2)], labels), NOON)
    history = store.history("tok_a", "m1", NOON_US)
    assert amounts(history.card) == amounts(history.merchant) == [1, 2, 3]
    assert [id_ for _, id_, _, _ in history.card.labels] == ["known", "new", "meanwhile"]
    recorder.close()


def test_a_payment_served_just_before_the_warehouse_brings_it_counts_once(url, store, between):
    recorder = open_online_store(url)

    def record():
        assert recorder.record_transaction(payment("t", NOON_US - 2, 5)) is True

    between(record)
    store.rebuild(*tables_of([payment("t", NOON_US - 2, 6)], []), NOON)
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [6]
    assert store.sizes()["transactions"] == 1
    recorder.close()


def test_of_two_rebuilds_at_once_the_last_to_end_is_what_counts(url, store, between):
    store.rebuild(*tables_of([payment("first", NOON_US - 9, 1)], []), NOON)
    other = open_online_store(url)
    with ThreadPoolExecutor(1) as pool:
        rebuilt = []

        def rebuild():
            second = tables_of([payment("first", NOON_US - 9, 1), payment("second", NOON_US - 8, 2)], [])
            rebuilt.append(pool.submit(other.rebuild, *second, NOON))
            if url.startswith("sqlite"):  # elsewhere it waits for the one that has begun
                rebuilt[0].result()

        between(rebuild)
        store.rebuild(*tables_of([payment("third", NOON_US - 7, 3)], []), NOON)
        rebuilt[0].result()
    last = [3] if url.startswith("sqlite") else [1, 2]
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == last
    other.close()


def test_on_redis_what_is_recorded_while_the_next_state_is_filled_is_in_both(fresh_redis_url, monkeypatch):
    store, recorder = open_online_store(fresh_redis_url), open_online_store(fresh_redis_url)
    store.record_transaction(payment("before", NOON_US - 9, 1))
    original = redis_rebuild._keep

    def keep_and_record(client, table, *arguments):
        original(client, table, *arguments)
        name = table.name
        outcome = recorder.append(
            recorder.read(None).position, [Entry(payment(f"decided {name}", NOON_US - 5, 2), b"approved")]
        )
        assert outcome.is_recorded
        assert recorder.record_transaction(payment(f"recorded {name}", NOON_US - 4, 3)) is True
        assert recorder.record_label(label(f"decided {name}", NOON_US - 1)) is True
        seen.append(recorder.history("tok_a", "m1", NOON_US))

    seen = []
    monkeypatch.setattr(redis_rebuild, "_keep", keep_and_record)
    store.rebuild(*tables_of([payment("of warehouse", NOON_US - 8, 4)], []), NOON)
    assert amounts(seen[-1].card) == [1, 2, 2, 3, 3]
    history = store.history("tok_a", "m1", NOON_US)
    assert amounts(history.card) == amounts(history.merchant) == [1, 4, 2, 2, 3, 3]
    assert history.card.labels == history.merchant.labels == seen[-1].card.labels
    store.close()
    recorder.close()
