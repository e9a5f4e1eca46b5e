"""Labelled feature rows of one split."""

import dagster as dg
from pydantic import Field

from fraud_pipelines import tables
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.splits import PARTS, TimeSplit
from fraud_pipelines.models.training_set import build_training_set, split_for, write_training_set
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import WarehouseResource


class TrainingConfig(dg.Config):
    """Moment and windows of one training; everything downstream reads them from the training set."""

    as_of: str | None = Field(
        None,
        description="ISO date or time, UTC; nothing known later is used. None: midnight after the last day of data.",
    )
    train_days: int = Field(
        TimeSplit.train_days, ge=1, description="Days of training data, validation included; at least 1."
    )
    validation_days: int = Field(
        TimeSplit.validation_days,
        ge=0,
        description="Last days of these: thresholds are chosen there; below train_days.",
    )
    test_days: int = Field(TimeSplit.test_days, ge=1, description="Days of test data; at least 1.")
    label_delay_days: int = Field(
        TimeSplit.label_delay_days, ge=0, description="Days until a label is expected to be known; at least 0."
    )


@dg.asset(
    key=keys.TRAINING_SET,
    group_name="models",
    deps=[keys.TRANSACTIONS, keys.LABELS, keys.TRANSACTION_FEATURES],
    kinds={"python"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def training_set(config: TrainingConfig, warehouse: WarehouseResource) -> dg.MaterializeResult:
    """One row per labelled transaction of the training, validation and test windows of one moment.

    Training rows carry the label known when the test window starts, test rows the one known at `as_of`; rows whose
    label was not known in time are left out and counted. The label delay separates training from test.
    """
    store = warehouse.open()
    split = split_for(
        store,
        config.as_of,
        train_days=config.train_days,
        validation_days=config.validation_days,
        test_days=config.test_days,
        label_delay_days=config.label_delay_days,
    )
    rows = build_training_set(store, load_spec(), split)
    write_training_set(store, rows)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows.frame),
            "dagster/table_name": tables.TRAINING_SET,
            "data_hash": rows.data_hash,
            "spec_hash": rows.spec_hash,
            **{f"{part}_rows": rows.rows(part) for part in PARTS},
            **{f"{part}_frauds": rows.frauds(part) for part in PARTS},
            **{f"{part}_unlabelled_rows": rows.unlabelled[part] for part in PARTS},
            **split.as_dict(),
        }
    )
