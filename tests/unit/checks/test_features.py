"""checks/features.py on tables that pass and on tables that fail, each run through Dagster."""

from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.features.reference import Payment
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.warehouse import open_warehouse
from tests.histories import transactions_frame

DAY = datetime(2026, 6, 1)
SPEC = load_spec()
PAYMENTS = [
    Payment(f"t{hour}", DAY + timedelta(hours=hour), "tok_a", "m1", 100 + hour) for hour in range(-24 * 8, 24)
]  # fmt: skip


@pytest.fixture
def url(tmp_path):
    return f"duckdb:///{tmp_path / 'warehouse.duckdb'}"


def feature_table(payments):
    """A feature table whose every feature varies from row to row."""
    frame = transactions_frame(payments)[["transaction_id", "event_time"]]
    values = {
        feature.name: (np.arange(len(frame)) % 7 + position).astype(
            "int64" if feature.data_type == "bigint" else "float64"
        )
        for position, feature in enumerate(SPEC.features)
    }
    return pd.concat([frame, pd.DataFrame(values)], axis=1)


def run_check(tmp_settings, url, check_name, features):
    from checks import features as module
    from fraud_pipelines.orchestration import keys
    from fraud_pipelines.orchestration.resources import WarehouseResource

    warehouse = open_warehouse(url)
    warehouse.insert_new(tables.TRANSACTIONS, transactions_frame(PAYMENTS))
    warehouse.execute("create schema if not exists features")
    warehouse.overwrite(tables.TRANSACTION_FEATURES, features)

    partitions = dg.DailyPartitionsDefinition(start_date="2026-05-01", end_date="2026-07-01")

    @dg.asset(key=keys.TRANSACTION_FEATURES, partitions_def=partitions)
    def transaction_features() -> None:
        """Stands for the dbt asset: its table is written above."""

    result = dg.materialize(
        [transaction_features, getattr(module, check_name)],
        partition_key="2026-06-01",
        resources={"warehouse": WarehouseResource(url=url)},
        raise_on_error=False,
    )
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation, {name: value.value for name, value in evaluation.metadata.items()}


def test_a_complete_day_passes(tmp_settings, url):
    evaluation, metadata = run_check(tmp_settings, url, "every_transaction_has_features", feature_table(PAYMENTS))
    assert evaluation.passed
    assert (metadata["transactions"], metadata["feature_rows"]) == (24, 24)


def test_a_transaction_without_features_fails_and_blocks(tmp_settings, url):
    rows = feature_table(PAYMENTS)
    rows = rows[rows["transaction_id"] != "t5"]
    evaluation, metadata = run_check(tmp_settings, url, "every_transaction_has_features", rows)
    assert not evaluation.passed
    assert evaluation.blocking
    assert metadata["without_features"] == 1


def test_features_of_no_transaction_and_repeated_rows_fail(tmp_settings, url):
    rows = feature_table(PAYMENTS)
    stranger = rows.tail(1).assign(transaction_id="stranger")
    evaluation, metadata = run_check(
        tmp_settings, url, "every_transaction_has_features", pd.concat([rows, stranger], ignore_index=True)
    )
    assert not evaluation.passed
    assert metadata["without_transaction"] == 1
    evaluation, metadata = run_check(
        tmp_settings, url, "every_transaction_has_features", pd.concat([rows, rows.tail(1)], ignore_index=True)
    )
    assert not evaluation.passed
    assert (metadata["without_features"], metadata["feature_rows"]) == (0, 25)


def test_another_days_gap_is_not_this_runs_business(tmp_settings, url):
    rows = feature_table(PAYMENTS)
    evaluation, _ = run_check(
        tmp_settings, url, "every_transaction_has_features", rows[rows["transaction_id"] != "t-30"]
    )
    assert evaluation.passed


def test_features_that_vary_pass(tmp_settings, url):
    evaluation, metadata = run_check(
        tmp_settings, url, "features_are_not_constant_or_all_null", feature_table(PAYMENTS)
    )
    assert evaluation.passed
    assert metadata["names"] == "none"


def test_constant_and_missing_features_are_named_in_a_warning(tmp_settings, url):
    rows = feature_table(PAYMENTS).assign(card_count_24h=3, merchant_fraud_share_7d=np.nan)
    evaluation, metadata = run_check(tmp_settings, url, "features_are_not_constant_or_all_null", rows)
    assert not evaluation.passed
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert metadata["names"] == "card_count_24h (constant), merchant_fraud_share_7d (missing)"


def test_a_feature_is_not_judged_by_a_column_that_its_source_lacks(tmp_settings, url):
    # PAYMENTS have no device; the amount they have.
    rows = feature_table(PAYMENTS).assign(card_devices_24h=np.nan, amount=np.nan)
    evaluation, metadata = run_check(tmp_settings, url, "features_are_not_constant_or_all_null", rows)
    assert not evaluation.passed
    assert metadata["names"] == "amount (missing)"
    assert {"card_devices_24h", "is_atm", "home_distance_km"} <= set(metadata["not_in_the_source"].split(", "))


def test_an_empty_table_is_no_success(tmp_settings, url):
    evaluation, metadata = run_check(
        tmp_settings, url, "features_are_not_constant_or_all_null", feature_table(PAYMENTS).head(0)
    )
    assert not evaluation.passed
    without_source = metadata["not_in_the_source"].split(", ")
    assert metadata["silent_features"] == len(SPEC.features) - len(without_source)
