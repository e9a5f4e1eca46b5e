"""Readable rows with defaults, for tests: payments, labels, and a small warehouse that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.ledger import Decision, Feedback
from fraud_pipelines.models.splits import TEST, TRAIN, VALIDATION, TimeSplit
from fraud_pipelines.models.training_set import TrainingSet
from fraud_pipelines.warehouse import Warehouse


def payment(transaction_id: str, event_time: str, **changes: Any) -> dict[str, Any]:
    """One row of raw.transactions: 20.00 EUR on card c1 at merchant m1, unless changed."""
    return {
        "transaction_id": transaction_id,
        "event_time": datetime.fromisoformat(event_time),
        "card_id": "c1",
        "merchant_id": "m1",
        "amount_minor": 2000,
        "currency": "EUR",
        "source": "test",
        "ingestion_id": "i1",
    } | changes


def label(
    transaction_id: str, event_time: str, known_at: str, is_fraud: bool = False, **changes: Any
) -> dict[str, Any]:
    """One row of raw.labels."""
    return {
        "transaction_id": transaction_id,
        "event_time": datetime.fromisoformat(event_time),
        "known_at": datetime.fromisoformat(known_at),
        "is_fraud": is_fraud,
        "label_source": "file",
        "ingestion_id": "i1",
    } | changes


def served(transaction_id: str, decided_at: str, **changes: Any) -> Decision:
    """A decision of the ledger, a second after its payment of 20.00 EUR: REVIEW by version 1, unless changed."""
    moment = datetime.fromisoformat(decided_at)
    return Decision(
        **{
            "transaction_id": transaction_id,
            "event_time": moment - timedelta(seconds=1),
            "card_id": "tok_" + "0a" * 16,
            "merchant_id": "m1",
            "decision": "REVIEW",
            "fraud_probability": 0.5,
            "model_version": "1",
            "bundle_digest": "d" * 64,
            "thresholds": {"review": 0.25, "block": 0.75},
            "reasons": [{"code": "AMOUNT_HIGH", "words": "much"}, {"code": "NEW_DEVICE", "words": "new"}],
            "features": {"amount": 20.0},
            "request": {"transaction_id": transaction_id, "amount_minor": 2000, "currency": "EUR"},
            "decided_at": moment,
        }
        | changes
    )


def said(feedback_id: str, transaction_id: str, known_at: str, verdict: str = "CONFIRMED_FRAUD") -> Feedback:
    """What the analyst ann says."""
    return Feedback(feedback_id, transaction_id, verdict, "ann", datetime.fromisoformat(known_at))


def fill_warehouse(
    warehouse: Warehouse,
    spec: FeatureSpec,
    payments: Iterable[dict[str, Any]],
    labels: Iterable[dict[str, Any]],
    *,
    without_features: Iterable[str] = (),
) -> None:
    """Write payments, labels, and features that are 0 but for the first one, which is the amount in minor units."""
    transactions, arrivals = pd.DataFrame(list(payments)), pd.DataFrame(list(labels))
    features = pd.DataFrame(0.0, index=transactions.index, columns=list(spec.names))
    features[spec.names[0]] = transactions["amount_minor"].astype(float)
    features = pd.concat([transactions[["transaction_id", "event_time", "card_id", "merchant_id"]], features], axis=1)
    with warehouse.session() as session:
        session.upsert(tables.TRANSACTIONS, in_microseconds(transactions))
        session.upsert(tables.LABELS, in_microseconds(arrivals))
        session.overwrite(
            tables.TRANSACTION_FEATURES,
            in_microseconds(features[~features["transaction_id"].isin(list(without_features))]),
        )


def in_microseconds(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its times as the warehouse stores them."""
    times = frame.select_dtypes("datetime").columns
    return frame.astype(dict.fromkeys(times, "datetime64[us]"))


def synthetic_training_set(
    spec: FeatureSpec,
    *,
    rows: int = 3000,
    fraud_share: float = 0.05,
    signal: float = 3.0,
    seed: int = 1,
    split: TimeSplit | None = None,
) -> TrainingSet:
    """Rows spread evenly over the split whose first feature lies `signal` standard deviations higher for frauds."""
    split = split or TimeSplit(datetime(2026, 3, 1), train_days=28, validation_days=7, test_days=7, label_delay_days=7)
    rng = np.random.default_rng(seed)
    frames = []
    for part in (TRAIN, VALIDATION, TEST):
        since, until = split.window(part)
        days = (until - since).days
        if days == 0:
            continue
        count = rows * days // (split.train_days + split.test_days)
        is_fraud = rng.random(count) < fraud_share
        times = [since + timedelta(seconds=float(second)) for second in np.sort(rng.uniform(0, days * 86_400, count))]
        features = pd.DataFrame(rng.normal(size=(count, len(spec.names))), columns=list(spec.names))
        features[spec.names[0]] += signal * is_fraud
        identity = pd.DataFrame(
            {
                "transaction_id": [f"{part}-{number:06d}" for number in range(count)],
                "event_time": times,
                "card_id": [f"c{number}" for number in rng.integers(0, 400, count)],
                "amount_minor": rng.integers(100, 50_000, count),
                "part": part,
                "is_fraud": is_fraud,
                "label_known_at": [time + timedelta(days=split.label_delay_days) for time in times],
                "card_is_known_compromised": False,
            }
        )
        frames.append(pd.concat([identity, features], axis=1))
    frame = in_microseconds(pd.concat(frames, ignore_index=True))
    return TrainingSet(frame, split, spec.hash, "d" * 64, {TRAIN: 0, VALIDATION: 0, TEST: 0})
