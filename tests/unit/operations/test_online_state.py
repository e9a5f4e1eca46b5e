"""assets/operations/online_state.py through Dagster: from the warehouse's tables to what the service reads."""

from datetime import datetime, timedelta

import dagster as dg
import pytest

from fraud_pipelines import doctor
from fraud_pipelines.errors import EmptySample, OnlineStateTooShort
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import Reach, to_us
from fraud_pipelines.warehouse import open_warehouse
from tests.dbt_runs import loaded_warehouse
from tests.histories import arrival, scored, simulated_history
from tests.stored_events import DAY_US, NaiveStore, amounts, tables_of

NOON = datetime(2026, 6, 1, 12)
DAY = timedelta(days=1)
PAYMENTS = [
    Payment("old", NOON - 60 * DAY, "tok_a", "m1", 1),
    Payment("recent", NOON - DAY, "tok_a", "m1", 200),
    Payment("last", NOON, "tok_a", "m2", 300),
]
# The label of a transaction that no window reaches any more, known yesterday: it counts at its merchant.
VERDICTS = [Verdict("old", NOON - DAY, True), Verdict("recent", NOON + 7 * DAY, False)]


def materialize(settings, **config):
    from assets.operations.online_state import online_state
    from fraud_pipelines.orchestration.resources import OnlineStoreResource, WarehouseResource

    run_config = {"ops": {"operations__online_state": {"config": config}}} if config else {}
    result = dg.materialize(
        [online_state],
        run_config=run_config,
        resources={
            "warehouse": WarehouseResource(url=settings.warehouse_url),
            "online_store": OnlineStoreResource(url=settings.online_store_url),
        },
    )
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def history_of(settings, card, merchant, moment):
    store = open_online_store(settings.online_store_url)
    try:
        return store.history(card, merchant, to_us(moment))
    finally:
        store.close()


def test_the_store_knows_everything_up_to_the_end_of_data(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    metadata = materialize(tmp_settings)
    assert metadata["as_of"] == "2026-06-01 12:00:00.000001"
    assert (metadata["transactions"], metadata["label_arrivals"]) == (2, 1)
    history = history_of(tmp_settings, "tok_a", "m1", NOON + DAY)
    assert amounts(history.card) == [200, 300]
    assert history.merchant.labels == [(to_us(NOON - DAY), "old", 1, 1)]


def test_materializing_again_changes_nothing(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    first = materialize(tmp_settings), history_of(tmp_settings, "tok_a", "m1", NOON + DAY)
    assert (materialize(tmp_settings), history_of(tmp_settings, "tok_a", "m1", NOON + DAY)) == first


def test_a_payment_served_since_the_last_file_stays(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    first = materialize(tmp_settings)
    store = open_online_store(tmp_settings.online_store_url)
    for name, moment, amount in (("late", NOON - timedelta(hours=4), 400), ("new", NOON + timedelta(hours=3), 500)):
        store.record_transaction(ScoredTransaction(name, to_us(moment), "tok_a", "m1", amount, "EUR"))
    store.close()
    again = materialize(tmp_settings)
    assert amounts(history_of(tmp_settings, "tok_a", "m1", NOON + DAY).card) == [200, 400, 300, 500]
    # The hash is about what the warehouse gave, which is the same.
    assert again["data_hash"] == first["data_hash"]
    assert len(first["data_hash"]) == 64
    assert materialize(tmp_settings, as_of="2026-06-01T12:00:00")["data_hash"] != first["data_hash"]


def test_an_earlier_moment_knows_less(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    metadata = materialize(tmp_settings, as_of="2026-06-01T12:00:00")
    assert (metadata["transactions"], metadata["label_arrivals"]) == (1, 1)


def test_the_store_has_every_attribute_and_amount_of_the_warehouse(tmp_settings):
    payments, verdicts = simulated_history(payments=600, cards=6, merchants=4, days=80)
    as_of = max(p.event_time for p in payments) - 3 * DAY
    loaded_warehouse(tmp_settings.warehouse_url, payments, verdicts)
    metadata = materialize(tmp_settings, as_of=as_of.isoformat())
    expected = NaiveStore()
    known = [arrival(payments, verdict) for verdict in verdicts]
    expected.rebuild(map(scored, payments), known, to_us(as_of))
    store = open_online_store(tmp_settings.online_store_url)
    for card in {p.card_id for p in payments}:
        for merchant in {p.merchant_id for p in payments}:
            for moment in (as_of, as_of - 2 * DAY):  # late by as much as may be
                asked = (card, merchant, to_us(moment))
                assert store.history(*asked) == expected.history(*asked)
    store.close()
    # What a card's features see and two days; for labels less.
    assert metadata["transactions"] == sum(as_of - 46 * DAY < p.event_time < as_of for p in payments) < 600
    assert metadata["label_arrivals"] == sum(to_us(as_of - 32 * DAY) < a.counts_from_us < to_us(as_of) for a in known)


def test_the_state_never_gets_shorter_than_a_model_in_service_may_need(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    assert materialize(tmp_settings)["reach"] == "44 days of transactions and 30 days of labels"
    longer = Reach(60 * DAY_US, 31 * DAY_US)
    store = open_online_store(tmp_settings.online_store_url)
    store.rebuild(*tables_of([], []), NOON, reach=longer)
    store.close()
    metadata = materialize(tmp_settings)
    assert metadata["reach"] == "60 days of transactions and 31 days of labels"
    assert metadata["transactions"] == 3  # with the one of 60 days ago


def test_doctor_says_that_the_state_is_too_short(tmp_settings):
    look = doctor._online_store  # examine() looks at everything else, too, and takes long
    assert look(tmp_settings) == "never filled; run: fraud materialize operations/online_state"
    store = open_online_store(tmp_settings.online_store_url)
    store.rebuild(*tables_of([], []), NOON, reach=Reach(7 * DAY_US, 7 * DAY_US))
    with pytest.raises(OnlineStateTooShort, match="Run: fraud materialize operations/online_state"):
        look(tmp_settings)
    store.rebuild(*tables_of([], []), NOON)
    store.close()
    assert look(tmp_settings) == "state as of 2026-06-01 12:00:00"


def test_an_empty_warehouse_is_no_success(tmp_settings):
    open_warehouse(tmp_settings.warehouse_url).query("select 1 as one")
    with pytest.raises(EmptySample, match="fraud ingest"):
        materialize(tmp_settings)
