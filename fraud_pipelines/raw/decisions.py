"""Decisions and feedback: from the ledger, where serving leaves them, into daily partitions of the warehouse.

A row belongs to the day of its own moment, `decided_at` or `known_at`, which serving gave it once and for all. The day
on which the ledger got it would never gain a row afterwards, but it would be another one when a journal is delivered
again into a restored ledger, and a person who asks for the decisions of the 3rd means those made on the 3rd. The price
is that a day may gain rows long after it ended: so each load also looks for rows that came since the last one, whatever
their day, and replaces those days, too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import islice
from typing import Any

import pyarrow as pa

from fraud_pipelines import tables
from fraud_pipelines.ledger import DecisionSummary, Feedback, Ledger, Log
from fraud_pipelines.warehouse import Session
from fraud_pipelines.warehouse.interface import arrow_schema

TABLE_OF: dict[Log, tables.Table] = {"decisions": tables.DECISIONS, "feedback": tables.FEEDBACK}

# Positions below the last one loaded that are looked at again, because on PostgreSQL a smaller position may become
# visible after a larger one: 40 seconds of 5,000 rows a second, for a writer whose batch takes one. Own choice. The
# days a run is asked for do not depend on it, as they are read whole.
SAFETY_MARGIN = 200_000
# Rows compared, and rows turned into columns, at a time: bounds the memory.
PAGE_ROWS = 50_000

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class LogLoad:
    """What a load replaced beyond the days it was asked for: first moment of the day -> rows the warehouse lacked."""

    late: dict[datetime, int]

    @property
    def late_count(self) -> int:
        return sum(self.late.values())


def load_log(session: Session, ledger: Ledger, log: Log, days: Sequence[datetime]) -> LogLoad:
    """Replace these days, and each other day of which the ledger has rows that the warehouse lacks.

    All in the caller's transaction, for the largest position loaded is the mark from which the next load looks: were
    the days asked for to be kept and the others lost, nothing would look for these again.

    Args:
        days: first moments, naive UTC.
    """
    table = TABLE_OF[log]
    # Fixed first: a row that arrives while days are read waits, also where its day is read last.
    through, asked = ledger.last_position(log), set(days)
    late = {day: count for day, count in _missing(session, ledger, log, through).items() if day not in asked}
    for day in sorted({*asked, *late}):
        rows = (
            decision_rows(ledger.decision_summaries(day, day + _DAY, through=through))
            if log == "decisions"
            else feedback_rows(ledger.feedback(day, day + _DAY, through=through))
        )
        session.replace_window(table, rows, since=day, until=day + _DAY)
    return LogLoad(dict(sorted(late.items())))


def count_rows(session: Session, log: Log, since: datetime, until: datetime) -> int:
    """Rows of a log in the warehouse with their moment in [since, until)."""
    table = TABLE_OF[log]
    found = session.query_arrow(
        f"select count(*) as rows from {table.name} "
        f"where {table.time_column} >= :since and {table.time_column} < :until",
        since=since,
        until=until,
    )
    return int(found["rows"][0].as_py())


def last_loaded(session: Session, log: Log) -> int:
    """Largest position of a log in the warehouse; 0 before the first."""
    found = session.query_arrow(f"select max(position) as position from {TABLE_OF[log].name}")
    return found["position"][0].as_py() or 0


def _missing(session: Session, ledger: Ledger, log: Log, through: int) -> Counter[datetime]:
    """Rows of the ledger that the warehouse lacks, by first moment of their day."""
    table, missing = TABLE_OF[log], Counter[datetime]()
    # A restored ledger may be behind the warehouse.
    start = max(min(last_loaded(session, log), through) - SAFETY_MARGIN, 0)
    for after in range(start, through, PAGE_ROWS):
        page = {"after": after, "through": min(after + PAGE_ROWS, through)}
        held = session.query_arrow(
            f"select {table.key[0]} as held from {table.name} where position > :after and position <= :through", **page
        )
        # By key: positions of a restored ledger may be other rows'.
        keys = set(held["held"].to_pylist())
        missing.update(
            datetime.combine(arrival.moment.date(), time.min)
            for arrival in ledger.arrivals(log, **page)
            if arrival.key not in keys
        )
    return missing


def decision_rows(decisions: Iterable[DecisionSummary]) -> pa.Table:
    """Rows of raw.decisions, in the order given."""
    return _columns(tables.DECISIONS, (_decision_row(decision) for decision in decisions))


def feedback_rows(feedback: Iterable[Feedback]) -> pa.Table:
    """Rows of raw.feedback, in the order given. The note stays in the ledger: words of a person about a person."""
    names = tables.FEEDBACK.columns
    return _columns(tables.FEEDBACK, ({name: getattr(item, name) for name in names} for item in feedback))


def _decision_row(decision: DecisionSummary) -> dict[str, Any]:
    row = {name: getattr(decision, name, None) for name in tables.DECISIONS.columns}
    return row | {
        "review_threshold": decision.thresholds.get("review"),
        "block_threshold": decision.thresholds.get("block"),
        "reason_codes": ", ".join(reason["code"] for reason in decision.reasons) or None,
        "amount_minor": decision.request.get("amount_minor"),
        "currency": decision.request.get("currency"),
    }


def _columns(table: tables.Table, rows: Iterable[dict[str, Any]]) -> pa.Table:
    schema, rest = arrow_schema(table), iter(rows)
    pages = [schema.empty_table()]
    while page := list(islice(rest, PAGE_ROWS)):
        pages.append(pa.Table.from_pylist(page, schema=schema))
    return pa.concat_tables(pages)
