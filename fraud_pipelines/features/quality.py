"""Facts about the feature table that no single row shows: is it complete, does every feature say something."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from fraud_pipelines import tables
from fraud_pipelines.features.spec import FeatureSpec

if TYPE_CHECKING:
    from fraud_pipelines.warehouse import Warehouse

# Constant by nature in less than a week.
_WEEKLY = ("day_of_week", "is_weekend")
_WEEK_DAYS = 7


class Completeness(NamedTuple):
    """Counts over one range of days: transactions, feature rows, and each side without the other."""

    transactions: int
    feature_rows: int
    without_features: int
    without_transaction: int


def completeness(warehouse: Warehouse, since: datetime, until: datetime) -> Completeness:
    """Compare `raw.transactions` with the feature table over [since, until)."""
    columns = "(select transaction_id from {} where event_time >= :since and event_time < :until)"
    transactions = columns.format(tables.TRANSACTIONS.name)
    features = columns.format(tables.TRANSACTION_FEATURES)
    counts = warehouse.query_arrow(
        f"select (select count(*) from {transactions} t) as transactions, "
        f"(select count(*) from {features} f) as feature_rows, "
        f"(select count(*) from {transactions} t where not exists "
        f"(select 1 from {features} f where f.transaction_id = t.transaction_id)) as without_features, "
        f"(select count(*) from {features} f where not exists "
        f"(select 1 from {transactions} t where t.transaction_id = f.transaction_id)) as without_transaction",
        since=since,
        until=until,
    )
    return Completeness(*(int(counts[name][0].as_py()) for name in Completeness._fields))


def features_without_source(
    warehouse: Warehouse, spec: FeatureSpec, since: datetime, until: datetime
) -> tuple[str, ...]:  # fmt: skip
    """Features whose source has no value in [since, until) for a column they need: they are missing, as they should be.

    Empty when there is no transaction at all: that says nothing about the source.
    """
    columns = sorted({column for feature in spec.features for column in feature.optional_columns})
    counts = warehouse.query_arrow(
        f"select count(*) as transactions, {', '.join(f'count({column}) as {column}' for column in columns)} "
        f"from {tables.TRANSACTIONS.name} where event_time >= :since and event_time < :until",
        since=since,
        until=until,
    ).to_pylist()[0]
    absent = {column for column in columns if counts[column] == 0 and counts["transactions"]}
    return tuple(feature.name for feature in spec.features if absent.intersection(feature.optional_columns))


def silent_features(warehouse: Warehouse, spec: FeatureSpec, since: datetime, until: datetime) -> dict[str, str]:
    """Features of [since, until) that are `missing` in every row or `constant`; empty when every one varies.

    Day of week and weekend are judged over a week or more; what the source has no column for is not judged. Without
    any row every feature is missing.
    """
    rows = warehouse.query_arrow(
        "select " + ", ".join(
            f"count({name}) as n_{name}, cast(min({name}) as double precision) as low_{name}, "
            f"cast(max({name}) as double precision) as high_{name}"
            for name in spec.names
        ) + f" from {tables.TRANSACTION_FEATURES} where event_time >= :since and event_time < :until",
        since=since,
        until=until,
    )  # fmt: skip
    row = rows.to_pylist()[0]
    without_source = features_without_source(warehouse, spec, since, until)
    found = {}
    for feature in spec.features:
        if row[f"n_{feature.name}"] == 0:
            if feature.name not in without_source:
                found[feature.name] = "missing"
        elif row[f"low_{feature.name}"] == row[f"high_{feature.name}"]:
            is_too_short = feature.of in _WEEKLY and (until - since).days < _WEEK_DAYS
            if not is_too_short:
                found[feature.name] = "constant"
    return found
