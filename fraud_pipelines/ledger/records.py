"""What the ledger remembers, one frozen record per kind of row. Times are naive UTC."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Literal, NamedTuple


def utc_now() -> datetime:
    """Moment a ledger row is written: a fact about the row, never an input of a computation."""
    return datetime.now(UTC).replace(tzinfo=None)


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
    """One answered scoring request: what was decided, by which model, from which feature values."""

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
class Report:
    """One generated document, as archived."""

    report_id: str
    kind: str
    model_version: str | None
    path: str
    sha256: str
    previous_sha256: str | None
    created_at: datetime = field(default_factory=utc_now)
