"""What the asset checks said last, from Dagster's event log."""

from collections.abc import Iterable

import dagster as dg

# Newest check results looked at: some fifty daily runs of the whole graph.
MOST_RESULTS = 2_000


def failing_blocking_checks(instance: dg.DagsterInstance, keys: Iterable[dg.AssetKey]) -> list[str]:
    """Blocking checks of these assets whose latest result is a failure, as `asset/key:check`, sorted.

    A check that blocks stops its own run; this also sees the failure of an earlier run, such as an ingestion's, whose
    rows a later training would use. Only until the check passes again, perhaps on other days: all the days a model is
    trained on are judged by the training set's own check, `the_days_trained_on_are_sound`.
    """
    # The event log and not the job's graph: a job knows only the checks it runs itself. The public reader of check
    # results wants the names first (Dagster 1.13).
    records = instance.event_log_storage.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION), limit=MOST_RESULTS, ascending=False
    )
    wanted = set(keys)
    latest: dict[tuple[str, str], dg.AssetCheckEvaluation] = {}
    for record in records:
        event = record.event_log_entry.dagster_event
        if event is None or not isinstance(event.event_specific_data, dg.AssetCheckEvaluation):
            continue
        result = event.event_specific_data
        if result.asset_key in wanted:
            latest.setdefault((result.asset_key.to_user_string(), result.check_name), result)
    return sorted(
        f"{asset}:{name}" for (asset, name), result in latest.items() if result.blocking and not result.passed
    )
