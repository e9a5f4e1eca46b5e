"""Schedules: daily run, weekly retraining, monthly tuning and report. They start by themselves in production only."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from fraud_pipelines.orchestration import jobs, keys
from fraud_pipelines.orchestration.environments import schedule_status
from fraud_pipelines.settings import Settings

# The embedded warehouse is one run's at a time, so a scheduled tuning may not keep the others waiting for longer.
TUNING_MINUTES = 120


def build_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """Every schedule; the run it starts is told its moment and reads no clock (rule 1)."""
    status = schedule_status(settings)

    @dg.schedule(
        job=jobs.daily_job,
        name="daily_schedule",
        cron_schedule="0 3 * * *",
        execution_timezone="UTC",
        default_status=status,
        description="Every day at 03:00 UTC: the day that just ended.",
    )
    def daily_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = (_scheduled_day(context) - timedelta(days=1)).date().isoformat()
        return dg.RunRequest(run_key=f"daily-{day}", partition_key=day)

    @dg.schedule(
        job=jobs.retrain_job,
        name="retrain_schedule",
        cron_schedule="0 5 * * 1",
        execution_timezone="UTC",
        default_status=status,
        description="Mondays at 05:00 UTC: retrain as of that day's first moment.",
    )
    def retrain_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        moment = _scheduled_day(context)
        return dg.RunRequest(run_key=f"retrain-{moment:%Y-%m-%d}", run_config=retrain_config(moment.isoformat()))

    @dg.schedule(
        job=jobs.tune_job,
        name="tune_schedule",
        cron_schedule="0 7 1 * *",
        execution_timezone="UTC",
        default_status=status,
        description="On the first of each month at 07:00 UTC: tune as of that day's first moment, two hours at most.",
    )
    def tune_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        moment = _scheduled_day(context)
        config = tune_config(moment.isoformat(), tuning={"minutes": TUNING_MINUTES})
        return dg.RunRequest(run_key=f"tune-{moment:%Y-%m-%d}", run_config=config)

    @dg.schedule(
        job=jobs.publish_compliance_job,
        name="publish_compliance_schedule",
        cron_schedule="0 6 1 * *",
        execution_timezone="UTC",
        default_status=status,
        description="On the first of each month at 06:00 UTC: model card, compliance PDF and evidence index.",
    )
    def publish_compliance_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(run_key=f"compliance-{_scheduled_day(context):%Y-%m}")

    return [daily_schedule, retrain_schedule, tune_schedule, publish_compliance_schedule]


def retrain_config(as_of: str | None, **training: object) -> dict[str, object]:
    """Run configuration of retrain_job for one moment (ISO); None means the end of the last day with features."""
    return {"ops": {"__".join(keys.TRAINING_SET.path): {"config": {"as_of": as_of, **training}}}}


def tune_config(as_of: str | None, *, tuning: dict[str, object], **training: object) -> dict[str, Any]:
    """Run configuration of tune_job: that of its training set as in `retrain_config`, and that of the tuning."""
    config: dict[str, Any] = retrain_config(as_of, **training)
    config["ops"]["__".join(keys.TUNING.path)] = {"config": tuning}
    return config


def _scheduled_day(context: dg.ScheduleEvaluationContext) -> datetime:
    """First moment of the day the tick was meant for, naive UTC; a late tick is still for its own day."""
    return context.scheduled_execution_time.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
