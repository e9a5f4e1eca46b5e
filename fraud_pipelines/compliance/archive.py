"""Writing documents and checking them later: a file, its hash in the ledger, its evidence in the warehouse."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.compliance.blocks import Document, numbered_facts, texts_by_hand
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.evidence import Evidence
from fraud_pipelines.ledger.records import Report
from fraud_pipelines.raw.tokens import contains_card_number
from fraud_pipelines.warehouse.interface import Session


@dataclass(frozen=True)
class ArchivedFile:
    """What is found where the ledger says a document lies; `found_sha256` is None when the file is gone."""

    report: Report
    path: Path
    found_sha256: str | None

    @property
    def is_intact(self) -> bool:
        return self.found_sha256 == self.report.sha256


def write_document(document: Document, content: bytes, *, kind: str, root: Path, suffix: str) -> Report:
    """Write a document in one step and describe it for the ledger. Writing the same document again changes nothing.

    Args:
        root: the folder of all documents; the ledger's path is relative to it, so that an installation can move.
    Raises:
        ContractBroken: a card number stands in the document; nothing is written (rule 10).
    """
    leaks = card_number_places(document)
    if leaks:
        raise ContractBroken(
            f"{document.identity.report_id}: a card number stands at {', '.join(leaks[:5])}; nothing was written. "
            "Find how it got past the ingest (fraud doctor), quarantine its rows, and print the report again."
        )
    path = root / kind / f"{document.identity.report_id}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_bytes(content)
    staging.replace(path)
    return Report(
        report_id=document.identity.report_id,
        kind=kind,
        model_version=document.identity.model_version,
        path=path.relative_to(root).as_posix(),
        sha256=hashlib.sha256(content).hexdigest(),
        previous_sha256=document.identity.previous_hash,
        created_at=document.identity.until,
    )


def card_number_places(document: Document) -> list[str]:
    """Where a document would print a card number: number ids, or the first words of a text."""
    places = [
        number_id
        for number_id, _, fact in numbered_facts(document)
        if contains_card_number(fact.text) or contains_card_number(fact.label)
    ]
    return places + [text[:20] for text in texts_by_hand(document) if contains_card_number(text)]


def verify_archive(reports: Sequence[Report], root: Path) -> list[ArchivedFile]:
    """The newest entry of each report id beside the file it names below `root`, oldest first."""
    newest = {report.report_id: report for report in reports}
    return [ArchivedFile(report, root / report.path, _sha256(root / report.path)) for report in newest.values()]


def keep_evidence(session: Session, report_id: str, materialized: Mapping[str, Evidence]) -> None:
    """Remember which materializations a document was first printed from, so that it can be printed again."""
    rows = [{"report_id": report_id, **evidence.as_dict()} for evidence in materialized.values()]
    session.upsert(tables.PRINTED_EVIDENCE, pd.DataFrame(rows, columns=list(tables.PRINTED_EVIDENCE.columns)))


def kept_evidence(session: Session, report_id: str) -> dict[str, Evidence]:
    """The materializations a document was first printed from, by asset; empty for one that never was."""
    names = [field.name for field in fields(Evidence)]
    rows = session.query(
        f"select {', '.join(names)} from {tables.PRINTED_EVIDENCE.name} where report_id = :report_id order by asset",
        report_id=report_id,
    )
    rows = rows.astype(object).where(rows.notna(), None)
    found = [Evidence(*row) for row in rows.itertuples(index=False, name=None)]
    return {evidence.asset: evidence for evidence in found}


def latest_report(reports: Sequence[Report], kind: str) -> Report | None:
    """The newest archived document of a kind."""
    return next((report for report in reversed(reports) if report.kind == kind), None)


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
