"""What the ledger knew at a moment of the data: promotions and sources of later moments are left out (rule 1).

The ledger writes wall-clock times; a report's moment is data time. Historical data is old long before it is ingested,
so the two are never compared: a row without a moment of its own counts from the end of the data it was decided on.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

from fraud_pipelines.ledger.records import Ingestion, Promotion

BEFORE_ALL = datetime(1, 1, 1)


def known_promotions(
    promotions: Sequence[Promotion], ingestions: Sequence[Ingestion], as_of: datetime
) -> list[Promotion]:
    """Promotions, refusals and rollbacks that count at `as_of`, in the ledger's order.

    A row counts from its own `as_of`. One without (a rollback, a promotion past missing gates) counts from the end of
    the data that had been ingested when it was decided, and never before a row that it follows.
    """
    known, latest = [], BEFORE_ALL
    for row in promotions:
        moment = row.as_of or max(latest, data_end(ingestions, by=row.decided_at) or latest)
        latest = max(latest, moment)
        if moment <= as_of:
            known.append(row)
    return known


def champion_of(promotions: Sequence[Promotion]) -> str | None:
    """The version that decides after these rows; None before the first promotion."""
    return next((row.model_version for row in reversed(promotions) if row.kind != "refuse"), None)


def known_ingestions(ingestions: Sequence[Ingestion], as_of: datetime) -> list[Ingestion]:
    """Sources that had begun at `as_of`; `is_whole` tells which had ended, too.

    One without a single readable day counts from the end of the data that was there when it was recorded.
    """
    known = []
    for row in ingestions:
        since = datetime.combine(row.first_day, time()) if row.first_day else data_end(ingestions, by=row.recorded_at)
        if since is None or since < as_of or (row.first_day is None and since == as_of):
            known.append(row)
    return known


def is_whole(ingestion: Ingestion, as_of: datetime) -> bool:
    """Whether all transactions of a source lie before `as_of`; only then are its row counts a fact of that moment.

    Labels arrive later than what they are about: `are_labels_whole` tells of them.
    """
    last = ingestion.last_event_day or ingestion.last_day
    return last is None or _end_of(last) <= as_of


def are_labels_whole(ingestion: Ingestion, as_of: datetime) -> bool:
    """Whether all labels of a source had arrived by `as_of`."""
    return ingestion.last_day is None or _end_of(ingestion.last_day) <= as_of


def data_end(ingestions: Sequence[Ingestion], *, by: datetime) -> datetime | None:
    """Midnight that ends the last day of data ingested by a wall-clock moment; None before the first ingestion."""
    days = [row.last_day for row in ingestions if row.last_day and row.recorded_at <= by]
    return _end_of(max(days)) if days else None


def _end_of(day: date) -> datetime:
    return datetime.combine(day, time()) + timedelta(days=1)
