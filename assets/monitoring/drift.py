"""How far each day's trailing window lies from the training reference."""

from datetime import timedelta

import dagster as dg
import pandas as pd

from fraud_pipelines import limits, tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.monitoring.drift import MODEL_OUTPUT, compare_windows, drift_page, sample, verdict_of
from fraud_pipelines.monitoring.scores import load_champion
from fraud_pipelines.monitoring.windows import trailing_features
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import (
    DocumentsResource,
    LedgerResource,
    RegistryResource,
    WarehouseResource,
)
from fraud_pipelines.progress import report

TRAILING = timedelta(days=limits.DRIFT_WINDOW_DAYS)
DAYS_AT_ONCE = 28  # bounds the memory of a long range


@dg.asset(
    key=keys.DRIFT,
    group_name="monitoring",
    deps=[keys.SCORES],
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"python", "evidently"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def drift(
    context: dg.AssetExecutionContext,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
    documents: DocumentsResource,
) -> dg.MaterializeResult:
    """One row per day, feature (and the model's output) and method: the week that ends with the day against training.

    The reference is the sample stored with the champion; both sides are sampled to the same size with a fixed seed. The
    first days of data have shorter weeks (see current_rows). Evidently's interactive page is written for the last day
    of a range only. Label-free: a change in what fraud looks like that leaves the inputs alone does not show here.
    """
    days = window_of(context).days()
    version, bundle = load_champion(ledger.open(), registry.open())

    def with_output(features: pd.DataFrame) -> pd.DataFrame:
        rows = sample(features[list(bundle.feature_names)])
        return rows.assign(**{MODEL_OUTPUT: bundle.predict(to_matrix(rows, bundle.feature_names))})

    reference = with_output(bundle.reference)
    current, blocks = reference.iloc[:0], []
    with warehouse.open().session() as session:
        for start in range(0, len(days), DAYS_AT_ONCE):
            chunk = days[start : start + DAYS_AT_ONCE]
            features = trailing_features(
                session, bundle.feature_names, since=chunk[0].until - TRAILING, until=chunk[-1].until
            )
            for position, day in enumerate(chunk, start=start + 1):
                in_week = (features["event_time"] >= day.until - TRAILING) & (features["event_time"] < day.until)
                current = with_output(features[in_week])
                blocks.append(
                    compare_windows(
                        reference, current, features=bundle.feature_names, day=day.since, model_version=version
                    )
                )
                report("days compared", position, len(days))
        rows = pd.concat(blocks, ignore_index=True)
        session.replace_window(tables.DRIFT, rows, since=days[0].since, until=days[-1].until)
    page = documents.folder("drift") / f"drift-{days[-1].first_key}-v{version}.html"
    verdict = verdict_of(blocks[-1])
    page.write_text(drift_page(reference, current, features=bundle.feature_names, verdict=verdict), "utf-8")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "last_day": days[-1].first_key,
            "is_drifted": verdict.is_drifted,
            "drifted_features": verdict.drifted_features,
            "drifted_share": verdict.share,
            "worst_feature": verdict.worst_feature,
            "is_output_drifted": verdict.is_output_drifted,
            "page": dg.MetadataValue.path(str(page)),
            "data_hash": hash_rows(rows),
        }
    )
