"""Printing a document once: the same facts give the archived document again, byte for byte, whatever was re-run."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fraud_pipelines.compliance.archive import keep_evidence, kept_evidence, verify_archive, write_document
from fraud_pipelines.compliance.blocks import Document
from fraud_pipelines.compliance.champion import champion_facts
from fraud_pipelines.compliance.documents import identity_of
from fraud_pipelines.compliance.facts import ReportFacts
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.evidence import Evidence
from fraud_pipelines.ledger.records import Report
from fraud_pipelines.warehouse.interface import Warehouse

if TYPE_CHECKING:
    from fraud_pipelines.ledger import Ledger
    from fraud_pipelines.models.registry import Registry

Compose = Callable[[ReportFacts, Sequence[Report]], Document]


@dataclass(frozen=True)
class Composed:
    """A document and its facts; `is_reprint` when the ledger had archived it before, from other runs or the same."""

    facts: ReportFacts
    document: Document
    is_reprint: bool


def compose_as_first_printed(
    warehouse: Warehouse,
    ledger: "Ledger",
    registry: "Registry",
    *,
    kind: str,
    compose: Compose,
    as_of: str | None,
    materialized: Mapping[str, Evidence],
) -> Composed:
    """The document of a moment; where one with the same content was printed before, with the evidence of that print.

    Args and errors as `champion_facts`.
    """
    reports = ledger.reports()

    def gather(evidence: Mapping[str, Evidence]) -> ReportFacts:
        return champion_facts(warehouse, ledger, registry, as_of=as_of, materialized=evidence)

    facts = gather(materialized)
    report_id = identity_of(facts, kind, reports).report_id
    with warehouse.session() as session:
        first = kept_evidence(session, report_id)
        if not first:
            keep_evidence(session, report_id, materialized)
    if first and first != dict(materialized):
        facts = gather(first)
    is_reprint = any(report.report_id == report_id for report in reports)
    return Composed(facts, compose(facts, reports), is_reprint)


def publish(
    composed: Composed, render: Callable[[Document], bytes], *, ledger: "Ledger", kind: str, root: Path, suffix: str
) -> Report:
    """Write and archive a document, or leave the archived file as it is when it still is what was archived.

    Raises:
        ContractBroken: a card number stands in the document; or an archived file is gone or edited and this
            installation prints other bytes than were archived (another ReportLab or matplotlib).
    """
    document = composed.document
    report_id = document.identity.report_id
    archived = [file for file in verify_archive(ledger.reports(), root) if file.report.report_id == report_id]
    if archived and archived[0].is_intact:
        return archived[0].report
    content = render(document)
    found = hashlib.sha256(content).hexdigest()
    if archived and archived[0].report.sha256 != found:
        raise ContractBroken(
            f"{report_id} was archived with SHA-256 {archived[0].report.sha256}, its file is gone or edited, and "
            f"printing it again gives {found}; nothing was written. Bring the file back from a backup, or install the "
            "libraries it was printed with (uv.lock of that code version); then: fraud report --verify"
        )
    report = write_document(document, content, kind=kind, root=root, suffix=suffix)
    ledger.archive_report(report)
    return report
