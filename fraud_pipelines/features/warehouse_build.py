"""The feature table of a range of days, read from DuckDB and streamed back: what the Python dbt model returns.

Merchants come first, into a scratch matrix with one line per transaction; then cards, whose batches take their
merchants' features from it and leave. Memory stays bounded: where there is more than fits, entities are dealt into
buckets, and one bucket is read at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from fraud_pipelines.features import kernel
from fraud_pipelines.features.engine import (
    ATTRIBUTES,
    Asked,
    EntityEngine,
    Known,
    OwnEngine,
    OwnValues,
    Past,
    order_by_entity,
)
from fraud_pipelines.features.kernel import Codes, Double, Int64
from fraud_pipelines.features.spec import Feature, FeatureSpec, load_spec
from fraud_pipelines.features.warehouse_read import Columns, Reading, number, read, take

if TYPE_CHECKING:
    import duckdb

# What a transaction that is read takes in memory, its merchant's features included; what DuckDB takes to join it.
_ROW_BYTES, _JOINED_BYTES = 500, 200
_LEAST_MEMORY = 500 * 10**6
# Transactions whose features leave at once: 8 bytes per feature each.
BATCH_ROWS = 50_000

_ARROW_TYPES = {"bigint": pa.int64(), "double precision": pa.float64()}
_TEXTS = {"country": "country", "device": "device_id", "category": "category"}
# What a merchant's features look at; a card's need every column.
_MERCHANT_COLUMNS = (
    "transaction_id, event_time_us, merchant_no, card_no, amount_minor, line, "
    "columns('first_label_us|merchant_latitude|merchant_longitude')"
)
_IDENTITY = {
    "transaction_id": pa.string(),
    "event_time": pa.timestamp("us"),
    "card_id": pa.dictionary(pa.int32(), pa.string()),
    "merchant_id": pa.dictionary(pa.int32(), pa.string()),
    "amount_minor": pa.int64(),
    "currency": pa.dictionary(pa.int32(), pa.string()),
}
_PLACES = ("home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude")
# What leaves with the features, and what features of a transaction itself look at.
_ASKED = (
    "transaction_id", "event_time_us", "card_no", "merchant_no", "amount_minor", "currency", "is_online", "is_atm",
    *_PLACES,
)  # fmt: skip


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
        connection: this call's own; it gets temporary tables.
        transactions, labels: SQL of the staged relations.
        since, until: naive UTC; None is without bound.
    """
    schema = pa.schema(
        [*_IDENTITY.items(), *((feature.name, _ARROW_TYPES[feature.data_type]) for feature in spec.features)]
    )
    reading = Reading(connection, transactions, labels, spec, since, until)
    return pa.RecordBatchReader.from_batches(schema, _batches(connection, reading, spec, schema))


def _batches(
    connection: duckdb.DuckDBPyConnection, reading: Reading, spec: FeatureSpec, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    rows, arrivals = reading.count()
    count = max(1, -(-rows // most_rows_at_once()))
    # More than the profile's is for many rows alone: joining them on disk costs twice the time.
    connection.execute(f"set memory_limit = '{max(_LEAST_MEMORY, rows // count * _JOINED_BYTES) // 2**20}MiB'")
    lines, buckets = (
        _dealt(connection, reading, count) if count > 1 else _read_whole(connection, reading, rows, arrivals)
    )
    merchants = EntityEngine(spec, "merchant")
    own, cards = OwnEngine(spec), EntityEngine(spec, "card")
    position = {feature.name: i for i, feature in enumerate((*own.features, *cards.features, *merchants.features))}
    with tempfile.TemporaryFile() as file:
        scratch = _scratch(file, lines, len(merchants.features))
        for part in _parts(buckets("merchant"), merchants, "merchant", len(reading.ids["merchant"])):
            kernel.scatter(part.values, part.lines, scratch)
        for part in _parts(buckets("card"), cards, "card", len(reading.ids["card"])):
            asked = take(part.transactions, _ASKED, part.rows)
            values = [*own.compute(_own_values(asked)), *part.values, *kernel.gather(scratch, part.lines)]
            yield pa.RecordBatch.from_arrays(
                [*_identity(asked, reading.ids)]
                + [_arrow(feature, values[position[feature.name]]) for feature in spec.features],
                schema=schema,
            )


class _Part(NamedTuple):
    """Features of some entities: `values` has one row per feature and one column per transaction asked for.

    `rows` is where these stand in `transactions`, `lines` their numbers in the whole run.
    """

    transactions: Columns
    rows: Int64
    lines: Int64
    values: Double


Bucket = tuple[Columns, Columns]
"""Transactions and label arrivals of some cards or merchants."""
Buckets = Callable[[str], Iterable[Bucket]]
"""The buckets of an entity."""


def _read_whole(
    connection: duckdb.DuckDBPyConnection, reading: Reading, rows: int, arrivals: int
) -> tuple[int, Buckets]:
    """The number of lines, and everything as one bucket, read once for both entities."""
    transactions, labels = read(connection, reading.past, rows), read(connection, reading.arrivals, arrivals)
    return int(transactions["line"].max(initial=-1)) + 1, lambda entity: [(transactions, labels)]


def _dealt(connection: duckdb.DuckDBPyConnection, reading: Reading, count: int) -> tuple[int, Buckets]:
    """The number of lines, and the buckets of each entity, `count` of each, read one after the other.

    Every bucket looks at the bucket of every row. Few as they are, that costs less than sorting the rows by it.
    """
    for table, sql in (("past", reading.past), ("arrivals", reading.arrivals)):
        connection.execute(f"create or replace temp table {table} as {sql}")

    def buckets(entity: str) -> Iterator[Bucket]:
        no = f"{entity}_no"
        # A day needs the history of the entities it has, not of all.
        connection.execute(f"create or replace temp table asked as select distinct {no} from past where line >= 0")
        for bucket in range(count):
            of_bucket = f"where {no} % {count} = {bucket} and {no} in (select {no} from asked)"
            transactions, labels = (
                read(
                    connection,
                    f"select {columns} from {table} {of_bucket}",
                    number(connection, f"select count(*) from {table} {of_bucket}"),
                )
                for table, columns in (
                    ("past", "*" if entity == "card" else _MERCHANT_COLUMNS),
                    ("arrivals", f"{no}, counts_from_us, is_fraud, amount_minor"),
                )
            )
            yield transactions, labels

    return number(connection, "select coalesce(max(line), -1) + 1 from past"), buckets


def most_rows_at_once() -> int:
    """Transactions that may be in memory together: what fits half of the machine's, and never less than a million."""
    half = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return max(1_000_000, half // (_ROW_BYTES + _JOINED_BYTES))


def _parts(buckets: Iterable[Bucket], engine: EntityEngine, entity: str, entities: int) -> Iterator[_Part]:
    for transactions, labels in buckets:
        yield from _bucket(transactions, labels, engine, entity, entities)


def _bucket(
    transactions: Columns, labels: Columns, engine: EntityEngine, entity: str, entities: int
) -> Iterator[_Part]:
    order, starts, time_us = _sorted(transactions, transactions[f"{entity}_no"], entities)
    label_order, label_starts = order_by_entity(labels[f"{entity}_no"], entities, labels["counts_from_us"])
    label_columns = [labels[name][label_order] for name in ("counts_from_us", "is_fraud", "amount_minor")]
    amount, lines = transactions["amount_minor"][order], transactions["line"][order]
    # What was not read, no feature looks at.
    unread = np.zeros(len(order))
    latitude, longitude = (
        transactions[name][order] if name in transactions else unread
        for name in ("merchant_latitude", "merchant_longitude")
    )
    first_label = transactions["first_label_us"][order] if "first_label_us" in transactions else unread.astype(np.int64)
    codes = np.zeros((len(ATTRIBUTES[entity]), len(order)), np.int32)
    for row, of in enumerate(ATTRIBUTES[entity]):
        if of in engine.attributes:
            codes[row] = _codes(transactions, of)[order]
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


def _sorted(transactions: Columns, entity: Codes, entities: int) -> tuple[Int64, Int64, Int64]:
    """Order by entity, time and id; the row at which each entity starts, and the times in that order."""
    order, starts = order_by_entity(entity, entities, transactions["event_time_us"])
    entity, time_us = entity[order], transactions["event_time_us"][order]
    # Ties are few, so only they are sorted by the text of their ids.
    is_tied = np.zeros(len(order) + 1, np.bool_)
    is_tied[1:-1] = (entity[1:] == entity[:-1]) & (time_us[1:] == time_us[:-1])
    begins = np.flatnonzero(is_tied[1:] & ~is_tied[:-1])
    ends = np.flatnonzero(is_tied[:-1] & ~is_tied[1:]) + 1
    ids = transactions["transaction_id"]
    for begin, end in zip(begins, ends, strict=True):
        order[begin:end] = sorted(order[begin:end], key=lambda row: ids[int(row)].as_py())
    return order, starts, time_us


def _entity_ranges(starts: Int64) -> Iterator[tuple[int, int]]:
    """Consecutive entities [first, last) with about BATCH_ROWS transactions; a larger entity stands alone."""
    first = 0
    while first < len(starts) - 1:
        last = int(np.searchsorted(starts, starts[first] + BATCH_ROWS, side="right")) - 1
        last = max(first + 1, min(last, len(starts) - 1))
        yield first, last
        first = last


def _own_values(asked: Columns) -> OwnValues:
    missing = np.full(len(asked["amount_minor"]), np.nan)
    return OwnValues(
        time_us=asked["event_time_us"],
        amount_minor=asked["amount_minor"],
        **{name: asked.get(name, missing) for name in ("is_online", "is_atm", *_PLACES)},
    )


def _scratch(file: Any, rows: int, columns: int) -> Double:
    """A matrix in memory; of too many rows, in a file that vanishes with the process."""
    if rows <= most_rows_at_once() or columns == 0:
        return np.empty((rows, columns))
    return np.memmap(file, np.float64, "w+", shape=(rows, columns))


def _codes(transactions: Columns, of: str) -> Codes:
    """A number for each value of an attribute; -1 is null."""
    if of not in _TEXTS:
        return transactions[f"{of}_no"]
    return transactions[_TEXTS[of]].indices.fill_null(-1).to_numpy()


def _identity(asked: Columns, ids: dict[str, pa.StringArray]) -> Iterator[pa.Array]:
    for name, kind in _IDENTITY.items():
        entity = name.removesuffix("_id")
        if entity in ids:
            yield pa.DictionaryArray.from_arrays(pa.array(asked[f"{entity}_no"]), ids[entity])
        elif name == "event_time":
            yield pa.array(asked["event_time_us"]).cast(kind)
        else:
            yield pa.array(asked[name])


def _arrow(feature: Feature, values: Double) -> pa.Array:
    return pa.array(values, from_pandas=True).cast(_ARROW_TYPES[feature.data_type])  # NaN becomes null


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
