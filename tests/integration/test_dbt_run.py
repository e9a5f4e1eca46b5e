"""dbt as the features stage runs it: in this process, its tests as asset checks, the warehouse free afterwards."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.orchestration.dbt import build
from fraud_pipelines.orchestration.partitions import Window
from fraud_pipelines.warehouse import Warehouse, open_warehouse

DAYS = Window(datetime(2026, 1, 1), datetime(2026, 1, 3))
TAGS = {"dagster/asset_partition_range_start": "2026-01-01", "dagster/asset_partition_range_end": "2026-01-02"}


@pytest.fixture
def warehouse(tmp_settings) -> Warehouse:
    """Two payments of one card, a day apart, and the label of the first."""
    warehouse = open_warehouse(tmp_settings.warehouse_url)
    times = [datetime(2026, 1, 1, 12), datetime(2026, 1, 2, 11)]
    common = {"source": "test", "ingestion_id": "i"}
    payments = {
        "transaction_id": ["a", "b"], "event_time": times, "card_id": "tok_" + "0" * 32, "merchant_id": "m",
        "amount_minor": [1000, 2500], "currency": "EUR",
    }  # fmt: skip
    warehouse.insert_new(tables.TRANSACTIONS, pd.DataFrame(payments | common))
    label = {
        "transaction_id": ["a"], "event_time": times[:1], "known_at": [datetime(2026, 1, 1, 13)], "is_fraud": [True],
        "label_source": ["analyst"], "ingestion_id": ["i"],
    }  # fmt: skip
    warehouse.insert_new(tables.LABELS, pd.DataFrame(label))
    return warehouse


@pytest.fixture
def job(tmp_settings) -> dg.JobDefinition:
    from dagster_dbt import dbt_assets

    from fraud_pipelines.orchestration.dbt import StageTranslator, manifest_path

    days = dg.DailyPartitionsDefinition("2026-01-01")

    @dbt_assets(
        manifest=manifest_path(tmp_settings),
        dagster_dbt_translator=StageTranslator(),
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def models(context: dg.AssetExecutionContext):
        yield from build(context, DAYS, settings=tmp_settings)

    definitions = dg.Definitions(assets=[models], executor=dg.in_process_executor)
    return definitions.resolve_implicit_global_asset_job_def()


@pytest.fixture
def dbt_connections(warehouse) -> Iterator[list[Any]]:
    """References to dbt's connection, taken while it is open, as a cycle that waits for the collector has them."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    held: list[Any] = []
    is_over = threading.Event()

    def take() -> None:
        while not held and not is_over.wait(0.001):
            environment = DuckDBConnectionManager._ENV
            if environment is not None and environment.creds.path == str(warehouse.path) and environment.conn:
                held.append(environment)

    thread = threading.Thread(target=take)
    thread.start()
    yield held
    is_over.set()
    thread.join()


def test_a_range_is_built_in_one_run_and_every_test_is_a_check(tmp_settings, warehouse, job):
    result = job.execute_in_process(tags=TAGS)
    features = warehouse.read(tables.TRANSACTION_FEATURES)
    assert list(features["card_count_24h"]) == [0, 1]
    assert list(features["merchant_fraud_share_1d"].fillna(-1)) == [-1, 1.0]
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert set(checks) == {
        "staged_transaction_ids_are_present", "staged_transaction_ids_are_unique", "labels_name_a_transaction",
        "labels_belong_to_known_transactions", "feature_rows_name_a_transaction",
        "feature_rows_are_unique_per_transaction", "every_transaction_has_one_feature_row",
    }  # fmt: skip
    assert all(checks.values())
    materialized = {event.asset_key: event for event in result.asset_materializations_for_node("models")}
    metadata = materialized[dg.AssetKey(["features", "transaction_features"])].metadata
    assert metadata["dagster/row_count"].value == 2
    assert len(metadata["data_hash"].value) == 64


def test_a_broken_rule_is_a_failed_check(tmp_settings, warehouse, job):
    orphan = {
        "transaction_id": ["nobody"], "event_time": [datetime(2026, 1, 1)], "known_at": [datetime(2026, 1, 2)],
        "is_fraud": [False], "label_source": ["analyst"], "ingestion_id": ["i"],
    }  # fmt: skip
    warehouse.insert_new(tables.LABELS, pd.DataFrame(orphan))
    result = job.execute_in_process(tags=TAGS)
    failed = {(c.check_name, c.severity.value) for c in result.get_asset_check_evaluations() if not c.passed}
    assert failed == {("labels_belong_to_known_transactions", "WARN")}  # and the good rows went on
    assert len(warehouse.read(tables.TRANSACTION_FEATURES)) == 2


def test_a_broken_key_stops_what_comes_after(tmp_settings, warehouse, job):
    warehouse.execute(f"insert into {tables.TRANSACTIONS.name} select * from {tables.TRANSACTIONS.name}")
    with pytest.raises(dg.Failure, match=r"transaction_features.*skipped, staged_transaction_ids_are_unique: Got 2 r"):
        job.execute_in_process(tags=TAGS)


def test_a_table_that_cannot_be_built_fails_with_the_databases_words(tmp_settings, warehouse, job):
    warehouse.execute(f"drop table {tables.LABELS.name}")
    with pytest.raises(dg.Failure, match="labels"):
        job.execute_in_process(tags=TAGS)


def test_the_warehouse_is_free_for_other_processes_afterwards(tmp_settings, warehouse, job, dbt_connections):
    job.execute_in_process(tags=TAGS)
    assert dbt_connections
    program = f"import duckdb; duckdb.connect({str(warehouse.path)!r}).sql('select 1')"
    subprocess.run([sys.executable, "-c", program], check=True)
