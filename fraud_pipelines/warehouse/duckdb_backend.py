"""The embedded warehouse: one DuckDB file, opened for each session and closed after it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fraud_pipelines.errors import WarehouseUnavailable
from fraud_pipelines.warehouse.interface import Session, Warehouse

# Another process may hold the file for the length of one step; wait that long before giving up.
LOCK_WAIT_SECONDS = 60.0


class DuckDBSession(Session):
    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def run(self, sql: str, values: list[Any]) -> pa.Table | None:
        relation = self._connection.sql(sql, params=values)
        return relation.to_arrow_table() if relation is not None else None

    def load(self, name: str, rows: pa.Table) -> None:
        self._connection.register("arrow_rows", rows)
        columns = ", ".join(f'"{column}"' for column in rows.column_names)
        self._connection.execute(f"insert into {name} ({columns}) select {columns} from arrow_rows")
        self._connection.unregister("arrow_rows")

    def create_from(self, name: str, rows: pa.Table, *, temporary: bool = False) -> None:
        self._connection.register("arrow_rows", rows)
        self._connection.execute(f"create {'temporary ' if temporary else ''}table {name} as select * from arrow_rows")
        self._connection.unregister("arrow_rows")


class DuckDBWarehouse(Warehouse):
    """One DuckDB file at duckdb:///path."""

    dialect = "duckdb"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.path = Path(url.removeprefix("duckdb:///"))

    @contextmanager
    def connect(self) -> Iterator[Session]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = self._open()
        try:
            connection.execute("begin")
            yield DuckDBSession(connection)
            connection.execute("commit")
        finally:
            # Closing an open transaction rolls it back.
            connection.close()

    def _open(self) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                return duckdb.connect(str(self.path))
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise WarehouseUnavailable(f"{self.path} cannot be opened: {error}") from error
                if time.monotonic() > deadline:
                    raise WarehouseUnavailable(
                        f"{self.path} is held by another process for more than {LOCK_WAIT_SECONDS:.0f} s: {error} "
                        "Wait for that run to end, or move the warehouse to PostgreSQL (FRAUD_WAREHOUSE_URL)."
                    ) from error
                time.sleep(0.2)
