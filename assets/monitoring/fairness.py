"""How the decisions fall on groups of customers."""

import dagster as dg
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.monitoring.fairness import ATTRIBUTES, group_rates, rate_gaps
from fraud_pipelines.monitoring.windows import DAY, mature_bounds, mature_windows, scored_with_labels
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import WarehouseResource


@dg.asset(
    key=keys.FAIRNESS,
    group_name="monitoring",
    deps=[keys.SCORES, keys.LABELS, keys.CUSTOMERS],
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    kinds={"python"},
    owners=["team:fraud-models"],
    tags={"pii": "true"},
    pool="warehouse",
)
def fairness(context: dg.AssetExecutionContext, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """One row per day, model version, attribute and group: how often the genuine are stopped and frauds found.

    Same four weeks and mature labels as performance, each version on the transactions it scored. Small groups are
    listed with their counts and no rates; a source without customer attributes gives one group, `unknown`, per
    attribute. Attributes are read here and at the promotion gate, to judge only.
    """
    days = window_of(context).days()
    ends = [day.until for day in days]
    with warehouse.open().session() as session:
        scored = scored_with_labels(session, since=mature_bounds(ends[0])[0], until=ends[-1], known_by=ends[-1])
        customers = session.read(tables.CUSTOMERS, columns=["customer_id", *ATTRIBUTES])
        scored = scored.merge(customers, how="left", on="customer_id")
        rows = pd.concat(
            [
                group_rates(window.labelled, day=window.end - DAY, model_version=window.model_version)
                for window in mature_windows(scored, ends)
            ],
            ignore_index=True,
        )
        session.replace_window(tables.FAIRNESS, rows, since=days[0].since, until=days[-1].until)
    newest = str(scored["model_version"].iloc[-1])
    last = rows[(rows["day"] == days[-1].since) & (rows["model_version"] == newest)]
    gaps = rate_gaps(last)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "last_day": days[-1].first_key,
            "model_version": newest,
            "suppressed_groups": int(last["is_suppressed"].sum()),
            **{f"{gap.attribute}_false_positive_gap": gap.difference for gap in gaps},
            "data_hash": hash_rows(rows),
        }
    )
