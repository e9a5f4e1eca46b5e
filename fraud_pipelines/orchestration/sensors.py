"""Sensors: files that arrive become runs, each file once, also after a restart."""

import json
import time
from pathlib import Path

import dagster as dg

from fraud_pipelines.errors import FraudPipelinesError
from fraud_pipelines.orchestration import jobs
from fraud_pipelines.orchestration.environments import sensor_status
from fraud_pipelines.orchestration.ingesting import ingest_config, ingestible_window
from fraud_pipelines.raw.ingestion import content_sha256, days_in
from fraud_pipelines.raw.source import SUFFIXES
from fraud_pipelines.settings import Settings

# A file still being copied keeps changing; one that rested this long is complete.
SETTLED_SECONDS = 5.0
OWN_MAPPING = "mapping.yml"


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Every sensor of this installation."""
    inbox = Path(str(settings.inbox))

    @dg.sensor(
        name="files_dropped_sensor",
        job=jobs.ingest_job,
        minimum_interval_seconds=15,
        default_status=sensor_status(settings),
        description="Starts ingest_job for each new file in <inbox>/<mapping>/. The folder names a shipped mapping, or "
        f"holds its own as {OWN_MAPPING}. A file that cannot be read is named in the tick and tried again.",
    )
    def files_dropped_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        # What became a run, by name, size and time of change: so that old files are not read on every tick.
        started = json.loads(context.cursor or "{}")
        requests, problems, cursor = [], [], {}
        for path in waiting_files(inbox):
            name, stamp = f"{path.parent.name}/{path.name}", [path.stat().st_size, path.stat().st_mtime_ns]
            if started.get(name) != stamp:
                try:
                    requests.append(_request(path))
                except FraudPipelinesError as error:
                    problems.append(f"{name}: {error}")
                    continue
            cursor[name] = stamp
        for problem in problems:
            context.log.error(problem)
        reason = "; ".join(problems) or f"No new file in {inbox}/<mapping>/."
        return dg.SensorResult(
            run_requests=requests, cursor=json.dumps(cursor), skip_reason=None if requests else dg.SkipReason(reason)
        )

    return [files_dropped_sensor]


def waiting_files(inbox: Path) -> list[Path]:
    """Complete data files in <inbox>/<mapping>/, by name. Hidden and still changing files wait."""
    if not inbox.is_dir():
        return []
    return [
        path
        for path in sorted(inbox.glob("*/*"))
        if path.name.lower().endswith(SUFFIXES)
        and not path.name.startswith(".")
        and path.is_file()
        and time.time() - path.stat().st_mtime >= SETTLED_SECONDS
    ]


def _request(path: Path) -> dg.RunRequest:
    """The run of one file. Its content names the run: under another name, or after a restart, it is the same event.

    Raises:
        SourceInvalid: the file or its folder's mapping cannot be read, or it begins before the first partition.
    """
    own = path.parent / OWN_MAPPING
    mapping = str(own) if own.is_file() else path.parent.name
    window = ingestible_window(*days_in(path, mapping))
    return dg.RunRequest(
        run_key=f"{path.parent.name}-{content_sha256(path)}",
        run_config=ingest_config(path, mapping),
        tags={
            "dagster/asset_partition_range_start": window.first_key,
            "dagster/asset_partition_range_end": window.last_key,
            "fraud/source_file": path.name,
        },
    )
