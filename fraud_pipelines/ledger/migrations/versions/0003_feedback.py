"""Analysts' feedback; decisions are numbered in the order they arrive."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "feedback",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("feedback_id", sa.Text, nullable=False, unique=True),
        sa.Column("transaction_id", sa.Text, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("known_at", sa.DateTime, nullable=False),
        sa.Column("recorded_at", sa.DateTime, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("feedback_known_at", "feedback", ["known_at"])
    op.create_index("feedback_transaction_id", "feedback", ["transaction_id"])
    if op.get_bind().dialect.name == "sqlite":
        _number_decisions_by_copy()
    else:
        op.execute("alter table decisions add column position bigserial")
        op.execute("alter table decisions drop constraint decisions_pkey")
        op.create_primary_key("decisions_pkey", "decisions", ["position"])
        op.create_unique_constraint("decisions_transaction_id_key", "decisions", ["transaction_id"])
    op.create_index("decisions_decided_at", "decisions", ["decided_at", "transaction_id"])


def _number_decisions_by_copy() -> None:
    """SQLite numbers rows in an integer primary key alone, and has no statement that changes a primary key."""
    before = sa.Table("decisions", sa.MetaData(), autoload_with=op.get_bind())
    columns = [
        sa.Column(column.name, column.type, nullable=column.nullable, unique=column.primary_key)
        for column in before.columns
    ]
    op.drop_index("decisions_event_time", "decisions")
    op.rename_table("decisions", "decisions_unnumbered")
    op.create_table(
        "decisions",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        *columns,
        sqlite_autoincrement=True,
    )
    names = ", ".join(column.name for column in columns)
    op.execute(f"insert into decisions ({names}) select {names} from decisions_unnumbered order by rowid")
    op.drop_table("decisions_unnumbered")
    op.create_index("decisions_event_time", "decisions", ["event_time"])
