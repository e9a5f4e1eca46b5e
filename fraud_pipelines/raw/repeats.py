"""Rows whose transaction_id was seen before, in the same batch or in the warehouse: the first one stays.

An identical row is a duplicate and needs nothing. A different one is set aside with the columns that differ, worded the
same wherever the first one was, so that a repeated ingestion gives the same quarantine.
"""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines import tables
from fraud_pipelines.raw.quarantine import QUARANTINE_SCHEMA, quarantined

CONTENT = tuple(
    name for name in tables.TRANSACTIONS.columns if name not in ("transaction_id", "source", "ingestion_id")
)


def split_repeats(rows: pa.Table, file_name: str) -> tuple[pa.Table, pa.Table]:
    """`rows` with the first of each transaction_id only, and the later ones that contradict it (QUARANTINE_SCHEMA).

    A later row that differs in its label alone also contradicts: both would have arrived at one moment.
    """
    if pc.count_distinct(rows["transaction_id"]).as_py() == rows.num_rows:
        return rows, QUARANTINE_SCHEMA.empty_table()
    first_rows = rows.group_by("transaction_id").aggregate([("source_row", "min")])
    is_first = pc.is_in(rows["source_row"], first_rows["source_row_min"])
    firsts, later = rows.filter(is_first), rows.filter(pc.invert(is_first))
    compared = (*CONTENT, "is_fraud", "known_at")
    return firsts, _contradictions(later, firsts, compared, file_name)


def stored_conflicts(rows: pa.Table, stored: pa.Table, file_name: str) -> pa.Table:
    """The rows that contradict the stored row of their transaction_id, as QUARANTINE_SCHEMA."""
    return _contradictions(rows, stored, CONTENT, file_name)


def label_conflicts(rows: pa.Table, stored: pa.Table, file_name: str) -> pa.Table:
    """The rows whose label contradicts a stored label of the same transaction and moment, as QUARANTINE_SCHEMA."""
    return _contradictions(rows, stored, ("is_fraud",), file_name, key=("transaction_id", "known_at"))


def _contradictions(
    rows: pa.Table,
    before: pa.Table,
    columns: tuple[str, ...],
    file_name: str,
    *,
    key: tuple[str, ...] = ("transaction_id",),
) -> pa.Table:
    if not rows.num_rows or not before.num_rows:
        return QUARANTINE_SCHEMA.empty_table()
    match = " and ".join(f"n.{name} = s.{name}" for name in key)
    # A missing label is no label yet: it contradicts nothing.
    both = "n.is_fraud is not null and s.is_fraud is not null and "
    guards = {"is_fraud": both, "known_at": both}
    differing = ", ".join(
        f"case when {guards.get(name, '')}n.{name} is distinct from s.{name} then '{name}' end" for name in columns
    )
    with duckdb.connect() as connection:
        connection.register("later", rows)
        connection.register("before", before)
        found = connection.sql(
            f"select * from (select n.source_row, concat_ws(', ', {differing}) as differing "
            f"from later n join before s on {match}) where differing <> '' order by source_row"
        ).to_arrow_table()
    reasons = dict(zip(found["source_row"].to_pylist(), found["differing"].to_pylist(), strict=True))
    contradicting = rows.filter(pc.is_in(rows["source_row"], found["source_row"]))
    set_aside = []
    for row in contradicting.to_pylist():
        number = row.pop("source_row")
        reason = f"transaction_id: expected one row, found another with different {reasons[number]}; the first stays"
        set_aside.append(quarantined(file_name, number, reason, row))
    return pa.Table.from_pylist(set_aside, schema=QUARANTINE_SCHEMA)
