"""What the sections around the results say: verdict, purpose, data, features, explanations, promotions.

Numbers come only as facts.
"""

from collections.abc import Iterator

import pandas as pd

from fraud_pipelines.compliance import figures
from fraud_pipelines.compliance.blocks import Block, Fact, Figure, Paragraph, Part, Section, Tiles, Verdict
from fraud_pipelines.compliance.facts import ReportFacts
from fraud_pipelines.compliance.findings import open_findings
from fraud_pipelines.compliance.grids import Rows, grid_or_missing, metric_fact
from fraud_pipelines.models.policy import FEWEST_FRAUDS

MOST_BARS = 15
NO_POLICY = "Both thresholds are the project's defaults: there were too few validation frauds to choose from."


def verdict(facts: ReportFacts) -> Iterator[Block]:
    """The answer first: open findings, the few numbers that matter, the gates."""
    findings = open_findings(facts)
    tone = "good" if not findings else findings[0].tone
    count = facts.promotions.fact("Open findings", len(findings), "count", tone)
    yield Section("1", "Verdict and gates")
    headline: tuple[Part, ...] = (count, " open findings") if len(findings) != 1 else (count, " open finding")
    yield Verdict(tone, headline, tuple(finding.parts for finding in findings))
    yield Tiles(
        (
            metric_fact(facts.evaluation, facts.model_version, "average_precision", "PR-AUC, out of time"),
            metric_fact(facts.evaluation, facts.model_version, "roc_auc", "ROC-AUC, out of time"),
            metric_fact(facts.evaluation, facts.model_version, "recall_at_1pct_fpr", "Recall at one percent FPR"),
            facts.population.first("Transactions", "rows", "count"),
            _parity_total(facts),
        )
    )
    fact = facts.gates.fact
    rows: Rows = tuple(
        (
            fact("Gate", row.name_.replace("_", " "), "text"),
            fact(f"{row.name_}: finding", row.words, "text"),
            fact(f"{row.name_}: value", _gate_number(row.value), "text"),
            fact(f"{row.name_}: limit", _gate_number(row.limit), "text"),
            fact(f"{row.name_}: result", "passed" if row.passed else "FAILED", "text", "good" if row.passed else "bad"),
        )
        for row in facts.gates.records()
    )
    yield from grid_or_missing(
        facts.gates,
        "Promotion gates of this version",
        ("Gate", "Finding", "Value", "Limit", "Result"),
        rows,
        (0.27, 0.4, 0.11, 0.11, 0.11),
        "llrrl",
    )


def purpose(facts: ReportFacts) -> Iterator[Block]:
    """What the model is for, and which rules this document supports."""
    yield Section("2", "Purpose and rules")
    yield Paragraph(
        (
            "The model scores payment-card transactions for fraud and proposes one of three decisions: APPROVE below "
            "the review threshold ",
            facts.model.first("Review threshold", "review_threshold", "decimal"),
            ", BLOCK from the block threshold ",
            facts.model.first("Block threshold", "block_threshold", "decimal"),
            ", REVIEW by an analyst between them. A cardholder can always reach a person. It is not meant for credit "
            "decisions, account closure, pricing or anything about a customer beyond the transaction at hand.",
        )
    )
    yield _policy(facts)
    rows: Rows = tuple(
        (
            facts.rules.fact("Rule", row.rule, "text"),
            facts.rules.fact(f"{row.rule}: since", row.effective, "text"),
            facts.rules.fact(f"{row.rule}: applies", row.applies, "text"),
            facts.rules.fact(f"{row.rule}: supported by", row.supports, "text"),
        )
        for row in facts.rules.records()
    )
    yield from grid_or_missing(
        facts.rules,
        "Rules this document supports",
        ("Rule", "Since", "Applies here", "Supporting sections"),
        rows,
        (0.27, 0.11, 0.39, 0.23),
        "llll",
    )
    yield Paragraph(
        (
            "This document supports the work of those who judge compliance; it does not judge it. Citations were "
            "read on ",
            facts.rules.first("Citations read on", "read_on", "text"),
            " and are due for review by ",
            facts.rules.first("Citations due for review", "review_by", "text"),
            ".",
        ),
        style="note",
    )


def _policy(facts: ReportFacts) -> Paragraph:
    """How the thresholds were chosen."""
    rows, first = facts.model.rows, facts.model.first
    if "policy.costs.review_cost" not in rows or rows["policy.fraud_count"].iloc[0] < FEWEST_FRAUDS:
        return Paragraph((NO_POLICY,))
    return Paragraph(
        (
            "Both thresholds are those of least cost on the validation transactions of ",
            first("Thresholds chosen since", "policy.since", "day"),
            " to ",
            first("Thresholds chosen until", "policy.until", "day"),
            " (exclusive; ",
            first("Validation transactions", "policy.rows", "count"),
            " of them, ",
            first("Validation frauds", "policy.fraud_count", "count"),
            " frauds), in units of the currency: a missed fraud costs ",
            first("Share of a missed fraud's amount that is lost", "policy.costs.missed_share", "share"),
            " of its amount and a fee of ",
            first("Chargeback fee", "policy.costs.chargeback_fee", "money"),
            ", a review ",
            first("Cost of a review", "policy.costs.review_cost", "money"),
            " (",
            first("Cost of reviewing a genuine transaction, further", "policy.costs.review_friction", "money"),
            " more on a genuine transaction) and catches ",
            first("Share of reviewed frauds that are caught", "policy.costs.review_catches", "share"),
            " of frauds, and blocking a genuine transaction ",
            first("Cost of blocking a genuine transaction", "policy.costs.block_friction", "money"),
            "; at most ",
            first("Reviews per day", "policy.reviews_per_day", "short"),
            " reviews a day in the mean.",
        )
    )


def data(facts: ReportFacts) -> Iterator[Block]:
    """Sources, period, rows, fraud rate, labels, quarantine."""
    yield Section("3", "Data")
    population = facts.population
    delay = facts.label_delay
    yield Paragraph(
        (
            population.first("Transactions", "rows", "count"),
            " transactions of ",
            population.first("Cards", "cards", "count"),
            " cards at ",
            population.first("Merchants", "merchants", "count"),
            " merchants, from ",
            population.first("First transaction", "first_event", "moment"),
            " to ",
            population.first("Last transaction", "last_event", "moment"),
            ". A label is fraud or genuine and counts from the moment it became known, at the median ",
            delay.first("Label delay, median (days)", "middle", "short"),
            " days after the transaction (",
            delay.first("Label delay, shortest (days)", "shortest", "short"),
            " to ",
            delay.first("Label delay, longest (days)", "longest", "short"),
            "). Fraud shares are shares of labelled transactions. Card numbers are replaced by keyed tokens on ingest.",
        )
    )
    fact = facts.ingestions.fact
    rows: Rows = tuple(
        (
            fact("Source", row.source_name, "text"),
            fact("Mapping", row.mapping, "text"),
            fact("Content hash", row.content_sha256, "hash"),
            fact("Rows read", row.rows_read, "count"),
            fact("Rows loaded", row.rows_loaded, "count"),
            fact("Duplicates", row.rows_duplicate, "count"),
            fact("Quarantined", row.rows_quarantined, "count"),
            fact("Labels", row.labels_loaded, "count"),
        )
        for row in facts.ingestions.records()
    )
    yield from grid_or_missing(
        facts.ingestions,
        "Sources",
        ("Source", "Mapping", "Content hash", "Read", "Loaded", "Duplicates", "Quarantined", "Labels"),
        rows,
        (0.2, 0.11, 0.14, 0.105, 0.105, 0.11, 0.125, 0.105),
        "lllrrrrr",
    )
    fact = facts.months.fact
    rows = tuple(
        (
            fact("Month", row.month, "month"),
            fact("Transactions", row.rows, "count"),
            fact("Labelled", row.labelled_rows, "count"),
            fact("Labelled share", row.labelled_rows / row.rows, "share"),
            fact("Frauds", row.fraud_count, "count"),
            fact("Fraud share", row.fraud_count / row.labelled_rows if row.labelled_rows else None, "share"),
        )
        for row in facts.months.records()
    )
    yield from grid_or_missing(
        facts.months,
        "Volume, label maturity and fraud by month",
        ("Month", "Transactions", "Labelled", "Labelled share", "Frauds", "Fraud share"),
        rows,
        (0.15, 0.17, 0.17, 0.17, 0.17, 0.17),
        "lrrrrr",
    )
    if facts.quarantine.is_available:
        rows = tuple(
            (
                facts.quarantine.fact("Reason", row.reason, "text"),
                facts.quarantine.fact("Quarantined rows", row.rows, "count"),
            )
            for row in facts.quarantine.records()
        )
        yield from grid_or_missing(
            facts.quarantine, "Quarantined rows by reason", ("Reason", "Rows"), rows, (0.85, 0.15), "lr"
        )
    else:
        # A source that reaches past the report's moment has quarantined rows that cannot be told apart by time.
        is_known = facts.ingestions.rows["rows_quarantined"].notna().all()
        zero = facts.quarantine.fact("Quarantined rows", 0 if is_known else None, "count")
        yield Paragraph(("Quarantined rows: ", zero, "."), style="note")


def features(facts: ReportFacts) -> Iterator[Block]:
    """The dictionary the model was trained with, and whether serving computes the same."""
    yield Section("4", "Features")
    yield Paragraph(
        (
            facts.spec.fact("Features", len(facts.spec.rows) or None, "count"),
            " features, each defined once in the feature spec (definition hash ",
            facts.spec.fact("Spec hash", facts.model.rows["spec_hash"].iloc[0], "hash"),
            "). A window holds what happened strictly before the transaction; a label counts only from the moment it "
            "became known. Served values are recomputed from the warehouse and must be equal, bit for bit.",
        )
    )
    has_parity = facts.parity.is_available
    parity = facts.parity.rows.set_index("feature") if facts.parity.is_available else pd.DataFrame()
    fact = facts.spec.fact

    def measured(name: str, column: str, label: str) -> Fact:
        value = parity.loc[name, column] if name in parity.index else None
        return facts.parity.fact(f"{name}: {label}", value, "count")

    # Without a served transaction the columns would repeat one gap on every line; it is said once, below.
    compared = (("compared_count", "served values compared"), ("mismatch_count", "mismatches"))[: 2 * has_parity]
    rows: Rows = tuple(
        (
            fact("Feature", row.name_, "text"),
            fact(f"{row.name_}: meaning", row.meaning, "text"),
            fact(f"{row.name_}: unit", row.unit or "none", "text"),
            fact(f"{row.name_}: when empty", row.when_empty or "null", "text"),
            *(measured(row.name_, column, label) for column, label in compared),
        )
        for row in facts.spec.records()
    )
    yield from grid_or_missing(
        facts.spec,
        "Feature dictionary and parity of served values",
        ("Feature", "Meaning", "Unit", "When empty", *("Compared", "Differ")[: 2 * has_parity]),
        rows,
        (0.25, 0.37, 0.12, 0.1, *(0.09, 0.07)[: 2 * has_parity]),
        "llll" + "rr" * has_parity,
        is_small=True,
    )
    if not has_parity:
        yield Paragraph(("Parity of served values: ", facts.parity.fact("Parity", None, "text"), "."), style="note")
    else:
        absent = facts.parity.fact("Served, not in the warehouse", facts.parity.rows["absent_count"].max(), "count")
        day = facts.parity.first("Day of the parity result", "day", "day")
        yield Paragraph(
            ("Parity of the transactions served on ", day, "; ", absent, " of them are not in the warehouse."),
            style="note",
        )


def explanations(facts: ReportFacts) -> Iterator[Block]:
    """What the model relies on."""
    yield Section("8", "Explanations")
    group = facts.attributions
    if not group.is_available:
        yield Paragraph(("SHAP summary: ", group.fact("SHAP summary", None, "text"), "."))
        return
    yield Paragraph(
        (
            "SHAP values add up to the score of each transaction exactly. Over ",
            group.first("Explained rows", "rows", "count"),
            " test transactions the model relies most on ",
            group.first("Most important feature", "feature", "text"),
            ", which moves the score by ",
            group.first("Its mean absolute SHAP value (log-odds)", "mean_absolute_shap", "short"),
            " log-odds on average. Each decision carries the reasons of its own transaction, in plain words.",
        )
    )
    shown = group.rows.head(MOST_BARS).rename(columns={"mean_absolute_shap": "score"})
    yield Figure(
        figures.attribution_bars(shown[["feature", "score"]]),
        ("Features drawn: ", group.fact("Features drawn", len(shown), "count"), "."),
        "Bars of mean absolute SHAP value per feature",
    )


def promotions(facts: ReportFacts) -> Iterator[Block]:
    """Every promotion, refusal and rollback known by the report's moment."""
    yield Section("9", "Promotions")
    fact = facts.promotions.fact
    rows: Rows = tuple(
        (
            fact("Ledger row", row.promotion_id, "count"),
            fact("Decided at", row.decided_at, "moment"),
            fact("Kind", row.kind, "text", "bad" if row.kind == "refuse" else "neutral"),
            fact("Version", row.model_version, "text"),
            fact("From version", "none" if pd.isna(row.previous_version) else row.previous_version, "text"),
            fact("Actor", row.actor, "text"),
            fact("Reason", row.reason, "text"),
        )
        for row in facts.promotions.records()
    )
    yield from grid_or_missing(
        facts.promotions,
        "Ledger extract",
        ("Row", "Decided at", "Kind", "Version", "From", "Actor", "Reason"),
        rows,
        (0.06, 0.2, 0.1, 0.08, 0.08, 0.14, 0.34),
        "rllllll",
    )


def _gate_number(value: float | None) -> str:
    """Whole numbers whole, others with four digits; a gate that does not apply has none."""
    if value is None or pd.isna(value):
        return "none"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def _parity_total(facts: ReportFacts) -> Fact:
    mismatches = int(facts.parity.rows["mismatch_count"].sum()) if facts.parity.is_available else None
    return facts.parity.fact("Parity mismatches", mismatches, "count", "bad" if mismatches else "neutral")
