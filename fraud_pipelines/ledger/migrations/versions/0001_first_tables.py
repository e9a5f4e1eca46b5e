"""Ingestions, decisions, promotions and reports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "ingestions",
        sa.Column("ingestion_id", sa.String(64), primary_key=True),
        sa.Column("mapping", sa.Text, nullable=False),
        sa.Column("source_name", sa.Text, nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("rows_read", sa.BigInteger, nullable=False),
        sa.Column("rows_loaded", sa.BigInteger, nullable=False),
        sa.Column("rows_duplicate", sa.BigInteger, nullable=False),
        sa.Column("rows_quarantined", sa.BigInteger, nullable=False),
        sa.Column("labels_loaded", sa.BigInteger, nullable=False),
        sa.Column("first_day", sa.Date),
        sa.Column("last_day", sa.Date),
        sa.Column("last_event_day", sa.Date),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("transaction_id", sa.Text, primary_key=True),
        sa.Column("event_time", sa.DateTime, nullable=False),
        sa.Column("card_id", sa.Text, nullable=False),
        sa.Column("merchant_id", sa.Text, nullable=False),
        sa.Column("decision", sa.String(8), nullable=False),
        sa.Column("fraud_probability", sa.Float(53)),
        sa.Column("model_version", sa.Text),
        sa.Column("bundle_digest", sa.String(64)),
        sa.Column("thresholds", sa.JSON, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("features", sa.JSON, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("fallback", sa.Text),
        sa.Column("decided_at", sa.DateTime, nullable=False),
    )
    op.create_index("decisions_event_time", "decisions", ["event_time"])
    op.create_table(
        "promotions",
        sa.Column("promotion_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("previous_version", sa.Text),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("gates", sa.JSON, nullable=False),
        sa.Column("as_of", sa.DateTime),
        sa.Column("decided_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "reports",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("report_id", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("model_version", sa.Text),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("previous_sha256", sa.String(64)),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )


def downgrade() -> None:
    for table in ("reports", "promotions", "decisions", "ingestions"):
        op.drop_table(table)
