"""What the sections about results say: performance, fairness, drift. Numbers come only as facts."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from fraud_pipelines.compliance import figures
from fraud_pipelines.compliance.blocks import Block, Fact, Figure, Paragraph, Part, Section
from fraud_pipelines.compliance.facts import ReportFacts, Sourced
from fraud_pipelines.compliance.grids import (
    METRIC_WORDS,
    Rows,
    grid_or_missing,
    metric_fact,
    metric_style,
    metrics_in_order,
    model_words,
)
from fraud_pipelines.monitoring.drift import METHODS, MODEL_OUTPUT, verdict_of
from fraud_pipelines.monitoring.fairness import UNKNOWN, false_positive_interval

CLASSES_OF_A_CURVE = 2
MOST_BARS = 15


def performance(facts: ReportFacts) -> Iterator[Block]:
    """Out-of-time performance with curves, then what mature labels say about the scores given since."""
    yield Section("5", "Performance")
    group = facts.evaluation
    own = group.rows[group.rows["model_version"] == facts.model_version]
    window = Sourced(own, group.evidence)
    training = facts.model
    yield Paragraph(
        (
            "Trained on ",
            training.first("Training rows", "training_rows", "count"),
            " transactions with ",
            training.first("Training frauds", "training_frauds", "count"),
            " frauds from ",
            training.first("Training since", "trained_since", "day"),
            " to ",
            training.first("Training until", "trained_until", "day"),
            " (exclusive; data hash ",
            training.first("Training data hash", "training_data_hash", "hash"),
            "). Judged out of time on ",
            window.first("Test rows", "rows", "count"),
            " transactions with ",
            window.first("Test frauds", "fraud_count", "count"),
            " frauds from ",
            window.first("Test since", "since", "day"),
            " to ",
            window.first("Test until", "until", "day"),
            " (exclusive), after the label delay; cards already known as compromised do not count.",
        )
    )
    scores = facts.evaluation_scores
    if scores.is_available and scores.rows["is_fraud"].nunique() == CLASSES_OF_A_CURVE:
        truth = scores.rows["is_fraud"].to_numpy(bool)
        probability = scores.rows["fraud_probability"].to_numpy(np.float64)
        rows_drawn = scores.fact("Rows drawn", len(truth), "count")
        frauds_drawn = scores.fact("Frauds drawn", int(truth.sum()), "count")
        model = training.rows.iloc[0]
        drawn: tuple[Part, ...] = (rows_drawn, " test transactions, ", frauds_drawn, " frauds.")
        yield Figure(
            figures.ranking_curves(truth, probability), ("How well scores rank: ", *drawn), "PR curve and ROC curve"
        )
        yield Figure(
            figures.reliability(truth, probability, review=model["review_threshold"], block=model["block_threshold"]),
            ("Whether probabilities mean what they say: ", *drawn),
            "Reliability plot and histogram of scores",
        )
    else:
        yield Paragraph(("Curves: ", scores.fact("Curves", None, "text"), "."))
    yield from _choice(facts)
    judged = [name for name in dict.fromkeys(group.rows["model_version"]) if name != facts.model_version]
    others = [name for name in judged if name.isdecimal()][:3]
    baselines = [name for name in judged if name.startswith(f"{facts.model_version}/")]
    columns = [facts.model_version, *others]
    rows: Rows = tuple(
        (
            group.fact("Metric", METRIC_WORDS.get(metric, metric), "text"),
            *(metric_fact(group, version, metric, f"{metric}, {version}") for version in columns),
        )
        for metric in metrics_in_order(own["metric"])
    )
    names = tuple(
        group.fact("Version", f"version {name}" + (" (this)" if name == facts.model_version else ""), "text")
        for name in columns
    )
    share = 0.66 / len(columns)
    yield from grid_or_missing(
        group,
        "Out-of-time metrics",
        ("Metric", *names),
        rows,
        (0.34, *(share for _ in columns)),
        "l" + "r" * len(columns),
    )
    if own["lower"].notna().any():
        yield Paragraph(
            (
                "In brackets: the interval at a confidence of ",
                facts.thresholds.first("Confidence of intervals", "INTERVAL_CONFIDENCE", "share"),
                ", from a bootstrap over whole days. A metric with fewer than ",
                facts.thresholds.first("Fewest days for an interval", "FEWEST_BOOTSTRAP_DAYS", "count"),
                " days that bear on it has none.",
            ),
            style="note",
        )
    if baselines:
        yield from grid_or_missing(
            group,
            "Baselines of the same training rows, on the same test rows",
            ("Metric", *(group.fact("Baseline", model_words(name.partition("/")[2]), "text") for name in baselines)),
            tuple(
                (
                    group.fact("Metric", METRIC_WORDS.get(metric, metric), "text"),
                    *(metric_fact(group, name, metric, f"{metric}, {name}", with_interval=False) for name in baselines),
                )
                for metric in metrics_in_order(own["metric"])
            ),
            (0.34, *(0.66 / len(baselines) for _ in baselines)),
            "l" + "r" * len(baselines),
        )
    monitored = facts.performance
    values = monitored.rows.set_index("metric")["value"]
    rows = tuple(
        (
            monitored.fact("Metric", METRIC_WORDS.get(metric, metric), "text"),
            monitored.fact(metric, values[metric], metric_style(metric)),
        )
        for metric in metrics_in_order(monitored.rows["metric"])
    )
    yield from grid_or_missing(
        monitored, "In operation, on mature labels", ("Metric", "Value"), rows, (0.74, 0.26), "lr"
    )
    if monitored.is_available:
        yield Paragraph(
            (
                monitored.first("Judged transactions", "rows", "count"),
                " scored transactions with ",
                monitored.first("Frauds among them", "fraud_count", "count"),
                " frauds, old enough at the end of ",
                monitored.first("Day of the performance result", "day", "day"),
                "; ",
                monitored.first("Left out: label not known", "unlabelled_rows", "count"),
                " were left out because their label was not known by then.",
            ),
            style="note",
        )


def _choice(facts: ReportFacts) -> Iterator[Block]:
    """Which models competed to be registered, and how this one won."""
    group, first = facts.contenders, facts.contenders.first
    if not group.is_available:
        return
    winner = next(row for row in group.records() if row.is_winner)
    yield Paragraph(
        (
            "Several models competed on past days that none of them had seen: ",
            first("Rows compared on", "rows", "count"),
            " transactions with ",
            first("Frauds compared on", "fraud_count", "count"),
            " frauds of ",
            first("Days compared on", "days", "count"),
            " days. Registered is ",
            group.fact("Registered model", model_words(winner.name_), "text"),
            ": the simplest of those no further behind the best than ",
            facts.thresholds.first("Standard errors that count as noise", "STANDARD_ERRORS_OF_NOISE", "short"),
            " standard error of the difference.",
        )
    )
    yield from grid_or_missing(
        group,
        "Models that competed, simplest first",
        ("Model", "PR-AUC", "Behind the best", "Standard error", "Registered"),
        tuple(
            (
                group.fact("Model", model_words(row.name_), "text"),
                group.fact(f"PR-AUC of {row.name_}", row.average_precision, "decimal"),
                group.fact(f"{row.name_} behind the best", row.behind, "decimal"),
                group.fact(f"Standard error of {row.name_}", row.standard_error, "decimal"),
                group.fact(f"{row.name_} registered", "yes" if row.is_winner else "no", "text"),
            )
            for row in group.records()
        ),
        (0.4, 0.15, 0.15, 0.15, 0.15),
        "lrrrr",
    )


def fairness(facts: ReportFacts) -> Iterator[Block]:
    """Rates per group on mature labels; small groups listed without rates."""
    yield Section("6", "Fairness")
    group = facts.fairness
    known = group.rows[group.rows["group_name"] != UNKNOWN]
    yield Paragraph(
        (
            "Attributes are used here and at the promotion gate, to judge; none is a feature. Flagged means sent to "
            "review or blocked. Groups below ",
            facts.thresholds.first("Smallest readable group (rows)", "FAIRNESS_MIN_ROWS", "count"),
            " transactions are listed with their counts and no rates, and a true positive rate needs ",
            facts.thresholds.first("Fewest frauds for a rate", "FAIRNESS_MIN_FRAUDS", "count"),
            " frauds. A factor above ",
            facts.thresholds.first("Limit of the ratio", "FAIRNESS_FALSE_POSITIVE_RATIO", "short"),
            " between false positive rates that chance does not explain is a finding: an internal screen, "
            "not a legal test.",
        )
    )
    readable = known[~known["is_suppressed"].astype(bool) & known["false_positive_rate"].notna()]
    if len(readable):
        intervals = readable.assign(rate=readable["false_positive_rate"])
        bounds = [false_positive_interval(row) for _, row in intervals.iterrows()]
        intervals = intervals.assign(low=[low for low, _ in bounds], high=[high for _, high in bounds])
        yield Figure(
            figures.group_intervals(intervals),
            ("Groups drawn: ", group.fact("Groups drawn", len(readable), "count"), "; interval after Wilson."),
            "Forest plot of false positive rates",
        )
    fact = group.fact

    def rate(label: str, row, column: str) -> Fact:  # type: ignore[no-untyped-def]
        if row.is_suppressed:
            return fact(label, "suppressed", "text")
        value = getattr(row, column)
        return fact(label, "too few" if pd.isna(value) else value, "text" if pd.isna(value) else "share")

    rows: Rows = tuple(
        (
            fact("Attribute", row.attribute.replace("_", " "), "text"),
            fact("Group", row.group_name, "text"),
            fact(f"{row.group_name}: rows", row.rows, "count"),
            fact(f"{row.group_name}: frauds", row.fraud_count, "count"),
            rate(f"{row.group_name}: flagged", row, "flagged_share"),
            rate(f"{row.group_name}: blocked", row, "blocked_share"),
            rate(f"{row.group_name}: FPR", row, "false_positive_rate"),
            rate(f"{row.group_name}: TPR", row, "true_positive_rate"),
            rate(f"{row.group_name}: precision", row, "precision"),
        )
        for row in group.records()
    )
    yield from grid_or_missing(
        group,
        "Rates per group",
        ("Attribute", "Group", "Rows", "Frauds", "Flagged", "Blocked", "FPR", "TPR", "Precision"),
        rows,
        (0.12, 0.13, 0.1, 0.09, 0.115, 0.115, 0.11, 0.11, 0.11),
        "llrrrrrrr",
        is_small=True,
    )
    if group.is_available and known.empty:
        yield Paragraph(
            ("Customer attributes: ", group.fact("Customer attributes", None, "text"), " for this source."),
            style="note",
        )


def drift(facts: ReportFacts) -> Iterator[Block]:
    """How far the latest window lies from the training reference."""
    yield Section("7", "Drift")
    group = facts.drift
    if not group.is_available:
        yield Paragraph(("Drift: ", group.fact("Drift", None, "text"), "."))
        return
    found = verdict_of(group.rows)
    yield Paragraph(
        (
            "The ",
            facts.thresholds.first("Window (days)", "DRIFT_WINDOW_DAYS", "count"),
            " days that end with ",
            group.fact("Day of the drift result", found.day, "day"),
            " (",
            group.fact("Current rows", found.current_rows, "count"),
            " rows sampled) against the training reference (",
            group.fact("Reference rows", found.reference_rows, "count"),
            " rows): ",
            group.fact("Drifted features", found.drifted_features, "count"),
            " of ",
            group.fact("Features compared", found.features, "count"),
            " features have drifted (share ",
            group.fact("Drifted share", found.share, "share"),
            ", limit ",
            facts.thresholds.first("Limit of the share", "DRIFT_FEATURE_SHARE", "share"),
            "); the model's output ",
            group.fact("Model output", "has drifted" if found.is_output_drifted else "has not drifted", "text"),
            ". A feature counts when both distances alarm. What this cannot see: a change in what fraud looks like "
            "that leaves the inputs alone shows only once labels arrive.",
        )
    )
    wasserstein = group.rows[group.rows["method"] == "wasserstein"]
    limit = float(wasserstein["threshold"].iloc[0])
    farthest = wasserstein.sort_values(["score", "feature"], ascending=[False, True], na_position="first").head(
        MOST_BARS
    )
    yield Figure(
        figures.drift_bars(farthest[["feature", "score", "is_drifted"]], limit=limit),
        (
            "The ",
            group.fact("Columns drawn", len(farthest), "count"),
            " columns farthest away, first ",
            group.fact("Worst feature", found.worst_feature, "text"),
            ".",
        ),
        "Bars of distance per feature",
    )
    by_key = group.rows.set_index(["feature", "method"])
    scores_of, alarms, limit_of = (by_key[name].to_dict() for name in ("score", "is_drifted", "threshold"))
    names = list(dict.fromkeys(group.rows["feature"]))
    ordered = sorted(names, key=lambda name: (name != MODEL_OUTPUT, names.index(name)))

    def score(name: str, method: str) -> Fact:
        key = (name, method)
        return group.fact(f"{name}: {method}", scores_of[key], "short", "bad" if alarms[key] else "neutral")

    rows: Rows = tuple(
        (group.fact("Column", name, "text"), *(score(name, method) for method in METHODS)) for name in ordered
    )
    limits_row = (
        group.fact("Limit", "limit", "text"),
        *(group.fact(f"Limit of {method}", limit_of[(names[0], method)], "short") for method in METHODS),
    )
    yield from grid_or_missing(
        group,
        "Distance per column and method",
        ("Column", "Wasserstein", "KS, p-value", "Jensen-Shannon"),
        (limits_row, *rows),
        (0.46, 0.18, 0.18, 0.18),
        "lrrr",
        is_small=True,
    )
