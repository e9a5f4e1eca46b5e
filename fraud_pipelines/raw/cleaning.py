"""Holding a source's batches against the contract: good rows with tokens go on, the others are set aside.

A broken row never stops the good ones and never vanishes: it goes to quarantine with its reasons, its card number
replaced by the token and any other card number in it masked.
"""

from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from fraud_pipelines.raw import expressions as sql
from fraud_pipelines.raw.contract import CUSTOMER_TEXTS, TEXTS, Columns, TimeBounds, source_texts, staging_query
from fraud_pipelines.raw.mapping import COORDINATES, Mapping
from fraud_pipelines.raw.quarantine import QUARANTINE_SCHEMA, quarantined, unreadable_line
from fraud_pipelines.raw.source import Batch
from fraud_pipelines.raw.tokens import SUSPICIOUS_SQL, contains_card_number, tokenize_card, tokenize_column

_OUTPUTS = {
    "transaction_id": "transaction_id_text",
    "event_time": "event_time",
    "card_id": "card_id_text",
    "merchant_id": "merchant_id_text",
    "amount_minor": "cast(exact_amount as bigint)",
    "currency": "currency",
    **{name: name for name in ("customer_id", "category", "channel", "country", "device_id", *COORDINATES)},
    **{name: name for name in ("is_fraud", "known_at", "label_source")},
    **{f"customer_{name}": f"customer_{name}" for name in CUSTOMER_TEXTS},
    "source_row": "source_row",
}


@dataclass(frozen=True)
class Cleaned:
    """One batch: `rows` in canonical columns with is_fraud, known_at, label_source (is_fraud null without a label),
    customer_* attributes and source_row; `quarantine` as QUARANTINE_SCHEMA."""

    rows: pa.Table
    quarantine: pa.Table


class Cleaner:
    """Holds the batches of one file against the contract. Use it in a `with`: it owns a DuckDB in memory.

    Rows in another currency than `currency` are set aside; None takes any whose amounts have two decimals.
    """

    def __init__(
        self,
        mapping: Mapping,
        columns: Columns,
        file_name: str,
        token_key: bytes,
        bounds: TimeBounds,
        currency: str | None = None,
    ) -> None:
        self._mapping, self._columns, self._file_name = mapping, columns.positional(), file_name
        self._token_key, self._bounds, self._currency = token_key, bounds, currency
        self._connection = duckdb.connect()
        self._connection.execute(f"set TimeZone = {sql.literal(mapping.timezone)}")

    def __enter__(self) -> "Cleaner":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def clean(self, batch: Batch) -> Cleaned:
        """Good rows with card numbers replaced by tokens, and the others with their reasons, each in row order."""
        source = sql.readable(batch.rows.rename_columns(self._columns.all))
        types = {field.name: field.type for field in source.schema}
        texts = list(source_texts(self._mapping, self._columns, types))
        self._connection.register("batch", source.append_column("source_row", batch.row_numbers))
        staging = staging_query(self._mapping, self._columns, types, self._bounds, self._currency)
        self._connection.execute(f"create or replace temp table staged as {staging}")
        strays = self._stray_card_numbers(texts, types)
        self._connection.register("strays", pa.table({"source_row": pa.array(list(strays), pa.int64())}))
        broken_when = "(reasons <> '' or source_row in (select source_row from strays))"
        broken = self._connection.sql(
            f"select source_row, reasons, {', '.join(f'{name}_text as {name}' for name in texts)} from staged "
            f"where {broken_when} order by source_row"
        ).to_arrow_table()
        good = self._connection.sql(
            f"select {', '.join(f'{expression} as {name}' for name, expression in _OUTPUTS.items())} from staged "
            f"where not {broken_when} order by source_row"
        ).to_arrow_table()
        set_aside = [self._quarantined(row, strays) for row in broken.to_pylist()]
        set_aside += [unreadable_line(self._file_name, line) for line in batch.malformed]
        return Cleaned(self._tokenized(good), pa.Table.from_pylist(set_aside, schema=QUARANTINE_SCHEMA))

    def _tokenized(self, rows: pa.Table) -> pa.Table:
        for name in self._mapping.card_numbers:
            position = rows.schema.get_field_index(name)
            rows = rows.set_column(position, name, tokenize_column(rows.column(position), self._token_key))
        return rows

    def _stray_card_numbers(self, texts: list[str], types: dict[str, pa.DataType]) -> dict[int, list[str]]:
        """Row number -> columns that hold a card number where none belongs."""
        guarded = [
            name
            for name in (*TEXTS, *(f"customer_{item}" for item in CUSTOMER_TEXTS))
            if name in texts and name in self._columns.theirs and name not in self._mapping.card_numbers
        ]
        strays: dict[int, list[str]] = {}
        for name in guarded:
            suspects = self._connection.sql(
                f"select source_row, {name}_text from staged "
                f"where length({name}_text) >= 13 and regexp_matches({name}_text, {sql.literal(SUSPICIOUS_SQL)})"
            ).fetchall()
            for row, value in suspects:
                if contains_card_number(value):
                    strays.setdefault(row, []).append(name)
        return strays

    def _quarantined(self, row: dict[str, Any], strays: dict[int, list[str]]) -> dict[str, Any]:
        number, reasons = row.pop("source_row"), row.pop("reasons")
        parts = [reasons] if reasons else []
        parts += [f"{name}: expected no card number, found one" for name in strays.get(number, [])]
        for name in self._mapping.card_numbers:
            if row.get(name):
                row[name] = tokenize_card(row[name], self._token_key)
        return quarantined(self._file_name, number, "; ".join(parts), row)
