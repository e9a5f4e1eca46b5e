"""Which version challenges the champion, and what both said of the same transactions."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "challenges",
        sa.Column("challenge_id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model_version", sa.Text),
        sa.Column("bundle_digest", sa.String(64)),
        sa.Column("canary_percent", sa.Float(53), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("decided_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "shadow_decisions",
        sa.Column("transaction_id", sa.Text, primary_key=True),
        sa.Column("challenger_digest", sa.String(64), primary_key=True),
        sa.Column("event_time", sa.DateTime, nullable=False),
        sa.Column("amount_minor", sa.BigInteger, nullable=False),
        sa.Column("champion_version", sa.Text, nullable=False),
        sa.Column("champion_digest", sa.String(64), nullable=False),
        sa.Column("champion_probability", sa.Float(53), nullable=False),
        sa.Column("champion_decision", sa.String(8), nullable=False),
        sa.Column("challenger_version", sa.Text, nullable=False),
        sa.Column("challenger_probability", sa.Float(53), nullable=False),
        sa.Column("challenger_decision", sa.String(8), nullable=False),
        sa.Column("is_canary", sa.Boolean, nullable=False),
        sa.Column("decided_at", sa.DateTime, nullable=False),
    )
    op.create_index("shadow_decisions_event_time", "shadow_decisions", ["challenger_digest", "event_time"])


def downgrade() -> None:
    op.drop_table("shadow_decisions")
    op.drop_table("challenges")
