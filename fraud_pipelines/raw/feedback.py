"""What analysts say of transactions becomes labels: each verdict that says fraud or not is one label arrival (rule 3).

PENDING and ESCALATED say where a case stands, not what it was. A verdict that is corrected is a second arrival with its
own moment: whoever reads labels takes the latest known by the moment they compute for. An earlier label is never taken
back, so PENDING after CONFIRMED_FRAUD leaves the fraud as it is until another verdict comes.
"""

from dataclasses import dataclass
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines import tables
from fraud_pipelines.ledger import Verdict
from fraud_pipelines.warehouse import Session

LABEL_OF: dict[Verdict, bool] = {"CONFIRMED_FRAUD": True, "FALSE_POSITIVE": False}
ANALYST = "analyst"

# One row per verdict that is no label yet. A verdict given before the payment says it happened cannot be a label: the
# payment's clock is wrong, and a label known before its transaction stops every later stage. Of two in one microsecond,
# fraud stands.
_UNLABELLED = f"""
    select v.feedback_id, v.transaction_id, v.event_time, v.known_at, v.is_fraud,
        row_number() over (partition by v.transaction_id, v.known_at order by v.is_fraud desc, v.feedback_id) as place
    from (
        select f.feedback_id, f.transaction_id, f.known_at, coalesce(t.event_time, d.event_time) as event_time,
            case f.verdict {" ".join(f"when '{verdict}' then {fraud}" for verdict, fraud in LABEL_OF.items())} end
                as is_fraud
        from {tables.FEEDBACK.name} f
        left join {tables.TRANSACTIONS.name} t on t.transaction_id = f.transaction_id
        left join {tables.DECISIONS.name} d on d.transaction_id = f.transaction_id
        where not exists (
            select 1 from {tables.LABELS.name} l
            where l.transaction_id = f.transaction_id and l.known_at = f.known_at)
    ) v
    where v.is_fraud is not null
"""


@dataclass(frozen=True)
class VerdictLoad:
    """What became of the verdicts that were no labels yet: loaded now, or left for a later load.

    `waiting` ones speak of transactions that the warehouse has not seen, `too_early` ones were given before the payment
    says it happened. `first_day` is the earliest day that gained a label, None without any.
    """

    loaded: int
    waiting: int
    too_early: int
    first_day: date | None


def load_verdicts(session: Session) -> VerdictLoad:
    """Add a label for each verdict in raw.feedback that can be one; the same call again adds nothing (rule 6).

    The transaction's time is that of raw.transactions, or of its decision where no source has brought it yet.
    """
    left = pending_verdicts(session)
    loaded = session.query_arrow(
        f"select transaction_id, event_time, known_at, is_fraud, feedback_id as ingestion_id from ({_UNLABELLED}) v "
        "where event_time <= known_at and place = 1 order by known_at, transaction_id"
    )
    if loaded.num_rows:
        source = pa.repeat(pa.scalar(ANALYST, pa.string()), loaded.num_rows)
        session.insert_new(tables.LABELS, loaded.append_column("label_source", source))
    first: datetime | None = pc.min(loaded["known_at"]).as_py()
    return VerdictLoad(loaded.num_rows, left.waiting, left.too_early, first.date() if first else None)


@dataclass(frozen=True)
class PendingVerdicts:
    """Verdicts that are no labels: of transactions not seen yet, given before their payment, and all the others."""

    waiting: int
    too_early: int
    loadable: int


def pending_verdicts(session: Session) -> PendingVerdicts:
    """Count the verdicts in raw.feedback without a label."""
    counts = session.query(
        "select coalesce(sum(case when event_time is null then 1 else 0 end), 0) as waiting, "
        "coalesce(sum(case when event_time > known_at then 1 else 0 end), 0) as too_early, "
        "coalesce(sum(case when event_time <= known_at then 1 else 0 end), 0) as loadable "
        f"from ({_UNLABELLED}) v"
    ).iloc[0]
    return PendingVerdicts(*(int(counts[name]) for name in ("waiting", "too_early", "loadable")))
