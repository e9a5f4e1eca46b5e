"""The database under the ledger: connections, transactions, schema; what every kind of row needs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Row, Table, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError

from fraud_pipelines.errors import LedgerUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"
# Two processes that open a new ledger together must not both create it; any constant will do.
MIGRATION_LOCK = 0x66726175

READ_MS = 3_000


class Database:
    """One database of rows that stay. Every write is on disk when the call returns (rule 7)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def _transaction(self, *, reads_only: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(reads_only=reads_only) as connection, connection.begin():
                if reads_only and connection.dialect.name == "postgresql":
                    # A payment waits for these; a server that hangs is one that is away.
                    for limit in ("statement_timeout", "lock_timeout"):
                        connection.exec_driver_sql(f"set local {limit} = {READ_MS}")
                yield connection
        except OperationalError as error:
            raise LedgerUnavailable(
                f"The ledger at {self._engine.url.render_as_string(hide_password=True)} cannot be used: {error.orig}. "
                "Is its server up, and FRAUD_LEDGER_URL right?"
            ) from error

    def migrate(self) -> None:
        """Bring the schema up to date; safe when several processes start together."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        newest = ScriptDirectory.from_config(config).get_current_head()
        with self._transaction() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text(f"select pg_advisory_xact_lock({MIGRATION_LOCK})"))
            if MigrationContext.configure(connection).get_current_revision() == newest:
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Give back every connection."""
        self._engine.dispose()

    def _insert_new(
        self, connection: Connection, table: Table, key: str | Sequence[str], rows: list[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        keys = [key] if isinstance(key, str) else list(key)
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).on_conflict_do_nothing(index_elements=keys)
        # By key: two writers of overlapping batches would otherwise wait for each other (PostgreSQL: deadlock).
        connection.execute(statement, sorted(rows, key=lambda row: [str(row[name]) for name in keys]))

    def _rows(self, table: Table, *order: Any) -> list[Row[Any]]:
        with self._transaction() as connection:
            return list(connection.execute(select(table).order_by(*order)).all())
