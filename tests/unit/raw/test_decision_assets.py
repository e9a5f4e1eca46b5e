"""Decisions, feedback and the labels that follow, in Dagster runs as the daily schedule makes them."""

from datetime import datetime

import dagster as dg
import pandas as pd
import pytest

from assets.raw import decisions as log_assets
from assets.raw import ingestion as raw_assets
from checks import raw as raw_checks
from fraud_pipelines import tables
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions
from fraud_pipelines.orchestration.resources import LedgerResource, WarehouseResource
from fraud_pipelines.warehouse import open_warehouse
from tests.builders import payment, said, served

# What the daily run selects of the raw stage.
DAILY = [keys.DECISIONS, keys.FEEDBACK, keys.LABELS]
CHECKS = [
    raw_checks.each_decision_is_there_once,
    raw_checks.decisions_match_the_ledger,
    raw_checks.each_feedback_is_there_once,
    raw_checks.feedback_matches_the_ledger,
    raw_checks.every_verdict_is_a_label,
]


class Runs:
    """One installation; each call is a run of its raw assets for a day, or for a range of days."""

    def __init__(self, folder):
        urls = f"duckdb:///{folder / 'w.duckdb'}", f"sqlite:///{folder / 'l.sqlite'}"
        self.warehouse, self.ledger = open_warehouse(urls[0]), open_ledger(urls[1])
        self.instance = dg.DagsterInstance.ephemeral()
        self.resources = {"warehouse": WarehouseResource(url=urls[0]), "ledger": LedgerResource(url=urls[1])}
        self._defs = dg.Definitions(
            assets=[log_assets.decisions, log_assets.feedback, raw_assets.raw],
            asset_checks=CHECKS,
            resources=self.resources,
        )

    def __call__(self, first, last=None, selection=DAILY):
        result = self._defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=selection,
            tags=days(first, last or first),
        )
        self.checks = outcomes(result)
        found = {}
        for event in result.get_asset_materialization_events():
            materialization = event.step_materialization_data.materialization
            key = materialization.asset_key.path[-1], materialization.partition
            found[key] = {name: value.value for name, value in materialization.metadata.items()}
        return found

    def label_warnings(self):
        """What the last run warned of late labels."""
        records = self.instance.all_logs(self.instance.get_runs(limit=1)[0].run_id)
        return [record.user_message for record in records if "verdicts known since" in record.user_message]

    def pay(self, *payments):
        self.warehouse.insert_new(tables.TRANSACTIONS, pd.DataFrame(payments))


def days(first, last):
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def outcomes(result):
    return {
        item.check_name: (item.passed, {name: value.value for name, value in item.metadata.items()})
        for item in result.get_asset_check_evaluations()
    }


@pytest.fixture
def run(tmp_path, tmp_settings):
    runs = Runs(tmp_path)
    yield runs
    runs.ledger.close()


def test_a_daily_run_brings_the_day_and_makes_labels_of_its_verdicts_once(run):
    run.pay(payment("a", "2026-06-03 11:00:00"))
    run.ledger.record_decisions([served("a", "2026-06-03 11:00:01"), served("b", "2026-06-03 12:00:00")])
    run.ledger.record_feedback(
        [said("f1", "a", "2026-06-03 15:00:00"), said("f2", "b", "2026-06-03 16:00:00", "PENDING")]
    )
    found = run("2026-06-03")
    decisions, feedback, labels = (found[name, "2026-06-03"] for name in ("decisions", "feedback", "labels"))
    assert (decisions["dagster/row_count"], decisions["late_count"], decisions["late_days"]) == (2, 0, "none")
    assert (feedback["dagster/row_count"], feedback["late_count"]) == (2, 0)
    assert (labels["dagster/row_count"], labels["verdicts_loaded"], labels["verdicts_waiting"]) == (1, 1, 0)
    assert labels["fraud_share"] == 1.0
    assert run.label_warnings() == []
    assert {name: passed for name, (passed, _) in run.checks.items()} == dict.fromkeys(
        [check.check_key.name for check in CHECKS], True
    )
    assert run.checks["decisions_match_the_ledger"][1]["in_warehouse"] == 2
    again = run("2026-06-03")
    assert {key: values["data_hash"] for key, values in again.items()} == {
        key: values["data_hash"] for key, values in found.items()
    }
    assert again["labels", "2026-06-03"]["verdicts_loaded"] == 0


def test_the_next_daily_run_brings_what_came_late_into_its_own_day(run):
    run.ledger.record_decisions([served("a", "2026-06-03 11:00:01")])
    before = run("2026-06-03")["decisions", "2026-06-03"]
    run.ledger.record_decisions([served("late", "2026-06-03 12:00:00"), served("b", "2026-06-06 12:00:00")])
    run.ledger.record_feedback([said("f1", "late", "2026-06-04 15:00:00")])
    found = run("2026-06-06")
    today, late = found["decisions", "2026-06-06"], found["decisions", "2026-06-03"]
    assert (today["dagster/row_count"], today["late_count"], today["late_days"]) == (1, 1, "2026-06-03")
    assert (late["dagster/row_count"], late["late_count"]) == (2, 1)
    assert late["data_hash"] != before["data_hash"]
    assert found["feedback", "2026-06-04"]["dagster/row_count"] == 1
    # A label of an earlier day than the run's: it is there with its own moment, and the log says what to rebuild.
    assert run.warehouse.read(tables.LABELS)["known_at"].tolist() == [datetime(2026, 6, 4, 15)]
    (warning,) = run.label_warnings()
    assert warning.endswith("fraud materialize features --from 2026-06-04")


def test_a_run_of_many_days_replaces_each(run):
    run.ledger.record_decisions([served(name, f"2026-06-0{day} 12:00:00") for day, name in enumerate("abcd", 1)])
    found = run("2026-06-01", "2026-06-04", [keys.DECISIONS])
    assert {key[1] for key in found} == {f"2026-06-0{day}" for day in range(1, 5)}
    assert found["decisions", "2026-06-01"]["dagster/row_count"] == 4  # of the whole range, as in every asset
    assert found["decisions", "2026-06-01"]["late_count"] == 0


def test_feedback_before_its_transaction_is_a_label_when_the_transaction_comes(run):
    run.ledger.record_decisions([served("other", "2026-06-03 11:00:00")])
    run.ledger.record_feedback([said("f1", "a", "2026-06-03 15:00:00")])
    labels = run("2026-06-03")["labels", "2026-06-03"]
    assert (labels["dagster/row_count"], labels["verdicts_waiting"]) == (0, 1)
    assert run.checks["every_verdict_is_a_label"] == (
        False, {"without_transaction": 1, "before_transaction": 0, "not_loaded_yet": 0, "limit": 0},
    )  # fmt: skip
    run.pay(payment("a", "2026-06-03 11:00:00"))
    labels = run("2026-06-03", selection=[keys.LABELS])["labels", "2026-06-03"]
    assert (labels["dagster/row_count"], labels["verdicts_loaded"], labels["verdicts_waiting"]) == (1, 1, 0)


def test_a_day_without_traffic_is_no_error_and_has_no_rows(run):
    found = run("2026-06-03", selection=[keys.DECISIONS, keys.FEEDBACK])
    assert [found[name, "2026-06-03"]["dagster/row_count"] for name in ("decisions", "feedback")] == [0, 0]
    assert all(passed for passed, _ in run.checks.values())


def test_rows_missing_or_repeated_in_the_warehouse_are_noticed(run):
    run.ledger.record_decisions([served(name, "2026-06-03 12:00:00") for name in "abc"])
    run.ledger.record_feedback([said(name, "a", "2026-06-03 12:00:00") for name in "de"])
    run("2026-06-03", selection=[keys.DECISIONS, keys.FEEDBACK])
    run.warehouse.execute("delete from raw.decisions where transaction_id = 'a'")
    run.warehouse.execute("insert into raw.decisions select * from raw.decisions where transaction_id = 'b'")
    run.warehouse.execute("delete from raw.feedback where feedback_id = 'd'")
    job = dg.Definitions(
        assets=[stand_in(keys.DECISIONS), stand_in(keys.FEEDBACK)], asset_checks=CHECKS[:4], resources=run.resources
    ).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=run.instance, tags=days("2026-06-03", "2026-06-03"))
    checks = outcomes(result)
    assert checks["each_decision_is_there_once"] == (False, {"rows": 3, "repeated": 1, "limit": 0})
    assert checks["decisions_match_the_ledger"][0]  # two wrongs: that is why each has a check of its own
    assert checks["each_feedback_is_there_once"][0]
    assert checks["feedback_matches_the_ledger"] == (
        False, {"days": "2026-06-03", "in_ledger": 2, "in_warehouse": 1, "difference": 1, "limit": 0},
    )  # fmt: skip


def stand_in(key: dg.AssetKey) -> dg.AssetsDefinition:
    """An asset that changes nothing, so that its check sees the broken rows."""

    @dg.asset(key=key, partitions_def=daily_partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def unchanged() -> None: ...

    return unchanged
