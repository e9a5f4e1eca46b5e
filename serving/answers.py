"""One decision as bytes: the answer the caller gets, and the record that is durable before the caller gets it.

A record is one line of JSON: {"kind": "decision", "answer": {...}, "request": {...}, "features": [...] or null}. It
goes to the journal, from there to the ledger, and beside the transaction into the online store, which returns it to who
sends the transaction again. A request is without the fields it does not have. Features are a list in the order of the
spec whose hash the answer names: their names, a hundred of them, would be most of every record. They are text, because
shortest decimals come back bit for bit and, many of them whole numbers or missing, take two thirds of the bytes that
base64 of doubles would.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import orjson

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import Decision, Feedback, ShadowDecision
from fraud_pipelines.models.bands import Band
from fraud_pipelines.models.bento import BENTO_NAME
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.online_store.state import from_us
from fraud_pipelines.reasons import FALLBACK_REASONS

# Two requests with one transaction_id are the same one when these agree.
IDENTITY = ("event_time_us", "card_id", "merchant_id", "amount_minor", "currency")
# How the record of a decision begins.
DECISION_RECORD = b'{"kind":"decision","answer":'
_FEEDBACK = ("feedback_id", "transaction_id", "verdict", "actor", "known_at", "note")
_FIELDS = fields(ScoredTransaction)
_NO_REQUEST = dict.fromkeys(field.name for field in _FIELDS)
_REQUIRED = tuple(field.name for field in _FIELDS if field.default is MISSING)
_OPTIONAL = tuple(field.name for field in _FIELDS if field.default is None)
_NONE_OF_THEM = (None,) * len(_OPTIONAL)
_REQUIRED_OF, _OPTIONAL_OF, _IDENTITY_OF = attrgetter(*_REQUIRED), attrgetter(*_OPTIONAL), attrgetter(*IDENTITY)


class Verdict(NamedTuple):
    """What one transaction comes out as. `features` are the served vector, shape (f,); None in a fallback.

    `model` is the one that decided, where that is not the champion.
    """

    decision: str
    probability: float | None = None
    anomaly_score: float | None = None
    reasons: Sequence[Mapping[str, Any]] = ()
    features: np.ndarray | None = None
    fallback: str | None = None
    model: "ModelFacts | None" = None


def fallback(cause: str, decision: str, features: np.ndarray | None = None) -> Verdict:
    """What a rule decides when no model can, and why."""
    reason = {
        "code": cause,
        "words": FALLBACK_REASONS[cause].words,
        "feature": None,
        "value": None,
        "contribution": None,
    }
    return Verdict(decision, reasons=[reason], features=features, fallback=cause)


class Outcome(NamedTuple):
    """What metrics count an answer by: the decision, and the version of the model that made it or "none"."""

    decision: str
    model_version: str


class Answer(NamedTuple):
    """An answer as JSON, all but the time it took."""

    content: bytes
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What every answer of one model repeats, as JSON that is made once."""

    version: str
    thresholds_and_model: bytes
    spec_hash: bytes
    lowest: tuple[float, ...]
    bands: tuple[orjson.Fragment, ...]

    @classmethod
    def of(cls, name: str, version: str, digest: str, bundle: Bundle) -> "ModelFacts":
        thresholds = {"review": bundle.thresholds.review, "block": bundle.thresholds.block}
        model = {"name": name, "version": version, "bundle_digest": digest}
        return cls(
            version=version,
            thresholds_and_model=b'"thresholds":%b,"model":%b' % (orjson.dumps(thresholds), orjson.dumps(model)),
            spec_hash=orjson.dumps(bundle.spec_hash),
            lowest=tuple(band.low for band in bundle.bands),
            bands=tuple(orjson.Fragment(orjson.dumps(_described(band))) for band in bundle.bands),
        )

    def confidence(self, probability: float) -> orjson.Fragment | None:
        """The band of a probability; None where the model has none."""
        return self.bands[bisect_right(self.lowest, probability) - 1] if self.bands else None


def answers_of(
    transactions: Sequence[ScoredTransaction],
    verdicts: Sequence[Verdict],
    facts: ModelFacts | None,
    as_of_us: int | None,
    decided_at: datetime,
) -> list[Answer]:
    """The answers of a group, all but the time they took.

    Args:
        facts: of the model that decided, or would have; None without one. A verdict may name another.
        as_of_us: when the online store was last filled from the warehouse.
        decided_at: UTC.
    """
    state_as_of = None if as_of_us is None else from_us(as_of_us).replace(tzinfo=UTC)
    # Most of an answer's bytes are the same for all that one model decided on, or one cause: all but its beginning and
    # the age of the features.
    repeated: dict[tuple[ModelFacts | None, str | None], tuple[bytes, bytes]] = {}
    outcomes: dict[tuple[str, ModelFacts | None, str | None], Outcome] = {}
    answers = []
    for transaction, verdict in zip(transactions, verdicts, strict=True):
        model, cause, probability = verdict.model or facts, verdict.fallback, verdict.probability
        around_age = repeated.get((model, cause))
        if around_age is None:
            around_age = repeated[model, cause] = _repeated(model, cause, state_as_of, decided_at)
        begun = orjson.dumps(
            {
                "transaction_id": transaction.transaction_id,
                "decision": verdict.decision,
                "fraud_probability": probability,
                "anomaly_score": verdict.anomaly_score,
                "confidence": model.confidence(probability)
                if model and cause is None and probability is not None
                else None,
                "reasons": verdict.reasons,
            }
        )
        age = b"null" if as_of_us is None else _age(transaction.event_time_us - as_of_us)
        outcome = outcomes.get((verdict.decision, model, cause))
        if outcome is None:
            version = model.version if model and cause is None else None
            outcome = outcomes[verdict.decision, model, cause] = Outcome(verdict.decision, version or "none")
        answers.append(Answer(b"%b%b%b%b" % (begun[:-1], around_age[0], age, around_age[1]), outcome))
    return answers


def _repeated(
    model: ModelFacts | None, cause: str | None, state_as_of: datetime | None, decided_at: datetime
) -> tuple[bytes, bytes]:
    """What stands in an answer between its reasons and the age of the features, and behind that."""
    before_age = b',%b,"feature_spec_hash":%b,"state_as_of":%b,"feature_age_seconds":' % (
        model.thresholds_and_model if model and cause is None else b'"thresholds":null,"model":null',
        model.spec_hash if model else b"null",
        orjson.dumps(state_as_of, option=orjson.OPT_UTC_Z),
    )
    moment = orjson.dumps(decided_at, option=orjson.OPT_UTC_Z)
    return before_age, b',"decided_at":%b,"fallback":%b}' % (moment, orjson.dumps(cause))


def _age(age_us: int) -> bytes:
    """The age of features in seconds, as JSON; of a transaction from before they were brought up to date it is 0."""
    # Of 64 bits of microseconds: where numbers are that small, Python writes them as JSON does, without exponent.
    return b"%r" % round(age_us / 1e6, 3) if age_us > 0 else b"0.0"


def record_of(transaction: ScoredTransaction, answer: bytes, features: np.ndarray | None) -> bytes:
    """The record of a decision, from its answer."""
    request = dict(zip(_REQUIRED, _REQUIRED_OF(transaction), strict=True))
    optional = _OPTIONAL_OF(transaction)
    if optional != _NONE_OF_THEM:
        request |= {name: value for name, value in zip(_OPTIONAL, optional, strict=True) if value is not None}
    vector = b"null" if features is None else orjson.dumps(features, option=orjson.OPT_SERIALIZE_NUMPY)
    return b'%b%b,"request":%b,"features":%b}' % (DECISION_RECORD, answer, orjson.dumps(request), vector)


def is_decision(record: bytes) -> bool:
    """Whether a record is of a decision."""
    return record.startswith(DECISION_RECORD)


def feedback_record(feedback: Feedback) -> bytes:
    """The record of an analyst's feedback: {"kind": "feedback", ...}."""
    values = {name: getattr(feedback, name) for name in _FEEDBACK}
    return orjson.dumps({"kind": "feedback", **values})


def feedback_of(record: bytes) -> Feedback:
    """The feedback of a record.

    Raises:
        KeyError, ValueError: it is none.
    """
    found = orjson.loads(record)
    values = {name: found[name] for name in _FEEDBACK}
    return Feedback(**{**values, "known_at": datetime.fromisoformat(values["known_at"])})


def shadow_record(decision: ShadowDecision) -> bytes:
    """The record of what champion and challenger said of a payment: {"kind": "shadow", ...}."""
    return orjson.dumps({"kind": "shadow", **vars(decision)})


def shadow_of(record: bytes) -> ShadowDecision:
    """What champion and challenger said, of a record.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    found = orjson.loads(record)
    del found["kind"]
    moments = {name: datetime.fromisoformat(found[name]) for name in ("event_time", "decided_at")}
    return ShadowDecision(**{**found, **moments})


def is_same(one: ScoredTransaction, other: ScoredTransaction) -> bool:
    """Whether two requests with one transaction_id are the same one."""
    return _IDENTITY_OF(one) == _IDENTITY_OF(other)


def took(seconds: float) -> bytes:
    """What an answer ends with in place of its last brace: the time spent on the request."""
    return b',"processing_time_ms":%.3f}' % (seconds * 1000)


@dataclass(frozen=True)
class StoredDecision:
    """A record that was read back."""

    answer: dict[str, Any]
    request: dict[str, Any]
    features: list[float | None] | None

    @classmethod
    def read(cls, record: bytes) -> "StoredDecision":
        found = orjson.loads(record)
        return cls(found["answer"], _whole(found["request"]), found["features"])

    @classmethod
    def of(cls, decision: Decision) -> "StoredDecision":
        """A decision as the ledger has it."""
        answer = decision.answer or _answer_of_columns(decision)
        return cls(answer, _whole(decision.request), list(decision.features.values()) or None)

    def is_of(self, transaction: ScoredTransaction) -> bool:
        """Whether it is a decision on this very transaction."""
        return tuple(self.request.get(name) for name in IDENTITY) == _IDENTITY_OF(transaction)

    @property
    def as_answer(self) -> Answer:
        """The answer as it was given, all but the time it took."""
        model = self.answer.get("model") or {}
        return Answer(orjson.dumps(self.answer), Outcome(self.answer["decision"], model.get("version") or "none"))

    @property
    def record(self) -> bytes:
        """The record it was read from."""
        features = None if self.features is None else np.array(self.features, np.float64)
        return record_of(self.transaction, self.as_answer.content, features)

    @property
    def transaction(self) -> ScoredTransaction:
        """What was decided on."""
        return ScoredTransaction(**self.request)


def _answer_of_columns(decision: Decision) -> dict[str, Any]:
    """What was answered, as far as it is known of a decision from before answers were stored."""
    has_model = decision.fallback is None and decision.model_version is not None
    return {
        "transaction_id": decision.transaction_id,
        "decision": decision.decision,
        "fraud_probability": decision.fraud_probability,
        "anomaly_score": decision.anomaly_score,
        "confidence": None,
        "reasons": decision.reasons,
        "thresholds": decision.thresholds or None,
        "model": {"name": BENTO_NAME, "version": decision.model_version, "bundle_digest": decision.bundle_digest}
        if has_model
        else None,
        "feature_spec_hash": decision.feature_spec_hash,
        "state_as_of": None,
        "feature_age_seconds": None,
        "decided_at": f"{decision.decided_at.isoformat()}Z",
        "fallback": decision.fallback,
    }


def _described(band: Band) -> dict[str, Any]:
    low, high = band.interval or (None, None)
    return {
        "from": band.low,
        "to": band.high,
        "observed_rate": band.observed_rate,
        "observed_rate_low": low,
        "observed_rate_high": high,
        "transactions": band.transactions,
    }


def _whole(request: Mapping[str, Any]) -> dict[str, Any]:
    """A request with every field; a record leaves out those that are absent."""
    return {**_NO_REQUEST, **request}
