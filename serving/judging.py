"""From transactions with their history to verdicts: features, probability, decision, reasons; or the fallback."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from fraud_pipelines.features.online import Context, ScoredTransaction, named
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
    context: Context,
    as_of_us: int | None,
    validity: Validity,
) -> list[Verdict]:
    """One verdict per transaction.

    Args:
        context: of the transactions.
        as_of_us: when the online store was last filled from the warehouse; None when never.
    """
    if as_of_us is None:
        # Nobody's history is known: numbers counted of it would be wrong, and parity would hold them against the model.
        return [fallback(ONLINE_STORE_NEVER_FILLED, validity.decision)] * len(transactions)
    features = None
    try:
        with stage("features"):
            features = champion.engine.matrix(context)
        with stage("model"):
            # Doubles are rounded once, as in vector.to_matrix: the same row has the same bits on every route.
            inputs = features.astype(np.float32)
            probabilities, anomaly_scores = champion.bundle.scores(inputs)
        # What is no number would compare as an approval; it is refused below.
        decisions = champion.bundle.thresholds.decide(np.where(np.isnan(probabilities), 1.0, probabilities))
        no_reasons, nothing = [()] * len(transactions), [None] * len(transactions)
        anomalies = nothing
        if anomaly_scores is not None:
            anomalies = anomaly_scores.tolist()
        # Strictly: of a model that forgets a row each is asked for alone.
        columns = (decisions, probabilities.tolist(), anomalies, no_reasons, features, nothing, nothing)
        verdicts = list(map(_verdict_of, zip(*columns, strict=True)))
        is_sound = (probabilities >= 0) & (probabilities <= 1)
        for row in np.flatnonzero(~is_sound).tolist():
            logger.error("Model version %s: %s is no probability", champion.version, probabilities[row])
            verdicts[row] = fallback(MODEL_FAILED, validity.decision, features[row])
        newest_us = as_of_us + validity.features_max_age // timedelta(microseconds=1)
        is_late = context.transactions.time_us > newest_us
        for row in np.flatnonzero(is_sound & is_late).tolist():
            verdicts[row] = fallback(FEATURES_TOO_OLD, validity.decision, features[row])
        # An approval owes nobody an explanation.
        rows = np.flatnonzero(is_sound & ~is_late & (decisions != APPROVE))
        if len(rows):
            with stage("reasons"):
                values = [named(features[row], champion.bundle.feature_names) for row in rows]
                for row, reasons in zip(rows.tolist(), champion.bundle.reasons(inputs[rows], values), strict=True):
                    verdicts[row] = verdicts[row]._replace(reasons=reasons)
        return verdicts
    except Exception:
        if len(transactions) > 1:  # one that cannot be scored must not take the others with it
            return [
                judge(champion, [one], context.take(np.array([row])), as_of_us, validity)[0]
                for row, one in enumerate(transactions)
            ]
        # Whatever the model does wrong, the payment waits for an answer: a person decides, and the log says why.
        logger.exception("Model version %s could not score", champion.version)
        return [fallback(MODEL_FAILED, validity.decision, None if features is None else features[0])]


# What Verdict(...) does, for a third of its price: the constructor of a NamedTuple is a function of Python's.
_verdict_of: Callable[[tuple[Any, ...]], Verdict] = partial(tuple.__new__, Verdict)


class stage:  # noqa: N801  # reads as what it is: with stage("model")
    """Time a stage for the metric fraud_score_latency_seconds; it is of a whole group of requests."""

    __slots__ = ("_name", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        latency_of(self._name).observe(time.perf_counter() - self._started)
