"""The gates of a promotion: conditions with numbers, all on the same test rows for candidate and champion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import PromotionRefused
from fraud_pipelines.models.evaluation import AVERAGE_PRECISION, CALIBRATION_ERROR, RECALL_AT_1PCT, Evaluation
from fraud_pipelines.models.intervals import RankedDays, average_precision_gain, day_numbers, draw_days
from fraud_pipelines.models.policy import Thresholds
from fraud_pipelines.monitoring.fairness import ATTRIBUTES, RateGap, group_rates, rate_gaps
from fraud_pipelines.warehouse import Session


@dataclass(frozen=True)
class Gate:
    """One condition with its number. `value` is None where the condition does not apply or is undefined."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    words: str


@dataclass(frozen=True)
class GateLimits:
    """What a candidate must reach; defaults and their sources in limits.py."""

    average_precision: float = limits.AVERAGE_PRECISION_FLOOR
    recall_at_1pct_fpr: float = limits.RECALL_FLOOR
    labelled_rows: int = limits.FEWEST_TEST_ROWS
    frauds: int = limits.FEWEST_TEST_FRAUDS
    improvement: float = limits.PROMOTION_MARGIN
    improvement_p_value: float = limits.PROMOTION_P_VALUE
    calibration_error_per_fraud_share: float = limits.CALIBRATION_ERROR_PER_FRAUD_SHARE
    false_positive_ratio: float = limits.FAIRNESS_FALSE_POSITIVE_RATIO


@dataclass(frozen=True)
class ServedParity:
    """Served decisions of some days beside the warehouse: how many there were, were compared, and differed.

    `compared` counts decisions, `mismatches` feature values. `first` and `last` are the days looked at.
    """

    first: datetime
    last: datetime
    decisions: int
    compared: int
    mismatches: int

    @property
    def absent_share(self) -> float:
        """Share of the decisions that were not compared, in [0, 1]."""
        return (self.decisions - self.compared) / self.decisions


class ServedRow(Protocol):
    """What a decision tells here: whether features were served with it (a fallback has none)."""

    @property
    def features(self) -> Mapping[str, float | None]: ...


class ServedDecisions(Protocol):
    """What the parity gate needs of the ledger."""

    def decisions(self, since: datetime, until: datetime) -> Sequence[ServedRow]: ...


def promotion_gates(
    candidate: Evaluation,
    champion: Evaluation | None,
    *,
    unfairness: RateGap | None = None,
    served: ServedParity | None = None,
    failed_data_checks: Sequence[str] = (),
    gate_limits: GateLimits | None = None,
) -> list[Gate]:
    """Every gate of a candidate, passed or not, in a fixed order.

    Args:
        candidate, champion: evaluations on the same rows; None when there is no champion yet.
        unfairness: the candidate's widest gap between groups, see `widest_gap`; None when no groups can be compared.
        served: what was served beside the warehouse, see `served_parity`; None when nothing was served.
        failed_data_checks: names of blocking data checks that fail now.
    Raises:
        PromotionRefused: the two were not evaluated on the same rows, so nothing can be compared.
    """
    least = gate_limits or GateLimits()
    return [
        _floor("average_precision_reaches_floor", candidate.metrics.get(AVERAGE_PRECISION), least.average_precision),
        _floor("recall_reaches_floor", candidate.metrics.get(RECALL_AT_1PCT), least.recall_at_1pct_fpr),
        _floor("enough_labelled_rows", float(candidate.rows), float(least.labelled_rows)),
        _floor("enough_frauds", float(candidate.fraud_count), float(least.frauds)),
        _improvement(candidate, champion, least),
        _calibration(candidate, least.calibration_error_per_fraud_share),
        _fairness(unfairness, least.false_positive_ratio),
        _parity(served),
        Gate(
            "data_checks_pass",
            float(len(failed_data_checks)),
            0.0,
            not failed_data_checks,
            f"failing: {', '.join(failed_data_checks)}" if failed_data_checks else "no blocking data check fails",
        ),
    ]


def served_parity(session: Session, ledger: ServedDecisions, as_of: datetime) -> ServedParity | None:
    """The last PARITY_DAYS days with served features among the PARITY_WINDOW_DAYS before `as_of`, as compared.

    A decision counts as compared when monitoring.parity compared one of its features; one that the warehouse does not
    hold, or whose day was never materialized, does not. None when the ledger has no such decision.
    """
    served: dict[datetime, int] = {}
    # Day by day, because a day's decisions with all their features are as much as should be in memory at once.
    day = (as_of - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    for offset in range(limits.PARITY_WINDOW_DAYS):
        since = day - timedelta(days=offset)
        decisions = ledger.decisions(since, min(since + timedelta(days=1), as_of))
        count = sum(1 for decision in decisions if decision.features)
        if count:
            served[since] = count
        if len(served) == limits.PARITY_DAYS:
            break
    if not served:
        return None
    first, last = min(served), max(served)
    found = session.query_arrow(
        f"""
        select day, max(compared_count) as compared, sum(mismatch_count) as mismatches
        from {tables.PARITY.name} where day >= :first and day <= :last group by day
        """,
        first=first,
        last=last,
    )
    rows = {row["day"]: row for row in found.to_pylist() if row["day"] in served}
    return ServedParity(
        first=first,
        last=last,
        decisions=sum(served.values()),
        compared=sum(min(int(row["compared"]), served[day]) for day, row in rows.items()),
        mismatches=sum(int(row["mismatches"]) for row in rows.values()),
    )


def widest_gap(session: Session, evaluation: Evaluation, model_version: str, thresholds: Thresholds) -> RateGap | None:
    """The gap of false positive rates between groups of customers that chance explains least, on the test rows.

    Attributes come from raw.customers and are read to judge, never to learn. None where no attribute has two groups
    with enough rows.
    """
    judged = session.query(
        f"""
        select e.fraud_probability, e.is_fraud, {", ".join(f"c.{name}" for name in ATTRIBUTES)}
        from {tables.EVALUATION_SCORES.name} e
        join {tables.TRANSACTIONS.name} t on t.transaction_id = e.transaction_id
        left join {tables.CUSTOMERS.name} c on c.customer_id = t.customer_id
        where e.model_version = :version and e.as_of = :as_of and t.event_time >= :since and t.event_time < :until
        """,
        version=model_version,
        as_of=evaluation.as_of,
        since=evaluation.since,
        until=evaluation.until,
    )
    judged["decision"] = thresholds.decide(judged["fraud_probability"].to_numpy(np.float64))
    gaps = rate_gaps(group_rates(judged, day=evaluation.as_of, model_version=model_version))
    return gaps[0] if gaps else None


def _floor(name: str, value: float | None, limit: float) -> Gate:
    if value is None:
        return Gate(name, None, limit, False, f"undefined on this sample; at least {limit:g} is needed")
    return Gate(name, value, limit, value >= limit, f"{value:.6g}, at least {limit:g} is needed")


def _parity(served: ServedParity | None) -> Gate:
    name = "served_features_match"
    if served is None:
        words = f"does not apply: no features were served in the {limits.PARITY_WINDOW_DAYS} days before"
        return Gate(name, None, 0.0, True, words)
    words = (
        f"{served.mismatches} served feature values differ from the warehouse; {served.compared} of {served.decisions} "
        f"decisions from {served.first:%Y-%m-%d} to {served.last:%Y-%m-%d} were compared"
    )
    if served.compared == 0 or served.absent_share > limits.PARITY_ABSENT_SHARE:
        words += (
            f", at most {limits.PARITY_ABSENT_SHARE:.0%} may be missing. Ingest those days, then run: "
            f"fraud materialize monitoring/parity --from {served.first:%Y-%m-%d} --to {served.last:%Y-%m-%d}"
        )
        return Gate(name, float(served.mismatches) if served.compared else None, 0.0, False, words)
    return Gate(name, float(served.mismatches), 0.0, served.mismatches == 0, words)


def _improvement(candidate: Evaluation, champion: Evaluation | None, least: GateLimits) -> Gate:
    name, margin = "improves_on_champion", least.improvement
    if champion is None:
        return Gate(name, None, margin, True, "does not apply: there is no champion yet")
    ours, theirs = (evaluation.scores.reset_index(drop=True) for evaluation in (candidate, champion))
    if not ours["transaction_id"].equals(theirs["transaction_id"]):
        raise PromotionRefused(
            f"Candidate and champion must be evaluated on the same rows, found {candidate.rows} and {champion.rows}. "
            "Run: fraud train (it evaluates both)"
        )
    truth, day = ours["is_fraud"].to_numpy(bool), day_numbers(ours["event_time"])
    better, worse = (
        RankedDays(truth, scores["fraud_probability"].to_numpy(np.float64), day) for scores in (ours, theirs)
    )
    gain = average_precision_gain(better, worse, draw_days(len(better.frauds)))
    if gain.value is None:
        return Gate(name, None, margin, False, "undefined on this sample: there is no fraud among the test rows")
    words = (
        f"average precision {candidate.metrics[AVERAGE_PRECISION]:.4f} against "
        f"{champion.metrics[AVERAGE_PRECISION]:.4f} on the same {candidate.rows} rows: {gain.value:+.2%}"
    )
    needed = f"at least {margin:+.0%} and p at most {least.improvement_p_value:g} are needed"
    if gain.interval is None or gain.p_value is None:
        words += (
            f", but whether that is chance cannot be told: frauds lie on {gain.days} days, at least "
            f"{limits.FEWEST_BOOTSTRAP_DAYS} are needed. Test on more days: fraud train --test-days N"
        )
        return Gate(name, gain.value, margin, False, words)
    words += (
        f" ({gain.interval.lower:+.2%} to {gain.interval.upper:+.2%} at {limits.INTERVAL_CONFIDENCE:.0%} confidence), "
        f"one-sided p {gain.p_value:.4f} by {gain.days} days; {needed}"
    )
    is_real = gain.p_value <= least.improvement_p_value
    return Gate(name, gain.value, margin, gain.value >= margin and is_real, words)


def _calibration(candidate: Evaluation, per_fraud_share: float) -> Gate:
    """Refuses an error that is too large beyond chance: the lower end of its interval counts, where it has one."""
    share = candidate.fraud_count / candidate.rows
    limit, error = per_fraud_share * share, candidate.metrics.get(CALIBRATION_ERROR)
    needed = f"at most {limit:.4f} is needed, {per_fraud_share:g} times the fraud share {share:.4f}"
    if error is None:
        return Gate("probabilities_are_calibrated", None, limit, False, f"undefined on this sample; {needed}")
    bounds = candidate.intervals.get(CALIBRATION_ERROR)
    certain = bounds.lower if bounds else error
    beyond = f", {certain:.4f} of it beyond chance" if bounds else ""
    words = f"expected calibration error {error:.4f}{beyond}; {needed}"
    return Gate("probabilities_are_calibrated", certain, limit, certain <= limit, words)


def _fairness(gap: RateGap | None, limit: float) -> Gate:
    name = "groups_are_stopped_alike"
    if gap is None:
        words = "does not apply: no customer attribute has two groups with enough test rows to compare"
        return Gate(name, None, limit, True, words)
    beyond = (
        f"a factor of {gap.certain_ratio:.2f} is beyond chance" if gap.certain_ratio > 1 else "chance can explain it"
    )
    words = (
        f"{gap.attribute.replace('_', ' ')}: {gap.largest:.2%} of genuine payments stopped in {gap.largest_group}, "
        f"{gap.smallest:.2%} in {gap.smallest_group}; {beyond}, a factor of at most {limit:g} is allowed"
    )
    return Gate(name, gap.certain_ratio, limit, gap.certain_ratio <= limit, words)
