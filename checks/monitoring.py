"""Checks of the monitoring stage: completeness, drift, parity, fairness, label maturity."""

import dagster as dg

from fraud_pipelines import limits, tables
from fraud_pipelines.monitoring.drift import verdict_of
from fraud_pipelines.monitoring.fairness import rate_gaps
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import WarehouseResource

# Newest day of a daily table, as a query.
_NEWEST = "select * from {table} where day = (select max(day) from {table})"


@dg.asset_check(asset=keys.SCORES, pool="warehouse")
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


@dg.asset_check(asset=keys.DRIFT, pool="warehouse")
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


@dg.asset_check(asset=keys.PERFORMANCE, pool="warehouse")
def labels_arrive_in_time(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Transactions older than the label delay still have no label: performance is measured on a part, and the easy one.

    The data engineer looks for a label feed that stopped; the ML engineer distrusts the newest metrics meanwhile.
    """
    rows = warehouse.open().query(_NEWEST.format(table=tables.PERFORMANCE.name))
    versions = rows.drop_duplicates("model_version")  # the counts stand beside every metric of a version
    judged, missing = int(versions["rows"].sum()), int(versions["unlabelled_rows"].sum())
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


@dg.asset_check(asset=keys.FAIRNESS, pool="warehouse")
def false_positive_rates_are_close(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Genuine customers of one group are stopped far more often than those of another, beyond what chance explains.

    Compliance and the ML engineer look at the group together; it is an internal screen, not a legal test.
    """
    rows = warehouse.open().query(_NEWEST.format(table=tables.FAIRNESS.name))
    gaps = [(gap, version) for version, own in rows.groupby("model_version") for gap in rate_gaps(own)]
    worst, version = max(gaps, key=lambda pair: pair[0].certain_ratio, default=(None, "none"))
    return dg.AssetCheckResult(
        passed=worst is None or worst.certain_ratio <= limits.FAIRNESS_FALSE_POSITIVE_RATIO,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "attributes_compared": len(gaps),
            "model_version": str(version),
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


@dg.asset_check(asset=keys.PARITY, pool="warehouse")
def served_features_match_the_warehouse(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A served decision was made on other feature values than training would have seen, or nobody could compare them.

    The ML engineer finds the feature's difference between the online engine and the warehouse; promotion waits. Where
    served transactions are absent, the data engineer ingests their days and materializes monitoring/parity again.
    """
    rows = warehouse.open().query(
        "select day, feature, compared_count as compared, mismatch_count as mismatches, absent_count as absent "
        f"from {tables.PARITY.name} where day > (select max(day) from {tables.PARITY.name}) "
        f"- interval '{limits.PARITY_WINDOW_DAYS} days' order by day, feature"
    )
    features = rows.groupby("feature")["mismatches"].sum()
    mismatches = int(features.sum())
    # A day whose decisions were all answered without features (a fallback) has nothing to compare.
    served = rows.groupby("day")[["compared", "absent"]].sum().query("compared + absent > 0")
    shares = served["absent"] / (served["compared"] + served["absent"])
    worst_share = float(shares.max()) if len(shares) else 0.0
    return dg.AssetCheckResult(
        passed=mismatches <= limits.PARITY_MISMATCHES and worst_share <= limits.PARITY_ABSENT_SHARE,
        metadata={
            "mismatches": mismatches,
            "limit": limits.PARITY_MISMATCHES,
            "days_served": len(served),
            "compared_values": int(served["compared"].sum()),
            "absent_values": int(served["absent"].sum()),
            "worst_absent_share": worst_share,
            "absent_limit": limits.PARITY_ABSENT_SHARE,
            "worst_absent_day": f"{shares.idxmax():%Y-%m-%d}" if worst_share else "none",
            "worst_feature": str(features.idxmax()) if mismatches else "none",
        },
    )
