"""Running the project's own jobs from a terminal, on the same instance that the Dagster UI shows."""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterAssetCheckFailedError

from fraud_pipelines.errors import PermanentError
from fraud_pipelines.orchestration.environments import instance_configuration
from fraud_pipelines.orchestration.partitions import Window
from fraud_pipelines.settings import Settings

StepListener = Callable[[str, str], None]  # step name, "started" | "finished" | "failed"

_STEP_EVENTS = {
    dg.DagsterEventType.STEP_START: "started",
    dg.DagsterEventType.STEP_SUCCESS: "finished",
    dg.DagsterEventType.STEP_FAILURE: "failed",
}
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class CheckOutcome:
    """One asset check of a run."""

    asset: str
    name: str
    passed: bool
    severity: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class RunOutcome:
    """What one run made."""

    run_id: str
    metadata: dict[dg.AssetKey, dict[str, Any]] = field(default_factory=dict)
    checks: list[CheckOutcome] = field(default_factory=list)

    def of(self, key: dg.AssetKey) -> dict[str, Any]:
        """Metadata of one asset's latest materialization in the run; empty where it was not materialized."""
        return self.metadata.get(key, {})


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance in DAGSTER_HOME; an embedded one is configured on first use."""
    home = settings.dagster_home
    home.mkdir(parents=True, exist_ok=True)
    configuration = home / "dagster.yaml"
    if not configuration.exists():
        configuration.write_text(instance_configuration(settings))
    return dg.DagsterInstance.from_config(str(home))


def run_job(
    name: str,
    *,
    settings: Settings,
    window: Window | None = None,
    run_config: dict[str, Any] | None = None,
    assets: list[dg.AssetKey] | None = None,
    on_step: StepListener | None = None,
) -> RunOutcome:
    """Run a job of the definitions, or `assets` of its graph alone, for the days of `window` in a single run.

    Raises:
        FraudPipelinesError: what a step raised, unchanged.
        PermanentError: a blocking check failed, or the window names a day that is no partition.
    """
    from fraud_pipelines.definitions import defs

    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    job = defs.resolve_job_def(name) if name else defs.resolve_implicit_global_asset_job_def()
    tags = {"fraud/started_by": "cli"}
    if window is not None:
        _require_partitions(window)
        tags |= {
            "dagster/asset_partition_range_start": window.first_key,
            "dagster/asset_partition_range_end": window.last_key,
        }
    run_id = str(uuid.uuid4())
    # What a step raises reaches the caller: Dagster need not print it, too.
    config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}} | (run_config or {})
    with open_instance(settings) as instance, _watched(instance, run_id, on_step):
        try:
            result = job.execute_in_process(
                run_config=config, instance=instance, asset_selection=assets, run_id=run_id, tags=tags
            )
        except dg.Failure as error:
            raise PermanentError(str(error.description)) from error
        except DagsterAssetCheckFailedError as error:
            raise PermanentError(f"A blocking check failed, so nothing downstream ran. {error}") from error
    metadata: dict[dg.AssetKey, dict[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        materialization = event.step_materialization_data.materialization
        metadata[materialization.asset_key] = {
            key: value.value for key, value in materialization.metadata.items() if hasattr(value, "value")
        }
    checks = [
        CheckOutcome(
            asset=evaluation.asset_key.to_user_string(),
            name=evaluation.check_name,
            passed=evaluation.passed,
            severity=evaluation.severity.value,
            metadata={key: value.value for key, value in evaluation.metadata.items() if hasattr(value, "value")},
        )
        for evaluation in result.get_asset_check_evaluations()
    ]
    return RunOutcome(run_id, metadata, checks)


def _require_partitions(window: Window) -> None:
    from fraud_pipelines.orchestration.partitions import daily_partitions

    first, last = daily_partitions.get_first_partition_key(), daily_partitions.get_last_partition_key()
    if first is None or last is None or window.first_key < first or window.last_key > last:
        raise PermanentError(
            f"Days {window} are not all partitions: expected days from {first} to {last}. "
            f"For earlier data set FRAUD_START_DATE={window.first_key}."
        )


@contextmanager
def _watched(instance: dg.DagsterInstance, run_id: str, on_step: StepListener | None) -> Iterator[None]:
    """Tell `on_step` about the run's steps while the run works in this thread."""
    if on_step is None:
        yield
        return
    finished = threading.Event()

    def watch() -> None:
        seen = 0
        while True:
            last_look = finished.is_set()
            records = instance.all_logs(run_id, of_type=set(_STEP_EVENTS)) if instance.has_run(run_id) else []
            for record in records[seen:]:
                event = record.dagster_event
                if event is not None and event.step_key is not None:
                    on_step(event.step_key, _STEP_EVENTS[event.event_type])
            seen = max(seen, len(records))
            if last_look:
                return
            finished.wait(_POLL_SECONDS)

    thread = threading.Thread(target=watch, name="run-watcher", daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
