"""The online store's state as the warehouse knows it at a moment."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from fraud_pipelines import tables
from fraud_pipelines.errors import EmptySample
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store.state import LABEL_ARRIVALS, LATENESS_US, OPTIONAL, TRANSACTIONS, Reach

if TYPE_CHECKING:
    import pyarrow as pa

    from fraud_pipelines.warehouse import Warehouse


def end_of_data(warehouse: Warehouse) -> datetime:
    """A microsecond after the last transaction, naive UTC: the warehouse says nothing about any later moment.

    Raises:
        EmptySample: the warehouse has no transaction.
    """
    last = warehouse.query_arrow(f"select max(event_time) as last from {tables.TRANSACTIONS.name}")["last"][0].as_py()
    if last is None:
        raise EmptySample(f"{tables.TRANSACTIONS.name} has no rows. Run: fraud ingest FILE --mapping NAME")
    return last + timedelta(microseconds=1)


def read_state(
    warehouse: Warehouse, spec: FeatureSpec, as_of: datetime, *, reach: Reach | None = None
) -> tuple[pa.Table, pa.Table]:
    """Transactions and label arrivals before `as_of` that a window of the spec can still reach.

    A label's transaction may be older than any window; its card and merchant come from the whole history.

    Args:
        reach: how far back to read at least, where that is further than the spec's own.
    Returns:
        The two tables that OnlineStore.rebuild expects, ordered by time and transaction.
    """
    reach = Reach.of(spec).widened(reach)
    since = {
        table.name: as_of - timedelta(microseconds=reach.of_table(table) + LATENESS_US)
        for table in (TRANSACTIONS, LABEL_ARRIVALS)
    }
    with warehouse.session() as session:
        transactions = session.query_arrow(
            f"select transaction_id, event_time, card_id, merchant_id, amount_minor, currency, {', '.join(OPTIONAL)} "
            f"from {tables.TRANSACTIONS.name} where event_time >= :since and event_time < :until "
            "order by event_time, transaction_id",
            since=since["transactions"],
            until=as_of,
        )
        labels = session.query_arrow(
            "select l.transaction_id, t.event_time, l.known_at, l.is_fraud, t.amount_minor, t.card_id, t.merchant_id "
            f"from {tables.LABELS.name} l join {tables.TRANSACTIONS.name} t on t.transaction_id = l.transaction_id "
            # A label counts from a microsecond after its event at the earliest, whatever known_at says.
            "where (l.known_at >= :since or t.event_time >= :since) and l.known_at < :until "
            "order by l.known_at, l.transaction_id",
            since=since["label_arrivals"],
            until=as_of,
        )
    return transactions, labels


def hash_state(transactions: pa.Table, labels: pa.Table) -> str:
    """SHA-256 over the hashes of the two tables of `read_state`; the same warehouse and moment give the same again."""
    hashes = [hash_rows(table.to_pandas()) for table in (transactions, labels)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
