"""How the decisions fall on groups of customers."""

import dagster as dg
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.monitoring.fairness import ATTRIBUTES, group_rates, rate_gaps
from fraud_pipelines.monitoring.scores import load_champion
from fraud_pipelines.monitoring.windows import DAY, mature_bounds, mature_windows, scored_with_labels
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource


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
def fairness(
    context: dg.AssetExecutionContext,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
) -> dg.MaterializeResult:
    """One row per day, attribute and group: how often genuine customers are stopped and frauds found, on mature labels.

    Same four weeks as performance. Small groups are listed with their counts and no rates; a source without customer
    attributes gives one group, `unknown`, per attribute. Attributes are read here and nowhere before.
    """
    days = window_of(context).days()
    version, _ = load_champion(ledger.open(), registry.open())
    ends = [day.until for day in days]
    with warehouse.open().session() as session:
        scored = scored_with_labels(
            session, since=mature_bounds(ends[0])[0], until=mature_bounds(ends[-1])[1], known_by=ends[-1]
        )
        customers = session.read(tables.CUSTOMERS, columns=["customer_id", *ATTRIBUTES])
        scored = scored.merge(customers, how="left", on="customer_id")
        rows = pd.concat(
            [
                group_rates(window.labelled, day=window.end - DAY, model_version=version)
                for window in mature_windows(scored, ends)
            ],
            ignore_index=True,
        )
        session.replace_window(tables.FAIRNESS, rows, since=days[0].since, until=days[-1].until)
    gaps = rate_gaps(rows[rows["day"] == days[-1].since])
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "last_day": days[-1].first_key,
            "suppressed_groups": int(rows.loc[rows["day"] == days[-1].since, "is_suppressed"].sum()),
            **{f"{gap.attribute}_false_positive_gap": gap.difference for gap in gaps},
            "data_hash": hash_rows(rows),
        }
    )
