"""Checks of the compliance stage: evidence of every number, files as archived, no card number."""

import dagster as dg

from fraud_pipelines import tables
from fraud_pipelines.compliance.archive import latest_report, verify_archive
from fraud_pipelines.compliance.documents import COMPLIANCE_REPORT, without_evidence
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import DocumentsResource, LedgerResource, WarehouseResource
from fraud_pipelines.raw.tokens import contains_card_number


@dg.asset_check(asset=keys.EVIDENCE_INDEX, pool="warehouse")
def every_printed_number_has_evidence(warehouse: WarehouseResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    """The newest report prints a number that cannot be traced to a run and to the rows behind it.

    Whoever changed the document gives the number its evidence, or takes it out; the report is not handed out before.
    """
    report = latest_report(ledger.open().reports(), COMPLIANCE_REPORT)
    report_id = report.report_id if report else "none"
    rows = warehouse.open().query(
        f"select * from {tables.EVIDENCE_INDEX.name} where report_id = :report_id order by number_id",
        report_id=report_id,
    )
    untraced = without_evidence(rows)
    return dg.AssetCheckResult(
        passed=untraced.empty and not rows.empty,
        metadata={
            "report_id": report_id,
            "printed_values": len(rows),
            "without_evidence": len(untraced),
            "limit": 0,
            "first": f"{untraced['number_id'].iloc[0]} {untraced['label'].iloc[0]}" if len(untraced) else "none",
        },
    )


@dg.asset_check(asset=keys.COMPLIANCE_REPORT)
def report_bytes_match_the_archive(ledger: LedgerResource, documents: DocumentsResource) -> dg.AssetCheckResult:
    """A document on disk is gone or is not the one that was archived: someone edited it, or the disk did.

    The model-risk officer takes it out of circulation and prints it again; the same facts give the same bytes.
    """
    files = verify_archive(ledger.open().reports(), documents.open())
    broken = [file for file in files if not file.is_intact]
    return dg.AssetCheckResult(
        passed=not broken and bool(files),
        metadata={
            "archived": len(files),
            "broken": len(broken),
            "limit": 0,
            "first": str(broken[0].path) if broken else "none",
            "expected_sha256": broken[0].report.sha256 if broken else "none",
            "found_sha256": (broken[0].found_sha256 or "file is gone") if broken else "none",
        },
    )


@dg.asset_check(asset=keys.EVIDENCE_INDEX, pool="warehouse")
def no_card_number_in_the_report(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A printed value holds a card number: it got past the tokens of the ingest and must not leave the house.

    The data engineer finds the column it came through; security is told; the report is withdrawn.
    """
    rows = warehouse.open().query(
        f"select report_id, number_id, label, printed_value from {tables.EVIDENCE_INDEX.name}"
    )
    is_leak = (rows["label"] + " " + rows["printed_value"]).map(contains_card_number).astype(bool)
    leaks = rows[is_leak]
    return dg.AssetCheckResult(
        passed=leaks.empty,
        metadata={
            "printed_values": len(rows),
            "card_numbers": len(leaks),
            "limit": 0,
            "first": f"{leaks['report_id'].iloc[0]} {leaks['number_id'].iloc[0]}" if len(leaks) else "none",
        },
    )
