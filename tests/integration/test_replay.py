"""The command `fraud replay` on an installation with a registry, a ledger of served decisions and a warehouse."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from fraud_pipelines import tables
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import Promotion, open_ledger
from fraud_pipelines.models.registry import open_registry
from fraud_pipelines.warehouse import open_warehouse
from serving.schemas import Transaction
from tests.builders import fill_warehouse, label
from tests.builders import payment as warehouse_row
from tests.installation import Installation
from tests.served_models import payment, tiny_bundle
from tests.workers import Host, saved_champion

SPEC = load_spec()
START = datetime(2025, 3, 1)
DAYS = ("--from", "2025-03-01", "--to", "2025-03-02")
AMOUNTS = [25 * (1 + number % 40) for number in range(96)]


@pytest.fixture(scope="module")
def installation(tmp_path_factory) -> Installation:
    """Two days of decisions by version 1, the champion; version 2 is registered, too."""
    made = Installation(tmp_path_factory.mktemp("replay"), {"FRAUD_TOKEN_KEY": "k" * 32})
    settings = made.settings
    registry, ledger = open_registry(settings.registry_url, settings.artifacts_url), open_ledger(settings.ledger_url)
    champions = []
    for number, bundle in enumerate((tiny_bundle(noise=300), tiny_bundle(noise=300, seed=1))):
        folder = made.home / f"champion-{number}"
        champions.append(saved_champion(bundle, folder, str(number + 1)))
        assert registry.register(folder / "bundle", params={}, metrics={}, figures={}, tags={}) == str(number + 1)
    ledger.record_promotion(Promotion("promote", "1", None, "test", "test", []))
    host = Host(made.home, ledger, as_of=START)
    worker = host.worker(champions[0])
    rows, labels = [], []
    for number, amount in enumerate(AMOUNTS):
        moment = (START + timedelta(minutes=30 * number)).isoformat()
        body = payment(transaction_id=f"t{number}", event_time=f"{moment}Z", amount=str(amount))
        worker.answer(Transaction.model_validate_json(json.dumps(body)).scored(b"k" * 32))
        rows.append(warehouse_row(f"t{number}", moment, amount_minor=100 * amount))
        labels.append(label(f"t{number}", moment, "2025-03-10", is_fraud=amount > 500))
    fill_warehouse(open_warehouse(settings.warehouse_url), SPEC, rows, labels)
    worker.deliver()
    host.close()
    return made


def test_the_live_policy_comes_out_as_recorded(installation):
    printed = " ".join(installation.run("replay", "--version", "live", *DAYS).split())
    assert "Replay of the live policy, 2025-03-01 to 2025-03-02" in printed
    assert "0 of 96 recorded decisions come out differently" in printed
    assert "(96 have no label yet)" in printed


def test_the_champion_at_another_threshold_as_json(installation):
    arguments = ("replay", *DAYS, "--block", "0.9", "--as-of", "2025-03-10", "--json")
    printed = installation.run(*arguments)
    found = json.loads(printed[: printed.rindex("}") + 1])
    assert (found["version"], found["thresholds"]) == ("1", {"1": {"review": 0.3, "block": 0.9}})
    assert (found["transactions"], found["from_served_features"], found["unlabelled"]) == (96, 96, 0)
    assert found["flipped"] == found["flips"]["BLOCK"]["REVIEW"] > 0
    assert found["money"]["replayed"]["fraud_amount"] == sum(amount for amount in AMOUNTS if amount > 500)
    assert found["money"]["replayed"]["fraud_blocked"] < found["money"]["recorded"]["fraud_blocked"]


def test_another_version_flips_some_decisions(installation):
    found = json.loads(installation.run("replay", *DAYS, "--version", "2", "--json"))
    assert (found["version"], found["rescored"]) == ("2", 0)
    assert found["flipped"] > 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        ([*DAYS, "--version", "9"], 3, ["UnknownVersion", "['1', '2']"]),
        (["--from", "2025-04-01", "--to", "2025-04-02"], 3, ["MissingPartition", "2025-04-01", "fraud ingest"]),
        (["--from", "2025-04-01", "--to", "2025-04-02", "--version", "live"], 3, ["EmptySample", "no decision"]),
        ([*DAYS, "--review", "0.9"], 3, ["ContractBroken", "review <= block"]),
        (["--from", "2025-03-02", "--to", "2025-03-01"], 2, ["lies before"]),
        (["--from", "2025-03-02"], 2, ["--to"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_replayed_says_what_to_do(installation, arguments, exit_code, words):
    printed = " ".join(installation.run("replay", *arguments, expect=exit_code).split())
    assert [word for word in words if word not in printed] == []
    assert "Traceback" not in printed


def test_a_missing_day_of_features_is_named(installation):
    warehouse = open_warehouse(installation.settings.warehouse_url)
    row = warehouse_row("late", "2025-03-05")
    with warehouse.session() as session:
        features = session.read(tables.TRANSACTION_FEATURES)
    fill_warehouse(warehouse, SPEC, [row], [label("late", "2025-03-05", "2025-03-09")], without_features=["late"])
    with warehouse.session() as session:
        session.overwrite(tables.TRANSACTION_FEATURES, features)
    printed = " ".join(installation.run("replay", "--from", "2025-03-01", "--to", "2025-03-05", expect=3).split())
    assert "lacks 1 transactions of 2025-03-05 to 2025-03-05" in printed
    assert "fraud materialize features/transaction_features --from 2025-03-05 --to 2025-03-05" in printed
