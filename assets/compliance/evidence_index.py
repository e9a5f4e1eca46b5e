"""Where every printed number of the newest compliance report comes from."""

import dagster as dg

from fraud_pipelines import tables
from fraud_pipelines.compliance.archive import latest_report
from fraud_pipelines.compliance.documents import COMPLIANCE_REPORT, compliance_report, evidence_rows
from fraud_pipelines.compliance.publishing import compose_as_first_printed
from fraud_pipelines.errors import ContractBroken, MissingPartition
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.evidence import lineage_evidence
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource


@dg.asset(
    key=keys.EVIDENCE_INDEX,
    group_name="compliance",
    deps=[keys.COMPLIANCE_REPORT],
    kinds={"python"},
    owners=["team:model-risk"],
    pool="warehouse",
)
def evidence_index(
    context: dg.AssetExecutionContext,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
) -> dg.MaterializeResult:
    """One row per number printed in a compliance report: asset, partition, run, code version and hash of its rows.

    Composed again from the facts, not copied, with the runs the report was first printed from: when the facts no longer
    give the archived report, it stops and says so.
    """
    books = ledger.open()
    report = latest_report(books.reports(), COMPLIANCE_REPORT)
    if report is None:
        raise MissingPartition(
            "The ledger has no compliance report to index. Run: fraud materialize compliance/compliance_report"
        )
    document = compose_as_first_printed(
        warehouse.open(),
        books,
        registry.open(),
        kind=COMPLIANCE_REPORT,
        compose=compliance_report,
        as_of=report.created_at.isoformat(),
        materialized=lineage_evidence(context),
    ).document
    if document.identity.report_id != report.report_id:
        raise ContractBroken(
            f"The facts have changed since {report.report_id} was printed: they now give "
            f"{document.identity.report_id}. "
            "Print it again first: fraud materialize compliance/compliance_report"
        )
    rows = evidence_rows(document)
    with warehouse.open().session() as session:
        session.upsert(tables.EVIDENCE_INDEX, rows)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(rows),
            "report_id": report.report_id,
            "not_available": int((rows["printed_value"] == "NOT AVAILABLE").sum()),
            "data_hash": hash_rows(rows),
        }
    )
