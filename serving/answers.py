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
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import starmap
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
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
_NO_REQUEST = dict.fromkeys(field.name for field in fields(ScoredTransaction))
_ENCODER = msgspec.json.Encoder()
_values_of, _identity_of = attrgetter(*_NO_REQUEST), attrgetter(*IDENTITY)


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


class Answer(msgspec.Struct, gc=False, frozen=True):
    """An answer as JSON, all but the time it took."""

    content: bytes
    outcome: Outcome


class _Request(msgspec.Struct, gc=False, omit_defaults=True):
    """What was asked, without what it does not have: the fields of ScoredTransaction in their order."""

    transaction_id: str
    event_time_us: int
    card_id: str
    merchant_id: str
    amount_minor: int
    currency: str
    customer_id: str | None = None
    category: str | None = None
    channel: str | None = None
    country: str | None = None
    device_id: str | None = None
    home_latitude: float | None = None
    home_longitude: float | None = None
    merchant_latitude: float | None = None
    merchant_longitude: float | None = None


class _Told(msgspec.Struct, gc=False):
    """What is answered, all but the time it took."""

    transaction_id: str
    decision: str
    fraud_probability: float | None
    anomaly_score: float | None
    confidence: msgspec.Raw | None
    reasons: Sequence[Mapping[str, Any]]
    thresholds: msgspec.Raw
    model: msgspec.Raw
    feature_spec_hash: msgspec.Raw
    state_as_of: msgspec.Raw
    feature_age_seconds: float | None
    decided_at: msgspec.Raw
    fallback: str | None


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """What every answer of one model repeats, as JSON that is made once."""

    version: str
    thresholds: msgspec.Raw
    model: msgspec.Raw
    spec_hash: msgspec.Raw
    lowest: tuple[float, ...]
    bands: tuple[msgspec.Raw, ...]

    @classmethod
    def of(cls, name: str, version: str, digest: str, bundle: Bundle) -> "ModelFacts":
        return cls(
            version=version,
            thresholds=_raw({"review": bundle.thresholds.review, "block": bundle.thresholds.block}),
            model=_raw({"name": name, "version": version, "bundle_digest": digest}),
            spec_hash=_raw(bundle.spec_hash),
            lowest=tuple(band.low for band in bundle.bands),
            bands=tuple(_raw(_described(band)) for band in bundle.bands),
        )

    def confidence(self, probability: float) -> msgspec.Raw | None:
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
    state_as_of = _raw(None if as_of_us is None else from_us(as_of_us).replace(tzinfo=UTC))
    moment = _raw(decided_at)
    told: list[_Told] = []
    outcomes: list[Outcome] = []
    # Of each model, and of each cause why none decides, the same for every answer.
    repeated: dict[tuple[ModelFacts | None, str | None, str], tuple[ModelFacts | None, msgspec.Raw, Outcome]] = {}
    for transaction, verdict in zip(transactions, verdicts, strict=True):
        decision, probability, anomaly_score, reasons, _, cause, model = verdict
        model = model or facts
        found = repeated.get((model, cause, decision))
        if found is None:
            decides = model if cause is None else None
            outcome = Outcome(decision, decides.version if decides else "none")
            found = repeated[model, cause, decision] = decides, model.spec_hash if model else _NULL, outcome
        decides, spec_hash, outcome = found
        told.append(
            _Told(
                transaction.transaction_id,
                decision,
                probability,
                anomaly_score,
                decides.confidence(probability) if decides and probability is not None else None,
                reasons,
                decides.thresholds if decides else _NULL,
                decides.model if decides else _NULL,
                spec_hash,
                state_as_of,
                None if as_of_us is None else _age(transaction.event_time_us - as_of_us),
                moment,
                cause,
            )
        )
        outcomes.append(outcome)
    return list(map(Answer, _lines(told), outcomes))


def records_of(
    transactions: Sequence[ScoredTransaction], answers: Sequence[Answer], features: Sequence[np.ndarray | None]
) -> list[bytes]:
    """The records of decisions, from their answers and the feature values they were made from."""
    requests = _lines(list(starmap(_Request, map(_values_of, transactions))))
    served = iter(_vectors([vector for vector in features if vector is not None]))
    return [
        b"".join(
            (
                *(DECISION_RECORD, answer.content, b',"request":', request),
                *(b',"features":', b"null" if vector is None else next(served), b"}"),
            )
        )
        for answer, request, vector in zip(answers, requests, features, strict=True)
    ]


def _vectors(vectors: Sequence[np.ndarray]) -> list[memoryview]:
    """Each vector as JSON, in one call for all: they hold numbers alone, so what ends one stands nowhere inside."""
    if not vectors:
        return []
    written = orjson.dumps(np.array(vectors), option=orjson.OPT_SERIALIZE_NUMPY)
    ends = (np.flatnonzero(np.frombuffer(written, np.uint8) == ord("]")) + 1).tolist()[:-1]
    everything = memoryview(written)
    # Behind the bracket that opens them all, and the comma after each.
    return [everything[start:end] for start, end in zip([1, *(end + 1 for end in ends[:-1])], ends, strict=True)]


def _lines(values: Sequence[object]) -> list[bytes]:
    """Each value as JSON, in one call for all: what separates them, a line break, is escaped inside of them."""
    return _ENCODER.encode_lines(values).split(b"\n")[:-1]


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_ENCODER.encode(value))


def _age(age_us: int) -> float:
    """The age of features in seconds, to the millisecond; of a transaction from before they were brought up to date it
    is 0."""
    return (age_us + 500) // 1000 / 1000 if age_us > 0 else 0.0


_NULL = _raw(None)


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
    return _identity_of(one) == _identity_of(other)


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
        return tuple(self.request.get(name) for name in IDENTITY) == _identity_of(transaction)

    @property
    def as_answer(self) -> Answer:
        """The answer as it was given, all but the time it took."""
        model = self.answer.get("model") or {}
        return Answer(_ENCODER.encode(self.answer), Outcome(self.answer["decision"], model.get("version") or "none"))

    @property
    def record(self) -> bytes:
        """The record it was read from."""
        features = None if self.features is None else np.array(self.features, np.float64)
        return records_of([self.transaction], [self.as_answer], [features])[0]

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
