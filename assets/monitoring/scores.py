"""What the champion says about every transaction, day by day."""

import dagster as dg

from fraud_pipelines import tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.monitoring.scores import load_champion, read_features, score_frame
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource


@dg.asset(
    key=keys.SCORES,
    group_name="monitoring",
    deps=[keys.TRANSACTION_FEATURES, keys.CHAMPION],
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"python", "xgboost"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def scores(
    context: dg.AssetExecutionContext,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
) -> dg.MaterializeResult:
    """One row per transaction: the champion's fraud probability and decision at its thresholds.

    Scored in batch from the warehouse's features, by the champion of the moment the day is materialized; the decisions
    really answered are in the ledger. Materialize a range again after a promotion to see what the new champion would
    have said.
    """
    window = window_of(context)
    version, bundle = load_champion(ledger.open(), registry.open())
    with warehouse.open().session() as session:
        features = read_features(session, bundle.feature_names, since=window.since, until=window.until)
        rows = score_frame(features, bundle, model_version=version)
        session.replace_window(tables.SCORES, rows, since=window.since, until=window.until)
    shares = rows["decision"].value_counts(normalize=True)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "model_version": version,
            "bundle_digest": bundle.digest,
            "review_share": float(shares.get("REVIEW", 0.0)),
            "block_share": float(shares.get("BLOCK", 0.0)),
            "mean_fraud_probability": float(rows["fraud_probability"].mean()),
            "data_hash": hash_rows(rows),
        }
    )
