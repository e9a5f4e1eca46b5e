"""The SQL of the dbt models as dbt compiles it, run without dbt: milliseconds instead of seconds per history."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import duckdb

from fraud_pipelines import tables
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.features.spec import Feature, FeatureSpec
from fraud_pipelines.features.warehouse_build import feature_table
from fraud_pipelines.warehouse import Session, open_warehouse
from tests.dbt_runs import PROJECT, DbtRun
from tests.histories import labels_frame, transactions_frame

Rows = dict[str, dict[str, float | None]]
Range = tuple[datetime, datetime] | None

# The range that models are compiled for; another range moves every moment in their text by as much.
_SINCE, _UNTIL = datetime(1999, 1, 1), datetime(2003, 1, 1)
_MOMENT = re.compile(r"timestamp '([0-9][0-9:. -]+)'")


class CompiledSql:
    """The models that compute the features of a spec in SQL, on the database at `url`."""

    def __init__(self, url: str, folder: Path, spec: FeatureSpec, *, project: Path = PROJECT) -> None:
        self.warehouse, self.spec = open_warehouse(url), spec
        self.warehouse.query("select 1 as one")
        self._run = DbtRun(url, folder, engine="sql", project=project)
        self._whole = _models(self._run("compile"))
        self._ranged = _models(self._run("compile", since=_SINCE, until=_UNTIL))

    def only(self, features: Collection[Feature]) -> CompiledSql:
        """The same for some of the features, for runs over everything; the project is not parsed again."""
        part = copy(self)
        part.spec = replace(self.spec, features=tuple(f for f in self.spec.features if f in features))
        model = self._run.manifest.nodes["model.fraud.transaction_features"]
        columns, left_out = model.columns, set(self.spec.names) - set(part.spec.names)
        model.columns = {name: column for name, column in columns.items() if name not in left_out}
        try:
            part._whole, part._ranged = _models(self._run("compile")), []
        finally:
            model.columns = columns
        return part

    def statements(self, kind: str, window: Range = None) -> Iterator[tuple[str, str]]:
        """Name and SQL of the models that are views (tables), in the order they build on each other."""
        for name, materialized, sql in self._whole if window is None else self._ranged:
            if (materialized == "view") == (kind == "view"):
                yield name, sql if window is None else _MOMENT.sub(lambda found: _moved(found[1], window), sql)

    def rows(self, run: Callable[[str], Sequence[Sequence[Any]]]) -> Rows:
        found = run(f"select transaction_id, {', '.join(self.spec.names)} from {tables.TRANSACTION_FEATURES}")
        return {row[0]: dict(zip(self.spec.names, row[1:], strict=True)) for row in found}

    def on_postgres(self, payments: Sequence[Payment], verdicts: Sequence[Verdict]) -> Rows:
        """Features of a history; the database is left as it was."""
        with _undone(self.warehouse.session()) as session:
            session.insert_new(tables.TRANSACTIONS, transactions_frame(payments))
            session.insert_new(tables.LABELS, labels_frame(payments, verdicts))
            for kind in ("view", "table"):
                for name, sql in self.statements(kind):
                    session.run(f"create {kind} {name} as {sql}", [])
            return self.rows(lambda query: [tuple(row.values()) for row in session.query_arrow(query).to_pylist()])


class DuckDBHistory:
    """A history in an in-memory DuckDB, ready for both engines."""

    def __init__(self, compiled: CompiledSql, payments: Sequence[Payment], verdicts: Sequence[Verdict]) -> None:
        self._compiled = compiled
        self._connection = duckdb.connect()
        # dbt named the catalogue after the file it compiled for.
        self._connection.execute("attach ':memory:' as warehouse; use warehouse; set threads = 1")
        self._connection.execute("create schema raw; create schema staging; create schema features")
        for table, frame in (
            (tables.TRANSACTIONS, transactions_frame(payments)),
            (tables.LABELS, labels_frame(payments, verdicts)),
        ):
            types = ", ".join(f"{name} {column.type}" for name, column in table.columns.items())
            self._connection.execute(f"create table {table.name} ({types})")
            self._connection.register("given", frame)
            self._connection.execute(f"insert into {table.name} by name select * from given")
        for name, sql in compiled.statements("view"):
            self._connection.execute(f"create view {name} as {sql}")

    def __enter__(self) -> DuckDBHistory:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def by_sql(self, window: Range = None) -> Rows:
        """Features of the transactions of [since, until), everything without it."""
        for name, sql in self._compiled.statements("table", window):
            self._connection.execute(f"create or replace table {name} as {sql}")
        return self._compiled.rows(lambda query: self._connection.execute(query).fetchall())

    def by_compiled_engine(self, window: Range = None) -> Rows:
        """The same by the engine of the Python dbt models."""
        staged = [f"select * from staging.stg_{name}" for name in ("transactions", "labels")]
        built = feature_table(self._connection, *staged, self._compiled.spec, *(window or (None, None)))
        names = self._compiled.spec.names
        return {row["transaction_id"]: {name: row[name] for name in names} for row in built.read_all().to_pylist()}


def _models(compiled: Any) -> list[tuple[str, str, str]]:
    """Name, materialization and SQL of each model, those it builds on before it."""
    nodes = {result.node.unique_id: result.node for result in compiled.results if result.node.resource_type == "model"}
    order = TopologicalSorter({id_: [d for d in node.depends_on.nodes if d in nodes] for id_, node in nodes.items()})
    return [
        (f"{nodes[id_].schema}.{nodes[id_].name}", nodes[id_].config.materialized, nodes[id_].compiled_code)
        for id_ in order.static_order()
    ]


def _moved(text: str, window: tuple[datetime, datetime]) -> str:
    moment, (since, until) = datetime.fromisoformat(text), window
    # A moment at or before the compiled range's start is derived from it; any other from its end.
    return f"timestamp '{since + (moment - _SINCE) if moment <= _SINCE else until + (moment - _UNTIL)}'"


class _Undo(Exception):
    pass


@contextmanager
def _undone(session: Any) -> Iterator[Session]:
    try:
        with session as opened:
            yield opened
            raise _Undo
    except _Undo:
        pass
