"""What every online store does, on each backend with its real server."""

import struct
from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken, OnlineStoreUnavailable, SettingInvalid
from fraud_pipelines.features.online import EntityHistory
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import from_us
from tests.stored_events import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    NOON,
    NOON_US,
    amounts,
    card_event,
    ids,
    label,
    payment,
    tables_of,
)

# A store takes thousands of events; each example uses cards and ids of its own.
ONE_STORE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_an_empty_store_knows_nothing(store):
    history = store.history("tok_a", "m1", NOON_US)
    assert history.card == history.merchant == EntityHistory([], [])
    assert store.as_of() is None
    assert store.reach() is None
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


def test_a_history_has_what_features_need_of_card_and_merchant(store):
    store.record_transaction(
        payment(
            *("t1", NOON_US - 2, 250),
            country="DE",
            device_id="d-1",
            category="grocery",
            merchant_latitude=52.52,
            merchant_longitude=13.405,
        )
    )
    store.record_transaction(payment("t2", NOON_US - 1, 300, card="tok_b"))
    store.record_label(label("t1", NOON_US, is_fraud=True, amount_minor=250))
    history = store.history("tok_a", "m1", NOON_US)
    assert history.card.events == [(NOON_US - 2, "t1", 250, "m1", "DE", "d-1", "grocery", 52.52, 13.405)]
    assert history.merchant.events == [(NOON_US - 2, "t1", 250, "tok_a"), (NOON_US - 1, "t2", 300, "tok_b")]
    assert history.card.labels == history.merchant.labels == [(NOON_US, "t1", 1, 250)]


def test_history_is_ordered_by_event_time_whatever_the_arrival(store):
    store.record_transaction(payment("second", NOON_US - MINUTE_US, 200))
    store.record_transaction(payment("late", NOON_US - 5 * MINUTE_US, 50))
    store.record_transaction(payment("other card", NOON_US - 2 * MINUTE_US, 7, card="tok_b"))
    history = store.history("tok_a", "m1", NOON_US)
    assert ids(history.card) == ["late", "second"]
    assert amounts(history.merchant) == [50, 7, 200]


def test_ties_are_ordered_by_code_point(store):
    # UTF-16 would put the wide tilde after the emoji, a dictionary "a" before "B", numbers "t2" before "t10".
    ordered = ["", "T", "t", "t10", "t2", "tB", "ta", "tä", "t～", "t😀"]
    for id_ in reversed(ordered):
        store.record_transaction(payment(id_, NOON_US - 1))
        store.record_label(label(id_, NOON_US - 1))
    history = store.history("tok_a", "m1", NOON_US)
    for entity in (history.card, history.merchant):
        assert ids(entity) == [event[1] for event in entity.labels] == ordered == sorted(ordered)


def test_postgres_orders_ties_whatever_its_plan(fresh_postgres_url):
    # Without any index, rows come as they were inserted.
    plans = "%20".join(f"-cenable_{scan}=off" for scan in ("indexscan", "indexonlyscan", "bitmapscan"))
    store = open_online_store(f"{fresh_postgres_url}?options={plans}")
    for number in (3, 1, 2):
        store.record_transaction(payment(f"t{number}", NOON_US - 1))
        store.record_label(label(f"t{number}", NOON_US - 1))
        store.record_label(label("t0", NOON_US - number - 9, event_time_us=NOON_US - 2, amount_minor=number))
    history = store.history("tok_a", "m1", NOON_US)
    for entity in (history.card, history.merchant):
        assert ids(entity) == ["t1", "t2", "t3"]
        # Those of t0 count from the same moment, and come in the order in which they were known.
        assert [(id_, amount) for _, id_, _, amount in entity.labels] == [
            *(("t0", 3), ("t0", 2), ("t0", 1)),
            *(("t1", 100), ("t2", 100), ("t3", 100)),
        ]
    store.close()


def test_the_moment_itself_is_history_for_labels_and_not_for_transactions(store):
    store.record_transaction(payment("before", NOON_US - 1))
    store.record_transaction(payment("now", NOON_US))
    store.record_transaction(payment("after", NOON_US + 1))
    store.record_label(label("x", NOON_US))
    store.record_label(label("y", NOON_US + 1))
    history = store.history("tok_a", "m1", NOON_US)
    assert ids(history.card) == ids(history.merchant) == ["before"]
    assert history.card.labels == history.merchant.labels == [(NOON_US, "x", 1, 100)]


def test_a_transaction_recorded_twice_counts_once_and_the_first_stays(store):
    assert store.record_transaction(payment("t", NOON_US - 1, 100)) is True
    assert store.record_transaction(payment("t", NOON_US - 2, 999)) is False
    assert store.record_transaction(payment("t", NOON_US - 1, 999, card="tok_b", merchant="m2")) is False
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [100]
    assert store.history("tok_b", "m2", NOON_US).card.events == []


def test_a_label_recorded_twice_counts_once_and_a_later_verdict_counts_too(store):
    assert store.record_label(label("t", NOON_US - 10, is_fraud=False)) is True
    assert store.record_label(label("t", NOON_US - 10, is_fraud=True)) is False
    assert store.record_label(label("t", NOON_US - 5, is_fraud=True)) is True
    assert [fraud for _, _, fraud, _ in store.history("tok_a", "m1", NOON_US).merchant.labels] == [0, 1]


def test_a_label_never_counts_at_its_own_transaction(store):
    # Two verdicts from before the payment are two that count from a microsecond after it.
    store.record_label(label("t", NOON_US - 50, is_fraud=False, event_time_us=NOON_US))
    store.record_label(label("t", NOON_US - 60, event_time_us=NOON_US))
    both = [(NOON_US + 1, "t", 1, 100), (NOON_US + 1, "t", 0, 100)]
    assert store.history("tok_a", "m1", NOON_US).card.labels == []
    assert store.history("tok_a", "m1", NOON_US + 1).card.labels == both
    of_warehouse = label("u", NOON_US - 70, event_time_us=NOON_US)
    store.rebuild(*tables_of([], [of_warehouse]), NOON + timedelta(seconds=1))
    assert store.history("tok_a", "m1", NOON_US).card.labels == []
    assert store.history("tok_a", "m1", NOON_US + 1).card.labels == [*both, (NOON_US + 1, "u", 1, 100)]


@ONE_STORE
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=6, max_size=6),
    st.sampled_from(["", "'; drop table transactions; --", '" or ""="', "%s %(card)s :x ?", "\\N", "\\", "a\tb\r\n"]),
)
def test_any_text_comes_back_as_it_went_in(store, drawn, hostile):
    card, merchant, id_, country, device, category = (text + hostile for text in drawn)
    written = payment(id_, NOON_US - 1, 5, card, merchant, country=country, device_id=device, category=category)
    for is_served in (True, False):
        if is_served:
            store.record_transaction(written)
        store.rebuild(*tables_of([] if is_served else [written], []), NOON)
        history = store.history(card, merchant, NOON_US)
        assert history.card.events == [card_event(written)]
        assert history.merchant.events == [(NOON_US - 1, id_, 5, card)]
        store.rebuild(*tables_of([], []), NOON + timedelta(days=99))
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


@ONE_STORE
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-180, 180))
def test_places_come_back_to_the_last_bit(store, latitude, longitude):
    def bits(*values):
        # Adding zero leaves every number as it is but -0.0, which SQLite does not tell from 0.0.
        return [struct.pack("d", value + 0.0) for value in values]

    written = payment("t", NOON_US - 1, merchant_latitude=latitude, merchant_longitude=longitude)
    store.record_transaction(written)
    served = store.history("tok_a", "m1", NOON_US).card.events
    store.rebuild(*tables_of([written], []), NOON)
    rebuilt = store.history("tok_a", "m1", NOON_US).card.events
    store.rebuild(*tables_of([], []), NOON)
    assert [bits(*event[7:]) for event in served + rebuilt] == [bits(latitude, longitude)] * 2


@pytest.mark.parametrize("absent", ["country", "device_id", "category", "merchant_latitude", "merchant_longitude"])
def test_what_a_source_lacks_stays_null(store, absent):
    values = {"country": "", "device_id": "d", "category": "c", "merchant_latitude": 0.0, "merchant_longitude": -0.5}
    written = payment("t", NOON_US - 1, **{**values, absent: None})
    store.record_transaction(written)
    assert store.history("tok_a", "m1", NOON_US).card.events == [card_event(written)]
    store.rebuild(*tables_of([written], []), NOON)
    assert store.history("tok_a", "m1", NOON_US).card.events == [card_event(written)]


def test_rebuild_adds_what_the_warehouse_knows_and_keeps_what_only_serving_recorded(store):
    store.record_transaction(payment("unknown to the warehouse", NOON_US - MINUTE_US, 1))
    store.record_transaction(payment("since", NOON_US, 2))
    store.record_label(label("unknown to the warehouse", NOON_US - 1))
    store.record_label(label("since", NOON_US))
    transactions = [payment("a", NOON_US - DAY_US, 30), payment("future", NOON_US, 40)]
    labels = [label("a", NOON_US - 2), label("future", NOON_US + 5)]
    store.rebuild(*tables_of(transactions, labels), NOON)
    later = store.history("tok_a", "m1", NOON_US + DAY_US)
    assert amounts(later.card) == [30, 1, 2]
    assert [when for when, *_ in later.card.labels] == [NOON_US - 2, NOON_US - 1, NOON_US]
    assert store.as_of() == NOON


def test_what_was_served_belongs_to_the_warehouse_once_it_holds_it(store):
    store.record_transaction(payment("t", NOON_US - 2, 5))
    store.record_label(label("t", NOON_US - 1, is_fraud=False))
    store.rebuild(*tables_of([payment("t", NOON_US - 2, 6)], [label("t", NOON_US - 1, is_fraud=True)]), NOON)
    history = store.history("tok_a", "m1", NOON_US)
    assert (amounts(history.card), history.card.labels) == ([6], [(NOON_US - 1, "t", 1, 100)])
    # Rows that the warehouse has taken over and then lost, such as a payment deleted on request, go.
    store.rebuild(*tables_of([], []), NOON)
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


def test_what_the_warehouse_corrects_moves(store):
    store.record_transaction(payment("served", NOON_US - 2, 5))
    store.rebuild(*tables_of([payment("known", NOON_US - 3, 6)], [label("known", NOON_US - 2)]), NOON)
    corrected = [payment(id_, NOON_US - 9, 7, card="tok_b", merchant="m2") for id_ in ("known", "served")]
    store.rebuild(*tables_of(corrected, [label("known", NOON_US - 2, card="tok_b", merchant="m2")]), NOON)
    assert store.history("tok_a", "m1", NOON_US).card == EntityHistory([], [])
    moved = store.history("tok_b", "m2", NOON_US)
    assert ids(moved.card) == ids(moved.merchant) == ["known", "served"]
    assert len(moved.card.labels) == len(moved.merchant.labels) == 1
    # Also a payment that a rebuild up to a later moment had put after this one's.
    store.rebuild(*tables_of([payment("later", NOON_US + 5, 8)], []), NOON + timedelta(days=1))
    store.rebuild(*tables_of([payment("later", NOON_US - 5, 9)], []), NOON)
    assert amounts(store.history("tok_a", "m1", NOON_US + DAY_US).card) == [9]


def test_a_rebuild_says_nothing_about_its_moment_and_later(store):
    moments = (NOON_US - 1, NOON_US, NOON_US + 1)
    rows = [payment(str(at), at) for at in moments], [label(str(at), at) for at in moments]
    store.rebuild(*tables_of(*rows), NOON + timedelta(days=1))
    store.rebuild(*tables_of([], []), NOON)
    history = store.history("tok_a", "m1", NOON_US + DAY_US)
    for entity in (history.card, history.merchant):
        assert [event[0] for event in entity.events] == [arrival[0] for arrival in entity.labels] == list(moments[1:])


def test_what_lies_after_a_rebuild_stays_through_the_following_ones(store):
    store.rebuild(
        *tables_of([payment("later", NOON_US + 5, 7)], [label("later", NOON_US + 6)]), NOON + timedelta(days=1)
    )
    for microseconds in (0, 1, 2):
        store.rebuild(*tables_of([], []), NOON + timedelta(microseconds=microseconds))
    assert store.sizes() == {"transactions": 1, "label_arrivals": 1}
    store.rebuild(*tables_of([], []), NOON + timedelta(microseconds=7))
    assert store.sizes() == {"transactions": 0, "label_arrivals": 0}


def test_a_payment_served_after_the_end_of_the_warehouse_survives_every_rebuild(store):
    nine, fifteen = NOON_US - 3 * HOUR_US, NOON_US + 3 * HOUR_US
    warehouse = tables_of([payment("w", nine, 10)], [])
    store.rebuild(*warehouse, from_us(nine + 1))
    store.record_transaction(payment("served", fifteen, 20))
    for end in (from_us(nine + 1), NOON + timedelta(hours=12)):
        store.rebuild(*warehouse, end)
        assert amounts(store.history("tok_a", "m1", NOON_US + DAY_US).card) == [10, 20]


def test_rebuilding_again_changes_nothing(store):
    transactions = [payment(f"t{i}", NOON_US - i * HOUR_US, i, card=f"tok_{i % 3}") for i in range(1, 200)]
    labels = [label(f"t{i}", NOON_US - i * HOUR_US // 2, i % 5 == 0, card=f"tok_{i % 3}") for i in range(1, 200)]
    store.rebuild(*tables_of(transactions, labels), NOON)
    before = [store.history(f"tok_{i}", "m1", NOON_US) for i in range(3)], store.sizes()
    store.rebuild(*tables_of(transactions, labels), NOON)
    assert ([store.history(f"tok_{i}", "m1", NOON_US) for i in range(3)], store.sizes()) == before


def test_a_refused_rebuild_leaves_the_store_as_it_was(store):
    store.record_transaction(payment("t", NOON_US - 1, 5))
    transactions, labels = tables_of([payment("a", NOON_US - 2, 1)], [label("a", NOON_US - 1)])
    with pytest.raises(ContractBroken, match="transactions lack country"):
        store.rebuild(transactions.drop_columns(["country"]), labels, NOON)
    without_card = transactions.set_column(2, "card_id", pa.nulls(1, pa.string()))
    with pytest.raises(ContractBroken, match="1 nulls in card_id"):
        store.rebuild(without_card, labels, NOON)
    with pytest.raises(ContractBroken, match="2 transactions have 1 different transaction_id;"):
        store.rebuild(pa.concat_tables([transactions, transactions]), labels, NOON)
    with pytest.raises(ContractBroken, match="2 label_arrivals have 1 different transaction_id, known_at_us;"):
        store.rebuild(transactions, pa.concat_tables([labels, labels]), NOON)
    assert amounts(store.history("tok_a", "m1", NOON_US).card) == [5]
    assert store.as_of() is None


def test_what_was_recorded_is_there_after_opening_again(url, store):
    store.record_transaction(payment("t", NOON_US - 1, 9))
    store.rebuild(*tables_of([payment("t", NOON_US - 1, 9)], []), NOON)
    store.close()
    again = open_online_store(url)
    assert amounts(again.history("tok_a", "m1", NOON_US).card) == [9]
    assert (again.as_of(), again.reach()) == (NOON, store.reach())
    again.close()
    store.close()


def test_a_store_that_cannot_be_reached_says_so(tmp_path):
    with pytest.raises(OnlineStoreUnavailable, match="fraud doctor"):
        open_online_store("postgresql+psycopg2://u:secret@127.0.0.1:1/none")
    blocked = tmp_path / "file"
    blocked.write_text("not a database, and longer than the header of one" * 40)
    with pytest.raises(OnlineStoreUnavailable, match="file"):
        open_online_store(f"sqlite:///{blocked}")


def test_an_unknown_kind_of_url_is_refused_without_its_password():
    with pytest.raises(SettingInvalid, match="expected sqlite") as caught:
        open_online_store("mysql://user:secret@host/0")
    assert "secret" not in str(caught.value)
