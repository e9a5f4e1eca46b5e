"""Decisions keep the answer as it was given; names of served features are kept once per feature spec."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("decisions", sa.Column("anomaly_score", sa.Float(53)))
    op.add_column("decisions", sa.Column("feature_spec_hash", sa.String(64)))
    op.add_column("decisions", sa.Column("answer", sa.JSON))
    op.create_table(
        "feature_names",
        sa.Column("feature_spec_hash", sa.String(64), primary_key=True),
        sa.Column("names", sa.JSON, nullable=False),
    )
