"""What the compiled engine reads of a DuckDB warehouse: transactions and label arrivals, as arrays.

Memory is what costs here: new memory takes longer to get than features take to compute. So cards and merchants are
numbers, columns that no feature looks at are not read, and what DuckDB hands over is released chunk by chunk.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fraud_pipelines.features.kernel import NEVER_US
from fraud_pipelines.features.spec import FeatureSpec

if TYPE_CHECKING:
    import duckdb

ENTITIES = ("card", "merchant")
Columns = dict[str, Any]
"""Equally long columns by name: numbers in NumPy arrays, other texts in Arrow dictionaries."""

_CHUNK_ROWS = 100_000
_WITH_NUMBERS = "join cards as c on c.card_id = t.card_id join merchants as m on m.merchant_id = t.merchant_id"
_OPTIONAL = {
    "country": ("country",),
    "device_id": ("device_id",),
    "category": ("category",),
    "channel": ("cast(t.channel = 'online' as double) as is_online", "cast(t.channel = 'atm' as double) as is_atm"),
    **{f"{whose}_{axis}": (f"{whose}_{axis}",) for whose in ("home", "merchant") for axis in ("latitude", "longitude")},
}


class Reading:
    """The SQL of one run, for the days [since, until); None is without bound.

    Args:
        connection: this run's own; it gets temporary tables.
        transactions, labels: SQL of the staged relations.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        transactions: str,
        labels: str,
        spec: FeatureSpec,
        since: datetime | None,
        until: datetime | None,
    ) -> None:
        self._connection, self._transactions, self._labels, self._spec = connection, transactions, labels, spec
        reach_us = max(spec.transactions_reach_us(entity) for entity in ENTITIES)
        labels_reach_us = max(spec.labels_reach_us(entity) for entity in ENTITIES)
        self._is_asked = _between("t.event_time", since, until)
        self._in_reach = _between("t.event_time", since, until, reach_us)
        self._labels_in_reach = _between("l.counts_from", since, until, labels_reach_us)
        self.ids = {entity: self._numbered(entity) for entity in ENTITIES}
        """Ids of cards and merchants in the order of their numbers."""

    def _numbered(self, entity: str) -> pa.StringArray:
        """Number the cards or merchants in a temporary table: a number takes a tenth of the memory of an id."""
        self._connection.execute(
            f"create or replace temp table {entity}s as select {entity}_id, "
            f"cast(row_number() over () - 1 as integer) as {entity}_no "
            f"from (select distinct {entity}_id from ({self._transactions}) as t where {self._in_reach})"
        )
        ids = self._connection.sql(f"select {entity}_id from {entity}s order by {entity}_no").to_arrow_table()
        return ids[f"{entity}_id"].combine_chunks()

    @property
    def past(self) -> str:
        """SQL of the transactions that features look at. `line` numbers those asked for; -1 is history."""
        joined = ""
        columns = ["t.transaction_id, t.event_time_us, c.card_no, m.merchant_no, t.amount_minor, t.currency"]
        if any(feature.of == "unlabelled" for feature in self._spec.features):
            columns.append(f"coalesce(f.first_us, {NEVER_US}) as first_label_us")
            joined = (
                f"left join (select transaction_id, min(counts_from_us) as first_us from ({self._labels}) as l "
                f"where {self._labels_in_reach} group by all) as f on f.transaction_id = t.transaction_id"
            )
        needed = {name for feature in self._spec.features for name in feature.optional_columns}
        columns += [column for name, found in _OPTIONAL.items() if name in needed for column in found]
        columns.append(f"case when {self._is_asked} then row_number() over () - 1 else -1 end as line")
        source = f"({self._transactions}) as t {_WITH_NUMBERS} {joined}"
        return f"select {', '.join(columns)} from {source} where {self._in_reach}"

    @property
    def arrivals(self) -> str:
        """SQL of the label arrivals that features look at."""
        return (
            "select c.card_no, m.merchant_no, t.amount_minor, l.counts_from_us, cast(l.is_fraud as bigint) as is_fraud "
            f"from ({self._labels}) as l join ({self._transactions}) as t on t.transaction_id = l.transaction_id "
            f"{_WITH_NUMBERS} where {self._labels_in_reach}"
        )

    def count(self) -> tuple[int, int]:
        """How many transactions and, at most, label arrivals there are to read."""
        return (
            number(self._connection, f"select count(*) from ({self._transactions}) as t where {self._in_reach}"),
            number(self._connection, f"select count(*) from ({self._labels}) as l where {self._labels_in_reach}"),
        )


def read(connection: duckdb.DuckDBPyConnection, sql: str, most_rows: int) -> Columns:
    """The columns of a query of at most so many rows. Null is NaN; whole numbers have none."""
    reader = connection.sql(sql).to_arrow_reader(_CHUNK_ROWS)
    kinds = {field.name: field.type for field in reader.schema}
    numbers = {
        name: np.empty(most_rows, kind.to_pandas_dtype())
        for name, kind in kinds.items()
        if not pa.types.is_string(kind)
    }
    texts: dict[str, list[pa.Array]] = {name: [] for name in kinds if name not in numbers}
    rows = 0
    for batch in reader:
        for name, column in numbers.items():
            column[rows : rows + len(batch)] = batch[name].to_numpy(zero_copy_only=False)
        for name, chunks in texts.items():
            chunks.append(_copied(batch[name]) if name == "transaction_id" else batch[name].dictionary_encode())
        rows += len(batch)
    return {
        **{name: column[:rows] for name, column in numbers.items()},
        **{name: _joined(chunks, name) for name, chunks in texts.items()},
    }


def take(columns: Columns, names: tuple[str, ...], rows: np.ndarray) -> Columns:
    """Some rows of the columns named that are there."""
    positions = pa.array(rows)
    return {
        name: columns[name].take(positions if isinstance(columns[name], pa.Array) else rows)
        for name in names
        if name in columns
    }


def number(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The one whole number that a query gives."""
    return int(connection.execute(sql).fetchall()[0][0])


def _copied(chunk: pa.Array) -> pa.Array:
    # Otherwise one column that is kept keeps every column of its chunk.
    return pa.concat_arrays([chunk, chunk.slice(0, 0)])


def _joined(chunks: list[pa.Array], name: str) -> pa.Array:
    if not chunks:
        return pa.array([], pa.string()) if name == "transaction_id" else pa.array([], pa.string()).dictionary_encode()
    return pa.chunked_array(chunks).unify_dictionaries().combine_chunks()


def _between(column: str, since: datetime | None, until: datetime | None, reach_us: int = 0) -> str:
    conditions = []
    if since is not None:
        conditions.append(f"{column} >= timestamp '{since - timedelta(microseconds=reach_us)}'")
    if until is not None:
        conditions.append(f"{column} < timestamp '{until}'")
    return " and ".join(conditions) or "true"
