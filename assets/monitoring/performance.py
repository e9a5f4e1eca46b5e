"""How good the scores were, once the labels are known."""

import dagster as dg
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.monitoring.performance import performance_rows
from fraud_pipelines.monitoring.windows import mature_bounds, mature_windows, scored_with_labels
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import WarehouseResource


@dg.asset(
    key=keys.PERFORMANCE,
    group_name="monitoring",
    deps=[keys.SCORES, keys.LABELS],
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"python"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def performance(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """One row per day, model version and metric: the scores of four weeks old enough to be judged at the day's end.

    Each version is judged on the transactions it scored. Only labels known by the day's end count; transactions still
    without one are counted as left out. On the first days of data, and of a version, nothing is old enough: the values
    are null and the row counts 0.
    """
    days = window_of(context).days()
    ends = [day.until for day in days]
    with warehouse.open().session() as session:
        scored = scored_with_labels(session, since=mature_bounds(ends[0])[0], until=ends[-1], known_by=ends[-1])
        rows = pd.concat([performance_rows(window) for window in mature_windows(scored, ends)], ignore_index=True)
        session.replace_window(tables.PERFORMANCE, rows, since=days[0].since, until=days[-1].until)
    newest = str(scored["model_version"].iloc[-1])
    last = rows[(rows["day"] == rows["day"].max()) & (rows["model_version"] == newest)].set_index("metric")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "last_day": days[-1].first_key,
            "model_version": newest,
            "judged_rows": int(last["rows"].iloc[0]),
            "fraud_count": int(last["fraud_count"].iloc[0]),
            "unlabelled_rows": int(last["unlabelled_rows"].iloc[0]),
            **{name: float(value) for name, value in last["value"].items() if pd.notna(value)},
            "data_hash": hash_rows(rows),
        }
    )
