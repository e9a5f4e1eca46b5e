"""Bundles of the versions that were promoted, and which bundle a promotion is about."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "model_bundles",
        sa.Column("bundle_digest", sa.String(64), primary_key=True),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("stored_at", sa.DateTime, nullable=False),
    )
    op.add_column("promotions", sa.Column("bundle_digest", sa.String(64)))


def downgrade() -> None:
    op.drop_column("promotions", "bundle_digest")
    op.drop_table("model_bundles")
