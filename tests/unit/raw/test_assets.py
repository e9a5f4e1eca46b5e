"""The raw assets in a Dagster run: one run with a source loads it, one without reads what is there."""

from datetime import datetime

import dagster as dg
import pandas as pd
import pytest

from assets.raw import ingestion as raw_assets
from fraud_pipelines import tables
from fraud_pipelines.errors import MissingPartition, SourceInvalid
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource
from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
from fraud_pipelines.warehouse import open_warehouse

ALL = [keys.TRANSACTIONS, keys.LABELS, keys.CUSTOMERS]
CONFIG = SimulationConfig(start=datetime(2026, 6, 1).date(), days=10, cards=50, merchants=100)


@pytest.fixture
def folder(tmp_path):
    return write(simulate(CONFIG), tmp_path / "sim")


@pytest.fixture
def run(tmp_path, tmp_settings):
    urls = f"duckdb:///{tmp_path / 'w.duckdb'}", f"sqlite:///{tmp_path / 'l.sqlite'}"
    defs = dg.Definitions(
        assets=[raw_assets.raw],
        resources={"warehouse": WarehouseResource(url=urls[0]), "ledger": LedgerResource(url=urls[1])},
    )

    def go(first, last, path="", selection=ALL):
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=dg.DagsterInstance.ephemeral(),
            asset_selection=selection,
            run_config={"ops": {"raw": {"config": {"path": str(path), "mapping": "simulator" if path else ""}}}},
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )
        found: dict[dg.AssetKey, list] = {}
        for event in result.get_asset_materialization_events():
            found.setdefault(event.asset_key, []).append(event.step_materialization_data.materialization)
        return found

    go.warehouse, go.ledger = open_warehouse(urls[0]), open_ledger(urls[1])
    return go


def metadata(materializations):
    return {name: value.value for name, value in materializations[-1].metadata.items()}


def test_a_run_with_a_source_loads_it_and_says_how_much(run, folder):
    rows = len(pd.read_parquet(folder / "transactions.parquet"))
    found = run("2026-06-01", "2026-06-17", folder)
    transactions = metadata(found[keys.TRANSACTIONS])
    assert transactions["dagster/row_count"] == transactions["rows_read"] == transactions["rows_loaded"] == rows
    assert (transactions["duplicate_count"], transactions["quarantined_count"]) == (0, 0)
    assert len(transactions["data_hash"]) == 64
    labels = metadata(found[keys.LABELS])
    assert labels["dagster/row_count"] == labels["rows_loaded"] == rows
    assert 0 < labels["fraud_share"] < 0.05
    assert metadata(found[keys.CUSTOMERS])["dagster/row_count"] == 42  # 0.85 customers a card
    assert [len(found[key]) for key in ALL] == [17, 17, 1]  # every day, and customers once
    assert len(run.ledger.ingestions()) == 1


def test_the_same_source_again_adds_nothing(run, folder):
    first = run("2026-06-01", "2026-06-17", folder)
    second = run("2026-06-01", "2026-06-17", folder)
    again = metadata(second[keys.TRANSACTIONS])
    assert again["rows_loaded"] == 0
    assert again["duplicate_count"] == again["rows_read"]
    assert [metadata(second[key])["data_hash"] for key in ALL] == [metadata(first[key])["data_hash"] for key in ALL]


def test_a_run_without_a_source_reads_what_is_there(run, folder):
    run("2026-06-01", "2026-06-17", folder)
    found = run("2026-06-03", "2026-06-04")
    rows = run.warehouse.read(tables.TRANSACTIONS, since=datetime(2026, 6, 3), until=datetime(2026, 6, 5))
    assert metadata(found[keys.TRANSACTIONS])["dagster/row_count"] == len(rows)
    assert "rows_read" not in metadata(found[keys.TRANSACTIONS])


def test_days_without_labels_are_no_error_where_there_are_transactions(run, folder):
    run("2026-06-01", "2026-06-17", folder)
    run.warehouse.execute("delete from raw.labels where known_at < :until", until=datetime(2026, 6, 2))
    assert metadata(run("2026-06-01", "2026-06-01")[keys.LABELS])["dagster/row_count"] == 0


def test_days_that_hold_nothing_are_a_missing_partition(run, folder):
    run("2026-06-01", "2026-06-17", folder)
    with pytest.raises(MissingPartition, match="2026-07-01"):
        run("2026-07-01", "2026-07-02")
    with pytest.raises(MissingPartition, match=r"raw\.labels"):
        run("2026-07-01", "2026-07-02", selection=[keys.LABELS])


def test_a_source_of_other_days_is_refused(run, folder):
    with pytest.raises(SourceInvalid, match="2026-06-01 to 2026-06-10"):
        run("2026-06-05", "2026-06-17", folder)
    assert run.ledger.ingestions() == []


def test_labels_alone_do_not_load_a_source(run, folder):
    with pytest.raises(SourceInvalid, match="raw/transactions"):
        run("2026-06-01", "2026-06-17", folder, selection=[keys.LABELS])
