"""Sensors: files that arrive become runs, each file once, also after a restart."""

import time
from pathlib import Path

import dagster as dg

from fraud_pipelines.errors import FraudPipelinesError
from fraud_pipelines.orchestration import jobs, keys
from fraud_pipelines.orchestration.environments import sensor_status
from fraud_pipelines.orchestration.partitions import daily_partitions
from fraud_pipelines.raw.ingestion import content_sha256, days_in
from fraud_pipelines.settings import Settings

SUFFIXES = {".csv", ".parquet"}
# A file still being copied keeps changing; one that rested this long is complete.
SETTLED_SECONDS = 5.0


def ingest_config(path: str | Path, mapping: str) -> dict[str, object]:
    """Run configuration of ingest_job for one source; every raw asset of the run reads the same one."""
    config = {"config": {"path": str(path), "mapping": mapping}}
    return {"ops": {INGEST_OP: config}}


INGEST_OP = "raw"


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Every sensor of this installation."""
    inbox = settings.inbox

    @dg.sensor(
        name="files_dropped_sensor",
        job=jobs.ingest_job,
        minimum_interval_seconds=15,
        default_status=sensor_status(settings),
        description="Starts ingest_job for each new file in <inbox>/<mapping>/; the folder names the mapping.",
    )
    def files_dropped_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        requests, problems = [], []
        for path in waiting_files(inbox):
            mapping = path.parent.name
            try:
                first, last = days_in(path, mapping)
            except FraudPipelinesError as error:
                problems.append(f"{mapping}/{path.name}: {error}")
                continue
            first_partition = daily_partitions.start.date()
            if first < first_partition:
                problems.append(
                    f"{mapping}/{path.name}: begins on {first}, before the first partition {first_partition}. "
                    f"Set FRAUD_START_DATE={first} and reload the code location."
                )
                continue
            # The content names the run: the same file under another name, or after a restart, is the same event.
            requests.append(
                dg.RunRequest(
                    run_key=f"{mapping}-{content_sha256(path)}",
                    run_config=ingest_config(path, mapping),
                    tags={
                        "dagster/asset_partition_range_start": first.isoformat(),
                        "dagster/asset_partition_range_end": last.isoformat(),
                        "fraud/source_file": path.name,
                    },
                )
            )
        for problem in problems:
            context.log.warning(problem)
        if not requests:
            return dg.SkipReason("; ".join(problems) or f"no new file in {inbox}/<mapping>/")
        return dg.SensorResult(run_requests=requests)

    return [files_dropped_sensor]


def waiting_files(inbox: Path | None) -> list[Path]:
    """Complete CSV and Parquet files in <inbox>/<mapping>/, by name. Hidden and still changing files wait."""
    if inbox is None or not inbox.is_dir():
        return []
    return [
        path
        for path in sorted(inbox.glob("*/*"))
        if path.suffix in SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
        and time.time() - path.stat().st_mtime >= SETTLED_SECONDS
    ]
