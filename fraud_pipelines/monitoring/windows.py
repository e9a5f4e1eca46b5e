"""Which days a monitoring partition looks at, and which labels were known by its end (rule 1)."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import MissingPartition
from fraud_pipelines.warehouse.interface import Session

DAY = timedelta(days=1)


@dataclass(frozen=True)
class MatureWindow:
    """Transactions that one model version scored, old enough to be judged at `end`, and what was known of them by then.

    `labelled` has one row per transaction with `is_fraud` (bool); `unlabelled_rows` counts the ones left out because
    no label had arrived by `end`.
    """

    since: datetime
    until: datetime
    end: datetime
    model_version: str
    labelled: pd.DataFrame
    unlabelled_rows: int


def days(since: datetime, until: datetime) -> Iterator[datetime]:
    """Starts of the days in [since, until)."""
    day = since
    while day < until:
        yield day
        day += DAY


def mature_bounds(
    end: datetime,
    *,
    delay_days: int = limits.LABEL_DELAY_DAYS,
    window_days: int = limits.PERFORMANCE_WINDOW_DAYS,
) -> tuple[datetime, datetime]:
    """[since, until) of the transactions judged at `end`: `window_days` long, ending `delay_days` before it."""
    until = end - timedelta(days=delay_days)
    return until - timedelta(days=window_days), until


def scored_with_labels(session: Session, *, since: datetime, until: datetime, known_by: datetime) -> pd.DataFrame:
    """Scores of transactions in [since, until) beside every label known by `known_by`; input of `mature_windows`.

    One row per transaction and label arrival (one row with null label where none arrived), ordered by event time.
    Raises:
        MissingPartition: a day with transactions has no scores, or there is no transaction at all.
    """
    require_scores(session, since=since, until=until)
    scored = session.query(
        "select s.transaction_id, s.event_time, s.model_version, s.fraud_probability, s.decision, "
        "t.card_id, t.customer_id, t.amount_minor, l.known_at, l.is_fraud "
        f"from {tables.SCORES.name} s "
        f"join {tables.TRANSACTIONS.name} t on t.transaction_id = s.transaction_id "
        f"left join {tables.LABELS.name} l on l.transaction_id = s.transaction_id and l.known_at <= :known_by "
        "where s.event_time >= :since and s.event_time < :until "
        "order by s.event_time, s.transaction_id, l.known_at",
        since=since,
        until=until,
        known_by=known_by,
    )
    if scored.empty:
        raise MissingPartition(
            f"{tables.SCORES.name} has no rows in [{since:%Y-%m-%d}, {until:%Y-%m-%d}), so there is nothing to judge. "
            "Run: fraud ingest FILE --mapping NAME, then: fraud materialize monitoring/scores"
        )
    return scored


def mature_windows(scored: pd.DataFrame, ends: list[datetime]) -> Iterator[MatureWindow]:
    """The window of each of `ends` and model version, from one frame of `scored_with_labels` that covers them all.

    A version that scored only transactions too young to be judged has a window without rows, so that a new champion
    says openly that nothing of it can be judged yet. Of several labels of one transaction the latest known by `end`
    counts; one that arrives later never does.
    """
    versions = scored["model_version"].to_numpy(object)
    times = scored["event_time"].to_numpy("datetime64[us]")
    known_at = scored["known_at"].to_numpy("datetime64[us]")
    transaction = scored["transaction_id"].to_numpy(object)
    is_first = np.ones(len(scored), dtype=bool)
    is_first[1:] = transaction[1:] != transaction[:-1]
    # A label is in force from its arrival until the next label of the same transaction arrives.
    replaced_at = np.full(len(scored), np.datetime64("9999-12-31", "us"))
    if len(scored):
        replaced_at[:-1] = np.where(~is_first[1:], known_at[1:], replaced_at[:-1])
    for end in ends:
        since, until = mature_bounds(end)
        first, last, present = np.searchsorted(times, np.array([since, until, end], dtype="datetime64[us]"))
        moment = np.datetime64(end, "us")
        in_force = (known_at[first:last] <= moment) & (moment < replaced_at[first:last])
        for version in dict.fromkeys(versions[first:present]):
            is_own = versions[first:last] == version
            labelled = scored.iloc[first:last][in_force & is_own].copy()
            labelled["is_fraud"] = labelled["is_fraud"].astype(bool)
            rows = int((is_first[first:last] & is_own).sum())
            yield MatureWindow(since, until, end, version, labelled.reset_index(drop=True), rows - len(labelled))


def trailing_features(session: Session, names: tuple[str, ...], *, since: datetime, until: datetime) -> pd.DataFrame:
    """Features of the transactions of [since, until), by time; the days before the first one are simply absent.

    Raises:
        MissingPartition: a day with transactions has no scores, so its monitoring would say nothing.
    """
    require_scores(session, since=since, until=until)
    return session.read(tables.TRANSACTION_FEATURES, columns=["event_time", *names], since=since, until=until)


def require_scores(session: Session, *, since: datetime, until: datetime) -> None:
    """Stop where transactions of [since, until) have no scores.

    Raises:
        MissingPartition: names the first and last such day and the command that scores them.
    """
    missing = session.query(
        f"select cast(t.event_time as date) as day, count(*) as rows from {tables.TRANSACTIONS.name} t "
        f"left join {tables.SCORES.name} s on s.transaction_id = t.transaction_id "
        "where t.event_time >= :since and t.event_time < :until and s.transaction_id is null "
        "group by 1 order by 1",
        since=since,
        until=until,
    )
    if len(missing):
        found = [pd.Timestamp(day) for day in (missing["day"].iloc[0], missing["day"].iloc[-1])]
        raise MissingPartition(
            f"{tables.SCORES.name} lacks {int(missing['rows'].sum())} transactions of {len(missing)} days "
            f"({found[0]:%Y-%m-%d} to {found[1]:%Y-%m-%d}), needed for [{since:%Y-%m-%d}, {until:%Y-%m-%d}). "
            f"Run: fraud materialize monitoring/scores --from {found[0]:%Y-%m-%d} --to {found[1]:%Y-%m-%d}"
        )
