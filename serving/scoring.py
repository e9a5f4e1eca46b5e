"""From one transaction to one durable decision. Knows nothing of HTTP, and nothing of BentoML.

    online store -> features -> probability -> decision -> reasons -> ledger -> online store -> answer

The ledger comes before the answer (rule 7) and before the online store: a transaction that the next one sees always
has a decision. What cannot be known leads to review with the cause, never to an approval.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from fraud_pipelines.errors import FraudPipelinesError, LedgerUnavailable, OnlineStateTooShort, RetryableError
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.ledger import Decision, Ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.models.policy import APPROVE, REVIEW
from fraud_pipelines.online_store import OnlineStore
from fraud_pipelines.reasons import (
    FALLBACK_REASONS,
    MODEL_EXPIRED,
    MODEL_FAILED,
    NO_CHAMPION,
    ONLINE_STATE_TOO_SHORT,
    ONLINE_STORE_UNAVAILABLE,
)
from serving.champion import Champion, Loaded
from serving.metrics import metrics
from serving.problems import Problem
from serving.schemas import Answer, ModelVersion, Reason, Thresholds, Transaction

# Two requests with one transaction_id are the same one when these agree.
IDENTITY = ("event_time_us", "card_id", "merchant_id", "amount_minor", "currency")
_EPOCH = datetime(1970, 1, 1)

logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(frozen=True)
class Verdict:
    """What one transaction comes out as, before it is stored."""

    decision: str
    probability: float | None = None
    reasons: list[dict[str, Any]] = field(default_factory=list)
    features: dict[str, float | None] = field(default_factory=dict)
    state_as_of: datetime | None = None
    fallback: str | None = None


class Scorer:
    """Scores transactions one at a time, in the order of the calls.

    Args:
        loaded: the champion, or why there is none.
        open_ledger, open_online_store: called until they succeed once, so the service starts and recovers without them.
        token_key: HMAC key of card tokens.
    """

    def __init__(
        self,
        loaded: Loaded,
        open_ledger: Callable[[], Ledger],
        open_online_store: Callable[[], OnlineStore],
        token_key: bytes,
    ) -> None:
        self.loaded = loaded
        self._open_ledger, self._open_online_store = open_ledger, open_online_store
        self._ledger: Ledger | None = None
        self._online_store: OnlineStore | None = None
        self._token_key = token_key

    def score(self, transaction: Transaction) -> Answer:
        """Decide on one transaction, store the decision, and only then answer. Blocks: call it in a thread.

        Raises:
            Problem: 503 when the ledger is away, 409 when the identifier belongs to another transaction.
        """
        started = time.perf_counter()
        loaded = self.loaded  # read once: a swap in between must not mix two models
        canonical = transaction.canonical(self._token_key)
        scored = ScoredTransaction(**canonical)
        verdict = self._judge(loaded, scored)
        with _stage("record"):
            new = _decision(canonical, verdict, loaded.champion)
            stored = self._record(new)
            is_repeat = stored is not new
            if is_repeat and any(stored.request.get(name) != canonical[name] for name in IDENTITY):
                raise Problem(
                    409,
                    "transaction_id_reused",
                    "This transaction_id was decided for another transaction: "
                    "its time, card, merchant, amount or currency differ.",
                    field="transaction_id",
                    next_step="Send a new transaction_id, or exactly the same transaction to get its decision.",
                )
            # Also for a repeat: the first attempt may have ended between the two stores.
            self._make_visible(scored)
        elapsed = time.perf_counter() - started
        if not is_repeat:
            _count(stored)
        metrics().latency.labels("total").observe(elapsed)
        return _answer(stored, elapsed)

    def open_stores(self) -> None:
        """Open both stores now, so that the first caller does not wait for it; one that is away is tried again later.

        Raises:
            SettingInvalid: a URL names no known store, which no later attempt would change.
        """
        for open_store in (self.ledger, self.online_store):
            try:
                open_store()
            except RetryableError as error:
                logger.warning("Starting without a store: %s", error)

    def is_ready(self) -> bool:
        """Whether a decision could be stored now."""
        try:
            self.ledger().decision("readiness probe")
        except LedgerUnavailable:
            return False
        return True

    def ledger(self) -> Ledger:
        """The ledger, opened on first use."""
        if self._ledger is None:
            self._ledger = self._open_ledger()
        return self._ledger

    def online_store(self) -> OnlineStore:
        """The online store, opened on first use."""
        if self._online_store is None:
            self._online_store = self._open_online_store()
        return self._online_store

    def _judge(self, loaded: Loaded, transaction: ScoredTransaction) -> Verdict:
        if loaded.champion is None:
            return _review(loaded.cause or NO_CHAMPION)
        if loaded.is_expired(utc_now()):
            return _review(MODEL_EXPIRED)
        try:
            with _stage("features"):
                store = self.online_store()
                history = store.history(transaction.card_id, transaction.merchant_id, transaction.event_time_us)
                state_as_of = store.as_of()
                features = loaded.champion.engine.vector(transaction, history)
        except OnlineStateTooShort as error:
            # The windows of this model's features have grown; counting what is there would be a wrong number.
            logger.warning("Online store: %s", error)
            return _review(ONLINE_STATE_TOO_SHORT)
        except FraudPipelinesError as error:
            logger.warning("Online store: %s", error)
            return _review(ONLINE_STORE_UNAVAILABLE)
        try:
            return _model_verdict(loaded.champion, features, state_as_of)
        except Exception:
            # Whatever the model does wrong, the payment waits for an answer: a person decides, and the log says why.
            logger.exception("Model version %s could not score", loaded.champion.version)
            return _review(MODEL_FAILED, features, state_as_of)

    def _record(self, decision: Decision) -> Decision:
        try:
            return self.ledger().record_decision(decision)
        except LedgerUnavailable as error:
            logger.warning("Ledger: %s", error)
            raise Problem(
                503,
                "ledger_unavailable",
                "The decision cannot be stored now, so none is given.",
                next_step="Send the same transaction again shortly; until then apply your own fallback.",
            ) from None

    def _make_visible(self, transaction: ScoredTransaction) -> None:
        try:
            self.online_store().record_transaction(transaction)
        except FraudPipelinesError as error:
            # The decision stands: it is durable, and the next rebuild of the online state brings the transaction.
            metrics().state_behind.inc()
            logger.warning("Online store: %s", error)


def _model_verdict(champion: Champion, features: dict[str, float | None], state_as_of: datetime | None) -> Verdict:
    bundle = champion.bundle
    with _stage("model"):
        matrix = to_matrix([features], bundle.feature_names)
        probability = float(bundle.predict(matrix)[0])
        if not math.isfinite(probability):
            raise ValueError(f"expected a finite probability, found {probability}")
        decision = bundle.thresholds.decide(probability)
    reasons: list[dict[str, Any]] = []
    # An approval owes nobody an explanation, and exact contributions cost more than the score itself.
    if decision != APPROVE:
        with _stage("reasons"):
            reasons = bundle.reasons(matrix, features)
    return Verdict(decision, probability, reasons, features, state_as_of)


def _review(
    cause: str, features: dict[str, float | None] | None = None, state_as_of: datetime | None = None
) -> Verdict:
    reason = {"code": cause, "words": FALLBACK_REASONS[cause].words, "contribution": None}
    return Verdict(REVIEW, None, [reason], features or {}, state_as_of, cause)


def _decision(canonical: dict[str, Any], verdict: Verdict, champion: Champion | None) -> Decision:
    decides = champion if verdict.fallback is None else None
    return Decision(
        transaction_id=canonical["transaction_id"],
        event_time=_EPOCH + timedelta(microseconds=canonical["event_time_us"]),
        card_id=canonical["card_id"],
        merchant_id=canonical["merchant_id"],
        decision=verdict.decision,  # type: ignore[arg-type]
        fraud_probability=verdict.probability,
        model_version=decides.version if decides else None,
        bundle_digest=decides.digest if decides else None,
        thresholds=(
            {"review": decides.bundle.thresholds.review, "block": decides.bundle.thresholds.block} if decides else {}
        ),
        reasons=verdict.reasons,
        features=verdict.features,
        request={
            **canonical,
            # What the answer tells beyond the decision's own columns, so that a repeat tells the same.
            "served": {
                "model_name": decides.name if decides else None,
                "feature_spec_hash": champion.spec_hash if champion else None,
                "state_as_of": verdict.state_as_of.isoformat() if verdict.state_as_of else None,
            },
        },
        fallback=verdict.fallback,
    )


def _answer(stored: Decision, elapsed_seconds: float) -> Answer:
    served = stored.request["served"]
    model = None
    if stored.model_version is not None and stored.bundle_digest is not None:
        model = ModelVersion(
            name=served["model_name"], version=stored.model_version, bundle_digest=stored.bundle_digest
        )
    as_of = served["state_as_of"]
    return Answer(
        transaction_id=stored.transaction_id,
        decision=stored.decision,
        fraud_probability=stored.fraud_probability,
        reasons=[Reason(**reason) for reason in stored.reasons],
        thresholds=Thresholds(**stored.thresholds) if stored.thresholds else None,
        model=model,
        feature_spec_hash=served["feature_spec_hash"],
        state_as_of=datetime.fromisoformat(as_of).replace(tzinfo=UTC) if as_of else None,
        processing_time_ms=round(elapsed_seconds * 1000, 3),
        decided_at=stored.decided_at.replace(tzinfo=UTC),
        fallback=stored.fallback,
    )


def _count(stored: Decision) -> None:
    if stored.fallback:
        metrics().fallback.labels(stored.fallback).inc()
    if stored.fraud_probability is not None:
        metrics().score.observe(stored.fraud_probability)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        metrics().latency.labels(name).observe(time.perf_counter() - started)
