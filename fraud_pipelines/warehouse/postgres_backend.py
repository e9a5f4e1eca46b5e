"""The production warehouse: PostgreSQL through ADBC, whose bulk reads and writes are columnar."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import adbc_driver_manager
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from fraud_pipelines.errors import WarehouseUnavailable
from fraud_pipelines.tables import Table
from fraud_pipelines.warehouse.interface import Session, Warehouse

# Fewer rows do not change a plan enough to pay for the sample.
ANALYZED_FROM_ROWS = 1_000


class PostgresSession(Session):
    def __init__(self, connection: dbapi.Connection) -> None:
        self._connection = connection
        self._changed: set[str] = set()

    def run(self, sql: str, values: list[Any]) -> pa.Table | None:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetch_arrow_table() if cursor.description else None

    def load(self, name: str, rows: pa.Table) -> None:
        schema, table = name.split(".")
        with self._connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode="append", db_schema_name=schema)

    def create_from(self, name: str, rows: pa.Table, *, temporary: bool = False) -> None:
        schema, _, table = name.rpartition(".")
        with self._connection.cursor() as cursor:
            if temporary:
                cursor.adbc_ingest(table, rows, mode="create", temporary=True)
            else:
                cursor.adbc_ingest(table, rows, mode="create", db_schema_name=schema)
            cursor.execute(f"analyze {name}")

    def create_indexes(self, table: Table) -> None:
        stem = table.name.replace(".", "_")
        self.execute(f"create unique index if not exists {stem}_key on {table.name} ({', '.join(table.key)})")
        if table.time_column and table.time_column != table.key[0]:
            self.execute(f"create index if not exists {stem}_time on {table.name} ({table.time_column})")

    def rows_changed(self, name: str, count: int) -> None:
        if count >= ANALYZED_FROM_ROWS:
            self._changed.add(name)

    def refresh_statistics(self) -> None:
        """Let the planner know what was loaded; until autovacuum comes by it takes a full table for an empty one."""
        for name in sorted(self._changed):
            self.execute(f"analyze {name}")


class PostgresWarehouse(Warehouse):
    """One PostgreSQL database at postgresql+psycopg2://user:password@host:port/database."""

    dialect = "postgres"

    @contextmanager
    def connect(self) -> Iterator[Session]:
        try:
            connection = dbapi.connect(self.url.replace("postgresql+psycopg2://", "postgresql://", 1))
        except adbc_driver_manager.Error as error:
            raise WarehouseUnavailable(
                f"PostgreSQL at {self.url.rsplit('@', 1)[-1]} cannot be reached: {error}. "
                "Is the server up and FRAUD_WAREHOUSE_URL right?"
            ) from error
        try:
            session = PostgresSession(connection)
            yield session
            session.refresh_statistics()
            connection.commit()
        except BaseException:
            connection.rollback()
            raise
        finally:
            connection.close()
