"""From transactions with their history to verdicts: features, probability, decision, reasons; or the fallback."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from fraud_pipelines.features.entity_state import EntityState
from fraud_pipelines.features.online import ScoredTransaction, named
from fraud_pipelines.models.policy import APPROVE, REVIEW
from fraud_pipelines.reasons import FEATURES_TOO_OLD, MODEL_FAILED, ONLINE_STORE_NEVER_FILLED
from serving.answers import Verdict, fallback
from serving.champion import Champion
from serving.metrics import latency_of

logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(frozen=True)
class Validity:
    """When a rule decides in place of the model, and how.

    `decision` is REVIEW or BLOCK; `features_max_age` the longest time between a payment and the last time the online
    store was filled from the warehouse.
    """

    decision: str = REVIEW
    features_max_age: timedelta = timedelta(days=3)


def judge(
    champion: Champion,
    transactions: Sequence[ScoredTransaction],
    cards: Sequence[EntityState],
    merchants: Sequence[EntityState],
    as_of_us: int | None,
    validity: Validity,
) -> list[Verdict]:
    """One verdict per transaction.

    Args:
        cards, merchants: what is known of each transaction's; see OnlineEngine.matrix.
        as_of_us: when the online store was last filled from the warehouse; None when never.
    """
    if as_of_us is None:
        # Nobody's history is known: numbers counted of it would be wrong, and parity would hold them against the model.
        return [fallback(ONLINE_STORE_NEVER_FILLED, validity.decision)] * len(transactions)
    features = None
    try:
        with stage("features"):
            features = champion.engine.matrix(transactions, cards, merchants)
        with stage("model"):
            # Doubles are rounded once, as in vector.to_matrix: the same row has the same bits on every route.
            inputs = features.astype(np.float32)
            probabilities, anomaly_scores = champion.bundle.scores(inputs)
        # What is no number would compare as an approval; _verdict refuses it.
        decisions = champion.bundle.thresholds.decide(np.where(np.isnan(probabilities), 1.0, probabilities))
        anomalies = [None] * len(transactions) if anomaly_scores is None else anomaly_scores.tolist()
        newest_us = as_of_us + validity.features_max_age // timedelta(microseconds=1)
        rows = zip(transactions, features, decisions.tolist(), probabilities.tolist(), anomalies, strict=True)
        return [
            _verdict(champion, validity, newest_us, transaction, vector, inputs, row, decision, probability, anomaly)
            for row, (transaction, vector, decision, probability, anomaly) in enumerate(rows)
        ]
    except Exception:
        if len(transactions) > 1:  # one that cannot be scored must not take the others with it
            return [
                judge(champion, [one], [card], [merchant], as_of_us, validity)[0]
                for one, card, merchant in zip(transactions, cards, merchants, strict=True)
            ]
        # Whatever the model does wrong, the payment waits for an answer: a person decides, and the log says why.
        logger.exception("Model version %s could not score", champion.version)
        return [fallback(MODEL_FAILED, validity.decision, None if features is None else features[0])]


def _verdict(
    champion: Champion,
    validity: Validity,
    newest_us: int,
    transaction: ScoredTransaction,
    features: np.ndarray,
    inputs: np.ndarray,
    row: int,
    decision: str,
    probability: float,
    anomaly_score: float | None,
) -> Verdict:
    """What becomes of one row of `inputs`; a payment after `newest_us` is too late for its features."""
    if not 0 <= probability <= 1:
        logger.error("Model version %s: %s is no probability", champion.version, probability)
        return fallback(MODEL_FAILED, validity.decision, features)
    if transaction.event_time_us > newest_us:
        return fallback(FEATURES_TOO_OLD, validity.decision, features)
    if decision == APPROVE:  # an approval owes nobody an explanation
        return Verdict(decision, probability, anomaly_score, (), features)
    with stage("reasons"):
        reasons = champion.bundle.reasons(inputs[row : row + 1], named(features, champion.bundle.feature_names))
    return Verdict(decision, probability, anomaly_score, reasons, features)


class stage:  # noqa: N801  # reads as what it is: with stage("model")
    """Time a stage for the metric fraud_score_latency_seconds; it is of a whole group of requests."""

    __slots__ = ("_name", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        latency_of(self._name).observe(time.perf_counter() - self._started)
