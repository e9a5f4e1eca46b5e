"""Decisions and feedback of the scoring service: from the ledger into the warehouse, each row once."""

from typing import Any

import dagster as dg

from fraud_pipelines.ledger import Log
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import Window, daily_partitions, window_of
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource
from fraud_pipelines.raw.decisions import load_log
from fraud_pipelines.raw.holdings import Holding, log_held

_COMMON: dict[str, Any] = {
    "group_name": "raw",
    "partitions_def": daily_partitions,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "kinds": {"python"},
    "owners": ["team:fraud-models"],
    "tags": {"pii": "true"},
    "pool": "warehouse",
}


@dg.asset(key=keys.DECISIONS, **_COMMON)
def decisions(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    """One row per transaction decided by the scoring service, in the day it was decided: what was answered, and why.

    A day without traffic has no rows. Decisions that reached the ledger long after they were made are brought into
    their own day by the next run of any day, which is recorded as a materialization of that day, too.
    """
    return _loaded("decisions", context, warehouse, ledger)


@dg.asset(key=keys.FEEDBACK, **_COMMON)
def feedback(
    context: dg.AssetExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    """One row per feedback of an analyst on a transaction, in the day it was received.

    Verdicts become labels in raw/labels; PENDING and ESCALATED only say where a case stands. Feedback that reached the
    ledger late is brought into its own day by the next run of any day.
    """
    return _loaded("feedback", context, warehouse, ledger)


def _loaded(
    log: Log, context: dg.AssetExecutionContext, warehouse: WarehouseResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    window = window_of(context)
    with warehouse.open().session() as session:
        load = load_log(session, ledger.open(), log, [day.since for day in window.days()])
        held = log_held(session, log, window.since, window.until)
        late = [
            (Window.of_day(day), count, log_held(session, log, *Window.of_day(day))) for day, count in load.late.items()
        ]
    for day, count, day_held in late:
        context.log.info(f"{context.asset_key.to_user_string()}: {count} rows of {day} came after its last load.")
        if daily_partitions.has_partition_key(day.first_key):
            metadata = _metadata(day_held) | {"late_count": count}
            context.log_event(dg.AssetMaterialization(context.asset_key, partition=day.first_key, metadata=metadata))
    return dg.MaterializeResult(
        metadata=_metadata(held)
        | {"late_count": load.late_count, "late_days": ", ".join(str(day) for day, _, _ in late) or "none"}
    )


def _metadata(held: Holding) -> dict[str, Any]:
    return {"dagster/row_count": held.row_count, "data_hash": held.data_hash}
