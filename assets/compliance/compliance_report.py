"""The compliance report as PDF."""

import dagster as dg
from pydantic import Field

from fraud_pipelines.compliance.archive import write_document
from fraud_pipelines.compliance.champion import champion_facts
from fraud_pipelines.compliance.documents import COMPLIANCE_REPORT, evidence_rows
from fraud_pipelines.compliance.documents import compliance_report as compose
from fraud_pipelines.compliance.facts import LINEAGE
from fraud_pipelines.compliance.layout import render_pdf
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.evidence import latest_evidence
from fraud_pipelines.orchestration.resources import (
    DocumentsResource,
    LedgerResource,
    RegistryResource,
    WarehouseResource,
)


class ReportConfig(dg.Config):
    """Moment of a document."""

    as_of: str | None = Field(
        None, description="ISO time, UTC; only what was known by then is printed. Default: end of the last day of data."
    )


@dg.asset(
    key=keys.COMPLIANCE_REPORT,
    group_name="compliance",
    deps=[keys.CHAMPION, keys.DRIFT, keys.PERFORMANCE, keys.FAIRNESS, keys.PARITY],
    kinds={"python", "reportlab"},
    owners=["team:model-risk"],
    pool="warehouse",
)
def compliance_report(
    context: dg.AssetExecutionContext,
    config: ReportConfig,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
    documents: DocumentsResource,
) -> dg.MaterializeResult:
    """One PDF per champion and moment, for auditors: every printed number leads to an asset, partition, run and hash.

    Missing evidence prints NOT AVAILABLE. The same facts give the same bytes; the hash of the file goes to the ledger,
    and each report carries the hash of the one before.
    """
    books = ledger.open()
    known = latest_evidence(context, *(dg.AssetKey(name.split("/")) for name in LINEAGE))
    facts = champion_facts(
        warehouse.open(),
        books,
        registry.open(),
        as_of=config.as_of,
        materialized={evidence.asset: evidence for evidence in known.values()},
    )
    document = compose(facts, books.reports())
    report = write_document(
        document,
        render_pdf(document),
        kind=COMPLIANCE_REPORT,
        folder=documents.folder(COMPLIANCE_REPORT),
        suffix=".pdf",
    )
    books.archive_report(report)
    index = evidence_rows(document)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(report.path),
            "report_id": report.report_id,
            "model_version": facts.model_version,
            "as_of": facts.as_of.isoformat(),
            "sha256": report.sha256,
            "previous_sha256": report.previous_sha256 or "none",
            "printed_values": len(index),
            "not_available": int((index["printed_value"] == "NOT AVAILABLE").sum()),
            "evidence_hash": hash_rows(index),
            "data_hash": document.identity.content_hash,
        }
    )
