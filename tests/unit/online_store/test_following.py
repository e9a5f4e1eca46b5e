"""What a scoring process relies on when it follows a store that others write to as well."""

import multiprocessing
import socket
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import orjson
import psycopg2
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from fraud_pipelines.errors import OnlineStateTooShort, OnlineStoreUnavailable, SettingInvalid
from fraud_pipelines.features.online import EntityHistory, ScoredTransaction
from fraud_pipelines.online_store import following, open_online_store
from fraud_pipelines.online_store.following import DECISIONS_KEPT_US, Entry, Outcome, Position, Wanted
from tests.store_followers import Follower, decide_all, wait_for
from tests.stored_events import DAY_US, FORGETTING, NOON, NOON_US, SHORT_SPEC, card_event, label, payment, tables_of


def entry(transaction_id, at_us=NOON_US, decision=b"approved", **entities):
    return Entry(payment(transaction_id, at_us, **entities), decision)


@pytest.fixture
def start(store) -> Position:
    """Where a store is in which nothing has happened."""
    return store.read(None).position


def test_who_knows_nothing_starts_over_and_hears_of_nothing_after(store):
    first = store.read(None)
    assert (first.is_reset, first.changes, first.decisions, first.stored, first.as_of_us) == (True, [], {}, set(), None)
    again = store.read(first.position)
    assert (again.is_reset, again.changes, again.position) == (False, [], first.position)


def test_changes_come_in_the_order_they_were_recorded_and_completely(store, start):
    made = [payment(f"t{number}", NOON_US - number, number, f"tok_{number % 3}") for number in range(6)]
    arrival = label("t0", NOON_US + 5, is_fraud=False, event_time_us=NOON_US)
    store.record_transaction(made[0])
    store.append(store.read(start).position, [Entry(one, b"") for one in made[1:3]])
    middle = store.read(start)
    store.record_label(arrival)
    store.record_transaction(made[3])
    store.append(store.read(middle.position).position, [Entry(one, b"") for one in made[4:]])
    assert middle.changes == made[:3]
    assert store.read(start).changes == [*made[:3], arrival, *made[3:]]
    assert store.read(middle.position).changes == [arrival, *made[3:]]
    assert store.read(store.read(start).position).changes == []


def test_what_was_there_already_is_no_change(store, start):
    store.record_transaction(payment("t", NOON_US))
    store.record_label(label("t", NOON_US))
    here = store.read(start).position
    store.record_transaction(payment("t", NOON_US, 7))
    store.record_label(label("t", NOON_US, is_fraud=False))
    assert store.read(here).position == here


def test_another_store_of_the_same_place_sees_the_same(url, store, start):
    other = open_online_store(url)
    made = entry("t")
    outcome = other.append(start, [made])
    snapshot = store.read(start, ["t", "unknown"])
    other.close()
    assert (snapshot.changes, snapshot.position) == ([made.transaction], outcome.position)
    assert (snapshot.decisions, snapshot.stored) == ({"t": b"approved"}, {"t"})


def test_a_rebuild_resets_everybody(store, start):
    store.record_transaction(payment("t", NOON_US - 1))
    here = store.read(start).position
    store.rebuild(*tables_of([], []), NOON)
    snapshot = store.read(here)
    assert (snapshot.is_reset, snapshot.changes, snapshot.as_of_us) == (True, [], NOON_US)
    outcome = store.append(here, [entry("u", card="tok_b", merchant="m2")])
    assert outcome == Outcome(False, snapshot.position, is_reset=True, changes=[])
    assert store.transaction("u") is None
    store.record_transaction(payment("v", NOON_US))
    assert [change.transaction_id for change in store.read(snapshot.position).changes] == ["v"]


def test_who_is_too_far_behind_starts_over_and_who_is_not_does_not(store, start, monkeypatch):
    monkeypatch.setattr(following, "CHANGES_KEPT", 40)
    positions = [start]
    for number in range(50):
        entries = [entry(f"t{number} {part}", card=f"tok_{number}") for part in range(6)]
        positions.append(store.append(positions[-1], entries).position)
    assert [store.read(position).is_reset for position in positions[:3]] == [True, True, True]
    recent = store.read(positions[-7])  # 36 changes ago
    assert not recent.is_reset
    assert [change.transaction_id for change in recent.changes] == [
        f"t{number} {part}" for number in range(44, 50) for part in range(6)
    ]
    assert store.append(start, [entry("u")]).is_reset


@pytest.mark.parametrize(
    ("others", "is_recorded"),
    [
        ({"card": "tok_a", "merchant": "m9"}, False),
        ({"card": "tok_z", "merchant": "m1"}, False),
        ({"card": "tok_c", "merchant": "m3"}, False),  # those of the second entry
        ({"card": "tok_z", "merchant": "m9"}, True),
        ({"card": "m1", "merchant": "tok_a"}, True),  # a card is not a merchant
    ],
)
@pytest.mark.parametrize("kind", ["decided", "recorded", "label"])
def test_an_append_is_refused_where_others_touched_its_card_or_merchant(store, start, others, is_recorded, kind):
    known = payment("before", NOON_US - 9, card="tok_a")
    store.record_transaction(known)
    here = store.read(start).position
    if kind == "label":
        change = label("theirs", NOON_US, **others)
        store.record_label(change)
    else:
        change = payment("theirs", NOON_US, **others)
        if kind == "recorded":
            store.record_transaction(change)
        else:
            store.append(here, [Entry(change, b"theirs")])
    there = store.read(here).position
    mine = [entry("mine"), entry("mine too", card="tok_c", merchant="m3")]
    outcome = store.append(here, mine)
    assert (outcome.is_recorded, outcome.is_reset, outcome.changes) == (is_recorded, False, [change])
    assert (store.decision("mine"), store.transaction("mine too")) == (
        (b"approved", mine[1].transaction) if is_recorded else (None, None)
    )
    news = store.read(there)
    assert news.position == outcome.position
    assert news.changes == ([one.transaction for one in mine] if is_recorded else [])
    # Who has applied the others' changes may decide.
    again = store.append(outcome.position, mine)
    assert again.is_recorded
    assert again.decided == ({"mine": b"approved", "mine too": b"approved"} if is_recorded else {})


def test_of_a_transaction_sent_twice_the_first_decision_stands(store, start):
    first = store.append(start, [entry("t", decision=b"first")])
    assert (first.is_recorded, first.decided, first.stored) == (True, {}, set())
    second = store.append(first.position, [entry("u"), entry("t", NOON_US + 1, b"second", card="tok_b", merchant="m2")])
    assert (second.is_recorded, second.decided, second.stored) == (True, {"t": b"first"}, set())
    assert store.decision("t") == b"first"
    assert store.transaction("t") == payment("t", NOON_US)
    assert [change.transaction_id for change in store.read(start).changes] == ["t", "u"]
    assert store.history("tok_b", "m2", NOON_US + 9).card == EntityHistory([], [])


def test_of_a_transaction_twice_in_one_append_the_first_decision_stands(store, start):
    twice = [entry("t", decision=b"first"), entry("t", NOON_US + 1, b"second", card="tok_b")]
    outcome = store.append(start, twice)
    assert (outcome.decided, store.decision("t")) == ({"t": b"first"}, b"first")
    assert store.read(start).changes == [twice[0].transaction]


def test_a_transaction_that_was_known_and_not_decided_gets_a_decision(store):
    store.rebuild(*tables_of([payment("known", NOON_US - 2)], []), NOON)
    store.record_transaction(payment("recorded", NOON_US - 1))
    here = store.read(None).position
    before = store.read(here, ["known", "recorded", "new"])
    assert (before.stored, before.decisions) == ({"known", "recorded"}, {})
    entries = [entry(id_, decision=id_.encode()) for id_ in ("known", "recorded", "new")]
    outcome = store.append(here, entries)
    assert (outcome.is_recorded, outcome.decided, outcome.stored) == (True, {}, {"known", "recorded"})
    assert store.read(here).changes == [entries[2].transaction]
    assert [store.decision(id_) for id_ in ("known", "recorded", "new")] == [b"known", b"recorded", b"new"]
    assert store.transaction("known").event_time_us == NOON_US - 2


def test_an_append_of_nothing_brings_the_news(store, start):
    store.record_transaction(payment("t", NOON_US))
    outcome = store.append(start, [])
    assert (outcome.is_recorded, len(outcome.changes), outcome.position) == (True, 1, store.read(start).position)


def test_decisions_are_kept_as_long_as_promised_after_their_payment(store, start):
    moments = {"old": NOON_US - DECISIONS_KEPT_US, "kept": NOON_US - DECISIONS_KEPT_US + 1, "new": NOON_US + DAY_US}
    store.append(start, [entry(id_, at, id_.encode()) for id_, at in moments.items()])
    assert store.decision("old") == b"old"
    store.rebuild(*tables_of([], []), NOON)
    assert [store.decision(id_) for id_ in moments] == [None, b"kept", b"new"]
    assert store.read(None, list(moments)).decisions == {"kept": b"kept", "new": b"new"}
    # One on an older payment that comes after it is kept until the next.
    store.append(store.read(None).position, [entry("late", NOON_US - 9 * DAY_US, b"late")])
    assert store.decision("late") == b"late"


@pytest.mark.parametrize("url", FORGETTING, indirect=True)
def test_what_was_appended_is_history_and_is_bounded(store, start):
    position = start
    for day in range(60):
        position = store.append(position, [entry(f"t{day}", NOON_US + day * DAY_US)]).position
    assert store.sizes()["transactions"] == 44 + 2
    last = store.history("tok_a", "m1", NOON_US + 60 * DAY_US)
    assert [event[1] for event in last.card.events] == [f"t{day}" for day in range(17, 60)]


def test_histories_are_read_from_the_moments_asked_for(store):
    made = [payment(f"t{number}", NOON_US + number, number, f"tok_{number % 2}", country="DE") for number in range(6)]
    for one in reversed(made):
        store.record_transaction(one)
        store.record_label(label(one.transaction_id, one.event_time_us + 10, card=one.card_id))
    snapshot = store.read(
        None,
        cards=[Wanted("tok_0", NOON_US, NOON_US + 10), Wanted("tok_1", NOON_US - 1, NOON_US + 15), Wanted("new", 0, 0)],
        merchants=[Wanted("m1", NOON_US + 3, NOON_US + 14), Wanted("tok_0", 0, 0)],
    )
    assert snapshot.cards == {
        "tok_0": EntityHistory(
            [card_event(made[2]), card_event(made[4])], [(NOON_US + 12, "t2", 1, 100), (NOON_US + 14, "t4", 1, 100)]
        ),
        "tok_1": EntityHistory([card_event(made[number]) for number in (1, 3, 5)], []),
        "new": EntityHistory([], []),
    }
    assert snapshot.merchants == {
        "m1": EntityHistory(
            [(NOON_US + 4, "t4", 4, "tok_0"), (NOON_US + 5, "t5", 5, "tok_1")], [(NOON_US + 15, "t5", 1, 100)]
        ),
        "tok_0": EntityHistory([], []),
    }


def test_a_store_that_is_too_short_is_not_followed(url):
    short = open_online_store(url, spec=SHORT_SPEC)
    short.rebuild(*tables_of([], []), NOON)
    full = open_online_store(url)
    with pytest.raises(OnlineStateTooShort, match="filled with 7 days"):
        full.read(None)
    assert short.read(None).as_of_us == NOON_US
    short.close()
    full.close()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
PLACES = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.just(5e-324), st.just(sys.float_info.max)
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        ScoredTransaction,
        transaction_id=TEXTS.map(lambda text: f"'{text}\\N\"%s"),
        event_time_us=st.integers(NOON_US - 9, NOON_US + 9),
        card_id=TEXTS,
        merchant_id=TEXTS,
        amount_minor=st.integers(0, 2**63 - 1),
        currency=TEXTS,
        **{name: st.none() | TEXTS for name in ("customer_id", "category", "channel", "country", "device_id")},
        **dict.fromkeys(("home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude"), PLACES),
    ),
    st.binary(max_size=20),
)
def test_a_transaction_and_its_decision_come_back_exactly(store, made, decision):
    here = store.read(None).position
    outcome = store.append(here, [Entry(made, decision)])
    if not outcome.stored and not outcome.decided:
        assert store.read(here).changes == [made]
        assert store.decision(made.transaction_id) == decision
        assert store.transaction(made.transaction_id) == made
        # As a rebuild writes it, too.
        by_warehouse = replace(made, transaction_id=made.transaction_id + "w", event_time_us=NOON_US - 1)
        store.rebuild(*tables_of([by_warehouse], []), NOON)
        assert store.transaction(by_warehouse.transaction_id) == by_warehouse
    store.rebuild(*tables_of([], []), NOON + timedelta(days=99))
    assert store.transaction(made.transaction_id) is None


def test_whoever_decides_has_seen_everything_recorded_before_of_its_card_and_merchant(url, store, start):
    # Three processes and two threads, few cards and merchants; every fifth payment is sent to all of them.
    def sent_to(worker):
        made = [
            payment(f"{'all' if n % 5 == 0 else worker} {n}", NOON_US + n, n, f"tok_{n % 4}", f"m{n % 3}")
            for n in range(48)
        ]
        return [made[n : n + 1 + worker % 3] for n in range(0, 48, 1 + worker % 3)]

    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(5)
    wait_for(barrier)
    with ProcessPoolExecutor(3, mp_context=spawn, initializer=wait_for, initargs=(barrier,)) as pool:
        processes = [pool.submit(decide_all, url, sent_to(worker)) for worker in range(3)]
        with ThreadPoolExecutor(2) as threads:
            ours = list(threads.map(lambda worker: decide_all(url, sent_to(worker)), (3, 4)))
        results = [*ours, *(process.result() for process in processes)]
    log = store.read(start).changes
    sent = {made.transaction_id for worker in range(5) for batch in sent_to(worker) for made in batch}
    assert len(log) == len(sent) == 10 + 5 * 38  # nothing is lost, nothing is there twice
    assert {change.transaction_id for change in log} == sent == store.read(None, sorted(sent)).decisions.keys()
    seen = defaultdict(list)
    for change in log:
        both = ("card", change.card_id), ("merchant", change.merchant_id)
        assert orjson.loads(store.decision(change.transaction_id)) == [sorted(seen[entity]) for entity in both]
        for entity in both:
            seen[entity].append(change.transaction_id)
    for decided, _ in results:
        assert all(store.decision(id_) == decision for id_, decision in decided.items())
    assert sum(refused for _, refused in results) > 0  # they did get in each other's way


def test_a_follower_survives_a_rebuild(store):
    follower = Follower(store)
    follower.decide([payment("before", NOON_US - 5)])
    store.rebuild(*tables_of([payment("known", NOON_US - 9)], []), NOON)
    assert follower.decide([payment("after", NOON_US)]) == {"after": b'[["before","known"],["before","known"]]'}


@pytest.fixture
def silence():
    """A port that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.mark.parametrize("kind", ["postgresql+psycopg2", "redis"])
def test_a_server_that_does_not_answer_is_given_up_quickly(silence, kind):
    started = time.monotonic()
    with pytest.raises(OnlineStoreUnavailable, match="fraud doctor") as caught:
        open_online_store(f"{kind}://user:secret@127.0.0.1:{silence}/0")
    assert time.monotonic() - started < 4
    assert "secret" not in str(caught.value)


def test_on_postgres_a_writer_that_gets_no_turn_gives_up(fresh_postgres_url):
    # The URL's own options count.
    store = open_online_store(f"{fresh_postgres_url}?options=-clock_timeout=100")
    start = store.read(None).position
    parts = make_url(fresh_postgres_url)
    other = psycopg2.connect(
        host=parts.host, port=parts.port, user=parts.username, password=parts.password, dbname=parts.database
    )
    other.cursor().execute("select pg_advisory_xact_lock(7146003)")
    with pytest.raises(OnlineStoreUnavailable, match="lock timeout"):
        store.append(start, [entry("t")])
    assert store.read(start).changes == []
    other.rollback()
    other.close()
    assert store.append(start, [entry("t")]).is_recorded
    store.close()


def test_on_postgres_a_connection_that_the_server_has_closed_is_replaced(fresh_postgres_url):
    store = open_online_store(fresh_postgres_url)
    start = store.read(None).position
    other = open_online_store(fresh_postgres_url)
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where pid <> pg_backend_pid() and datname = current_database()"
    )
    for use in (lambda: store.append(start, [entry("t")]), lambda: store.read(start)):
        other._rows(kill)
        use()
    assert len(store.read(start).changes) == 1
    store.close()
    other.close()


def test_redis_that_comes_back_without_its_data_is_not_scored_on(redis_server):
    url = redis_server.fresh_url()
    store = open_online_store(url.replace("redis://", "valkey://"))
    here = store.read(None).position
    store.rebuild(*tables_of([payment("t", NOON_US - 1)], []), NOON)
    redis_server.stop()
    with pytest.raises(OnlineStoreUnavailable):
        store.history("tok_a", "m1", NOON_US)
    redis_server.start()
    late = open_online_store(url) if store.record_transaction(payment("served", NOON_US - 2)) else None
    for one in (store, late):
        with pytest.raises(OnlineStateTooShort, match="0 days of transactions"):
            one.history("tok_a", "m1", NOON_US)
    assert store.append(here, [entry("u")]).is_reset
    store.rebuild(*tables_of([payment("t", NOON_US - 1)], []), NOON)
    assert [event[1] for event in late.history("tok_a", "m1", NOON_US).card.events] == ["served", "t"]
    store.close()
    late.close()


# A file has one machine: whoever had seen what it lost ends with it.
@pytest.mark.parametrize("url", ["postgres", "redis"], indirect=True)
def test_who_has_seen_what_a_server_lost_starts_over(url, store, start):
    # After a failover to a replica that was behind, or a crash of PostgreSQL, which does not wait for its disk here.
    ahead = store.append(start, [entry("lost")]).position
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            (newest, _), (before, _) = client.xrevrange("online_store:changes", count=2)
            client.xdel("online_store:changes", newest)
            client.hset("online_store:state", "last", before)
            # A stream remembers its last number; the replica's own never saw it.
            client.execute_command("XSETID", "online_store:changes", before)
    else:
        store._rows(f"delete from online_store.changes where sequence = {ahead.sequence} returning 1")
    store.append(start, [entry("other", card="tok_b", merchant="m2")])
    assert store.read(ahead).is_reset
    assert not store.read(start).is_reset


def test_redis_that_would_evict_histories_is_refused(redis_server):
    url = redis_server.fresh_url()
    with redis.Redis.from_url(url) as client:
        client.config_set("maxmemory", 100_000_000)
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SettingInvalid, match="expected noeviction"):
                open_online_store(url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 0)
