"""A model small enough to train in a test, and requests to score with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines.features.spec import FeatureSpec, load_spec
from fraud_pipelines.models import trees
from fraud_pipelines.models.additive_model import AdditiveModel, Linear, weighted_sum
from fraud_pipelines.models.bands import Band
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.policy import CostMatrix, PolicyBasis, ReviewCapacity, Thresholds
from fraud_pipelines.models.splits import TimeSplit

# A number that passes the check digit, of a range no issuer uses.
CARD_NUMBER = "4000001234567899"
# No value is a default.
POLICY_BASIS = PolicyBasis(
    CostMatrix(review_cost=3), ReviewCapacity(per_day=12), 12.0, datetime(2026, 2, 1), datetime(2026, 2, 8), 7000, 31
)


def tiny_bundle(
    *,
    review: float = 0.3,
    block: float = 0.7,
    seed: int = 0,
    noise: float = 0.0,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> Bundle:
    """Twenty trees on random rows of the real spec: fraud is likely exactly where the amount is above 500.

    With `noise` (standard deviation in units of the amount) the probability rises with the amount instead. `slope` and
    `intercept` calibrate the log-odds.
    """
    import xgboost

    spec = load_spec()
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(2000, len(spec.names))).astype(np.float32)
    amount = next(index for index, feature in enumerate(spec.features) if feature.of == "amount")
    matrix[:, amount] = rng.uniform(0, 1000, 2000)
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 2, "nthread": 1, "seed": seed, "base_score": 0.5},
        xgboost.DMatrix(matrix, matrix[:, amount] + rng.normal(0, noise, 2000) > 500, nthread=1),
        num_boost_round=20,
    )
    model = AdditiveModel(len(spec.names), trees=trees.of_booster(booster))
    return Bundle(
        model=weighted_sum([(slope, model)], intercept),
        contender="xgboost",
        weights={"xgboost": slope, "intercept": intercept},
        booster_bytes=bytes(booster.save_raw("ubj")),
        spec_text=spec.text,
        feature_names=spec.names,
        spec_hash=spec.hash,
        thresholds=Thresholds(review=review, block=block),
        split=TimeSplit(datetime(2025, 3, 1)),
        data_hash="0" * 64,
        parameters={"max_depth": 2},
        metrics={"average_precision": 1.0},
        row_counts={"train": 2000},
        reference=pd.DataFrame(matrix[:50], columns=list(spec.names)),
        code_version="test",
        bands=(Band(0.0, 0.3, 900, 3), Band(0.3, 0.7, 100, 40), Band(0.7, 1.0, 1000, 990)),
    )


def constant_bundle(log_odds: float, spec: FeatureSpec | None = None) -> Bundle:
    """A model that says the same of every payment, made without training: for tests that need several versions."""
    spec = spec or load_spec()
    nothing = np.zeros(len(spec.names), dtype=np.float32)
    return Bundle(
        model=AdditiveModel(len(spec.names), log_odds, linear=Linear(*[nothing] * 5)),
        contender="logistic_regression",
        weights={"logistic_regression": 1.0, "intercept": 0.0},
        spec_text=spec.text,
        feature_names=spec.names,
        spec_hash=spec.hash,
        thresholds=Thresholds(review=0.3, block=0.7),
        split=TimeSplit(datetime(2025, 3, 1)),
        data_hash="0" * 64,
        parameters={},
        metrics={},
        row_counts={},
        reference=pd.DataFrame(np.zeros((3, len(spec.names))), columns=list(spec.names)),
        code_version="test",
    )


def unable_to_score(model: AdditiveModel) -> AdditiveModel:
    """A sound file whose every score is not a number."""
    assert model.trees is not None
    return replace(model, trees=replace(model.trees, value=np.full_like(model.trees.value, np.nan)))


def payment(**changes: Any) -> dict[str, Any]:
    """The body of one request: 12.34 EUR on a Saturday noon, unless changed."""
    return {
        "transaction_id": "t-1",
        "event_time": "2025-03-01T12:00:00Z",
        "card_id": CARD_NUMBER,
        "merchant_id": "m-1",
        "amount": "12.34",
        "currency": "EUR",
    } | changes
