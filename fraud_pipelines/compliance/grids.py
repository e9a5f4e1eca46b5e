"""What sections share: tables that are never blank, and metrics by name, in words and in order."""

from collections.abc import Iterator

import pandas as pd

from fraud_pipelines.compliance.blocks import NOT_AVAILABLE, Block, Fact, Grid, Paragraph, Part, as_text
from fraud_pipelines.compliance.facts import Sourced

Rows = tuple[tuple[Part, ...], ...]

METRIC_WORDS = {
    "average_precision": "PR-AUC (average precision)",
    "roc_auc": "ROC-AUC",
    "recall_at_1pct_fpr": "Recall at one percent false positives",
    "recall_at_5pct_fpr": "Recall at five percent false positives",
    "card_precision_at_100": "Card precision in the daily top hundred",
    "brier": "Brier score",
    "calibration_error": "Expected calibration error",
    "fraud_share": "Fraud share",
    "flagged_share": "Sent to review or blocked",
    "block_precision": "Precision of blocks",
    "block_recall": "Frauds blocked",
    "review_precision": "Precision of reviews",
    "review_share": "Sent to review",
    "flagged_precision": "Precision of review or block",
    "flagged_recall": "Frauds sent to review or blocked",
    "value_detected": "Fraud amount sent to review or blocked",
    "cost_per_1000": "Cost of a thousand transactions",
    "saving_share": "Cost saved against approving everything",
}
DECIMALS = {"average_precision", "roc_auc", "brier", "calibration_error"}
MONEY = {"cost_per_1000"}


def grid_or_missing(
    source: Sourced,
    title: str,
    columns: tuple[Part, ...],
    rows: Rows,
    widths: tuple[float, ...],
    align: str,
    *,
    is_small: bool = False,
) -> Iterator[Block]:
    """The table, or NOT AVAILABLE in its place: never blank."""
    if rows:
        yield Grid(title, columns, rows, widths, align, is_small)
    else:
        yield Paragraph((f"{title}: ", Fact(title, NOT_AVAILABLE, source.evidence), "."))


def model_words(name: str) -> str:
    """Such as `logistic regression`; a name of its own for what people know by one."""
    return {"xgboost": "XGBoost", "stack": "stack of XGBoost, forest and regression"}.get(name, name.replace("_", " "))


def metric_fact(group: Sourced, version: str, metric: str, label: str, *, with_interval: bool = True) -> Fact:
    """One metric of one version from models.evaluations, such as 0.7123 (0.6901 to 0.7340) where it has an interval.

    Not available where the metric is missing or undefined.
    """
    rows = group.rows[(group.rows["model_version"] == version) & (group.rows["metric"] == metric)]
    style = metric_style(metric)
    if rows.empty or not with_interval or rows[["value", "lower", "upper"]].iloc[0].isna().any():
        return group.fact(label, rows["value"].iloc[0] if len(rows) else None, style)
    value, lower, upper = (as_text(rows[column].iloc[0], style) for column in ("value", "lower", "upper"))
    return group.fact(label, f"{value} ({lower} to {upper})", "text")


def metric_style(metric: str) -> str:
    """How a metric is written: areas and errors as decimals, costs as money, the rest as shares."""
    return "decimal" if metric in DECIMALS else "money" if metric in MONEY else "share"


def metrics_in_order(metrics: pd.Series) -> list[str]:
    """Metrics in the order of METRIC_WORDS, unknown ones last."""
    order = list(METRIC_WORDS)
    return sorted(metrics, key=lambda name: (order.index(name) if name in order else len(order), name))
