"""What the forwarder does with records: decisions, feedback and comparisons become rows of the ledger."""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

import msgspec
from sqlalchemy.exc import DataError, IntegrityError

from fraud_pipelines.errors import ContractBroken, PermanentError, RetryableError
from fraud_pipelines.ledger import DecisionRow, Feedback, Ledger, ShadowDecision
from fraud_pipelines.ledger.decision_log import PIECE_ROWS
from fraud_pipelines.ledger.records import FIRST_US, LAST_US, written, written_us
from serving.answers import DECISION_RECORD, feedback_of, is_decision, shadow_of

_TRANSACTION_ID_FROM = len(DECISION_RECORD + b'{"transaction_id":"')


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


class _Model(msgspec.Struct, gc=False):
    version: str
    bundle_digest: str


class _Answer(msgspec.Struct, gc=False):
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


class _Request(msgspec.Struct, gc=False):
    event_time_us: Annotated[int, msgspec.Meta(ge=FIRST_US, le=LAST_US)]
    card_id: str
    merchant_id: str


# Of many at once: each call has its price.
_answers_in = msgspec.json.Decoder(list[_Answer]).decode
_requests_in = msgspec.json.Decoder(list[_Request]).decode

# What DecisionRow(...) does, for half its price: the constructor of a NamedTuple is a function of Python's.
_row_of: Callable[[tuple[str | float | None, ...]], DecisionRow] = partial(tuple.__new__, DecisionRow)


def rows_of(records: Sequence[bytes]) -> tuple[list[DecisionRow], list[int]]:
    """The ledger's rows of records, and how many features each has.

    The records' parts are taken over as they are written: inside a JSON string a quote is escaped, so what separates
    the parts cannot stand in one.

    Raises:
        ValueError, msgspec.MsgspecError: one is no record of a decision.
    """
    answers: list[str] = []
    requests: list[str] = []
    features: list[str] = []
    for record in records:
        text = record.decode()
        answer_to = text.index(',"request":{')
        request_to = text.index('},"features":', answer_to) + 1
        answers.append(text[len(DECISION_RECORD) : answer_to])
        requests.append(text[answer_to + len(',"request":') : request_to])
        features.append(text[request_to + len(',"features":') : -1])
    read_requests = _requests_in(f"[{','.join(requests)}]")
    event_times = written_us([request.event_time_us for request in read_requests])
    rows = []
    for answer, answer_text, request, request_text, event_time, vector in zip(
        _answers_in(f"[{','.join(answers)}]"), answers, read_requests, requests, event_times, features, strict=True
    ):
        model, thresholds = answer.model, str(answer.thresholds, "utf-8")
        rows.append(
            _row_of(
                (
                    answer.transaction_id,
                    event_time,
                    request.card_id,
                    request.merchant_id,
                    answer.decision,
                    answer.fraud_probability,
                    answer.anomaly_score,
                    model.version if model else None,
                    model.bundle_digest if model else None,
                    "{}" if thresholds == "null" else thresholds,
                    str(answer.reasons, "utf-8"),
                    "[]" if vector == "null" else vector,
                    answer.feature_spec_hash,
                    request_text,
                    answer.fallback,
                    _written(answer.decided_at),
                    answer_text,
                )
            )
        )
    return rows, [0 if vector == "null" else vector.count(",") + 1 for vector in features]


def _transaction_id(record: bytes) -> bytes:
    """What identifies the transaction of a decision, escaped; up to its first quote, where it has one."""
    return record[_TRANSACTION_ID_FROM : record.find(b'"', _TRANSACTION_ID_FROM)]


@lru_cache(maxsize=256)  # a group of decisions has one moment
def _written(moment: str) -> str:
    return written(datetime.fromisoformat(moment).astimezone(UTC).replace(tzinfo=None))


@contextmanager
def _reading_records() -> Iterator[None]:
    """Turn what is wrong with a record into a ContractBroken."""
    try:
        yield
    except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
        raise ContractBroken(
            f"A record of the journal cannot be read: {type(error).__name__} {error}. It is kept among the dead "
            "letters beside the journal."
        ) from error


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
        decisions: list[bytes] = []
        feedback: list[Feedback] = []
        side_by_side: list[ShadowDecision] = []
        with _reading_records():
            for record in records:
                if is_decision(record):
                    decisions.append(record)
                elif record.startswith(b'{"kind":"shadow"'):
                    side_by_side.append(shadow_of(record))
                else:
                    feedback.append(feedback_of(record))
        # As the ledger's largest index has them: where that is large, each of its pages is then changed once. Of two
        # for one transaction the first stays the first.
        decisions.sort(key=_transaction_id)
        try:
            if decisions:
                ledger.record_rows(self._pieces(ledger, decisions))
            if feedback:
                ledger.record_feedback(feedback)
            if side_by_side:
                ledger.record_shadow_decisions(side_by_side)
        except (IntegrityError, DataError) as error:
            # The driver's words, not SQLAlchemy's: those would repeat the values.
            raise ContractBroken(f"The ledger refuses a record: {type(error.orig).__name__}.") from None

    def _pieces(
        self, ledger: Ledger, records: Sequence[bytes]
    ) -> Iterator[tuple[list[DecisionRow], dict[str, list[str]]]]:
        """The rows of decisions, a few at a time, and the names of their features by hash of the spec."""
        names: dict[str, list[str]] = {}
        for start in range(0, len(records), PIECE_ROWS):
            with _reading_records():
                rows, counts = rows_of(records[start : start + PIECE_ROWS])
            for spec_hash, features in {(row.feature_spec_hash, n) for row, n in zip(rows, counts, strict=True) if n}:
                if spec_hash is None:
                    continue
                if spec_hash not in names:
                    names[spec_hash] = self._names_of(ledger, spec_hash)
                expected = len(names[spec_hash])
                with _reading_records():
                    if features != expected:
                        raise ValueError(f"{features} features where the spec has {expected}")
            yield rows, names

    def _names_of(self, ledger: Ledger, spec_hash: str) -> list[str]:
        names = self._names.of(spec_hash) or ledger.feature_names(spec_hash)
        if names is None:
            # Another host served it and will deliver its own record, which brings the names.
            raise RetryableError(f"The names of the features of spec {spec_hash} are not known here yet.")
        return names
