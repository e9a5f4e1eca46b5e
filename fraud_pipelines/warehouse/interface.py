"""What every warehouse can do. A backend supplies a connection, a bulk insert and three words of dialect.

Nothing is held open between calls: DuckDB lets one process open its file, and dbt is another guest.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.tables import BIGINT, BOOLEAN, DATE, DOUBLE, TABLES, TEXT, TIMESTAMP, Table

Rows: TypeAlias = pd.DataFrame | pa.Table

ARROW_TYPES = {
    TEXT: pa.string(),
    BIGINT: pa.int64(),
    DOUBLE: pa.float64(),
    BOOLEAN: pa.bool_(),
    TIMESTAMP: pa.timestamp("us"),
    DATE: pa.date32(),
}
SCHEMAS = ("raw", "staging", "features", "models", "monitoring", "compliance")

# Rows hashed at a time: bounds the memory; a change of it changes every hash.
HASHED_ROWS = 100_000

_PARAMETER = re.compile(r"(?<!:):([a-z_]\w*)")


class Session(ABC):
    """One connection and one transaction: committed when the block ends, rolled back when it raises."""

    @abstractmethod
    def run(self, sql: str, values: list[Any]) -> pa.Table | None:
        """Run one statement with $1, $2 ... parameters; return its rows, if it gives any."""

    @abstractmethod
    def load(self, name: str, rows: pa.Table) -> None:
        """Append `rows` to the existing table `name` by column name."""

    @abstractmethod
    def create_from(self, name: str, rows: pa.Table, *, temporary: bool = False) -> None:
        """Create the table `name` with the columns of `rows`, and fill it."""

    def query_arrow(self, sql: str, **parameters: Any) -> pa.Table:
        """Rows of a statement whose parameters are written `:name`."""
        rows = self.run(*_positional(sql, parameters))
        if rows is None:
            raise ContractBroken(f"the statement gives no rows; use execute() for it: {sql[:80]}")
        return rows

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """Rows of a statement as a frame; times are naive UTC with microseconds."""
        return _to_frame(self.query_arrow(sql, **parameters))

    def execute(self, sql: str, **parameters: Any) -> None:
        """Run one statement whose rows do not matter."""
        self.run(*_positional(sql, parameters))

    def exists(self, name: str) -> bool:
        """Whether `schema.table` is there."""
        schema, table = name.split(".")
        found = self.query_arrow(
            "select count(*) as n from information_schema.tables where table_schema = :schema and table_name = :table",
            schema=schema,
            table=table,
        )
        return bool(found["n"][0].as_py())

    def read(
        self,
        table: Table | str,
        *,
        columns: list[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> pd.DataFrame:
        """Rows of a table with time in [since, until), ordered by time, then key.

        A table known by name only (made by dbt, or with dynamic columns) is cut by `event_time` and ordered by
        it and `transaction_id`.
        """
        known = table if isinstance(table, Table) else TABLES.get(table)
        name = known.name if known else str(table)
        time_column = known.time_column if known else "event_time"
        key = known.key if known else ("transaction_id",)
        conditions = []
        if (since or until) and time_column is None:
            raise ContractBroken(f"{name} has no time column; read it whole or use query().")
        if since is not None:
            conditions.append(f"{time_column} >= :since")
        if until is not None:
            conditions.append(f"{time_column} < :until")
        where = f" where {' and '.join(conditions)}" if conditions else ""
        order = ", ".join(dict.fromkeys([time_column, *key] if time_column else key))
        bounds = {name_: value for name_, value in (("since", since), ("until", until)) if value is not None}
        return self.query(f"select {_listed(columns)} from {name}{where} order by {order}", **bounds)

    def hash_window(self, table: Table | str, *, since: datetime, until: datetime) -> str:
        """SHA-256 of the rows with time in [since, until), the same on every engine; see `hash_rows`."""
        known = table if isinstance(table, Table) else TABLES.get(table)
        name, time_column = (known.name, str(known.time_column)) if known else (str(table), "event_time")
        order = dict.fromkeys((time_column, *(known.key if known else ("transaction_id",))))
        rows = self.query_arrow(
            f"select * from {name} where {time_column} >= :since and {time_column} < :until "
            f"order by {', '.join(order)}",
            since=since,
            until=until,
        )
        digest = hashlib.sha256()
        for start in range(0, max(rows.num_rows, 1), HASHED_ROWS):
            digest.update(hash_rows(_to_frame(rows.slice(start, HASHED_ROWS))).encode())
        return digest.hexdigest()

    def replace_window(self, table: Table, rows: Rows, *, since: datetime, until: datetime) -> int:
        """Replace what the table holds for [since, until); the same call again gives the same rows (rule 6).

        Raises:
            ContractBroken: a row lies outside the window, or the columns do not match the table.
        """
        arrow = conform(table, rows)
        if table.time_column is None:
            raise ContractBroken(f"{table.name} has no time column to replace a window by.")
        times = arrow[table.time_column].to_pandas()
        if len(times) and not ((times >= since) & (times < until)).all():
            raise ContractBroken(
                f"{table.name}: rows from {times.min()} to {times.max()} do not lie within [{since}, {until})."
            )
        self.execute(
            f"delete from {table.name} where {table.time_column} >= :since and {table.time_column} < :until",
            since=since,
            until=until,
        )
        self.load(table.name, arrow)
        self.rows_changed(table.name, arrow.num_rows)
        return arrow.num_rows

    def insert_new(self, table: Table, rows: Rows) -> pa.Table:
        """Insert rows whose key is new. Returns the stored rows whose key was there already; they stay as they are."""
        arrow = conform(table, rows)
        match = " and ".join(f"s.{column} = n.{column}" for column in table.key)
        columns = ", ".join(table.columns)
        with self._staged(arrow) as staged:
            known = self.query_arrow(
                f"select {', '.join(f's.{column}' for column in table.columns)} "
                f"from {table.name} s join {staged} n on {match}"
            )
            self.execute(
                f"insert into {table.name} ({columns}) select {columns} from {staged} n "
                f"where not exists (select 1 from {table.name} s where {match})"
            )
        self.rows_changed(table.name, arrow.num_rows)
        return known.cast(arrow_schema(table))

    def upsert(self, table: Table, rows: Rows) -> int:
        """Insert rows, replacing those with the same key."""
        arrow = conform(table, rows)
        match = " and ".join(f"s.{column} = n.{column}" for column in table.key)
        with self._staged(arrow) as staged:
            self.execute(f"delete from {table.name} as s where exists (select 1 from {staged} n where {match})")
        self.load(table.name, arrow)
        self.rows_changed(table.name, arrow.num_rows)
        return arrow.num_rows

    def overwrite(self, name: str, rows: Rows) -> int:
        """Replace a table whose columns are the caller's, such as a training set."""
        arrow = _to_arrow(rows)
        self.execute(f"drop table if exists {name}")
        self.create_from(name, arrow)
        return arrow.num_rows

    def create_tables(self) -> None:
        """Create the schemas, the tables of tables.py, and nullable columns they gained since, where missing."""
        for schema in SCHEMAS:
            self.execute(f"create schema if not exists {schema}")
        for table in TABLES.values():
            columns = ", ".join(
                f"{name} {column.type}{'' if column.nullable else ' not null'}"
                for name, column in table.columns.items()
            )
            self.execute(f"create table if not exists {table.name} ({columns})")
            self.create_indexes(table)
        schemas = ", ".join(f"'{schema}'" for schema in SCHEMAS)
        there = self.query_arrow(
            "select table_schema, table_name, column_name from information_schema.columns "
            f"where table_schema in ({schemas})"
        )
        known = {(row["table_schema"], row["table_name"], row["column_name"]) for row in there.to_pylist()}
        for table in TABLES.values():
            for name, column in table.columns.items():
                if column.nullable and (*table.name.split("."), name) not in known:
                    self.execute(f"alter table {table.name} add column {name} {column.type}")

    def create_indexes(self, table: Table) -> None:  # noqa: B027 - doing nothing is a fine answer
        """Indexes that pay on this engine; none by default."""

    def rows_changed(self, name: str, count: int) -> None:  # noqa: B027 - doing nothing is a fine answer
        """Told after `count` rows of a table changed, for engines whose planner has to be told."""

    @contextmanager
    def _staged(self, rows: pa.Table) -> Iterator[str]:
        name = "staged_rows"
        self.create_from(name, rows, temporary=True)
        yield name
        self.execute(f"drop table {name}")


class Warehouse(ABC):
    """One warehouse. Each method below opens a session of its own; several steps share one through `session()`."""

    dialect: str

    def __init__(self, url: str) -> None:
        self.url = url
        self._is_ready = False

    @abstractmethod
    def connect(self) -> AbstractContextManager[Session]:
        """Open one connection with one transaction."""

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One connection, one transaction; tables of tables.py exist in it."""
        with self.connect() as session:
            if not self._is_ready:
                session.create_tables()
            yield session
        self._is_ready = True

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        with self.session() as session:
            return session.query(sql, **parameters)

    def query_arrow(self, sql: str, **parameters: Any) -> pa.Table:
        with self.session() as session:
            return session.query_arrow(sql, **parameters)

    def execute(self, sql: str, **parameters: Any) -> None:
        with self.session() as session:
            session.execute(sql, **parameters)

    def exists(self, name: str) -> bool:
        with self.session() as session:
            return session.exists(name)

    def read(
        self,
        table: Table | str,
        *,
        columns: list[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> pd.DataFrame:
        with self.session() as session:
            return session.read(table, columns=columns, since=since, until=until)

    def replace_window(self, table: Table, rows: Rows, *, since: datetime, until: datetime) -> int:
        with self.session() as session:
            return session.replace_window(table, rows, since=since, until=until)

    def insert_new(self, table: Table, rows: Rows) -> pa.Table:
        with self.session() as session:
            return session.insert_new(table, rows)

    def upsert(self, table: Table, rows: Rows) -> int:
        with self.session() as session:
            return session.upsert(table, rows)

    def overwrite(self, name: str, rows: Rows) -> int:
        with self.session() as session:
            return session.overwrite(name, rows)


def arrow_schema(table: Table) -> pa.Schema:
    """Arrow schema of a table, in its column order."""
    return pa.schema(
        [pa.field(name, ARROW_TYPES[column.type], nullable=column.nullable) for name, column in table.columns.items()]
    )


def conform(table: Table, rows: Rows) -> pa.Table:
    """`rows` with exactly the table's columns, in its order and types; optional columns may be absent.

    Raises:
        ContractBroken: an unknown or missing column, a type that cannot be cast, or a null in a required column.
    """
    arrow = _to_arrow(rows)
    unknown = [name for name in arrow.column_names if name not in table.columns]
    missing = [name for name, column in table.columns.items() if name not in arrow.column_names and not column.nullable]
    if unknown or missing:
        raise ContractBroken(
            f"{table.name}: unknown columns {unknown or 'none'}, missing columns {missing or 'none'}; "
            f"expected {list(table.columns)}."
        )
    arrays = []
    for name, column in table.columns.items():
        type_ = ARROW_TYPES[column.type]
        if name not in arrow.column_names:
            arrays.append(pa.nulls(arrow.num_rows, type_))
            continue
        try:
            values = arrow[name].cast(type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ContractBroken(
                f"{table.name}.{name}: expected {column.type}, found {arrow[name].type}: {error}"
            ) from error
        if not column.nullable and values.null_count:
            raise ContractBroken(f"{table.name}.{name}: {values.null_count} nulls in a required column.")
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=arrow_schema(table))


def _to_arrow(rows: Rows) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)


def _to_frame(rows: pa.Table) -> pd.DataFrame:
    frame = rows.to_pandas()
    for name in frame.columns[[pd.api.types.is_datetime64_any_dtype(type_) for type_ in frame.dtypes]]:
        frame[name] = frame[name].astype("datetime64[us]")
    return frame


def _listed(columns: list[str] | None) -> str:
    return ", ".join(columns) if columns else "*"


def _positional(sql: str, parameters: dict[str, Any]) -> tuple[str, list[Any]]:
    """`:name` parameters as $1, $2 ..., which both engines understand."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = _PARAMETER.sub(number, sql)
    if set(names) != set(parameters):
        raise ContractBroken(
            f"parameters {sorted(parameters)} do not match the statement's {sorted(names)}: {sql[:80]}"
        )
    return text, [parameters[name] for name in names]
