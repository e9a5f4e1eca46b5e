"""Transactions, labels and customers: one family, as one source brings all three."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from fraud_pipelines import progress
from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import Window, daily_partitions, window_of
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource
from fraud_pipelines.raw.feedback import VerdictLoad, load_verdicts
from fraud_pipelines.raw.holdings import Holding, customers_held, labels_held, transactions_held
from fraud_pipelines.raw.ingestion import Loaded, ingest
from fraud_pipelines.settings import load_settings
from fraud_pipelines.warehouse import Warehouse

_COMMON: dict[str, Any] = {
    "group_name": "raw",
    "kinds": {"python"},
    "owners": ["team:fraud-models"],
}


class IngestConfig(dg.Config):
    """Which source to load. Without a path nothing is loaded: the days asked for are read from the warehouse."""

    path: str = ""
    mapping: str = ""


@dg.multi_asset(
    name="raw",
    specs=[
        dg.AssetSpec(
            keys.TRANSACTIONS,
            description="One row per transaction, known from the moment it happened. Cards are keyed tokens, times are "
            "UTC, money is integer minor units. Of two rows with one identifier the first stays; rows that break the "
            "contract are in raw.quarantine with the reason.",
            partitions_def=daily_partitions,
            tags={"pii": "true"},
            **_COMMON,
        ),
        dg.AssetSpec(
            keys.LABELS,
            description="One row per label arrival, in the day the label became known: chargebacks, analyst feedback, "
            "and transactions called genuine when their maturity period ended. A transaction may have several, or none "
            "yet. The verdicts of raw/feedback come in as their transactions become known.",
            deps=[keys.TRANSACTIONS, keys.DECISIONS, keys.FEEDBACK],
            partitions_def=daily_partitions,
            **_COMMON,
        ),
        dg.AssetSpec(
            keys.CUSTOMERS,
            description="One row per customer: age band, gender and region, where a source gives them. For fairness "
            "figures only; no feature may use them.",
            tags={"pii": "true"},
            **_COMMON,
        ),
    ],
    can_subset=True,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def raw(
    context: dg.AssetExecutionContext, config: IngestConfig, warehouse: WarehouseResource, ledger: LedgerResource
) -> Iterator[dg.MaterializeResult]:
    """Load the source, once for all three, or read again what is there for the days asked for."""
    window, store = window_of(context), warehouse.open()
    loaded = None
    if config.path:
        if keys.TRANSACTIONS not in context.selected_asset_keys:
            raise SourceInvalid(f"{config.path}: a source is loaded with raw/transactions; select it too.")
        loaded = ingest(
            config.path,
            config.mapping,
            warehouse=store,
            ledger=ledger.open(),
            token_key=load_settings().card_token_key(),
            within=(window.since.date(), window.until.date() - timedelta(days=1)),
            progress=lambda done, total: progress.report("rows", done, total),
        )
    yield from _results(context, store, window, loaded)


def _results(
    context: dg.AssetExecutionContext, store: Warehouse, window: Window, loaded: Loaded | None
) -> Iterator[dg.MaterializeResult]:
    selected = context.selected_asset_keys
    with store.session() as session:
        if keys.TRANSACTIONS in selected:
            held = transactions_held(session, window.since, window.until)
            metadata = _metadata(held) | {"quarantined_count": held.quarantined_count}
            if loaded:
                record = loaded.ingestion
                metadata |= {
                    "ingestion_id": record.ingestion_id,
                    "source_name": record.source_name,
                    "mapping": record.mapping,
                    "rows_read": record.rows_read,
                    "rows_loaded": loaded.new_transactions,
                    "quarantined_count": record.rows_quarantined,
                    "duplicate_count": max(record.rows_read - loaded.new_transactions - record.rows_quarantined, 0),
                }
            yield dg.MaterializeResult(asset_key=keys.TRANSACTIONS, metadata=metadata)
        if keys.LABELS in selected:
            verdicts = load_verdicts(session)
            _tell_late(context, window, verdicts)
            held = labels_held(session, window.since, window.until)
            metadata = _metadata(held) | {
                "rows_loaded": loaded.new_labels if loaded else 0,
                "verdicts_loaded": verdicts.loaded,
                "verdicts_waiting": verdicts.waiting,
                "verdicts_too_early": verdicts.too_early,
            }
            yield dg.MaterializeResult(asset_key=keys.LABELS, metadata=metadata)
        if keys.CUSTOMERS in selected:
            metadata = _metadata(customers_held(session)) | {"rows_loaded": loaded.new_customers if loaded else 0}
            yield dg.MaterializeResult(asset_key=keys.CUSTOMERS, metadata=metadata)


def _tell_late(context: dg.AssetExecutionContext, window: Window, verdicts: VerdictLoad) -> None:
    """Features of days before this run may have been computed without labels that were known then."""
    if verdicts.first_day and verdicts.first_day < window.since.date():
        context.log.warning(
            f"raw/labels: verdicts known since {verdicts.first_day} came after those days' features were made. "
            f"To count them there, run: fraud materialize features --from {verdicts.first_day}"
        )


def _metadata(held: Holding) -> dict[str, str | int | float]:
    metadata: dict[str, str | int | float] = {"dagster/row_count": held.row_count, "data_hash": held.data_hash}
    return metadata if held.fraud_share is None else metadata | {"fraud_share": held.fraud_share}
