"""Rows set aside: where each came from, why, and what it said, with no card number left in it."""

import json
from typing import Any

import pyarrow as pa

from fraud_pipelines import tables
from fraud_pipelines.raw.source import Malformed
from fraud_pipelines.raw.tokens import mask_card_numbers

# raw.quarantine without the ingestion, which the load adds.
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field(name, pa.int64() if column.type == tables.BIGINT else pa.string())
        for name, column in tables.QUARANTINE.columns.items()
        if name != "ingestion_id"
    ]
)


def quarantined(file_name: str, number: int, reason: str, row: dict[str, Any]) -> dict[str, Any]:
    """One row of QUARANTINE_SCHEMA: the values as text, every card number that is not a token masked."""
    values = {name: None if value is None else _harmless(str(value)) for name, value in row.items()}
    return {
        "source_file": file_name,
        "source_row": number,
        "transaction_id": values.get("transaction_id"),
        "reason": _harmless(reason),
        "row_json": json.dumps(values, ensure_ascii=False),
    }


def unreadable_line(file_name: str, line: Malformed) -> dict[str, Any]:
    """One row of QUARANTINE_SCHEMA for a line whose columns cannot be told apart."""
    return quarantined(file_name, line.row, line.reason, {"line": line.text})


def _harmless(text: str) -> str:
    """Card numbers masked; NUL, which PostgreSQL takes in no text, replaced."""
    return mask_card_numbers(text.replace("\x00", "\N{REPLACEMENT CHARACTER}"))
