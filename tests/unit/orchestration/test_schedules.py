"""Schedules tell a run its moment; a late tick is still for its own day."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from fraud_pipelines.orchestration.environments import schedule_status, sensor_status
from fraud_pipelines.orchestration.schedules import TUNING_MINUTES, build_schedules


def request_at(settings, name: str, moment: datetime) -> dg.RunRequest:
    schedule = next(schedule for schedule in build_schedules(settings) if schedule.name == name)
    with dg.build_schedule_context(scheduled_execution_time=moment) as context:
        return schedule(context)


def test_the_daily_run_takes_the_day_that_just_ended(tmp_settings):
    request = request_at(tmp_settings, "daily_schedule", datetime(2026, 3, 1, 3, tzinfo=UTC))
    assert (request.partition_key, request.run_key) == ("2026-02-28", "daily-2026-02-28")


def test_retraining_is_as_of_the_first_moment_of_its_monday(tmp_settings):
    request = request_at(tmp_settings, "retrain_schedule", datetime(2026, 3, 2, 5, tzinfo=UTC))
    assert request.run_config["ops"]["models__training_set"]["config"]["as_of"] == "2026-03-02T00:00:00"
    assert request.run_key == "retrain-2026-03-02"


def test_tuning_is_as_of_the_first_moment_of_its_month_with_an_end(tmp_settings):
    request = request_at(tmp_settings, "tune_schedule", datetime(2026, 3, 1, 7, tzinfo=UTC))
    ops = request.run_config["ops"]
    assert ops["models__training_set"]["config"] == {"as_of": "2026-03-01T00:00:00"}
    assert ops["models__tuning"]["config"] == {"minutes": TUNING_MINUTES}
    assert request.run_key == "tune-2026-03-01"


def test_the_report_is_written_once_a_month(tmp_settings):
    request = request_at(tmp_settings, "publish_compliance_schedule", datetime(2026, 3, 1, 6, tzinfo=UTC))
    assert request.run_key == "compliance-2026-03"


@pytest.mark.parametrize(("env", "running"), [("local", False), ("ci", False), ("production", True)])
def test_schedules_and_sensors_start_by_themselves_in_production_only(tmp_settings, env, running):
    settings = tmp_settings.model_copy(update={"env": env})
    assert (schedule_status(settings) is dg.DefaultScheduleStatus.RUNNING) == running
    assert (sensor_status(settings) is dg.DefaultSensorStatus.RUNNING) == running
