"""The model card as Markdown."""

import dagster as dg

from fraud_pipelines.compliance.documents import MODEL_CARD
from fraud_pipelines.compliance.documents import model_card as compose
from fraud_pipelines.compliance.model_card import render_markdown
from fraud_pipelines.compliance.publishing import compose_as_first_printed, publish
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.evidence import DocumentConfig, lineage_evidence
from fraud_pipelines.orchestration.resources import (
    DocumentsResource,
    LedgerResource,
    RegistryResource,
    WarehouseResource,
)


@dg.asset(
    key=keys.MODEL_CARD,
    group_name="compliance",
    deps=[keys.CHAMPION, keys.PERFORMANCE, keys.FAIRNESS, keys.PARITY],
    kinds={"python", "markdown"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def model_card(
    context: dg.AssetExecutionContext,
    config: DocumentConfig,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
    documents: DocumentsResource,
) -> dg.MaterializeResult:
    """One Markdown file per champion and moment: what the model is for, what it was trained on, how good and how fair.

    The same facts as the compliance report, for whoever uses the model; archived and kept in the same way.
    """
    books = ledger.open()
    composed = compose_as_first_printed(
        warehouse.open(),
        books,
        registry.open(),
        kind=MODEL_CARD,
        compose=compose,
        as_of=config.as_of,
        materialized=lineage_evidence(context),
    )
    report = publish(
        composed,
        lambda document: render_markdown(document).encode(),
        ledger=books,
        kind=MODEL_CARD,
        root=documents.open(),
        suffix=".md",
    )
    markdown = render_markdown(composed.document)
    registry.open().describe(composed.facts.model_version, markdown)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(documents.open() / report.path)),
            "report_id": report.report_id,
            "was_archived_before": composed.is_reprint,
            "model_version": composed.facts.model_version,
            "as_of": composed.facts.as_of.isoformat(),
            "sha256": report.sha256,
            "card": dg.MetadataValue.md(markdown),
            "data_hash": composed.document.identity.content_hash,
        }
    )
