"""What is open: the facts that someone must look at, worst first. Pure rules over gathered facts."""

from dataclasses import dataclass
from datetime import timedelta

from fraud_pipelines.compliance.blocks import NOT_AVAILABLE, Fact, Part, Tone
from fraud_pipelines.compliance.facts import ReportFacts
from fraud_pipelines.monitoring.drift import verdict_of
from fraud_pipelines.monitoring.fairness import rate_gaps

# Group of facts -> what a reader calls it. A group that is legitimately empty (no quarantine) is not listed.
REQUIRED = {
    "ingestions": "the record of ingested sources",
    "label_delay": "the labels",
    "evaluation": "the out-of-time evaluation",
    "attributions": "the explanation summary",
    "performance": "performance on mature labels",
    "fairness": "group fairness",
    "drift": "drift",
    "parity": "parity of served features",
    "gates": "the promotion gates",
}


@dataclass(frozen=True)
class Finding:
    """One open point; `tone` is bad (acts before use) or warning (acts soon)."""

    tone: Tone
    parts: tuple[Part, ...]


def open_findings(facts: ReportFacts) -> list[Finding]:
    """Every open point of the facts, the bad ones first."""
    found = [*_promotion(facts), *_parity(facts), *_drift(facts), *_fairness(facts), *_missing(facts), *_stale(facts)]
    return sorted(found, key=lambda finding: finding.tone != "bad")


def _promotion(facts: ReportFacts) -> list[Finding]:
    rows = facts.promotions.rows
    version = facts.promotions.fact("Model version", facts.model_version, "text")
    if rows[(rows["model_version"] == facts.model_version) & (rows["kind"] != "refuse")].empty:
        return [Finding("bad", ("The ledger holds no promotion of version ", version, "."))]
    return [
        Finding("bad", ("Gate failed: ", facts.gates.fact("Gate", row.name_, "text"), "."))
        for row in facts.gates.records()
        if not row.passed
    ]


def _parity(facts: ReportFacts) -> list[Finding]:
    mismatches = int(facts.parity.rows["mismatch_count"].sum())
    if mismatches == 0:
        return []
    count = facts.parity.fact("Served values that differ from the warehouse", mismatches, "count")
    return [Finding("bad", (count, " served feature values differ from the warehouse."))]


def _drift(facts: ReportFacts) -> list[Finding]:
    if not facts.drift.is_available:
        return []
    verdict = verdict_of(facts.drift.rows)
    if not verdict.is_drifted:
        return []
    fact = facts.drift.fact
    parts: tuple[Part, ...] = (
        "Inputs have drifted: ",
        fact("Drifted features", verdict.drifted_features, "count"),
        " of ",
        fact("Features compared", verdict.features, "count"),
        " features, worst ",
        fact("Worst feature", verdict.worst_feature, "text"),
        "; the model's output has drifted too." if verdict.is_output_drifted else ".",
    )
    return [Finding("warning", parts)]


def _fairness(facts: ReportFacts) -> list[Finding]:
    limit = float(facts.thresholds.rows["FAIRNESS_FALSE_POSITIVE_RATIO"].iloc[0])
    return [
        Finding(
            "warning",
            (
                "False positive rates by ",
                facts.fairness.fact("Attribute", gap.attribute, "text"),
                " differ by a factor of at least ",
                facts.fairness.fact("Ratio beyond chance", gap.certain_ratio, "short"),
                " (limit ",
                facts.thresholds.fact("Limit of the ratio", limit, "short"),
                "): ",
                facts.fairness.fact("Group with the largest rate", gap.largest_group, "text"),
                " against ",
                facts.fairness.fact("Group with the smallest rate", gap.smallest_group, "text"),
                ".",
            ),
        )
        for gap in rate_gaps(facts.fairness.rows)
        if gap.certain_ratio > limit
    ]


def _missing(facts: ReportFacts) -> list[Finding]:
    groups = dict(facts.sourced())
    return [
        Finding(
            "warning",
            (f"{meaning[:1].upper()}{meaning[1:]}: ", Fact(meaning, NOT_AVAILABLE, groups[name].evidence), "."),
        )
        for name, meaning in REQUIRED.items()
        if not groups[name].is_available
    ]


def _stale(facts: ReportFacts) -> list[Finding]:
    """Monitoring that does not reach the day before `as_of`; parity is left out: days without serving are normal."""
    expected = (facts.as_of - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    found = []
    for name in ("performance", "fairness", "drift"):
        group = getattr(facts, name)
        if group.is_available and group.rows["day"].iloc[0] < expected:
            day = group.fact(f"Last day of {name}", group.rows["day"].iloc[0], "day")
            found.append(Finding("warning", (f"{name.capitalize()} was last computed for ", day, ".")))
    return found
