"""The Fraud Detection Handbook's reference week with this project's features, training and metrics.

    python benchmarks/handbook_protocol.py [--warehouse URL] [--as-of 2018-08-22]

Needs a warehouse that holds the handbook's transactions and the features of the training and test days:
`fraud ingest transactions.parquet --mapping handbook`. Prints one JSON object: for the handbook's seven training days
and for the default training window the rows, frauds, average_precision, roc_auc and card_precision_at_100 of the test
week 2018-08-08 to 2018-08-14, and the published rows of that week.
"""

import argparse
import json
import time
from datetime import datetime
from typing import Any

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.evaluation import evaluate
from fraud_pipelines.models.splits import TEST, TRAIN, VALIDATION, TimeSplit
from fraud_pipelines.models.training import TrainingParameters, train
from fraud_pipelines.models.training_set import build_training_set
from fraud_pipelines.settings import load_settings
from fraud_pipelines.warehouse import Warehouse, open_warehouse

# Source: Fraud Detection Handbook, Chapter_3/BaselineModeling.ipynb, as printed; sizes of its training and test set.
PUBLISHED = {
    "train_rows": 67_240,
    "train_frauds": 598,
    "test_rows": 58_264,
    "test_frauds": 385,
    "xgboost": {"average_precision": 0.639, "roc_auc": 0.862, "card_precision_at_100": 0.273},
    "random_forest": {"average_precision": 0.658, "roc_auc": 0.867, "card_precision_at_100": 0.287},
    "logistic_regression": {"average_precision": 0.606, "roc_auc": 0.871, "card_precision_at_100": 0.291},
}


def measure(warehouse: Warehouse, split: TimeSplit, parameters: TrainingParameters) -> dict[str, Any]:
    """Train and judge one split."""
    spec = load_spec()
    started = time.monotonic()
    rows = build_training_set(warehouse, spec, split)
    built = time.monotonic()
    bundle = train(rows, spec, parameters).bundle
    trained = time.monotonic()
    result = evaluate(
        bundle, rows.part(TEST), since=split.test_since, until=split.test_until, as_of=split.as_of,
        unlabelled=rows.unlabelled[TEST],
    )  # fmt: skip
    return {
        "train_since": split.train_since.date().isoformat(),
        "train_until": split.train_until.date().isoformat(),
        "train_rows": rows.rows(TRAIN) + rows.rows(VALIDATION),
        "train_frauds": rows.frauds(TRAIN) + rows.frauds(VALIDATION),
        "test_rows": result.rows,
        "test_frauds": result.fraud_count,
        "left_out": result.excluded,
        "features": len(spec.names),
        **{name: None if value is None else round(value, 4) for name, value in result.metrics.items()},
        "thresholds": {"review": bundle.thresholds.review, "block": bundle.thresholds.block},
        "calibration": {"slope": bundle.calibration.slope, "intercept": bundle.calibration.intercept},
        "build_seconds": round(built - started, 1),
        "train_seconds": round(trained - built, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warehouse", help="warehouse URL; default: the configured one")
    parser.add_argument("--as-of", type=datetime.fromisoformat, default=datetime(2018, 8, 22), help="moment, UTC")
    parser.add_argument("--train-days", type=int, default=56, help="days of the longer training window")
    arguments = parser.parse_args()
    warehouse = open_warehouse(arguments.warehouse or load_settings().warehouse_url)
    parameters = TrainingParameters()
    week = TimeSplit(arguments.as_of, train_days=7, validation_days=0, test_days=7, label_delay_days=7)
    longer = TimeSplit(arguments.as_of, train_days=arguments.train_days, test_days=7, label_delay_days=7)
    print(
        json.dumps(
            {
                "seven_training_days": measure(warehouse, week, parameters),
                "default_training_days": measure(warehouse, longer, parameters),
                "published": PUBLISHED,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
