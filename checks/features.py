"""Checks of the features stage that compare two tables or look at all features at once; dbt tests cover the rest."""

from datetime import datetime, timedelta

import dagster as dg

from fraud_pipelines import limits
from fraud_pipelines.errors import PermanentError
from fraud_pipelines.features.quality import completeness, features_without_source, silent_features
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import Window, window_of
from fraud_pipelines.orchestration.resources import WarehouseResource


@dg.asset_check(asset=keys.TRANSACTION_FEATURES, blocking=True, pool="warehouse")
def every_transaction_has_features(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """A transaction without features is never scored: a fraud in it goes unseen, and no later number counts it.

    The data engineer materializes the days again; if rows stay missing, raw data changed while dbt was running.
    """
    since, until = _window(context)
    counts = completeness(warehouse.open(), since, until)
    return dg.AssetCheckResult(
        passed=counts.without_features == 0
        and counts.without_transaction == 0
        and counts.transactions == counts.feature_rows,
        metadata={**counts._asdict(), "limit": 0, "since": since.isoformat(), "until": until.isoformat()},
    )


@dg.asset_check(asset=keys.TRANSACTION_FEATURES, pool="warehouse")
def features_are_not_constant_or_all_null(
    context: dg.AssetCheckExecutionContext, warehouse: WarehouseResource
) -> dg.AssetCheckResult:
    """A feature that says the same of every payment has lost its source: the model goes on without it, unnoticed.

    Looks at the 28 days before the end of the run. The data engineer looks at the column it is made of.
    """
    _, until = _window(context)
    since = until - timedelta(days=limits.FEATURE_VARIATION_DAYS)
    store, spec = warehouse.open(), load_spec()
    silent = silent_features(store, spec, since, until)
    return dg.AssetCheckResult(
        passed=not silent,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "silent_features": len(silent),
            "limit": 0,
            "names": ", ".join(f"{name} ({how})" for name, how in silent.items()) or "none",
            "not_in_the_source": ", ".join(features_without_source(store, spec, since, until)) or "none",
        },
    )


def _window(context: dg.AssetCheckExecutionContext) -> Window:
    """The run's days; everything when the check is run by itself, without a partition."""
    try:
        return window_of(context)
    except PermanentError:
        return Window(datetime(1970, 1, 1), datetime(2100, 1, 1))
