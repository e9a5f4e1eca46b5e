"""Checks of the monitoring stage: completeness, drift, parity, fairness, label maturity."""

import dagster as dg

from fraud_pipelines import limits, tables
from fraud_pipelines.monitoring.drift import verdict_of
from fraud_pipelines.monitoring.fairness import rate_gaps
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import WarehouseResource

# Newest day of a daily table, as a query.
_NEWEST = "select * from {table} where day = (select max(day) from {table})"


@dg.asset_check(asset=keys.SCORES)
def every_transaction_is_scored(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Transactions of scored days have no score: drift, performance and fairness speak about a part only.

    The data engineer materializes monitoring/scores for the days named, after their features.
    """
    rows = warehouse.open().query(
        "with scored_days as "
        f"(select distinct cast(event_time as date) as day from {tables.SCORES.name}) "
        "select count(*) as rows, count(s.transaction_id) as scored, "
        "min(case when s.transaction_id is null then t.event_time end) as first_missing "
        f"from {tables.TRANSACTIONS.name} t join scored_days d on d.day = cast(t.event_time as date) "
        f"left join {tables.SCORES.name} s on s.transaction_id = t.transaction_id"
    )
    expected, scored = int(rows["rows"].iloc[0]), int(rows["scored"].iloc[0])
    return dg.AssetCheckResult(
        passed=expected == scored and expected > 0,
        metadata={
            "transactions": expected,
            "scored": scored,
            "missing": expected - scored,
            "limit": 0,
            "first_missing": str(rows["first_missing"].iloc[0]) if scored < expected else "none",
        },
    )


@dg.asset_check(asset=keys.DRIFT)
def inputs_have_not_drifted(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The newest week looks unlike the training data: scores may mean something else than they did.

    The ML engineer looks at the worst feature: a broken feed is repaired, a changed world asks for retraining.
    """
    rows = warehouse.open().query(_NEWEST.format(table=tables.DRIFT.name))
    if rows.empty:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"rows": 0, "expected": "a compared day"}
        )
    verdict = verdict_of(rows)
    return dg.AssetCheckResult(
        passed=not verdict.is_drifted,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "day": f"{verdict.day:%Y-%m-%d}",
            "drifted_features": verdict.drifted_features,
            "features": verdict.features,
            "drifted_share": verdict.share,
            "limit": verdict.limit,
            "worst_feature": verdict.worst_feature,
            "worst_wasserstein": verdict.worst_wasserstein if verdict.worst_wasserstein is not None else "no values",
            "is_output_drifted": verdict.is_output_drifted,
        },
    )


@dg.asset_check(asset=keys.PERFORMANCE)
def labels_arrive_in_time(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Transactions older than the label delay still have no label: performance is measured on a part, and the easy one.

    The data engineer looks for a label feed that stopped; the ML engineer distrusts the newest metrics meanwhile.
    """
    rows = warehouse.open().query(_NEWEST.format(table=tables.PERFORMANCE.name))
    judged = int(rows["rows"].iloc[0]) if len(rows) else 0
    missing = int(rows["unlabelled_rows"].iloc[0]) if len(rows) else 0
    share = missing / (judged + missing) if judged + missing else 1.0
    return dg.AssetCheckResult(
        passed=share <= limits.UNLABELLED_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "judged_rows": judged,
            "unlabelled_rows": missing,
            "unlabelled_share": share,
            "limit": limits.UNLABELLED_SHARE,
        },
    )


@dg.asset_check(asset=keys.FAIRNESS)
def false_positive_rates_are_close(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Genuine customers of one group are stopped far more often than those of another, beyond what chance explains.

    Compliance and the ML engineer look at the group together; it is an internal screen, not a legal test.
    """
    rows = warehouse.open().query(_NEWEST.format(table=tables.FAIRNESS.name))
    gaps = rate_gaps(rows)
    worst = gaps[0] if gaps else None
    return dg.AssetCheckResult(
        passed=worst is None or worst.certain_ratio <= limits.FAIRNESS_FALSE_POSITIVE_RATIO,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "attributes_compared": len(gaps),
            "suppressed_groups": int(rows["is_suppressed"].sum()),
            "ratio_beyond_chance": worst.certain_ratio if worst else "no readable groups",
            "limit": limits.FAIRNESS_FALSE_POSITIVE_RATIO,
            **(
                {
                    "attribute": worst.attribute,
                    "largest_group": worst.largest_group,
                    "largest_rate": worst.largest,
                    "smallest_group": worst.smallest_group,
                    "smallest_rate": worst.smallest,
                }
                if worst
                else {}
            ),
        },
    )


@dg.asset_check(asset=keys.PARITY)
def served_features_match_the_warehouse(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A served decision was made on other feature values than training would have seen: the model decided blindly.

    The ML engineer finds the feature's difference between the online engine and the warehouse; promotion waits.
    """
    rows = warehouse.open().query(
        "select feature, cast(sum(compared_count) as bigint) as compared, "
        "cast(sum(mismatch_count) as bigint) as mismatches "
        f"from {tables.PARITY.name} where day > (select max(day) from {tables.PARITY.name}) "
        f"- interval '{limits.PARITY_WINDOW_DAYS} days' group by feature order by 3 desc, feature"
    )
    mismatches = int(rows["mismatches"].sum())
    return dg.AssetCheckResult(
        passed=mismatches <= limits.PARITY_MISMATCHES,
        metadata={
            "mismatches": mismatches,
            "limit": limits.PARITY_MISMATCHES,
            "compared_values": int(rows["compared"].sum()),
            "worst_feature": str(rows["feature"].iloc[0]) if mismatches else "none",
        },
    )
