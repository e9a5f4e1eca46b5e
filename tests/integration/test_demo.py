"""The demo as a newcomer meets it, and what must be true of the installation it leaves."""

import json
import re
from datetime import datetime, time, timedelta
from pathlib import Path

import dagster as dg
import pytest

from fraud_pipelines import tables
from fraud_pipelines.demo import START
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.warehouse import open_warehouse
from tests.installation import DEMO_DAYS

END = datetime.combine(START, time()) + timedelta(days=DEMO_DAYS)


@pytest.fixture(scope="module")
def instance(demo) -> dg.DagsterInstance:
    with dg.DagsterInstance.from_config(str(demo.home / "dagster")) as instance:
        yield instance


def test_the_summary_says_what_came_out(demo):
    average_precision = float(re.search(r"test average_precision: (\d\.\d+)", demo.output).group(1))
    assert 0.3 < average_precision < 0.98
    assert "champion: version 1" in demo.output
    assert re.search(r"drift: .+", demo.output)
    assert "served features that differ from the warehouse: 0" in demo.output
    assert re.search(r"\b(APPROVE|REVIEW|BLOCK)\b", demo.output)
    path = Path(re.search(r"compliance PDF: (.+\.pdf)", demo.output).group(1))
    assert path.read_bytes().startswith(b"%PDF")
    assert "make ui" in demo.output


def test_the_simulated_world_has_the_size_it_promises(demo):
    counts = open_warehouse(demo.settings.warehouse_url).query(
        f"select count(*) as n, count(distinct transaction_id) as ids, count(distinct card_id) as cards "
        f"from {tables.TRANSACTIONS.name}"
    )
    frauds = open_warehouse(demo.settings.warehouse_url).query(
        f"select count(*) as n from {tables.LABELS.name} where is_fraud"
    )
    assert 1_430 < counts["n"][0] / DEMO_DAYS < 1_890
    assert counts["ids"][0] == counts["n"][0]
    assert 0.005 < frauds["n"][0] / counts["n"][0] < 0.01


def test_dagster_knows_every_asset_of_the_graph(demo, instance):
    from tests.definitions.lineage_file import asset_keys

    missing = [key for key in asset_keys() if instance.get_latest_materialization_event(key) is None]
    assert missing == []


def test_every_day_is_materialized(demo, instance):
    keys = instance.get_materialized_partitions(dg.AssetKey(["features", "transaction_features"]))
    assert {"2026-01-01", "2026-02-28", f"{END - timedelta(days=1):%Y-%m-%d}"} <= keys
    assert len(keys) >= DEMO_DAYS


def test_all_runs_succeeded(instance):
    assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}


def test_the_promotion_is_on_record_with_its_gates(demo):
    promotion = open_ledger(demo.settings.ledger_url).promotions()[0]
    assert (promotion.kind, promotion.model_version, promotion.previous_version) == ("promote", "1", None)
    assert all(gate["passed"] for gate in promotion.gates)
    assert promotion.as_of == END


def test_the_champion_can_be_judged_again_on_its_test_days(demo):
    promotion = open_ledger(demo.settings.ledger_url).promotions()[0]
    gates = {gate["name"]: gate["value"] for gate in promotion.gates}
    test_until = promotion.as_of - timedelta(days=7)
    days = (
        "--from",
        f"{test_until - timedelta(days=14):%Y-%m-%d}",
        "--to",
        f"{test_until - timedelta(days=1):%Y-%m-%d}",
    )
    found = json.loads(demo.run("backtest", *days, "--json"))
    assert found["version"] == "1"
    assert found["learnt_from"] == 0
    assert found["metrics"]["average_precision"] == pytest.approx(gates["average_precision_reaches_floor"])
    printed = demo.run("backtest", *days)
    assert re.search(r"average_precision .*0\.\d{4} \(0\.\d{4} to 0\.\d{4}\)", printed)


def test_a_past_week_is_trained_for_and_judged_without_registering_anything(demo):
    found = demo.run("prequential", "--from", "2026-02-12", "--weeks", "1", "--train-days", "14")
    assert re.search(r"average_precision .*0\.\d{4}", found)
    assert len(open_ledger(demo.settings.ledger_url).promotions()) == 1


def test_no_card_number_reached_any_file(demo):
    """Every number of the simulated cards, in everything the lineage wrote: tables, snapshots, documents, logs."""
    import pandas as pd

    from tests.leaks import leaks

    world = pd.read_parquet(demo.home / "simulated" / "transactions.parquet", columns=["card_number"])
    numbers = set(world["card_number"])
    assert len(numbers) > 1900
    assert {len(number) for number in numbers} == {16}
    found, searched = leaks(demo.home, numbers, leave_out="simulated")
    # SQLite's own side files come and go with its readers; their rows were read through the database.
    everything = {
        path
        for path in demo.home.rglob("*")
        if path.is_file()
        and demo.home / "simulated" not in path.parents
        and not path.name.endswith(("-wal", "-shm", "-journal"))
    }
    assert everything - searched == set()
    names = {path.relative_to(demo.home).as_posix() for path in searched}
    assert {"warehouse.duckdb", "ledger.sqlite", "online_store.sqlite", "registry/mlflow.sqlite"} <= names
    assert {".pdf", ".html", ".db", ".parquet", ".json"} <= {path.suffix for path in searched}
    assert found == {}


def test_the_same_files_again_change_nothing(moved):
    warehouse = open_warehouse(moved.settings.warehouse_url)
    before = warehouse.query(f"select count(*) as n, max(ingestion_id) as id from {tables.TRANSACTIONS.name}")
    printed = moved.run("ingest", str(moved.home / "simulated"), "--mapping", "simulator")
    after = warehouse.query(f"select count(*) as n, max(ingestion_id) as id from {tables.TRANSACTIONS.name}")
    assert before.equals(after)
    assert len(open_ledger(moved.settings.ledger_url).ingestions()) == 1
    assert "0 failed" in printed


def test_a_second_training_that_brings_no_more_is_refused_and_the_champion_stays(moved):
    # On the same days it would be the same model, which is no candidate; two weeks are too few to be as good.
    printed = moved.run("train", "--train-days", "14")
    ledger = open_ledger(moved.settings.ledger_url)
    latest = ledger.promotions()[-1]
    assert latest.kind == "refuse"
    assert ledger.champion_at() == latest.previous_version
    assert "refuse" in printed


def test_a_refused_version_cannot_be_promoted_by_hand(moved):
    ledger = open_ledger(moved.settings.ledger_url)
    refused = next(row for row in reversed(ledger.promotions()) if row.kind == "refuse")
    printed = moved.run("promote", refused.model_version, "--reason", "I insist", expect=3)
    assert "PromotionRefused" in printed
    assert ledger.champion_at() == refused.previous_version


def test_a_forced_promotion_and_its_rollback_are_on_record(moved):
    ledger = open_ledger(moved.settings.ledger_url)
    refused = next(row for row in reversed(ledger.promotions()) if row.kind == "refuse")
    before = ledger.champion_at()
    moved.run("promote", refused.model_version, "--force", "--reason", "[ticket 815] drill", "--actor", "ann")
    assert ledger.champion_at() == refused.model_version
    moved.run("rollback", "--reason", "drill is over")
    assert ledger.champion_at() == before
    forced, back = ledger.promotions()[-2:]
    assert (forced.kind, forced.actor, forced.reason) == ("promote", "ann", "[ticket 815] drill")
    assert (back.kind, back.previous_version) == ("rollback", refused.model_version)
    assert "[ticket 815] drill" in moved.run("champion")


def test_fraud_serve_answers_fraud_score(moved):
    transaction = open_warehouse(moved.settings.warehouse_url).query(
        f"select transaction_id from {tables.TRANSACTIONS.name} order by event_time desc limit 1"
    )["transaction_id"][0]
    with moved.serving() as base_url:
        first = json.loads(moved.run("score", "--id", transaction, "--url", base_url))
        again = json.loads(moved.run("score", "--id", transaction, "--url", base_url))
    assert first["decision"] in {"APPROVE", "REVIEW", "BLOCK"}
    assert first["fallback"] is None
    assert first["model"]["version"] == open_ledger(moved.settings.ledger_url).champion_at()
    assert again["decided_at"] == first["decided_at"]


# After the second training, which would use what is found here.
def test_settings_are_searched_from_the_terminal_as_of_a_past_day(moved):
    printed = moved.run("tune", "--trials", "2", "--minutes", "1", "--as-of", "2026-03-05", "--train-days", "28")
    assert re.search(r"trial +\d", printed)
    assert re.search(r"^most_genuine_rows +\d+", printed, re.MULTILINE)
    assert "The base stays: " in printed or "Chosen: trial " in printed
    assert "0 failed" in printed
    found = open_warehouse(moved.settings.warehouse_url).query(
        f"select as_of, trials_wanted from {tables.TUNED_PARAMETERS.name} order by sequence"
    )
    assert list(zip(found["as_of"], found["trials_wanted"], strict=True)) == [
        (END, 2),  # the demo's own
        (datetime(2026, 3, 5), 2),
    ]
