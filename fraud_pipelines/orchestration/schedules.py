"""Schedules: the daily run, and the weekly retraining. They start by themselves in production only."""

import dagster as dg

from fraud_pipelines.orchestration import jobs, keys
from fraud_pipelines.orchestration.environments import schedule_status
from fraud_pipelines.settings import Settings


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Every schedule, its moment given explicitly to the run it starts (rule 1)."""
    status = schedule_status(settings)
    daily = dg.build_schedule_from_partitioned_job(
        jobs.daily_job,
        name="daily_schedule",
        hour_of_day=3,
        default_status=status,
        description="Every day at 03:00 UTC: the day that just ended.",
    )

    @dg.schedule(
        name="retrain_schedule",
        job=jobs.retrain_job,
        cron_schedule="0 5 * * 1",
        execution_timezone="UTC",
        default_status=status,
        description="Mondays at 05:00 UTC: retrain as of that day's first moment.",
    )
    def retrain_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        moment = context.scheduled_execution_time.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        return dg.RunRequest(run_key=f"retrain-{moment:%Y-%m-%d}", run_config=retrain_config(moment.isoformat()))

    return [daily, retrain_schedule]  # type: ignore[list-item]


def retrain_config(as_of: str | None, **training: object) -> dict[str, object]:
    """Run configuration of retrain_job for one moment (ISO); None means the end of the last day with features."""
    return {"ops": {"__".join(keys.TRAINING_SET.path): {"config": {"as_of": as_of, **training}}}}
