"""What the ledger remembers, one frozen record per kind of row. Times are naive UTC."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.raw.tokens import mask_card_numbers
from fraud_pipelines.verdicts import Verdict

# The ledger's tables that follow the stream of payments, whose rows may arrive long after their moment.
Log = Literal["decisions", "feedback"]
# The moments that a datetime can be, in microseconds since 1970.
FIRST_US, LAST_US = (
    (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    for moment in (datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))
)


def utc_now() -> datetime:
    """Moment a ledger row is written: a fact about the row, never an input of a computation."""
    return datetime.now(UTC).replace(tzinfo=None)


def written(moment: datetime) -> str:
    """A naive UTC moment as SQLAlchemy writes it into SQLite; PostgreSQL takes that as well."""
    return moment.isoformat(" ", "microseconds")


def written_us(moments_us: Sequence[int]) -> list[str]:
    """`written` of moments in microseconds since 1970, of FIRST_US to LAST_US, in a fifth of the time."""
    texts = np.datetime_as_string(np.array(moments_us, np.int64).view("datetime64[us]"))
    texts.view("U1").reshape(-1, texts.itemsize // 4)[:, len("1970-01-01")] = " "  # numpy writes a T
    return texts.tolist()


@dataclass(frozen=True)
class Ingestion:
    """One source (a file or a folder) loaded through one mapping; the same content has the same identifier.

    The days span its transactions and the arrivals of their labels; `last_event_day` is that of the transactions alone.
    """

    ingestion_id: str
    mapping: str
    source_name: str
    content_sha256: str
    rows_read: int
    rows_loaded: int
    rows_duplicate: int
    rows_quarantined: int
    labels_loaded: int
    first_day: date | None
    last_day: date | None
    recorded_at: datetime = field(default_factory=utc_now)
    last_event_day: date | None = None


@dataclass(frozen=True)
class Decision:
    """One answered scoring request: what was decided, by which model, from which feature values.

    `features` are by name, in the order of the spec of `feature_spec_hash` where it is given. `answer` is what the
    caller was told, all but the time it took.
    """

    transaction_id: str
    event_time: datetime
    card_id: str
    merchant_id: str
    decision: Literal["APPROVE", "REVIEW", "BLOCK"]
    fraud_probability: float | None
    model_version: str | None
    bundle_digest: str | None
    thresholds: dict[str, float]
    reasons: list[dict[str, Any]]
    features: dict[str, float | None]
    request: dict[str, Any]
    fallback: str | None = None
    decided_at: datetime = field(default_factory=utc_now)
    anomaly_score: float | None = None
    feature_spec_hash: str | None = None
    answer: dict[str, Any] | None = None


class DecisionRow(NamedTuple):
    """A decision as a row of the ledger is written: moments as by `written`, and JSON text.

    JSON are thresholds, reasons, features, request and answer; `features` is a list in the order of the spec of
    `feature_spec_hash`.
    """

    transaction_id: str
    event_time: str
    card_id: str
    merchant_id: str
    decision: str
    fraud_probability: float | None
    anomaly_score: float | None
    model_version: str | None
    bundle_digest: str | None
    thresholds: str
    reasons: str
    features: str
    feature_spec_hash: str | None
    request: str
    fallback: str | None
    decided_at: str
    answer: str


@dataclass(frozen=True)
class DecisionSummary:
    """A stored decision without its feature values, which are most of its bytes, and its place in the log."""

    position: int
    transaction_id: str
    event_time: datetime
    decided_at: datetime
    decision: str
    fraud_probability: float | None
    model_version: str | None
    bundle_digest: str | None
    fallback: str | None
    thresholds: dict[str, float]
    reasons: list[dict[str, Any]]
    card_id: str
    merchant_id: str
    request: dict[str, Any]


@dataclass(frozen=True)
class Feedback:
    """What an analyst says of one transaction; the same `feedback_id` again is the same feedback.

    Made once, when it is received: `known_at` is that moment and travels with it, however late it is delivered. A card
    number in `note` is masked here, before any journal or log sees it (rule 10).

    Raises:
        ContractBroken: the verdict is none of Verdict.
    """

    feedback_id: str
    transaction_id: str
    verdict: Verdict
    actor: str
    known_at: datetime
    note: str | None = None
    # The ledger's own, None before it has the row.
    position: int | None = None
    recorded_at: datetime | None = None

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ContractBroken(
                f"Feedback {self.feedback_id}: expected a verdict of {', '.join(get_args(Verdict))}, "
                f"found {self.verdict!r}."
            )
        if self.note is not None:
            object.__setattr__(self, "note", mask_card_numbers(self.note))


@dataclass(frozen=True)
class Arrival:
    """One row of a log: its place, its key, and the moment it speaks of (`decided_at`, or `known_at`)."""

    position: int
    key: str
    moment: datetime


@dataclass(frozen=True)
class Promotion:
    """One change of champion, or one refusal to change it (rule 9).

    `bundle_digest` says which bundle it is about; rows written before the ledger kept bundles have none.
    """

    kind: Literal["promote", "refuse", "rollback"]
    model_version: str
    previous_version: str | None
    actor: str
    reason: str
    gates: list[dict[str, Any]]
    as_of: datetime | None = None
    decided_at: datetime = field(default_factory=utc_now)
    promotion_id: int | None = None
    bundle_digest: str | None = None


class CurrentChampion(NamedTuple):
    """The newest promotion or rollback: its version, the digest of the bundle, the row, and when that was written.

    The digest is None where neither the row nor a stored bundle names one.
    """

    model_version: str
    bundle_digest: str | None
    promotion_id: int
    decided_at: datetime


@dataclass(frozen=True)
class Challenge:
    """One change of challenger (rule 9): which version is compared with the champion from now on, and why.

    `canary_percent`, in [0, 100], is the share of cards it decides on. Without a version the challenge is over.
    """

    model_version: str | None
    bundle_digest: str | None
    canary_percent: float
    actor: str
    reason: str
    decided_at: datetime = field(default_factory=utc_now)
    challenge_id: int | None = None


class CurrentChallenger(NamedTuple):
    """The newest challenge: its version, the digest of the bundle, the row, when that was written, and the canary."""

    model_version: str
    bundle_digest: str
    challenge_id: int
    decided_at: datetime
    canary_percent: float


@dataclass(frozen=True)
class ShadowDecision:
    """What champion and challenger said of one transaction, from the same feature values.

    `is_canary` tells that the challenger's decision was the answer; else it was the champion's. `decided_at` is the
    moment of the answer.
    """

    transaction_id: str
    event_time: datetime
    amount_minor: int
    champion_version: str
    champion_digest: str
    champion_probability: float
    champion_decision: str
    challenger_version: str
    challenger_digest: str
    challenger_probability: float
    challenger_decision: str
    is_canary: bool
    decided_at: datetime


@dataclass(frozen=True)
class Report:
    """One generated document, as archived."""

    report_id: str
    kind: str
    model_version: str | None
    path: str
    sha256: str
    previous_sha256: str | None
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True)
class ApiKey:
    """A key of the scoring service, without its secret. `rate_per_second` and `burst` count transactions.

    Of the secret there is the SHA-256, as hexadecimal digits. A slow hash with a salt, as for passwords, would add
    nothing: the secret has 256 random bits, so no list of likely secrets exists, and every request would pay for it.
    """

    key_id: str
    name: str
    roles: list[str]
    secret_sha256: str
    rate_per_second: float
    burst: int
    created_by: str
    created_at: datetime = field(default_factory=utc_now)
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
