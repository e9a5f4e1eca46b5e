"""A stored transaction as a payment service would send it to the scoring service."""

from typing import Any

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import MissingPartition
from fraud_pipelines.raw.currencies import minor_digits
from fraud_pipelines.settings import Settings
from fraud_pipelines.warehouse import open_warehouse

# Columns that say how a row came here, not what was paid.
_BOOKKEEPING = {"source", "ingestion_id", "amount_minor"}


def stored_transaction(settings: Settings, transaction_id: str) -> dict[str, Any]:
    """One transaction of the warehouse in the form the service takes.

    Raises:
        MissingPartition: the warehouse has no such transaction.
    """
    found = open_warehouse(settings.warehouse_url).query(
        f"select * from {tables.TRANSACTIONS.name} where transaction_id = :id", id=transaction_id
    )
    if found.empty:
        raise MissingPartition(
            f"{tables.TRANSACTIONS.name} has no transaction {transaction_id!r}. Run: fraud ingest FILE --mapping NAME"
        )
    return as_request(found.iloc[0])


def as_request(row: pd.Series) -> dict[str, Any]:
    """A row of raw.transactions as the JSON body of POST /score; absent values are left out."""
    digits = minor_digits(str(row["currency"]))
    body: dict[str, Any] = {
        "amount": f"{int(row['amount_minor']) / 10**digits:.{digits}f}",
    }
    for name, value in row.items():
        if name in _BOOKKEEPING or pd.isna(value):
            continue
        body[str(name)] = f"{value.isoformat()}Z" if name == "event_time" else value
    return body
