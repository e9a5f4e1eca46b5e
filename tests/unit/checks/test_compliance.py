"""Each check of the compliance stage passing and failing."""

import pytest

from checks import compliance
from fraud_pipelines import tables
from fraud_pipelines.compliance.archive import write_document
from fraud_pipelines.compliance.documents import COMPLIANCE_REPORT, compliance_report, evidence_rows
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.orchestration.resources import DocumentsResource, LedgerResource, WarehouseResource
from tests import compliance_world as world


@pytest.fixture
def printed(tmp_path):
    """(warehouse, its resource, the ledger's resource, folder of documents, path of one archived as a report)."""
    warehouse = world.build_world(tmp_path)
    document = compliance_report(world.gather(warehouse))
    warehouse.upsert(tables.EVIDENCE_INDEX, evidence_rows(document))
    root = tmp_path / "reports"
    report = write_document(document, b"%PDF-1.4", kind=COMPLIANCE_REPORT, root=root, suffix=".pdf")
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    open_ledger(url).archive_report(report)
    return (
        warehouse,
        WarehouseResource(url=warehouse.url),
        LedgerResource(url=url),
        DocumentsResource(root=str(root)),
        root / COMPLIANCE_REPORT / f"{report.report_id}.pdf",
    )


def test_every_printed_number_has_evidence(printed):
    warehouse, resource, ledger, *_ = printed
    assert compliance.every_printed_number_has_evidence(resource, ledger).passed
    warehouse.execute(f"update {tables.EVIDENCE_INDEX.name} set data_hash = null where number_id = '3.1'")
    result = compliance.every_printed_number_has_evidence(resource, ledger)
    assert not result.passed
    assert result.metadata["first"].value == "3.1 Transactions"
    warehouse.execute(f"delete from {tables.EVIDENCE_INDEX.name}")
    assert not compliance.every_printed_number_has_evidence(resource, ledger).passed


def test_report_bytes_match_the_archive(printed):
    _, _, ledger, documents, path = printed
    assert compliance.report_bytes_match_the_archive(ledger, documents).passed
    path.write_bytes(b"%PDF-1.5")
    result = compliance.report_bytes_match_the_archive(ledger, documents)
    assert not result.passed
    assert result.metadata["first"].value == str(path)
    path.unlink()
    assert compliance.report_bytes_match_the_archive(ledger, documents).metadata["found_sha256"].value == "file is gone"


def test_an_empty_archive_is_no_intact_archive(tmp_path):
    ledger = LedgerResource(url=f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    result = compliance.report_bytes_match_the_archive(ledger, DocumentsResource(root=str(tmp_path / "reports")))
    assert not result.passed
    assert (result.metadata["archived"].value, result.metadata["broken"].value) == (0, 0)


def test_no_card_number_in_the_report(printed):
    warehouse, resource, *_ = printed
    assert compliance.no_card_number_in_the_report(resource).passed
    warehouse.execute(
        f"update {tables.EVIDENCE_INDEX.name} set printed_value = 'card 4111111111111111' where number_id = '9.7'"
    )
    result = compliance.no_card_number_in_the_report(resource)
    assert not result.passed
    assert result.metadata["card_numbers"].value == 1
