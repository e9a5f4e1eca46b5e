"""Judging a bundle on rows it has not seen, the same rows for candidate and champion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models import intervals, metrics
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.intervals import Interval, RankedDays, Statistic
from fraud_pipelines.models.policy import APPROVE, BLOCK, REVIEW, CostMatrix, Thresholds, payment_costs
from fraud_pipelines.warehouse import Session

AVERAGE_PRECISION = "average_precision"
RECALL_AT_1PCT = "recall_at_1pct_fpr"
CALIBRATION_ERROR = "calibration_error"


@dataclass(frozen=True)
class Evaluation:
    """Metrics and scores of one model on one set of test rows.

    `metrics` values are None where the sample does not define them. `intervals` has the 95 % day-block bootstrap
    interval of each metric, but for those undefined or with too few days that bear on them. `scores` has
    transaction_id, event_time, card_id, amount_minor, is_fraud and fraud_probability. `excluded` counts the test rows
    left out, by reason. Curve points are (recall, precision) and (false positive rate, recall).
    """

    metrics: dict[str, float | None]
    rows: int
    fraud_count: int
    since: datetime
    until: datetime
    as_of: datetime
    scores: pd.DataFrame = field(repr=False)
    excluded: dict[str, int]
    precision_recall: list[tuple[float, float]] = field(repr=False)
    roc: list[tuple[float, float]] = field(repr=False)
    intervals: dict[str, Interval] = field(default_factory=dict)

    def table(self, model_version: str) -> pd.DataFrame:
        """Rows of models.evaluations."""
        bounds = [self.intervals.get(name) for name in self.metrics]
        return pd.DataFrame(
            {
                "model_version": model_version,
                "as_of": pd.Timestamp(self.as_of).as_unit("us"),
                "metric": list(self.metrics),
                "value": pd.array(list(self.metrics.values()), dtype="Float64"),
                "lower": pd.array([found.lower if found else None for found in bounds], dtype="Float64"),
                "upper": pd.array([found.upper if found else None for found in bounds], dtype="Float64"),
                "rows": self.rows,
                "fraud_count": self.fraud_count,
                "since": pd.Timestamp(self.since).as_unit("us"),
                "until": pd.Timestamp(self.until).as_unit("us"),
            }
        )


def metrics_table(judged: Mapping[str, Evaluation]) -> str:
    """Markdown: one row per metric, one column per version or baseline, such as 0.7123 (0.6901 to 0.7340)."""
    versions = list(judged)
    heads = [f"version {name}" if name.isdecimal() else name.replace("_", " ") for name in versions]
    lines = [f"| metric | {' | '.join(heads)} |", "|---" * (len(versions) + 1) + "|"]
    for metric in judged[versions[0]].metrics:
        cells = [with_interval(judged[name].metrics.get(metric), judged[name].intervals.get(metric)) for name in judged]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_interval(value: float | None, bounds: Interval | None) -> str:
    """Such as 0.7123 (0.6901 to 0.7340); the value alone without an interval."""
    if value is None:
        return "undefined"
    return f"{value:.4f} ({bounds.lower:.4f} to {bounds.upper:.4f})" if bounds else f"{value:.4f}"


def evaluate(
    bundle: Bundle,
    test: pd.DataFrame,
    *,
    since: datetime,
    until: datetime,
    as_of: datetime,
    unlabelled: int = 0,
    baseline: str | None = None,
) -> Evaluation:
    """Score the test rows and judge the scores; cards already known as compromised do not count.

    Args:
        test: part 'test' of a training set: identity columns and features, labels known by `as_of` only.
        since, until: the test window [since, until).
        unlabelled: transactions of the window that have no label yet, for the record.
        baseline: judge this baseline of the bundle in place of its model, with the same thresholds.
    Raises:
        ContractBroken: the rows lack a feature of this model.
        EmptySample: no row is left.
    """
    missing = [name for name in bundle.feature_names if name not in test.columns]
    if missing:
        raise ContractBroken(
            f"The test rows lack the features {missing} of this model (spec {bundle.spec_hash[:12]}). Put them back "
            "into the feature spec and materialize again, or promote another model by hand: "
            "fraud promote VERSION --force --reason 'WHY'"
        )
    known = test["card_is_known_compromised"].to_numpy(bool)
    rows = test[~known].reset_index(drop=True)
    if rows.empty:
        raise EmptySample(
            f"No test row of {since:%Y-%m-%d} to {until:%Y-%m-%d} is left: {len(test)} are labelled, of which "
            f"{int(known.sum())} belong to cards already known as compromised. "
            "Test on more days: fraud train --test-days N"
        )
    matrix = to_matrix(rows, bundle.feature_names)
    probabilities = bundle.predict(matrix) if baseline is None else bundle.predict_baseline(baseline, matrix)
    truth = rows["is_fraud"].to_numpy(bool)
    scores = rows[["transaction_id", "event_time", "card_id", "amount_minor", "is_fraud"]].assign(
        fraud_probability=probabilities
    )
    costs = bundle.policy.costs if bundle.policy else None
    values = {**ranking_metrics(rows, probabilities), **policy_metrics(rows, probabilities, bundle.thresholds, costs)}
    return Evaluation(
        metrics=values,
        intervals=metric_intervals(values, rows, probabilities, bundle.thresholds, costs),
        rows=len(rows),
        fraud_count=int(truth.sum()),
        since=since,
        until=until,
        as_of=as_of,
        scores=scores,
        excluded={"unlabelled": unlabelled, "card_known_compromised": int(known.sum())},
        precision_recall=metrics.precision_recall_points(truth, probabilities),
        roc=metrics.roc_points(truth, probabilities),
    )


def ranking_metrics(rows: pd.DataFrame, probabilities: np.ndarray) -> dict[str, float | None]:
    """Metrics that need no threshold of the policy.

    Args:
        rows: columns event_time, card_id, is_fraud; shape (n, ...).
        probabilities: shape (n,).
    """
    truth = rows["is_fraud"].to_numpy(bool)
    return {
        AVERAGE_PRECISION: metrics.average_precision(truth, probabilities),
        "roc_auc": metrics.roc_auc(truth, probabilities),
        RECALL_AT_1PCT: metrics.recall_at_false_positive_rate(truth, probabilities, 0.01),
        "recall_at_5pct_fpr": metrics.recall_at_false_positive_rate(truth, probabilities, 0.05),
        "card_precision_at_100": metrics.card_precision_at_k(rows["event_time"], rows["card_id"], truth, probabilities),
        "brier": metrics.brier(truth, probabilities),
        CALIBRATION_ERROR: metrics.calibration_error(truth, probabilities),
    }


def policy_metrics(
    rows: pd.DataFrame, probabilities: np.ndarray, thresholds: Thresholds, costs: CostMatrix | None = None
) -> dict[str, float | None]:
    """What the decisions at these thresholds would have done; shares in [0, 1], None where a denominator is 0.

    `value_detected` is the share of the fraud amount that was sent to REVIEW or BLOCK, `cost_per_1000` what a thousand
    transactions cost in units of the currency, `saving_share` the part of the cost of approving everything that is
    saved (1 at best, below 0 where approving everything is cheaper).

    Args:
        rows: columns is_fraud, amount_minor; shape (n, ...).
        costs: the cost matrix; None is the default one.
    """
    ratios = policy_ratios(rows, probabilities, thresholds, costs)
    return {
        name: float(part.sum() / whole.sum()) if whole.sum() > 0 else None for name, (part, whole) in ratios.items()
    }


def policy_ratios(
    rows: pd.DataFrame, probabilities: np.ndarray, thresholds: Thresholds, costs: CostMatrix | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Each metric of `policy_metrics` as two numbers per row, part and whole: it is Σ part / Σ whole."""
    truth = rows["is_fraud"].to_numpy(bool)
    amount = rows["amount_minor"].to_numpy(np.float64)
    decisions = thresholds.decide(probabilities)
    blocked, reviewed = decisions == BLOCK, decisions == REVIEW
    flagged = blocked | reviewed
    matrix = costs or CostMatrix()
    cost = payment_costs(truth, amount, decisions, matrix)
    of_approving = payment_costs(truth, amount, np.full(len(truth), APPROVE, dtype=object), matrix)
    every = np.ones(len(truth))
    shares = {
        "block_precision": (truth & blocked, blocked),
        "block_recall": (truth & blocked, truth),
        "review_precision": (truth & reviewed, reviewed),
        "review_share": (reviewed, every),
        "flagged_recall": (truth & flagged, truth),
        "value_detected": (amount * (truth & flagged), amount * truth),
        "cost_per_1000": (1000 * cost, every),
        "saving_share": (of_approving - cost, of_approving),
    }
    return {name: (part.astype(np.float64), whole.astype(np.float64)) for name, (part, whole) in shares.items()}


def metric_intervals(
    values: dict[str, float | None],
    rows: pd.DataFrame,
    probabilities: np.ndarray,
    thresholds: Thresholds,
    costs: CostMatrix | None = None,
) -> dict[str, Interval]:
    """Day-block bootstrap interval of each ranking and policy metric that has one, all on the same draws of days.

    Args:
        values: these metrics on the same rows.
        rows: columns event_time, card_id, amount_minor, is_fraud; shape (n, ...), n > 0.
        probabilities: shape (n,).
    """
    truth, day = rows["is_fraud"].to_numpy(bool), intervals.day_numbers(rows["event_time"])
    ranked = RankedDays(truth, probabilities, day)
    days, days_with_frauds = len(ranked.frauds), ranked.days_with_frauds
    daily = metrics.card_precision_by_day(rows["event_time"], rows["card_id"], truth, probabilities)
    every = np.ones(len(truth))
    # Per metric: how it follows from copies of days, and how many days bear on it.
    statistics: dict[str, tuple[Statistic, int]] = {
        AVERAGE_PRECISION: (ranked.average_precision, days_with_frauds),
        "roc_auc": (ranked.roc_auc, days_with_frauds),
        RECALL_AT_1PCT: (lambda copies: ranked.recall_at_false_positive_rate(copies, 0.01), days_with_frauds),
        "recall_at_5pct_fpr": (lambda copies: ranked.recall_at_false_positive_rate(copies, 0.05), days_with_frauds),
        "card_precision_at_100": (intervals.mean_of_days(daily), days),
        "brier": (intervals.ratio_statistic((probabilities - truth) ** 2, every, day), days),
        CALIBRATION_ERROR: (intervals.calibration_statistic(truth, probabilities, day), days),
    }
    for name, (part, whole) in policy_ratios(rows, probabilities, thresholds, costs).items():
        days_that_count = int(np.count_nonzero(np.bincount(day, weights=whole)))
        statistics[name] = (intervals.ratio_statistic(part, whole, day), days_that_count)
    copies = intervals.draw_days(days)
    found = {
        name: intervals.interval(values[name], statistic, copies, days_that_count=bearing)
        for name, (statistic, bearing) in statistics.items()
    }
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def write_evaluation(session: Session, model_version: str, evaluation: Evaluation) -> None:
    """Replace what the warehouse holds of this version at this moment: its metrics and its scores."""
    session.upsert(tables.EVALUATIONS, evaluation.table(model_version))
    session.execute(
        f"delete from {tables.EVALUATION_SCORES.name} where model_version = :version and as_of = :as_of",
        version=model_version,
        as_of=evaluation.as_of,
    )
    moment = pd.Timestamp(evaluation.as_of).as_unit("us")
    session.upsert(tables.EVALUATION_SCORES, evaluation.scores.assign(model_version=model_version, as_of=moment))


def read_evaluation(session: Session, model_version: str, as_of: datetime) -> Evaluation | None:
    """The evaluation of a version at a moment as written; None where there is none. `excluded` counts are not kept."""
    rows = session.query(
        f"select * from {tables.EVALUATIONS.name} where model_version = :version and as_of = :as_of order by metric",
        version=model_version,
        as_of=as_of,
    )
    if rows.empty:
        return None
    scores = session.query(
        f"""
        select * from {tables.EVALUATION_SCORES.name}
        where model_version = :version and as_of = :as_of
        order by event_time, transaction_id
        """,
        version=model_version,
        as_of=as_of,
    ).drop(columns=["model_version", "as_of"])
    truth, probabilities = scores["is_fraud"].to_numpy(bool), scores["fraud_probability"].to_numpy(np.float64)
    first = rows.iloc[0]
    return Evaluation(
        metrics={
            name: None if pd.isna(value) else float(value)
            for name, value in zip(rows["metric"], rows["value"], strict=True)
        },
        rows=int(first["rows"]),
        fraud_count=int(first["fraud_count"]),
        since=first["since"].to_pydatetime(),
        until=first["until"].to_pydatetime(),
        as_of=first["as_of"].to_pydatetime(),
        scores=scores,
        excluded={},
        precision_recall=metrics.precision_recall_points(truth, probabilities),
        roc=metrics.roc_points(truth, probabilities),
        intervals={
            name: Interval(float(lower), float(upper))
            for name, lower, upper in zip(rows["metric"], rows["lower"], rows["upper"], strict=True)
            if pd.notna(lower) and pd.notna(upper)
        },
    )
