"""The feature table of a range of days, read from DuckDB and streamed back: what the Python dbt model returns.

Merchants come first, into a scratch file with one line per transaction; then cards, whose batches take their merchants'
features from it and leave. Memory stays bounded: entities are dealt into buckets by a hash, and a bucket is read whole.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines.features import kernel
from fraud_pipelines.features.engine import (
    ATTRIBUTES,
    NEVER_US,
    Asked,
    EntityEngine,
    Known,
    OwnEngine,
    OwnValues,
    Past,
)
from fraud_pipelines.features.kernel import Codes, Double, Int64
from fraud_pipelines.features.spec import Feature, FeatureSpec, load_spec

if TYPE_CHECKING:
    import duckdb

# Up to so many transactions are read at once, about 150 bytes each in memory; of more, so many at a time.
WHOLE_ROWS, BUCKET_ROWS = 2_000_000, 300_000
# Transactions whose features leave at once: 8 bytes per feature each.
BATCH_ROWS = 50_000

# DuckDB's memory: for few transactions, and for each of many.
_LEAST_MEMORY, _SORTED_BYTES = 800 * 2**20, 480

_ARROW_TYPES = {"bigint": pa.int64(), "double precision": pa.float64()}
_COLUMNS = {
    "merchant": "merchant_id",
    "country": "country",
    "device": "device_id",
    "category": "category",
    "card": "card_id",
}
# What a merchant's features look at; a card's need every column.
_MERCHANT_COLUMNS = (
    "transaction_id, event_time_us, merchant_id, card_id, amount_minor, first_label_us, line, "
    "merchant_latitude, merchant_longitude"
)
_IDENTITY = {
    "transaction_id": pa.string(),
    "event_time": pa.timestamp("us"),
    "card_id": pa.string(),
    "merchant_id": pa.string(),
    "amount_minor": pa.int64(),
    "currency": pa.string(),
}


def dbt_model(transactions: Any, labels: Any, session: Any) -> pa.RecordBatchReader:
    """What the Python dbt model returns: the feature table for the days of the dbt run.

    Args:
        transactions, labels: the staged relations, as dbt.ref gives them.
        session: dbt's DuckDB connection.
    """
    from dbt.flags import get_flags

    # The run's own flags: what dbt hands to a Python model was rendered when the project was parsed, long before.
    flags = get_flags()
    since, until = (_moment(flags.VARS.get(name)) for name in ("since", "until"))
    spec = load_spec(Path(flags.PROJECT_DIR) / "models" / "features" / "transaction_features.yml")
    # A connection of its own: the reader is drained while dbt's connection writes the table.
    return feature_table(session.cursor(), transactions.sql_query(), labels.sql_query(), spec, since, until)


def feature_table(
    connection: duckdb.DuckDBPyConnection,
    transactions: str,
    labels: str,
    spec: FeatureSpec,
    since: datetime | None,
    until: datetime | None,
) -> pa.RecordBatchReader:
    """One row per transaction of [since, until): who and when, then every feature of the spec. Card by card.

    A run of a part gives exactly what a run of everything gives for that part.

    Args:
        connection: this call's own; it gets two temporary tables.
        transactions, labels: SQL of the staged relations.
        since, until: naive UTC; None is without bound.
    """
    schema = pa.schema(
        [*_IDENTITY.items(), *((feature.name, _ARROW_TYPES[feature.data_type]) for feature in spec.features)]
    )
    return pa.RecordBatchReader.from_batches(
        schema, _batches(connection, transactions, labels, spec, since, until, schema)
    )


def _batches(
    connection: duckdb.DuckDBPyConnection,
    transactions: str,
    labels: str,
    spec: FeatureSpec,
    since: datetime | None,
    until: datetime | None,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    reach_us = max(spec.transactions_reach_us("card"), spec.transactions_reach_us("merchant"))
    labels_reach_us = max(spec.labels_reach_us("card"), spec.labels_reach_us("merchant"))
    arrivals = (
        "select t.card_id, t.merchant_id, t.amount_minor, l.counts_from_us, cast(l.is_fraud as bigint) as is_fraud "
        f"from ({labels}) as l join ({transactions}) as t on t.transaction_id = l.transaction_id "
        f"where {_between('l.counts_from', since, until, labels_reach_us)}"
    )
    first_label, joined = f"{NEVER_US}", ""
    if any(feature.of == "unlabelled" for feature in spec.features):
        first_label = f"coalesce(f.first_us, {NEVER_US})"
        joined = (
            f"left join (select transaction_id, min(counts_from_us) as first_us from ({labels}) as l "
            f"where {_between('counts_from', since, until, labels_reach_us)} group by all) as f "
            "on f.transaction_id = t.transaction_id"
        )
    # `line` numbers the transactions asked for; what is only history has none.
    past = (
        f"select t.*, {first_label} as first_label_us, "
        f"case when {_between('t.event_time', since, until)} then row_number() over () - 1 end as line "
        f"from ({transactions}) as t {joined} where {_between('t.event_time', since, until, reach_us)}"
    )
    rows = _number(
        connection, f"select count(*) from ({transactions}) as t where {_between('event_time', since, until, reach_us)}"
    )
    lines, buckets = (
        _read_whole(connection, past, arrivals) if rows <= WHOLE_ROWS else _dealt(connection, past, arrivals)
    )
    merchants = EntityEngine(spec, "merchant")
    own, cards = OwnEngine(spec), EntityEngine(spec, "card")
    position = {feature.name: i for i, feature in enumerate((*own.features, *cards.features, *merchants.features))}
    with tempfile.TemporaryFile() as file:
        scratch = _scratch(file, lines, len(merchants.features))
        for part in _parts(buckets("merchant"), merchants, "merchant"):
            kernel.scatter(part.values, part.lines, scratch)
        for part in _parts(buckets("card"), cards, "card"):
            asked = part.transactions.take(pa.array(part.rows))
            values = [*own.compute(_own_values(asked)), *part.values, *kernel.gather(scratch, part.lines)]
            yield pa.RecordBatch.from_arrays(
                [asked[name].combine_chunks() for name in _IDENTITY]
                + [_arrow(feature, values[position[feature.name]]) for feature in spec.features],
                schema=schema,
            )


class _Part(NamedTuple):
    """Features of some entities: `values` has one row per feature and one column per transaction asked for.

    `rows` is where these stand in `transactions`, `lines` their numbers in the whole run.
    """

    transactions: pa.Table
    rows: Int64
    lines: Int64
    values: Double


Bucket = tuple[pa.Table, pa.Table]
"""Transactions and label arrivals of some cards or merchants."""


def _read_whole(
    connection: duckdb.DuckDBPyConnection, past: str, arrivals: str
) -> tuple[int, Callable[[str], Iterable[Bucket]]]:  # fmt: skip
    """The number of lines, and everything as one bucket, read once for both entities."""
    transactions, labels = (connection.sql(sql).to_arrow_table().combine_chunks() for sql in (past, arrivals))
    last = pc.max(transactions["line"]).as_py()
    return 0 if last is None else last + 1, lambda entity: [(transactions, labels)]


def _dealt(
    connection: duckdb.DuckDBPyConnection, past: str, arrivals: str
) -> tuple[int, Callable[[str], Iterable[Bucket]]]:  # fmt: skip
    """The number of lines, and the buckets of each entity, read one after the other."""
    connection.execute(f"create or replace temp table past as {past}")
    connection.execute(f"create or replace temp table arrivals as {arrivals}")
    rows = _number(connection, "select count(*) from past")
    connection.execute(f"set memory_limit = '{_memory_mib(rows)}MiB'")
    count = -(-rows // BUCKET_ROWS)

    def buckets(entity: str) -> Iterator[Bucket]:
        columns = "*" if entity == "card" else _MERCHANT_COLUMNS
        # In the order of the buckets, so that each reads its own rows and skips the others': with the number of
        # transactions the number of buckets grows, too. A day needs the history of the entities it has, not of all.
        for table, selected in (
            ("past", columns),
            ("arrivals", f"{entity}_id, counts_from_us, is_fraud, amount_minor"),
        ):
            connection.execute(
                f"create or replace temp table bucketed_{table} as "
                f"select {selected}, hash({entity}_id) % {count} as bucket from {table} "
                f"where {entity}_id in (select {entity}_id from past where line is not null) order by bucket"
            )
        for bucket in range(count):
            transactions, labels = (
                connection.sql(
                    f"select * exclude (bucket) from bucketed_{table} where bucket = {bucket}"
                ).to_arrow_table()
                for table in ("past", "arrivals")
            )
            yield transactions.combine_chunks(), labels

    return _number(connection, "select coalesce(max(line), -1) + 1 from past"), buckets


def _parts(buckets: Iterable[Bucket], engine: EntityEngine, entity: str) -> Iterator[_Part]:
    for transactions, labels in buckets:
        yield from _bucket(transactions, labels, engine, entity)


def _bucket(transactions: pa.Table, labels: pa.Table, engine: EntityEngine, entity: str) -> Iterator[_Part]:
    order, entities, starts, time_us = _sorted(transactions, f"{entity}_id")
    label_starts, label_order = _sorted_labels(labels, entities, f"{entity}_id")
    label_columns = [labels[name].to_numpy()[label_order] for name in ("counts_from_us", "is_fraud", "amount_minor")]
    amount, first_label = (transactions[name].to_numpy()[order] for name in ("amount_minor", "first_label_us"))
    codes = np.stack([_codes(transactions[_COLUMNS[of]])[order] for of in ATTRIBUTES[entity]])
    latitude, longitude = (_doubles(transactions[f"merchant_{axis}"])[order] for axis in ("latitude", "longitude"))
    lines = transactions["line"].fill_null(-1).to_numpy()[order]
    asked_before = np.concatenate([[0], np.cumsum(lines >= 0)])
    for first, last in _entity_ranges(starts):
        a, b = starts[first], starts[last]
        rows = a + np.flatnonzero(lines[a:b] >= 0)
        past = Past(
            starts[first : last + 1] - a, time_us[a:b], amount[a:b], first_label[a:b],
            np.ascontiguousarray(codes[:, a:b]), latitude[a:b], longitude[a:b],
        )  # fmt: skip
        label_a, label_b = label_starts[first], label_starts[last]
        known = Known(
            label_starts[first : last + 1] - label_a, *(column[label_a:label_b] for column in label_columns)
        )  # fmt: skip
        asked = Asked(
            asked_before[starts[first : last + 1]] - asked_before[a], time_us[rows], amount[rows],
            np.ascontiguousarray(codes[:, rows]), latitude[rows], longitude[rows],
        )  # fmt: skip
        yield _Part(transactions, order[rows], lines[rows], engine.compute(past, known, asked))


def _sorted(transactions: pa.Table, id_column: str) -> tuple[Int64, pa.Array, Int64, Int64]:
    """Order by entity, time and id; the entities, the row at which each starts, and the times in that order."""
    encoded = transactions[id_column].combine_chunks().dictionary_encode()
    entity, time_us = encoded.indices.to_numpy(), transactions["event_time_us"].to_numpy()
    order, starts = _grouped(entity, len(encoded.dictionary), time_us)
    entity, time_us = entity[order], time_us[order]
    # Ties are few, so only they are sorted by the text of their ids.
    is_tied = np.zeros(len(order) + 1, np.bool_)
    is_tied[1:-1] = (entity[1:] == entity[:-1]) & (time_us[1:] == time_us[:-1])
    begins = np.flatnonzero(is_tied[1:] & ~is_tied[:-1])
    ends = np.flatnonzero(is_tied[:-1] & ~is_tied[1:]) + 1
    ids = transactions["transaction_id"]
    for begin, end in zip(begins, ends, strict=True):
        order[begin:end] = sorted(order[begin:end], key=lambda row: ids[int(row)].as_py())
    return order, encoded.dictionary, starts, time_us


def _sorted_labels(labels: pa.Table, entities: pa.Array, id_column: str) -> tuple[Int64, Int64]:
    """The row at which the labels of each entity start, and the order by entity and moment that makes it so."""
    found = pc.index_in(labels[id_column].combine_chunks(), value_set=entities)
    entity = found.fill_null(len(entities)).to_numpy()  # an entity without transactions in reach goes to the end
    order, starts = _grouped(entity, len(entities) + 1, labels["counts_from_us"].to_numpy())
    return starts[:-1], order


def _grouped(entity: Codes, entities: int, time_us: Int64) -> tuple[Int64, Int64]:
    """The order by entity and time, and the row at which each entity starts."""
    in_time = np.argsort(time_us, kind="stable")  # fast where rows come in time order, as most do
    order, starts = kernel.grouped(entity[in_time], entities)
    return in_time[order], starts


def _entity_ranges(starts: Int64) -> Iterator[tuple[int, int]]:
    """Consecutive entities [first, last) with about BATCH_ROWS transactions; a larger entity stands alone."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + BATCH_ROWS, side="right")) - 1
        last = max(first + 1, min(last, len(starts) - 1))
        yield first, last
        first = last


def _own_values(asked: pa.Table) -> OwnValues:
    return OwnValues(
        time_us=asked["event_time_us"].to_numpy(),
        amount_minor=asked["amount_minor"].to_numpy(),
        is_online=_doubles(pc.equal(asked["channel"], "online")),
        is_atm=_doubles(pc.equal(asked["channel"], "atm")),
        **{
            f"{whose}_{axis}": _doubles(asked[f"{whose}_{axis}"])
            for whose in ("home", "merchant")
            for axis in ("latitude", "longitude")
        },
    )


def _scratch(file: Any, rows: int, columns: int) -> Double:
    """A matrix in a file that vanishes with the process, so that what does not fit in memory goes to disk."""
    if rows * columns == 0:
        return np.empty((rows, columns))
    return np.memmap(file, np.float64, "w+", shape=(rows, columns))


def _codes(values: pa.ChunkedArray) -> Codes:
    codes: Codes = values.combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    return codes


def _doubles(values: pa.ChunkedArray) -> Double:
    doubles: Double = values.cast(pa.float64()).to_numpy()  # null becomes NaN
    return doubles


def _arrow(feature: Feature, values: Double) -> pa.Array:
    return pa.array(values, from_pandas=True).cast(_ARROW_TYPES[feature.data_type])  # NaN becomes null


def _memory_mib(rows: int) -> int:
    """What DuckDB may use beside us: enough to sort its copies of `rows` transactions, at most half of the machine.

    What is larger goes to disk, where sorting costs more than in proportion.
    """
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(max(_LEAST_MEMORY, rows * _SORTED_BYTES), half) // 2**20


def _number(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(connection.execute(sql).fetchall()[0][0])


def _between(column: str, since: datetime | None, until: datetime | None, reach_us: int = 0) -> str:
    conditions = []
    if since is not None:
        conditions.append(f"{column} >= timestamp '{since - timedelta(microseconds=reach_us)}'")
    if until is not None:
        conditions.append(f"{column} < timestamp '{until}'")
    return " and ".join(conditions) or "true"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
