"""What the forwarder does with records: decisions, feedback and comparisons become rows of the ledger."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import msgspec
from sqlalchemy.exc import DataError, IntegrityError

from fraud_pipelines.errors import ContractBroken, PermanentError, RetryableError
from fraud_pipelines.ledger import DecisionRow, Feedback, Ledger, ShadowDecision
from fraud_pipelines.ledger.records import written, written_us
from serving.answers import DECISION_RECORD, feedback_of, is_decision, shadow_of


class FeatureNames:
    """The names behind the lists of feature values in records, by hash of the feature spec.

    They are on disk before the first record that needs them, so that a process after this one, with another model, can
    still deliver it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, list[str]] = {}

    def remember(self, spec_hash: str, names: Sequence[str]) -> None:
        """Keep the names of a spec; again changes nothing."""
        if spec_hash in self._known:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(spec_hash)
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            with draft.open("w") as file:
                json.dump(list(names), file)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        self._known[spec_hash] = list(names)

    def of(self, spec_hash: str) -> list[str] | None:
        """The names of a spec; None of one that this host never served."""
        if spec_hash not in self._known:
            try:
                self._known[spec_hash] = json.loads(self._path(spec_hash).read_text())
            except FileNotFoundError:
                return None
        return self._known[spec_hash]

    def _path(self, spec_hash: str) -> Path:
        return self._folder / f"{spec_hash}.json"


class _Model(msgspec.Struct):
    version: str
    bundle_digest: str


class _Answer(msgspec.Struct):
    """What the ledger has columns for; it stores the rest as text."""

    transaction_id: str
    decision: str
    fraud_probability: float | None
    anomaly_score: float | None
    reasons: msgspec.Raw
    thresholds: msgspec.Raw
    model: _Model | None
    feature_spec_hash: str | None
    decided_at: str
    fallback: str | None


class _Request(msgspec.Struct):
    event_time_us: int
    card_id: str
    merchant_id: str


_answer_in, _request_in = msgspec.json.Decoder(_Answer).decode, msgspec.json.Decoder(_Request).decode


def row_of(record: bytes) -> tuple[DecisionRow, int]:
    """The ledger's row of a record, and how many features it has.

    The record's parts are taken over as they are written: inside a JSON string a quote is escaped, so what separates
    the parts cannot stand in one.

    Raises:
        ValueError, msgspec.MsgspecError: it is no record of a decision.
    """
    answer_to = record.index(b',"request":{')
    request_to = record.index(b'},"features":', answer_to)
    answer_text, request_text = record[len(DECISION_RECORD) : answer_to], record[answer_to + 11 : request_to + 1]
    features = record[request_to + 13 : -1]
    answer, request = _answer_in(answer_text), _request_in(request_text)
    model, thresholds = answer.model, str(answer.thresholds, "utf-8")
    is_without = features == b"null"
    row = DecisionRow(
        answer.transaction_id,
        written_us(request.event_time_us),
        request.card_id,
        request.merchant_id,
        answer.decision,
        answer.fraud_probability,
        answer.anomaly_score,
        model.version if model else None,
        model.bundle_digest if model else None,
        "{}" if thresholds == "null" else thresholds,
        str(answer.reasons, "utf-8"),
        "[]" if is_without else features.decode(),
        answer.feature_spec_hash,
        request_text.decode(),
        answer.fallback,
        _written(answer.decided_at),
        answer_text.decode(),
    )
    return row, 0 if is_without else features.count(b",") + 1


@lru_cache(maxsize=256)  # a group of decisions has one moment
def _written(moment: str) -> str:
    return written(datetime.fromisoformat(moment).astimezone(UTC).replace(tzinfo=None))


class Delivery:
    """Brings records into the ledger, each once however often it comes.

    Args:
        open_ledger: called until it succeeds once.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], names: FeatureNames) -> None:
        self._open_ledger, self._names = open_ledger, names

    def __call__(self, records: list[bytes]) -> None:
        """Store a batch.

        Raises:
            LedgerUnavailable: it is away; the same batch may come again.
            ContractBroken: a record is none of ours, or breaks a rule of the ledger's tables.
        """
        try:
            ledger = self._open_ledger()
        except PermanentError as error:
            # Of the installation, not of these records: they wait until somebody has put it right.
            raise RetryableError(str(error)) from error
        rows: list[DecisionRow] = []
        names: dict[str, list[str]] = {}
        feedback: list[Feedback] = []
        side_by_side: list[ShadowDecision] = []
        for record in records:
            try:
                if is_decision(record):
                    row, features = row_of(record)
                    if features and row.feature_spec_hash is not None:
                        if row.feature_spec_hash not in names:
                            names[row.feature_spec_hash] = self._names_of(ledger, row.feature_spec_hash)
                        expected = len(names[row.feature_spec_hash])
                        if features != expected:
                            raise ValueError(f"{features} features where the spec has {expected}")
                    rows.append(row)
                elif record.startswith(b'{"kind":"shadow"'):
                    side_by_side.append(shadow_of(record))
                else:
                    feedback.append(feedback_of(record))
            except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
                raise ContractBroken(
                    f"A record of the journal cannot be read: {type(error).__name__} {error}. It is kept among the "
                    "dead letters beside the journal."
                ) from error
        try:
            if rows:
                ledger.record_rows(rows, names)
            if feedback:
                ledger.record_feedback(feedback)
            if side_by_side:
                ledger.record_shadow_decisions(side_by_side)
        except (IntegrityError, DataError) as error:
            # The driver's words, not SQLAlchemy's: those would repeat the values.
            raise ContractBroken(f"The ledger refuses a record: {type(error.orig).__name__}.") from None

    def _names_of(self, ledger: Ledger, spec_hash: str) -> list[str]:
        names = self._names.of(spec_hash) or ledger.feature_names(spec_hash)
        if names is None:
            # Another host served it and will deliver its own record, which brings the names.
            raise RetryableError(f"The names of the features of spec {spec_hash} are not known here yet.")
        return names
