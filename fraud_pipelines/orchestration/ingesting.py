"""How one source becomes one run of ingest_job: its configuration and its days. Used by sensor, CLI and demo."""

from datetime import date
from pathlib import Path
from typing import Any

from fraud_pipelines.errors import SourceInvalid
from fraud_pipelines.orchestration.partitions import Window, daily_partitions, window_between


def ingest_config(path: Path, mapping: str) -> dict[str, Any]:
    """Run configuration of ingest_job for one source."""
    return {"ops": {"raw": {"config": {"path": str(path), "mapping": mapping}}}}


def ingestible_window(first: date, last: date) -> Window:
    """Partitions of a source whose transactions and labels span these days (inclusive).

    Labels may become known on days that have not come yet; these have no partition and are left out.

    Raises:
        SourceInvalid: the source begins before the first partition, or after the last.
    """
    first_partition, last_partition = (
        daily_partitions.get_first_partition_key(),
        daily_partitions.get_last_partition_key(),
    )
    if first_partition is None or last_partition is None or first.isoformat() > last_partition:
        raise SourceInvalid(f"It begins on {first}, after the last partition {last_partition}: is its clock right?")
    if first.isoformat() < first_partition:
        raise SourceInvalid(
            f"It begins on {first}, before the first partition {first_partition}. "
            f"Set FRAUD_START_DATE={first} and reload the code location."
        )
    return window_between(first.isoformat(), min(last.isoformat(), last_partition))
