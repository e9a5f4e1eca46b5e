"""The ledger's tables as SQLAlchemy sees them; migrations/ holds how they came to be."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Date,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

ingestions = Table(
    "ingestions",
    metadata,
    Column("ingestion_id", String(64), primary_key=True),
    Column("mapping", Text, nullable=False),
    Column("source_name", Text, nullable=False),
    Column("content_sha256", String(64), nullable=False),
    Column("rows_read", BigInteger, nullable=False),
    Column("rows_loaded", BigInteger, nullable=False),
    Column("rows_duplicate", BigInteger, nullable=False),
    Column("rows_quarantined", BigInteger, nullable=False),
    Column("labels_loaded", BigInteger, nullable=False),
    Column("first_day", Date),
    Column("last_day", Date),
    Column("last_event_day", Date),
    Column("recorded_at", DateTime, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("transaction_id", Text, primary_key=True),
    Column("event_time", DateTime, nullable=False),
    Column("card_id", Text, nullable=False),
    Column("merchant_id", Text, nullable=False),
    Column("decision", String(8), nullable=False),
    Column("fraud_probability", Float(53)),
    Column("model_version", Text),
    Column("bundle_digest", String(64)),
    Column("thresholds", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("features", JSON, nullable=False),
    Column("request", JSON, nullable=False),
    Column("fallback", Text),
    Column("decided_at", DateTime, nullable=False),
    Index("decisions_event_time", "event_time"),
)

promotions = Table(
    "promotions",
    metadata,
    Column("promotion_id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(8), nullable=False),
    Column("model_version", Text, nullable=False),
    Column("previous_version", Text),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("gates", JSON, nullable=False),
    Column("as_of", DateTime),
    Column("decided_at", DateTime, nullable=False),
    Column("bundle_digest", String(64)),
)

model_bundles = Table(
    "model_bundles",
    metadata,
    Column("bundle_digest", String(64), primary_key=True),
    Column("model_version", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("stored_at", DateTime, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("report_id", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("model_version", Text),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("previous_sha256", String(64)),
    Column("created_at", DateTime, nullable=False),
)
