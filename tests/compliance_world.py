"""A small finished world for document tests: a warehouse with every table a report reads, and the ledger's records.

Numbers are made up, seeded and plain; nothing here trains or scores.
"""

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.compliance.facts import LINEAGE, ModelFacts, ReportFacts, gather_facts
from fraud_pipelines.evidence import Evidence
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import Ingestion, Promotion
from fraud_pipelines.models.comparison import Comparison, Standing
from fraud_pipelines.models.policy import CostMatrix, PolicyBasis, ReviewCapacity
from fraud_pipelines.monitoring.drift import compare_windows
from fraud_pipelines.monitoring.fairness import group_rates
from fraud_pipelines.monitoring.performance import performance_rows
from fraud_pipelines.monitoring.windows import MatureWindow
from fraud_pipelines.warehouse import Warehouse, open_warehouse

AS_OF = datetime(2026, 4, 1)
START = datetime(2026, 1, 1)
DAY = datetime(2026, 3, 31)
ROWS = 6_000

MODEL = ModelFacts(
    version="3",
    bundle_digest="ab" * 32,
    spec_hash="cd" * 32,
    review_threshold=0.1234,
    block_threshold=0.5678,
    trained_since=datetime(2026, 1, 7),
    trained_until=datetime(2026, 3, 4),
    training_rows=91_234,
    training_frauds=702,
    training_data_hash="ef" * 32,
    policy=PolicyBasis(
        CostMatrix(), ReviewCapacity(), 142.9, datetime(2026, 2, 25), datetime(2026, 3, 4), rows=10_003, fraud_count=88
    ),
    contender="xgboost",
    comparison=Comparison(
        "xgboost",
        (
            Standing("single_tree", 0.6789, 0.65, 0.70, 0.0444, 0.0111),
            Standing("xgboost", 0.7212, 0.69, 0.74, 0.0021, 0.0033),
            Standing("stack", 0.7233, 0.69, 0.75, 0.0, 0.0),
        ),
        rows=31_007,
        fraud_count=299,
        days=21,
    ),
)


def build_world(folder: Path, *, has_monitoring: bool = True) -> Warehouse:
    """A DuckDB warehouse in `folder` with 90 days of data; without monitoring when asked."""
    warehouse = open_warehouse(f"duckdb:///{folder / 'world.duckdb'}")
    rng = np.random.default_rng(5)
    transactions = _transactions(rng)
    is_fraud = rng.random(ROWS) < 0.02
    labels = pd.DataFrame(
        {
            "transaction_id": transactions["transaction_id"],
            "event_time": transactions["event_time"],
            "known_at": (transactions["event_time"] + timedelta(days=7)).astype("datetime64[us]"),
            "is_fraud": is_fraud,
            "label_source": "file",
            "ingestion_id": "i1",
        }
    )
    probability = np.clip(np.where(is_fraud, rng.beta(4, 2, ROWS), rng.beta(1, 60, ROWS)), 0, 1)
    decision = np.where(probability >= 0.5678, "BLOCK", np.where(probability >= 0.1234, "REVIEW", "APPROVE"))
    with warehouse.session() as session:
        session.insert_new(tables.TRANSACTIONS, transactions)
        session.insert_new(tables.LABELS, labels)
        session.insert_new(tables.QUARANTINE, _quarantine())
        session.upsert(tables.EVALUATIONS, _evaluations())
        session.upsert(tables.EVALUATION_SCORES, _evaluation_scores(transactions, is_fraud, probability))
        session.upsert(tables.ATTRIBUTIONS, _attributions(rng))
        if has_monitoring:
            judged = transactions.assign(
                fraud_probability=probability,
                decision=decision,
                is_fraud=is_fraud,
                age_band=rng.choice(["18-24", "25-34", "35-49", "50-64", "65+"], ROWS, p=[0.15, 0.25, 0.3, 0.25, 0.05]),
                gender=rng.choice(["female", "male", None], ROWS, p=[0.47, 0.5, 0.03]),
                region=rng.choice(["north", "south", "east", "west"], ROWS),
            )
            window = MatureWindow(START, datetime(2026, 3, 25), AS_OF, "3", judged, 17)
            session.upsert(tables.PERFORMANCE, performance_rows(window))
            session.upsert(tables.FAIRNESS, group_rates(judged, day=DAY, model_version="3"))
            session.upsert(tables.DRIFT, _drift(rng))
            session.upsert(tables.PARITY, _parity())
    return warehouse


def gather(warehouse: Warehouse, **changes: object) -> ReportFacts:
    """Facts of the world's version 3 as of its end."""
    arguments: dict[str, object] = {
        "model": MODEL,
        "features": load_spec(),
        "ingestions": ingestions(),
        "promotions": promotions(),
        "as_of": AS_OF,
        "materialized": materialized(),
        **changes,
    }
    with warehouse.session() as session:
        return gather_facts(session, **arguments)  # type: ignore[arg-type]


def materialized() -> dict[str, Evidence]:
    """A materialization of every asset of the lineage."""
    return {
        key: Evidence(
            key,
            f"{DAY:%Y-%m-%d}" if key.startswith(("raw", "features", "monitoring")) else None,
            f"{position:08x}-1111-4222-8333-444444444444",
            "4f1c2d9a7b3e",
            f"{position:02x}" * 32,
        )
        for position, key in enumerate(LINEAGE, start=10)
    }


def ingestions() -> list[Ingestion]:
    return [
        Ingestion(
            "i1",
            "simulator",
            "transactions.parquet",
            "0a" * 32,
            6_007,
            6_000,
            4,
            3,
            6_000,
            date(2026, 1, 1),
            date(2026, 3, 31),
            datetime(2026, 4, 1, 8),
        ),
        Ingestion(
            "i2",
            "sparkov",
            "later.csv",
            "0b" * 32,
            10,
            10,
            0,
            0,
            10,
            date(2026, 5, 1),
            date(2026, 5, 1),
            datetime(2026, 5, 2, 8),
        ),
    ]


def promotions() -> list[Promotion]:
    gates = [
        {
            "name": "average_precision_is_high_enough",
            "value": 0.71,
            "limit": 0.15,
            "passed": True,
            "words": "average precision 0.710 is at least 0.15",
        },
        {
            "name": "improves_on_the_champion",
            "value": None,
            "limit": 0.02,
            "passed": True,
            "words": "there is no champion yet",
        },
    ]
    first = Promotion(
        "promote", "1", None, "retrain_job", "first champion", gates, datetime(2026, 3, 10), datetime(2026, 3, 10, 6), 1
    )
    refused = Promotion(
        "refuse",
        "2",
        "1",
        "retrain_job",
        "gates failed: improves_on_the_champion",
        gates[:1],
        datetime(2026, 3, 20),
        datetime(2026, 3, 20, 6),
        2,
    )
    return [
        first,
        refused,
        Promotion("promote", "3", "1", "retrain_job", "all gates passed", gates, AS_OF, datetime(2026, 4, 1, 9), 3),
    ]


def _transactions(rng: np.random.Generator) -> pd.DataFrame:
    seconds = np.sort(rng.integers(0, 90 * 86_400, ROWS))
    return pd.DataFrame(
        {
            "transaction_id": [f"t{number:06d}" for number in range(ROWS)],
            "event_time": pd.Series(np.datetime64(START, "us") + seconds.astype("timedelta64[s]")),
            "card_id": [f"tok_{number:032x}" for number in rng.integers(0, 800, ROWS)],
            "merchant_id": [f"m{number}" for number in rng.integers(0, 90, ROWS)],
            "amount_minor": rng.integers(100, 40_000, ROWS),
            "currency": "EUR",
            "source": "simulator",
            "ingestion_id": "i1",
        }
    )


def _quarantine() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "ingestion_id": "i1",
            "source_file": "transactions.parquet",
            "source_row": [4, 9, 12],
            "reason": ["amount: expected a positive number, found a negative one"] * 2
            + ["event_time: expected a UTC time, found none"],
            "row_json": "{}",
        }
    )


def _evaluations() -> pd.DataFrame:
    values = {
        "average_precision": 0.7123,
        "roc_auc": 0.9412,
        "recall_at_1pct_fpr": 0.7654,
        "recall_at_5pct_fpr": 0.85,
        "card_precision_at_100": 0.1543,
        "brier": 0.0021,
        "calibration_error": 0.0011,
        "block_precision": 0.95,
        "block_recall": 0.61,
        "review_precision": 0.2,
        "review_share": 0.0098,
        "flagged_recall": 0.74,
        "value_detected": 0.83,
        "cost_per_1000": 1099.6,
        "saving_share": 0.876,
    }
    rows = [
        {
            "model_version": version,
            "as_of": AS_OF,
            "metric": metric,
            "value": value * factor,
            # Version 1 was judged before there were intervals.
            "lower": value * 0.95 if version == "3" else None,
            "upper": value * 1.05 if version == "3" else None,
            "rows": 21_456,
            "fraud_count": 171,
            "since": datetime(2026, 3, 11),
            "until": datetime(2026, 3, 25),
        }
        for version, factor in (
            ("3", 1.0),
            ("1", 0.96),
            ("3/single_tree", 0.9),
            ("3/autoencoder", 0.2),
            ("1/xgboost", 0.5),
        )
        for metric, value in values.items()
    ]
    return pd.DataFrame(rows).astype({"as_of": "datetime64[us]", "since": "datetime64[us]", "until": "datetime64[us]"})


def _evaluation_scores(transactions: pd.DataFrame, is_fraud: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    identity = transactions[["transaction_id", "event_time", "card_id", "amount_minor"]]
    moment = pd.Timestamp(AS_OF).as_unit("us")
    return identity.assign(model_version="3", as_of=moment, is_fraud=is_fraud, fraud_probability=probability)


def _attributions(rng: np.random.Generator) -> pd.DataFrame:
    names = load_spec().names
    return pd.DataFrame(
        {
            "model_version": "3",
            "as_of": pd.Timestamp(AS_OF).as_unit("us"),
            "feature": list(names),
            "mean_absolute_shap": np.sort(rng.gamma(1.0, 0.3, len(names)))[::-1].round(4),
            "rows": 2_000,
        }
    )


def _drift(rng: np.random.Generator) -> pd.DataFrame:
    names = load_spec().names
    reference = pd.DataFrame(rng.normal(size=(400, len(names) + 1)), columns=[*names, "fraud_probability"])
    current = pd.DataFrame(rng.normal(size=(400, len(names) + 1)), columns=[*names, "fraud_probability"])
    current[names[0]] += 0.6
    return compare_windows(reference, current, features=names, day=DAY, model_version="3")


def _parity() -> pd.DataFrame:
    rows = [
        {
            "day": DAY,
            "feature": name,
            "compared_count": 12,
            "mismatch_count": 0,
            "largest_difference": 0.0,
            "absent_count": 0,
        }
        for name in load_spec().names
    ]
    return pd.DataFrame(rows).astype({"day": "datetime64[us]"})
