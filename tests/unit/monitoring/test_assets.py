"""Performance and fairness as Dagster runs them: each model version is judged on what it scored itself."""

from datetime import datetime, timedelta

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.monitoring.fairness import fairness
from assets.monitoring.performance import performance
from fraud_pipelines import tables
from fraud_pipelines.orchestration.resources import WarehouseResource
from fraud_pipelines.warehouse import open_warehouse

CHANGE = datetime(2026, 2, 15)  # version 2 is champion from here on
DAY = "2026-02-28"  # judges 25 January to 21 February


@pytest.fixture
def warehouse(tmp_path):
    """One transaction an hour from 20 January to 28 February; every tenth is fraud; labels after seven days.

    Version 1 blocks every fraud and nothing else, version 2 approves everything.
    """
    hours = pd.Series(pd.date_range("2026-01-20", "2026-02-28 23:00", freq="h")).astype("datetime64[us]")
    is_fraud = np.arange(len(hours)) % 10 == 0
    is_old = (hours < CHANGE).to_numpy()
    identifiers = [f"t{number:04d}" for number in range(len(hours))]
    transactions = pd.DataFrame({"transaction_id": identifiers, "event_time": hours}).assign(
        card_id="tok_1", merchant_id="m", amount_minor=100, currency="EUR", source="test", ingestion_id="i"
    )
    labels = pd.DataFrame({"transaction_id": identifiers, "event_time": hours}).assign(
        known_at=(hours + timedelta(days=7)).astype("datetime64[us]"),
        is_fraud=is_fraud,
        label_source="file",
        ingestion_id="i",
    )
    scores = pd.DataFrame({"transaction_id": identifiers, "event_time": hours}).assign(
        model_version=np.where(is_old, "1", "2"),
        fraud_probability=np.where(is_old & is_fraud, 0.9, 0.1),
        decision=np.where(is_old & is_fraud, "BLOCK", "APPROVE"),
    )
    opened = open_warehouse(f"duckdb:///{tmp_path / 'w.duckdb'}")
    opened.insert_new(tables.TRANSACTIONS, transactions)
    opened.insert_new(tables.LABELS, labels)
    opened.upsert(tables.SCORES, scores)
    return opened


def run(asset, warehouse) -> dict[str, object]:
    resources = {"warehouse": WarehouseResource(url=warehouse.url)}
    result = dg.materialize([asset], partition_key=DAY, resources=resources)
    (made,) = result.asset_materializations_for_node(asset.op.name)
    return {name: value.value for name, value in made.metadata.items()}


def test_performance_is_of_the_version_that_scored(warehouse):
    for _ in range(2):  # the second run replaces the first
        made = run(performance, warehouse)
    rows = warehouse.read(tables.PERFORMANCE).set_index(["model_version", "metric"])
    # 25 January to 14 February are 21 days of version 1, 15 to 21 February are 7 days of version 2.
    assert rows.loc[("1", "block_recall"), ["rows", "value"]].tolist() == [21 * 24, 1.0]
    assert rows.loc[("2", "block_recall"), ["rows", "value"]].tolist() == [7 * 24, 0.0]
    assert not rows.index.duplicated().any()
    assert (made["model_version"], made["judged_rows"]) == ("2", 7 * 24)


def test_fairness_is_of_the_version_that_decided(warehouse):
    made = run(fairness, warehouse)
    rows = warehouse.read(tables.FAIRNESS).query("attribute == 'region'").set_index("model_version")
    assert rows["rows"].to_dict() == {"1": 21 * 24, "2": 7 * 24}
    assert rows.loc["1", "blocked_share"] == pytest.approx(rows.loc["1", "fraud_count"] / (21 * 24))
    assert rows.loc["2", "is_suppressed"]
    assert made["model_version"] == "2"


def test_a_version_too_young_to_be_judged_says_so(warehouse):
    warehouse.execute(f"update {tables.SCORES.name} set model_version = '1' where event_time < '2026-02-27'")
    made = run(performance, warehouse)
    young = warehouse.read(tables.PERFORMANCE).query("model_version == '2'")
    assert (young["rows"] == 0).all()
    assert young["value"].isna().all()
    assert (made["model_version"], made["judged_rows"]) == ("2", 0)
