"""The ledger's tables as SQLAlchemy sees them; migrations/ holds how they came to be."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
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

# Numbers rows in the order they are written; on SQLite only this type of a primary key does.
POSITION = BigInteger().with_variant(Integer, "sqlite")

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
    Column("position", POSITION, primary_key=True, autoincrement=True),
    Column("transaction_id", Text, nullable=False, unique=True),
    Column("event_time", DateTime, nullable=False),
    Column("card_id", Text, nullable=False),
    Column("merchant_id", Text, nullable=False),
    Column("decision", String(8), nullable=False),
    Column("fraud_probability", Float(53)),
    Column("anomaly_score", Float(53)),
    Column("model_version", Text),
    Column("bundle_digest", String(64)),
    Column("thresholds", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    # Values in the order of `feature_names` where there is a feature_spec_hash, else by name.
    Column("features", JSON, nullable=False),
    Column("feature_spec_hash", String(64)),
    Column("request", JSON, nullable=False),
    Column("fallback", Text),
    Column("decided_at", DateTime, nullable=False),
    Column("answer", JSON),
    Index("decisions_event_time", "event_time"),
    Index("decisions_decided_at", "decided_at", "transaction_id"),
    sqlite_autoincrement=True,
)

feature_names = Table(
    "feature_names",
    metadata,
    Column("feature_spec_hash", String(64), primary_key=True),
    Column("names", JSON, nullable=False),
)

feedback = Table(
    "feedback",
    metadata,
    Column("position", POSITION, primary_key=True, autoincrement=True),
    Column("feedback_id", Text, nullable=False, unique=True),
    Column("transaction_id", Text, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text),
    Column("known_at", DateTime, nullable=False),
    Column("recorded_at", DateTime, nullable=False),
    Index("feedback_known_at", "known_at"),
    Index("feedback_transaction_id", "transaction_id"),
    sqlite_autoincrement=True,
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

challenges = Table(
    "challenges",
    metadata,
    Column("challenge_id", Integer, primary_key=True, autoincrement=True),
    # None ends the challenge before it.
    Column("model_version", Text),
    Column("bundle_digest", String(64)),
    Column("canary_percent", Float(53), nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_at", DateTime, nullable=False),
)

shadow_decisions = Table(
    "shadow_decisions",
    metadata,
    Column("transaction_id", Text, primary_key=True),
    Column("challenger_digest", String(64), primary_key=True),
    Column("event_time", DateTime, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("champion_version", Text, nullable=False),
    Column("champion_digest", String(64), nullable=False),
    Column("champion_probability", Float(53), nullable=False),
    Column("champion_decision", String(8), nullable=False),
    Column("challenger_version", Text, nullable=False),
    Column("challenger_probability", Float(53), nullable=False),
    Column("challenger_decision", String(8), nullable=False),
    Column("is_canary", Boolean, nullable=False),
    Column("decided_at", DateTime, nullable=False),
    Index("shadow_decisions_event_time", "challenger_digest", "event_time"),
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

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("roles", JSON, nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("rate_per_second", Float(53), nullable=False),
    Column("burst", Integer, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", DateTime, nullable=False),
    Column("expires_at", DateTime),
    Column("revoked_at", DateTime),
)
