"""The compliance report as PDF."""

import dagster as dg

from fraud_pipelines.compliance.documents import COMPLIANCE_REPORT, evidence_rows
from fraud_pipelines.compliance.documents import compliance_report as compose
from fraud_pipelines.compliance.layout import render_pdf
from fraud_pipelines.compliance.publishing import compose_as_first_printed, publish
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.evidence import DocumentConfig, lineage_evidence
from fraud_pipelines.orchestration.resources import (
    DocumentsResource,
    LedgerResource,
    RegistryResource,
    WarehouseResource,
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
    config: DocumentConfig,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
    documents: DocumentsResource,
) -> dg.MaterializeResult:
    """One PDF per champion and moment, for auditors: every printed number leads to an asset, partition, run and hash.

    Missing evidence prints NOT AVAILABLE. The same facts give the same bytes: a report archived before is kept as it
    is, with the runs it was first printed from. The hash of the file goes to the ledger, and each report carries the
    hash of the one before.
    """
    books = ledger.open()
    composed = compose_as_first_printed(
        warehouse.open(),
        books,
        registry.open(),
        kind=COMPLIANCE_REPORT,
        compose=compose,
        as_of=config.as_of,
        materialized=lineage_evidence(context),
    )
    report = publish(composed, render_pdf, ledger=books, kind=COMPLIANCE_REPORT, root=documents.open(), suffix=".pdf")
    index = evidence_rows(composed.document)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(documents.open() / report.path)),
            "report_id": report.report_id,
            "was_archived_before": composed.is_reprint,
            "model_version": composed.facts.model_version,
            "as_of": composed.facts.as_of.isoformat(),
            "sha256": report.sha256,
            "previous_sha256": report.previous_sha256 or "none",
            "printed_values": len(index),
            "not_available": int((index["printed_value"] == "NOT AVAILABLE").sum()),
            "evidence_hash": hash_rows(index),
            "data_hash": composed.document.identity.content_hash,
        }
    )
