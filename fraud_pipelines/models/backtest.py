"""Judging a registered version over any past range, on labels that have had their time.

What the version would have scored is what it scores now: a version never changes, and features are as of their moment.
Rows that it learnt from flatter it, so they are counted and said.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.evaluation import Evaluation, evaluate
from fraud_pipelines.models.splits import TimeSplit
from fraud_pipelines.models.training_set import mark_known_compromised, read_fraud_history
from fraud_pipelines.monitoring.scores import require_features_of
from fraud_pipelines.warehouse import Session, Warehouse


@dataclass(frozen=True)
class Backtest:
    """The evaluation of a range, and that of each baseline on the same rows.

    `learnt_from` of the rows lie in the version's own training days, which are those of its baselines, too.
    """

    evaluation: Evaluation
    learnt_from: int
    baselines: dict[str, Evaluation]


def backtest(
    warehouse: Warehouse, bundle: Bundle, *, since: datetime, until: datetime, as_of: datetime | None = None
) -> Backtest:
    """Judge a bundle on the transactions of [since, until) whose labels are mature.

    Mature is what lies the model's label delay before `as_of`, by default all of the range. Of it, transactions without
    a label, and those of cards already known as compromised on their day, are left out and counted as well.

    Args:
        since, until: midnights, naive UTC.
        as_of: only labels known by then count; None is the label delay after `until`.
    Raises:
        ContractBroken: the range is empty, or the warehouse lacks a feature of the version.
        MissingPartition: transactions of the range have no features, or there are none.
        EmptySample: no row of the range is mature and labelled.
    """
    delay = timedelta(days=bundle.label_delay_days)
    moment = as_of or until + delay
    if not since < until:
        raise ContractBroken(
            f"A backtest needs a first day and a last day not before it; found [{since:%Y-%m-%d}, {until:%Y-%m-%d}). "
            "Run: fraud backtest --from DAY --to DAY"
        )
    with warehouse.session() as session:
        rows = _judged_rows(session, bundle, since=since, until=until, as_of=moment)
    is_mature = rows["event_time"] < pd.Timestamp(moment - delay)
    is_labelled = rows["is_fraud"].notna()
    judged = rows[is_mature & is_labelled].astype({"is_fraud": bool}).reset_index(drop=True)
    if judged.empty:
        raise EmptySample(
            f"No transaction of [{since:%Y-%m-%d}, {until:%Y-%m-%d}) has a label known by {moment:%Y-%m-%d %H:%M} and "
            f"lies {bundle.label_delay_days} days before it; {len(rows)} are there. "
            "Ingest labels, or choose earlier days: fraud backtest --from DAY --to DAY"
        )
    unlabelled = int((is_mature & ~is_labelled).sum())
    of_range = partial(evaluate, bundle, judged, since=since, until=until, as_of=moment, unlabelled=unlabelled)
    evaluation, baselines = of_range(), {name: of_range(baseline=name) for name in bundle.baselines}
    learnt = (judged["event_time"] >= bundle.split.train_since) & (judged["event_time"] < bundle.split.train_until)
    excluded = {**evaluation.excluded, "label_not_mature": int((~is_mature).sum())}
    return Backtest(replace(evaluation, excluded=excluded), int(learnt.sum()), baselines)


def _judged_rows(
    session: Session, bundle: Bundle, *, since: datetime, until: datetime, as_of: datetime
) -> pd.DataFrame:
    """Features, latest label known by `as_of` (null where there is none) and whether the card was known already."""
    require_features_of(
        session, bundle, since=since, until=until, name="this version",
        otherwise="judge another version: fraud backtest --version V --from DAY --to DAY",
    )  # fmt: skip
    columns = ["transaction_id", "event_time", *bundle.feature_names]
    features = session.read(tables.TRANSACTION_FEATURES, columns=columns, since=since, until=until)
    facts = session.query(
        f"""
        with known as (
            select transaction_id, is_fraud,
                row_number() over (partition by transaction_id order by known_at desc) as recency
            from {tables.LABELS.name}
            where event_time >= :since and event_time < :until and known_at <= :as_of
        )
        select t.transaction_id, t.card_id, t.amount_minor, k.is_fraud
        from {tables.TRANSACTIONS.name} t
        left join known k on k.transaction_id = t.transaction_id and k.recency = 1
        where t.event_time >= :since and t.event_time < :until
        """,
        since=since,
        until=until,
        as_of=as_of,
    )
    delay = timedelta(days=bundle.label_delay_days + TimeSplit.known_card_days)
    history = read_fraud_history(session, since - delay, until)
    rows = features.merge(facts, on="transaction_id", validate="one_to_one")
    rows = rows.sort_values(["event_time", "transaction_id"], ignore_index=True)
    return rows.assign(card_is_known_compromised=mark_known_compromised(rows, history))
