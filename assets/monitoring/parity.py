"""Served feature vectors against the warehouse."""

import dagster as dg

from fraud_pipelines import tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.monitoring.parity import compare_served
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource


@dg.asset(
    key=keys.PARITY,
    group_name="monitoring",
    deps=[keys.TRANSACTION_FEATURES],
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"python"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def parity(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    """One row per day with served decisions and feature: served values that differ from the warehouse's.

    Equality is exact, and null equals only null. A served transaction that no source has delivered yet is counted as
    absent; materialize its day again once it has arrived. A day without served decisions has no rows.
    """
    window = window_of(context)
    names = load_spec().names
    decisions = ledger.open().decisions(window.since, window.until)
    with warehouse.open().session() as session:
        features = session.read(
            tables.TRANSACTION_FEATURES, columns=["transaction_id", *names], since=window.since, until=window.until
        )
        rows = compare_served(decisions, features, names)
        session.replace_window(tables.PARITY, rows, since=window.since, until=window.until)
    worst = rows.groupby("feature")["mismatch_count"].sum()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "served_decisions": len(decisions),
            "mismatches": int(rows["mismatch_count"].sum()),
            "worst_feature": str(worst.idxmax()) if worst.sum() else "none",
            "data_hash": hash_rows(rows),
        }
    )
