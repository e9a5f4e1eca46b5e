"""What every online store does, on each backend with its real server."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from fraud_pipelines.errors import ContractBroken, OnlineStoreUnavailable, SettingInvalid
from fraud_pipelines.features.online import EntityHistory, LabelArrival, ScoredTransaction
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import from_us, to_us

NOON = datetime(2026, 6, 1, 12)
NOON_US = to_us(NOON)
MINUTE_US, DAY_US = 60_000_000, 86_400_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'online.sqlite'}"
    return request.getfixturevalue("fresh_postgres_url")


@pytest.fixture
def store(url):
    opened = open_online_store(url)
    yield opened
    opened.close()


def payment(transaction_id, at_us, amount_minor=100, card="tok_a", merchant="m1"):
    return ScoredTransaction(transaction_id, at_us, card, merchant, amount_minor, "EUR")


def label(transaction_id, known_at_us, is_fraud=True, card="tok_a", merchant="m1", event_time_us=0):
    return LabelArrival(transaction_id, event_time_us, known_at_us, is_fraud, card, merchant)


def tables_of(transactions, labels):
    time = pa.timestamp("us")
    return (
        pa.table(
            {
                "transaction_id": pa.array([t.transaction_id for t in transactions], pa.string()),
                "event_time": pa.array([from_us(t.event_time_us) for t in transactions], time),
                "card_id": pa.array([t.card_id for t in transactions], pa.string()),
                "merchant_id": pa.array([t.merchant_id for t in transactions], pa.string()),
                "amount_minor": pa.array([t.amount_minor for t in transactions], pa.int64()),
            }
        ),
        pa.table(
            {
                "transaction_id": pa.array([a.transaction_id for a in labels], pa.string()),
                "event_time": pa.array([from_us(a.event_time_us) for a in labels], time),
                "known_at": pa.array([from_us(a.known_at_us) for a in labels], time),
                "is_fraud": pa.array([a.is_fraud for a in labels], pa.bool_()),
                "card_id": pa.array([a.card_id for a in labels], pa.string()),
                "merchant_id": pa.array([a.merchant_id for a in labels], pa.string()),
            }
        ),
    )


def test_an_empty_store_knows_nothing(store):
    history = store.history("tok_a", "m1", NOON_US)
    assert history.card == EntityHistory([], [], [], [])
    assert history.merchant == EntityHistory([], [], [], [])
    assert store.as_of() is None
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


def test_history_is_ordered_by_event_time_whatever_the_arrival(store):
    store.record_transaction(payment("second", NOON_US - MINUTE_US, 200))
    store.record_transaction(payment("late", NOON_US - 5 * MINUTE_US, 50))
    store.record_transaction(payment("other card", NOON_US - 2 * MINUTE_US, 7, card="tok_b"))
    history = store.history("tok_a", "m1", NOON_US)
    assert history.card.transaction_times_us == [NOON_US - 5 * MINUTE_US, NOON_US - MINUTE_US]
    assert history.card.amounts_minor == [50, 200]
    assert history.merchant.amounts_minor == [50, 7, 200]


def test_the_moment_itself_is_history_for_labels_and_not_for_transactions(store):
    store.record_transaction(payment("before", NOON_US - 1))
    store.record_transaction(payment("now", NOON_US))
    store.record_transaction(payment("after", NOON_US + 1))
    store.record_label(label("x", NOON_US))
    store.record_label(label("y", NOON_US + 1))
    history = store.history("tok_a", "m1", NOON_US)
    assert history.card.transaction_times_us == [NOON_US - 1]
    assert history.card.label_times_us == history.merchant.label_times_us == [NOON_US]


def test_a_transaction_recorded_twice_counts_once_and_the_first_stays(store):
    assert store.record_transaction(payment("t", NOON_US - 1, 100)) is True
    assert store.record_transaction(payment("t", NOON_US - 2, 999)) is False
    assert store.history("tok_a", "m1", NOON_US).card.amounts_minor == [100]


def test_a_label_recorded_twice_counts_once_and_a_later_verdict_counts_too(store):
    assert store.record_label(label("t", NOON_US - 10, is_fraud=False)) is True
    assert store.record_label(label("t", NOON_US - 10, is_fraud=False)) is False
    assert store.record_label(label("t", NOON_US - 5, is_fraud=True)) is True
    assert store.history("tok_a", "m1", NOON_US).merchant.label_is_fraud == [0, 1]


def test_a_label_never_counts_at_its_own_transaction(store):
    store.record_label(label("t", NOON_US - 50, event_time_us=NOON_US))
    assert store.history("tok_a", "m1", NOON_US).card.label_times_us == []
    assert store.history("tok_a", "m1", NOON_US + 1).card.label_times_us == [NOON_US + 1]


def test_unusual_ids_come_back_as_they_went_in(store):
    card, merchant, id_ = "tok_'; drop table x; --", '商店 🛒\n,"', "ä%s :x"
    store.record_transaction(payment(id_, NOON_US - 1, 5, card=card, merchant=merchant))
    assert store.history(card, merchant, NOON_US).card.amounts_minor == [5]
    store.rebuild(*tables_of([payment(id_, NOON_US - 1, 6, card=card, merchant=merchant)], []), NOON)
    assert store.history(card, merchant, NOON_US).merchant.amounts_minor == [6]


def test_state_per_card_and_merchant_is_bounded(store):
    longest = max(load_spec().longest_window_us(entity) for entity in ("card", "merchant"))
    for day in range(100):
        store.record_transaction(payment(f"t{day}", NOON_US + day * DAY_US))
        store.record_label(label(f"t{day}", NOON_US + day * DAY_US))
    # The longest window, and two days for late events.
    assert store.sizes() == {"transactions": longest // DAY_US + 2, "label_arrivals": longest // DAY_US + 2}


def test_pruning_takes_nothing_a_window_can_reach(store):
    oldest = NOON_US - load_spec().longest_window_us("card") + 1
    store.record_transaction(payment("oldest", oldest, 3))
    store.record_transaction(payment("newest", NOON_US, 4))
    assert store.history("tok_a", "m1", NOON_US).card.amounts_minor == [3]
    # An event that is two days late still finds its own history.
    assert store.history("tok_a", "m1", NOON_US - 2 * DAY_US).card.amounts_minor == [3]


def test_an_event_with_a_wrong_year_does_not_empty_its_card(store):
    store.rebuild(*tables_of([payment("t", NOON_US - DAY_US, 8)], []), NOON)
    store.record_transaction(payment("typing error", NOON_US + 40_000 * DAY_US))
    assert store.history("tok_a", "m1", NOON_US).card.amounts_minor == [8]


def test_rebuild_adds_what_the_warehouse_knows_and_keeps_what_only_serving_recorded(store):
    store.record_transaction(payment("unknown to the warehouse", NOON_US - MINUTE_US, 1))
    store.record_transaction(payment("since", NOON_US, 2))
    store.record_label(label("unknown to the warehouse", NOON_US - 1))
    store.record_label(label("since", NOON_US))
    transactions = [payment("a", NOON_US - DAY_US, 30), payment("future", NOON_US, 40)]
    labels = [label("a", NOON_US - 2), label("future", NOON_US + 5)]
    store.rebuild(*tables_of(transactions, labels), NOON)
    later = store.history("tok_a", "m1", NOON_US + DAY_US)
    assert later.card.amounts_minor == [30, 1, 2]
    assert later.card.label_times_us == [NOON_US - 2, NOON_US - 1, NOON_US]
    assert store.as_of() == NOON


def test_what_was_served_belongs_to_the_warehouse_once_it_holds_it(store):
    store.record_transaction(payment("t", NOON_US - 2, 5))
    store.record_label(label("t", NOON_US - 1, is_fraud=False))
    store.rebuild(*tables_of([payment("t", NOON_US - 2, 6)], [label("t", NOON_US - 1, is_fraud=True)]), NOON)
    history = store.history("tok_a", "m1", NOON_US)
    assert (history.card.amounts_minor, history.card.label_is_fraud) == ([6], [1])
    # Rows that the warehouse has taken over and then lost, such as a payment deleted on request, go.
    store.rebuild(*tables_of([], []), NOON)
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


def test_a_payment_served_after_the_end_of_the_warehouse_survives_every_rebuild(store):
    nine, fifteen = NOON_US - 3 * 3_600_000_000, NOON_US + 3 * 3_600_000_000
    warehouse = tables_of([payment("w", nine, 10)], [])
    store.rebuild(*warehouse, from_us(nine + 1))
    store.record_transaction(payment("served", fifteen, 20))
    for end in (from_us(nine + 1), NOON + timedelta(hours=12)):
        store.rebuild(*warehouse, end)
        assert store.history("tok_a", "m1", NOON_US + DAY_US).card.amounts_minor == [10, 20]


def test_rebuild_forgets_what_was_served_when_no_window_reaches_it(store):
    keep = load_spec().longest_window_us("card") + 2 * DAY_US
    store.record_transaction(payment("old", NOON_US - keep, card="tok_x", merchant="mx"))
    store.record_transaction(payment("kept", NOON_US - keep + 1, card="tok_y", merchant="my"))
    store.record_label(label("old", NOON_US - keep, card="tok_x", merchant="mx"))
    store.rebuild(*tables_of([], []), NOON)
    assert store.sizes() == {"transactions": 1, "label_arrivals": 0}


def test_rebuilding_again_changes_nothing(store):
    transactions = [payment(f"t{i}", NOON_US - i * 3_600_000_000, i, card=f"tok_{i % 3}") for i in range(1, 200)]
    labels = [label(f"t{i}", NOON_US - i * 1_800_000_000, i % 5 == 0, card=f"tok_{i % 3}") for i in range(1, 200)]
    store.rebuild(*tables_of(transactions, labels), NOON)
    before = [store.history(f"tok_{i}", "m1", NOON_US) for i in range(3)], store.sizes()
    store.rebuild(*tables_of(transactions, labels), NOON)
    assert ([store.history(f"tok_{i}", "m1", NOON_US) for i in range(3)], store.sizes()) == before


def test_rebuild_leaves_out_what_no_window_reaches(store):
    keep = load_spec().longest_window_us("card") + 2 * DAY_US
    store.rebuild(*tables_of([payment("old", NOON_US - keep), payment("kept", NOON_US - keep + 1)], []), NOON)
    assert store.sizes()["transactions"] == 1


def test_a_refused_rebuild_leaves_the_store_as_it_was(store):
    store.record_transaction(payment("t", NOON_US - 1, 5))
    transactions, labels = tables_of([payment("a", NOON_US - 2, 1)], [])
    with pytest.raises(ContractBroken, match="merchant_id"):
        store.rebuild(transactions.drop_columns(["merchant_id"]), labels, NOON)
    without_card = transactions.set_column(2, "card_id", pa.nulls(1, pa.string()))
    with pytest.raises(ContractBroken, match="1 nulls in card_id"):
        store.rebuild(without_card, labels, NOON)
    assert store.history("tok_a", "m1", NOON_US).card.amounts_minor == [5]
    assert store.as_of() is None


def test_concurrent_writers_lose_nothing_and_count_nothing_twice(url, store):
    others = [open_online_store(url) for _ in range(3)]
    stores = [store, *others]

    def write(worker):
        return sum(
            stores[worker % 4].record_transaction(
                payment(f"t{number}", NOON_US - number, number, card=f"tok_{number % 2}", merchant=f"m{number % 3}")
            )
            for number in range(60)
        )

    with ThreadPoolExecutor(8) as pool:
        new = list(pool.map(write, range(8)))
    assert sum(new) == 60  # each transaction was new exactly once
    assert store.sizes()["transactions"] == 60
    assert sorted(store.history("tok_0", "m0", NOON_US + 1).card.amounts_minor) == list(range(0, 60, 2))
    for other in others:
        other.close()


def test_readers_see_the_old_or_the_new_state_during_a_rebuild(url, store):
    def generation(amount):
        return tables_of([payment(f"t{i}", NOON_US - 1 - i, amount) for i in range(500)], [])

    store.rebuild(*generation(1), NOON)
    writer = open_online_store(url)
    seen = set()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [writer.rebuild(*generation(amount), NOON) for amount in (2, 3, 2, 3)])
        while not done.done():
            amounts = store.history("tok_a", "m1", NOON_US).card.amounts_minor
            seen.add((len(amounts), len(set(amounts))))
        done.result()
    writer.close()
    assert seen == {(500, 1)}


def test_a_writer_and_rebuilds_at_the_same_time_lose_nothing(url, store):
    recorder = open_online_store(url)
    warehouse = tables_of([payment(f"w{i}", NOON_US - 1 - i) for i in range(300)], [])
    with ThreadPoolExecutor(1) as pool:
        recorded = pool.submit(lambda: [recorder.record_transaction(payment(f"s{i}", NOON_US + i)) for i in range(100)])
        for _ in range(5):
            store.rebuild(*warehouse, NOON)
        assert all(recorded.result())
    recorder.close()
    assert store.sizes()["transactions"] == 400


def test_what_was_recorded_is_there_after_opening_again(url, store):
    store.record_transaction(replace(payment("t", NOON_US - 1, 9), country="DE"))
    store.rebuild(*tables_of([payment("t", NOON_US - 1, 9)], []), NOON + timedelta(0))
    store.close()
    again = open_online_store(url)
    assert again.history("tok_a", "m1", NOON_US).card.amounts_minor == [9]
    assert again.as_of() == NOON
    again.close()


def test_a_store_that_cannot_be_reached_says_so(tmp_path):
    with pytest.raises(OnlineStoreUnavailable, match="fraud doctor"):
        open_online_store("postgresql+psycopg2://u:secret@127.0.0.1:1/none")
    blocked = tmp_path / "file"
    blocked.write_text("not a database, and longer than the header of one" * 40)
    with pytest.raises(OnlineStoreUnavailable, match="file"):
        open_online_store(f"sqlite:///{blocked}")


def test_an_unknown_kind_of_url_is_refused_without_its_password():
    with pytest.raises(SettingInvalid, match="expected sqlite") as caught:
        open_online_store("redis://user:secret@host/0")
    assert "secret" not in str(caught.value)
