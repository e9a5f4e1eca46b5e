"""The model card as Markdown."""

import dagster as dg
from pydantic import Field

from fraud_pipelines.compliance.archive import write_document
from fraud_pipelines.compliance.champion import champion_facts
from fraud_pipelines.compliance.documents import MODEL_CARD
from fraud_pipelines.compliance.documents import model_card as compose
from fraud_pipelines.compliance.facts import LINEAGE
from fraud_pipelines.compliance.model_card import render_markdown
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.evidence import latest_evidence
from fraud_pipelines.orchestration.resources import (
    DocumentsResource,
    LedgerResource,
    RegistryResource,
    WarehouseResource,
)


class CardConfig(dg.Config):
    """Moment of a document."""

    as_of: str | None = Field(
        None, description="ISO time, UTC; only what was known by then is printed. Default: end of the last day of data."
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
    config: CardConfig,
    warehouse: WarehouseResource,
    ledger: LedgerResource,
    registry: RegistryResource,
    documents: DocumentsResource,
) -> dg.MaterializeResult:
    """One Markdown file per champion and moment: what the model is for, what it was trained on, how good and how fair.

    The same facts as the compliance report, for whoever uses the model; archived in the ledger in the same way.
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
    text = render_markdown(document)
    report = write_document(document, text.encode(), kind=MODEL_CARD, folder=documents.folder(MODEL_CARD), suffix=".md")
    books.archive_report(report)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(report.path),
            "model_version": facts.model_version,
            "as_of": facts.as_of.isoformat(),
            "sha256": report.sha256,
            "card": dg.MetadataValue.md(text),
            "data_hash": document.identity.content_hash,
        }
    )
