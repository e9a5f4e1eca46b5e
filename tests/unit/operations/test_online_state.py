"""assets/operations/online_state.py through Dagster: from the warehouse's tables to what the service reads."""

from datetime import datetime, timedelta

import dagster as dg
import pytest

from fraud_pipelines.errors import EmptySample
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import to_us
from fraud_pipelines.warehouse import open_warehouse
from tests.dbt_runs import loaded_warehouse

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
    assert history.card.amounts_minor == [200, 300]
    assert history.merchant.label_is_fraud == [1]


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
    assert history_of(tmp_settings, "tok_a", "m1", NOON + DAY).card.amounts_minor == [200, 400, 300, 500]
    # The hash is about what the warehouse gave, which is the same.
    assert again["data_hash"] == first["data_hash"]
    assert len(first["data_hash"]) == 64
    assert materialize(tmp_settings, as_of="2026-06-01T12:00:00")["data_hash"] != first["data_hash"]


def test_an_earlier_moment_knows_less(tmp_settings):
    loaded_warehouse(tmp_settings.warehouse_url, PAYMENTS, VERDICTS)
    metadata = materialize(tmp_settings, as_of="2026-06-01T12:00:00")
    assert (metadata["transactions"], metadata["label_arrivals"]) == (1, 1)


def test_an_empty_warehouse_is_no_success(tmp_settings):
    open_warehouse(tmp_settings.warehouse_url).query("select 1 as one")
    with pytest.raises(EmptySample, match="fraud ingest"):
        materialize(tmp_settings)
