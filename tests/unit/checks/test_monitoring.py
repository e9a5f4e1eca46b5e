"""Each check of the monitoring stage on a table that passes and on one that fails."""

import pandas as pd
import pytest
from dagster import AssetCheckSeverity

from checks import monitoring
from fraud_pipelines import tables
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.orchestration.resources import WarehouseResource
from tests import compliance_world as world


@pytest.fixture
def warehouse(tmp_path):
    return world.build_world(tmp_path)


@pytest.fixture
def resource(warehouse):
    return WarehouseResource(url=warehouse.url)


def score(warehouse, *, but: str = "") -> None:
    rows = warehouse.read(tables.TRANSACTIONS)[["transaction_id", "event_time"]]
    rows = rows[rows["transaction_id"] != but].assign(model_version="3", fraud_probability=0.1, decision="APPROVE")
    warehouse.upsert(tables.SCORES, rows)


def test_every_transaction_is_scored(warehouse, resource):
    assert not monitoring.every_transaction_is_scored(resource).passed  # nothing scored is not a pass
    score(warehouse, but="t000100")
    result = monitoring.every_transaction_is_scored(resource)
    assert not result.passed
    assert result.severity == AssetCheckSeverity.ERROR
    assert result.metadata["missing"].value == 1
    score(warehouse)
    assert monitoring.every_transaction_is_scored(resource).passed


def test_inputs_have_not_drifted(warehouse, resource):
    assert monitoring.inputs_have_not_drifted(resource).passed
    warehouse.execute(f"update {tables.DRIFT.name} set is_drifted = true where feature <> 'fraud_probability'")
    result = monitoring.inputs_have_not_drifted(resource)
    assert not result.passed
    assert result.severity == AssetCheckSeverity.WARN
    assert result.metadata["drifted_share"].value == 1.0
    assert result.metadata["worst_feature"].value == "amount"
    warehouse.execute(f"delete from {tables.DRIFT.name}")
    assert not monitoring.inputs_have_not_drifted(resource).passed


def test_labels_arrive_in_time(warehouse, resource):
    assert monitoring.labels_arrive_in_time(resource).passed  # 17 of 6,017 left out
    warehouse.execute(f"update {tables.PERFORMANCE.name} set unlabelled_rows = 400")
    result = monitoring.labels_arrive_in_time(resource)
    assert not result.passed
    assert result.metadata["unlabelled_share"].value == pytest.approx(400 / 6400)
    warehouse.execute(f"update {tables.PERFORMANCE.name} set unlabelled_rows = 0, rows = 0")
    assert not monitoring.labels_arrive_in_time(resource).passed


def test_false_positive_rates_are_close(warehouse, resource):
    assert monitoring.false_positive_rates_are_close(resource).passed
    warehouse.execute(f"update {tables.FAIRNESS.name} set false_positive_rate = 0.2 where group_name = 'south'")
    result = monitoring.false_positive_rates_are_close(resource)
    assert not result.passed
    assert result.severity == AssetCheckSeverity.WARN
    assert result.metadata["largest_group"].value == "south"


def test_served_features_match_the_warehouse(warehouse, resource):
    assert monitoring.served_features_match_the_warehouse(resource).passed
    warehouse.execute(f"update {tables.PARITY.name} set mismatch_count = 1 where feature = 'amount'")
    result = monitoring.served_features_match_the_warehouse(resource)
    assert not result.passed
    assert result.severity == AssetCheckSeverity.ERROR
    assert (result.metadata["mismatches"].value, result.metadata["worst_feature"].value) == (1, "amount")


@pytest.mark.parametrize(
    ("compared", "absent", "passes"),
    [(0, 5000, False), (94, 6, False), (95, 5, True), (0, 0, True)],  # at most 5 % may be absent
)
def test_served_transactions_that_the_warehouse_lacks(warehouse, resource, compared, absent, passes):
    warehouse.execute(f"update {tables.PARITY.name} set compared_count = {compared}, absent_count = {absent}")
    result = monitoring.served_features_match_the_warehouse(resource)
    assert result.passed == passes
    features = len(load_spec().names)
    assert result.metadata["absent_values"].value == absent * features
    assert result.metadata["worst_absent_share"].value == pytest.approx(absent / max(compared + absent, 1))


def test_one_absent_day_is_not_diluted_by_the_others(warehouse, resource):
    lost = warehouse.read(tables.PARITY).assign(day=pd.Timestamp("2026-03-30").as_unit("us"))
    warehouse.upsert(tables.PARITY, lost.assign(compared_count=0, absent_count=1))  # beside 12 compared the day after
    result = monitoring.served_features_match_the_warehouse(resource)
    assert not result.passed
    assert result.metadata["worst_absent_day"].value == "2026-03-30"


def test_nothing_ever_served_passes(warehouse, resource):
    warehouse.execute(f"delete from {tables.PARITY.name}")
    result = monitoring.served_features_match_the_warehouse(resource)
    assert result.passed
    assert result.metadata["days_served"].value == 0


def test_versions_are_judged_apart(warehouse, resource):
    """Version 2 stops the south far more often than version 3 stops the north: no gap within either version."""
    rows = warehouse.read(tables.FAIRNESS)
    warehouse.upsert(tables.FAIRNESS, rows.assign(model_version="2", false_positive_rate=0.3))
    warehouse.execute(f"update {tables.FAIRNESS.name} set false_positive_rate = 0.01 where model_version = '3'")
    assert monitoring.false_positive_rates_are_close(resource).passed
    warehouse.execute(
        f"update {tables.FAIRNESS.name} set false_positive_rate = 0.01 "
        "where model_version = '2' and group_name = 'south'"
    )
    result = monitoring.false_positive_rates_are_close(resource)
    assert not result.passed
    assert (result.metadata["model_version"].value, result.metadata["smallest_group"].value) == ("2", "south")


def test_labels_missing_of_any_version_count(warehouse, resource):
    rows = warehouse.read(tables.PERFORMANCE)
    warehouse.upsert(tables.PERFORMANCE, rows.assign(model_version="2", rows=300, unlabelled_rows=700))
    result = monitoring.labels_arrive_in_time(resource)
    assert not result.passed
    assert result.metadata["unlabelled_share"].value == pytest.approx(717 / (6017 + 1000))


def test_a_repaired_mismatch_leaves_the_parity_check_after_its_window(warehouse, resource):
    old = pd.DataFrame(
        {
            "day": [pd.Timestamp("2026-03-03")],
            "feature": ["amount"],
            "compared_count": [5],
            "mismatch_count": [5],
            "largest_difference": [1.0],
            "absent_count": [0],
        }
    ).astype({"day": "datetime64[us]"})
    warehouse.upsert(tables.PARITY, old)  # 28 days before the newest day, 2026-03-31
    assert monitoring.served_features_match_the_warehouse(resource).passed
