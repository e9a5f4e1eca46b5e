"""What the warehouse holds of the raw tables for some days: counts, and a hash of the rows as evidence."""

from dataclasses import dataclass
from datetime import datetime

from fraud_pipelines import tables
from fraud_pipelines.errors import MissingPartition
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.ledger import Log
from fraud_pipelines.raw.decisions import TABLE_OF, count_rows
from fraud_pipelines.warehouse import Session


@dataclass(frozen=True)
class Holding:
    """Rows of one raw table; `fraud_share` in [0, 1], None without labelled rows or where it says nothing."""

    row_count: int
    data_hash: str
    fraud_share: float | None = None
    quarantined_count: int = 0


def transactions_held(session: Session, since: datetime, until: datetime) -> Holding:
    """Transactions of [since, until), and how many rows their ingestions quarantined.

    Raises:
        MissingPartition: there is none.
    """
    counts = session.query(
        """
        select (select count(*) from raw.transactions where event_time >= :since and event_time < :until) as held,
            (select count(*) from raw.quarantine q where exists (
                select 1 from raw.transactions t where t.ingestion_id = q.ingestion_id
                    and t.event_time >= :since and t.event_time < :until)) as quarantined
        """,
        since=since,
        until=until,
    ).iloc[0]
    if not counts["held"]:
        raise MissingPartition(
            f"raw.transactions has no rows from {since:%Y-%m-%d} to before {until:%Y-%m-%d}. "
            "Run: fraud ingest FILE --mapping NAME"
        )
    return Holding(
        row_count=int(counts["held"]),
        data_hash=session.hash_window(tables.TRANSACTIONS, since=since, until=until),
        quarantined_count=int(counts["quarantined"]),
    )


def labels_held(session: Session, since: datetime, until: datetime) -> Holding:
    """Labels that became known in [since, until). Days with traffic may have none: labels arrive later.

    Raises:
        MissingPartition: there is neither a label nor a transaction nor a decision.
    """
    counts = session.query(
        """
        select count(*) as held, coalesce(sum(case when is_fraud then 1 else 0 end), 0) as frauds,
            (select count(*) from raw.transactions where event_time >= :since and event_time < :until)
            + (select count(*) from raw.decisions where decided_at >= :since and decided_at < :until) as traffic
        from raw.labels where known_at >= :since and known_at < :until
        """,
        since=since,
        until=until,
    ).iloc[0]
    held = int(counts["held"])
    if not held and not counts["traffic"]:
        raise MissingPartition(
            f"raw.labels has no rows from {since:%Y-%m-%d} to before {until:%Y-%m-%d}, and neither have "
            "raw.transactions and raw.decisions. Run: fraud ingest FILE --mapping NAME"
        )
    share = float(counts["frauds"]) / held if held else None
    return Holding(held, session.hash_window(tables.LABELS, since=since, until=until), fraud_share=share)


def log_held(session: Session, log: Log, since: datetime, until: datetime) -> Holding:
    """Decisions or feedback of [since, until), by the moment they were made; none is fine, as traffic may pause."""
    rows = count_rows(session, log, since, until)
    return Holding(rows, session.hash_window(TABLE_OF[log], since=since, until=until))


def customers_held(session: Session) -> Holding:
    """Every customer; none is fine, as a source need not describe them."""
    rows = session.read(tables.CUSTOMERS)
    return Holding(len(rows), hash_rows(rows))
