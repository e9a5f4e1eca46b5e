"""Sending transactions to the scoring service, as a payment service would."""

from typing import Any

import httpx
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, MissingPartition, ServiceUnavailable
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


def post_transaction(base_url: str, transaction: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
    """The service's answer to one transaction, sent with an API key where the service asks for one.

    Raises:
        ServiceUnavailable: nothing answers at `base_url`, or the service says it cannot answer now.
        ContractBroken: the service refuses the transaction; the message is the service's own.
    """
    try:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = httpx.post(f"{base_url}/score", json=transaction, headers=headers, timeout=30)
    except httpx.TransportError as error:
        raise ServiceUnavailable(f"No service answers at {base_url}: {error}. Run: fraud serve") from error
    if response.status_code >= 500 or response.status_code == 429:
        raise ServiceUnavailable(f"{base_url} answered {response.status_code}: {response.text}")
    if response.status_code >= 400:
        raise ContractBroken(f"{base_url} refused the transaction ({response.status_code}): {response.text}")
    return response.json()
