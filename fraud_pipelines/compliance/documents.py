"""What each document says as a whole: its identity, the order of its sections, its evidence index."""

from collections.abc import Iterable, Sequence
from itertools import groupby

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.compliance import results, sections
from fraud_pipelines.compliance.blocks import Block, Document, Fact, Grid, Identity, Paragraph, Section, numbered_facts
from fraud_pipelines.compliance.facts import ReportFacts
from fraud_pipelines.evidence import Evidence, code_version, hash_rows
from fraud_pipelines.ledger.records import Report
from fraud_pipelines.models.registry import MODEL_NAME

COMPLIANCE_REPORT, MODEL_CARD = "compliance_report", "model_card"
MOST_SPANS = 5
TITLES = {COMPLIANCE_REPORT: "Compliance report", MODEL_CARD: "Model card"}
SECTIONS = {
    COMPLIANCE_REPORT: (
        sections.verdict,
        sections.purpose,
        sections.data,
        sections.features,
        results.performance,
        results.fairness,
        results.drift,
        sections.explanations,
        sections.promotions,
    ),
    MODEL_CARD: (sections.verdict, sections.purpose, sections.features, results.performance, results.fairness),
}


def identity_of(facts: ReportFacts, kind: str, archived: Sequence[Report]) -> Identity:
    """Identity of the document of these facts; a document already archived keeps the predecessor it had.

    Args:
        archived: the ledger's reports, oldest first.
    """
    content_hash = facts.content_hash
    report_id = f"{kind}-v{facts.model_version}-{facts.as_of:%Y%m%d}-{content_hash[:8]}"
    same_kind = [report for report in archived if report.kind == kind]
    known = next((report for report in same_kind if report.report_id == report_id), None)
    previous = known.previous_sha256 if known is not None else same_kind[-1].sha256 if same_kind else None
    return Identity(
        title=TITLES[kind],
        report_id=report_id,
        model=MODEL_NAME,
        model_version=facts.model_version,
        content_hash=content_hash,
        previous_hash=previous,
        since=facts.since,
        until=facts.as_of,
    )


def compliance_report(facts: ReportFacts, archived: Sequence[Report] = ()) -> Document:
    """The compliance report: the sections, then the evidence of every number in them and how to verify the file."""
    identity = identity_of(facts, COMPLIANCE_REPORT, archived)
    body = _body(facts, COMPLIANCE_REPORT)
    index = _evidence_sections(facts, Document(identity, body))
    return Document(identity, (*body, *index, *_verification(identity, facts)))


def model_card(facts: ReportFacts, archived: Sequence[Report] = ()) -> Document:
    """The model card: the part of the report a user of the model reads."""
    return Document(identity_of(facts, MODEL_CARD, archived), _body(facts, MODEL_CARD))


def evidence_rows(document: Document) -> pd.DataFrame:
    """EVIDENCE_INDEX rows of a document: one per printed value."""
    rows = [
        {
            "report_id": document.identity.report_id,
            "number_id": number_id,
            "label": fact.label,
            "printed_value": fact.text,
            **fact.evidence.as_dict(),
        }
        for number_id, _, fact in numbered_facts(document)
    ]
    return pd.DataFrame(rows, columns=list(tables.EVIDENCE_INDEX.columns))


def without_evidence(rows: pd.DataFrame) -> pd.DataFrame:
    """EVIDENCE_INDEX rows that print a value but cannot be traced: no data hash, or no run where an asset made it.

    Code, ledger and event log are not made by runs; what is NOT AVAILABLE has nothing to trace.
    """
    needs_run = ~rows["asset"].str.startswith(("code/", "ledger/", "dagster/"))
    is_traced = rows["data_hash"].notna() & rows["code_version"].astype(bool) & (rows["run_id"].notna() | ~needs_run)
    return rows[(rows["printed_value"] != "NOT AVAILABLE") & ~is_traced]


def _body(facts: ReportFacts, kind: str) -> tuple[Block, ...]:
    return tuple(block for section in SECTIONS[kind] for block in section(facts))


def _evidence_sections(facts: ReportFacts, document: Document) -> Iterable[Block]:
    """Section A: the sources, then the numbers of each place in the document and the source they come from."""
    printed = list(numbered_facts(document))
    sources: dict[Evidence, int] = {}
    for _, _, fact in printed:
        sources.setdefault(fact.evidence, len(sources) + 1)
    yield Section("A", "Lineage and evidence")
    yield Paragraph(
        (
            "Every printed value carries a number: its section and its position in it, tables row by row. The first "
            "table names where each one comes from, the second shows the sources. The warehouse table "
            f"{tables.EVIDENCE_INDEX.name} holds one row per value.",
        )
    )

    def of(evidence: Evidence, label: str, text: str | None) -> Fact:
        return Fact(label, text or "none", evidence)

    runs = [
        (place, evidence, [number for number, _, _ in members])
        for (place, evidence), members in (
            (key, list(group)) for key, group in groupby(printed, key=lambda entry: (entry[1], entry[2].evidence))
        )
    ]
    grouped: dict[tuple[str, Evidence], list[list[str]]] = {}
    for place, evidence, numbers in runs:
        grouped.setdefault((place, evidence), []).append(numbers)
    yield Grid(
        "Where the numbers come from",
        ("Place in the document", "Numbers", "Source"),
        tuple(
            (
                of(evidence, "Place", place),
                of(evidence, "Numbers", _spans(spans)),
                of(evidence, "Source", f"S{sources[evidence]}"),
            )
            for (place, evidence), spans in grouped.items()
        ),
        (0.36, 0.54, 0.1),
        "lll",
        is_small=True,
    )
    yield Grid(
        "Sources",
        ("Source", "Asset", "Partition", "Run", "Code version", "Hash of the rows used"),
        tuple(
            (
                of(evidence, "Source", f"S{number}"),
                of(evidence, "Asset", evidence.asset),
                of(evidence, "Partition", evidence.partition),
                of(evidence, "Run", (evidence.run_id or "")[:8]),
                of(evidence, "Code version", evidence.code_version),
                of(evidence, "Data hash", (evidence.data_hash or "")[:24]),
            )
            for evidence, number in sources.items()
        ),
        (0.08, 0.27, 0.13, 0.12, 0.17, 0.23),
        "llllll",
        is_small=True,
    )
    # What the orchestrator's event log says of each asset; the log, not the asset, is the evidence of these rows.
    events = pd.DataFrame([evidence.as_dict() for evidence in facts.lineage]).astype(str)
    log = Evidence("dagster/events", None, None, code_version(), hash_rows(events))
    yield Grid(
        "Lineage: the latest materialization of each asset upstream",
        ("Asset", "Partition", "Run", "Code version", "Data hash"),
        tuple(
            (
                of(log, "Asset", evidence.asset),
                of(log, "Partition", evidence.partition),
                of(log, "Run", (evidence.run_id or "NOT AVAILABLE")[:13]),
                of(log, "Code version", evidence.code_version),
                of(log, "Data hash", (evidence.data_hash or "NOT AVAILABLE")[:24]),
            )
            for evidence in facts.lineage
        ),
        (0.3, 0.14, 0.14, 0.17, 0.25),
        "lllll",
        is_small=True,
    )


def _verification(identity: Identity, facts: ReportFacts) -> Iterable[Block]:
    yield Section("B", "How to verify this file")
    evidence = Evidence("code/compliance", None, None, facts.model.evidence.code_version, identity.content_hash)
    name = f"{identity.report_id}.pdf"
    for parts in (
        ("The ledger archived the hash of this file. Compute it again and compare:",),
        (Fact("Command", f"sha256sum {name}", evidence),),
        ("The same facts give the same bytes. Print the report again and compare the files:",),
        (Fact("Command", f"fraud report --as-of {identity.until:%Y-%m-%dT%H:%M}", evidence),),
        ("Or let the archive compare every document it holds with its file:",),
        (Fact("Command", "fraud report --verify", evidence),),
    ):
        yield Paragraph(parts, style="listing" if isinstance(parts[0], Fact) else "body")
    yield Grid(
        "Identity",
        ("What", "Value"),
        (
            (Fact("What", "Report", evidence), Fact("Report", identity.report_id, evidence)),
            (Fact("What", "Content hash", evidence), Fact("Content hash", identity.content_hash, evidence)),
            (
                Fact("What", "Previous report, file hash", evidence),
                Fact("Previous report", identity.previous_hash or "none: this is the first", evidence),
            ),
            (
                Fact("What", "Model bundle", facts.model.evidence),
                Fact("Model bundle", str(facts.model.rows["bundle_digest"].iloc[0]), facts.model.evidence),
            ),
        ),
        (0.27, 0.73),
        "ll",
        is_small=True,
    )


def _spans(spans: list[list[str]]) -> str:
    """Spans of numbers; of a table whose columns have different sources only the range, to stay readable."""
    if len(spans) > MOST_SPANS:
        return f"{spans[0][0]}–{spans[-1][-1].rsplit('.', 1)[1]}, by column"
    return ", ".join(_span(numbers) for numbers in spans)


def _span(numbers: list[str]) -> str:
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1].rsplit('.', 1)[1]}"
