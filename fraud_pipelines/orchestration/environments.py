"""What follows from where the system runs: through exhaustive maps that raise on an unknown word."""

import dagster as dg
import yaml

from fraud_pipelines.settings import Settings

# DuckDB's file belongs to one process at a time, and starting a process per step costs seconds on any warehouse:
# steps run inside the run's process, runs run beside each other.
EXECUTORS: dict[str, dg.ExecutorDefinition] = {
    "duckdb": dg.in_process_executor,
    "postgresql": dg.in_process_executor,
}

AUTOMATION_STATUS = {"local": False, "ci": False, "production": True}


def executor_of(settings: Settings) -> dg.ExecutorDefinition:
    """The executor that suits the warehouse."""
    return EXECUTORS[settings.warehouse_url.split("://", 1)[0].removesuffix("+psycopg2")]


def schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """Schedules start by themselves in production only."""
    return dg.DefaultScheduleStatus.RUNNING if AUTOMATION_STATUS[settings.env] else dg.DefaultScheduleStatus.STOPPED


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Sensors start by themselves in production only."""
    return dg.DefaultSensorStatus.RUNNING if AUTOMATION_STATUS[settings.env] else dg.DefaultSensorStatus.STOPPED


def instance_configuration(settings: Settings) -> str:
    """dagster.yaml of an embedded instance (production ships its own in deploy/).

    One slot in the pool `warehouse`, given back shortly after a run ends however it ended: without that, a cancelled
    run would hold the slot forever.
    """
    return yaml.safe_dump(
        {
            "telemetry": {"enabled": False},
            "nux": {"enabled": False},
            "concurrency": {
                "pools": {"default_limit": 1, "granularity": "op"},
                "runs": {"max_concurrent_runs": 2},
            },
            "run_monitoring": {"enabled": True, "free_slots_after_run_end_seconds": 30},
        },
        sort_keys=False,
    )
