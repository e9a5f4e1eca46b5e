"""The graph reads well: every asset, check, setting and command says what it is."""

import re
from pathlib import Path

import dagster as dg
import pytest
import typer
import yaml

from fraud_pipelines.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("raw", "staging", "features", "models", "monitoring", "compliance", "operations")


@pytest.fixture(scope="module")
def defs(definitions: dg.Definitions) -> dg.Definitions:
    return definitions


@pytest.fixture(scope="module")
def graph(defs):
    return defs.resolve_asset_graph()


def test_every_asset_has_stage_owner_kind_description_and_code_version(graph):
    lacking = []
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        if not node.is_materializable:
            continue
        stage = key.path[0]
        facts = {
            "stage": stage in STAGES and node.group_name == stage,
            "owner": bool(node.owners),
            "kind": bool(node.kinds),
            "description": bool(node.description) and len(node.description) > 20,
            "code version": bool(node.code_version),
        }
        lacking += [f"{key.to_user_string()}: {fact}" for fact, holds in facts.items() if not holds]
    assert lacking == []


def test_daily_assets_backfill_a_range_in_one_run(graph):
    many = [
        key.to_user_string()
        for key in graph.get_all_asset_keys()
        if graph.get(key).is_materializable
        and graph.get(key).partitions_def is not None
        and graph.get(key).backfill_policy != dg.BackfillPolicy.single_run()
    ]
    assert many == []


def test_every_stage_has_a_check(graph):
    checked = {key.asset_key.path[0] for key in graph.asset_check_keys}
    assert {"raw", "features", "models", "monitoring", "compliance"} <= checked


# What must stop everything after it. Whoever adds a blocking check adds it here too.
BLOCKING = {
    "raw/transactions": ("transactions_meet_their_expectations", "card_ids_are_tokens"),
    "raw/labels": ("no_label_precedes_its_transaction",),
    "features/transaction_features": ("every_transaction_has_features", "every_transaction_has_one_feature_row"),
    "models/training_set": (
        "no_training_label_was_known_too_late",
        "the_days_trained_on_are_sound",
        "training_ends_a_label_delay_before_the_test",
    ),
    "models/candidate": ("candidate_bundle_is_sound",),
    "models/champion": ("champion_matches_ledger", "champion_bundle_is_sound"),
}


def test_checks_that_guard_a_later_stage_block_it(graph):
    expected = {
        dg.AssetCheckKey(dg.AssetKey.from_user_string(asset), name)
        for asset, names in BLOCKING.items()
        for name in names
    }
    blocking = {key for key in graph.asset_check_keys if graph.get(key).blocking}
    assert sorted(key.name for key in expected - blocking) == []
    # Checks of dbt are named in its schema files.
    ours = {item.name for item in _python_checks()}
    assert sorted(key.name for key in blocking - expected if key.name in ours) == []


def test_no_alarm_about_a_running_model_stops_the_work(graph):
    stages = {key.asset_key.path[0] for key in graph.asset_check_keys if graph.get(key).blocking}
    assert stages <= {"raw", "staging", "features", "models"}


def _python_checks():
    from checks import compliance, features, models, monitoring, raw

    for module in (raw, features, models, monitoring, compliance):
        for item in vars(module).values():
            if isinstance(item, dg.AssetChecksDefinition):
                yield from item.check_keys


def test_check_names_are_facts(graph):
    commands = re.compile(r"^(check|test|validate|verify)_")
    ours = {key.name for key in graph.asset_check_keys if "source_" not in key.name}
    assert [name for name in ours if commands.match(name)] == []


def test_every_setting_is_documented_where_users_look():
    example, readme = (ROOT / ".env.example").read_text(), (ROOT / "README.md").read_text()
    for name in Settings.model_fields:
        assert f"FRAUD_{name.upper()}=" in example
        assert f"`FRAUD_{name.upper()}`" in readme


def test_nothing_documented_is_no_setting():
    known = {f"FRAUD_{name.upper()}" for name in Settings.model_fields}
    for document in (".env.example", "README.md"):
        assert set(re.findall(r"FRAUD_[A-Z_]+", (ROOT / document).read_text())) <= known


def test_every_command_has_help_and_an_example():
    from fraud_pipelines.cli import app

    promised = {
        "demo",
        "simulate",
        "ingest",
        "materialize",
        "train",
        "tune",
        "promote",
        "rollback",
        "replay",
        "backtest",
        "prequential",
        "score",
        "report",
        "serve",
    }
    commands = typer.main.get_command(app).commands
    assert promised <= set(commands)
    inner = {
        f"{name} {inner}": command
        for name, group in commands.items()
        for inner, command in getattr(group, "commands", {}).items()
    }
    for name, command in (commands | inner).items():
        assert command.help, name
        assert f"fraud {name}" in (command.epilog or ""), name


def test_compose_describes_the_production_services():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    started = {name for name, service in compose["services"].items() if "profiles" not in service}
    assert started == {"postgres", "mlflow", "webserver", "daemon", "serving"}
    for name, service in compose["services"].items():
        assert "healthcheck" in service, name
    known = {f"FRAUD_{name.upper()}" for name in Settings.model_fields}
    given = {name for name in compose["services"]["daemon"]["environment"] if name.startswith("FRAUD_")}
    assert given <= known


def test_the_workspace_names_the_code_location():
    workspace = yaml.safe_load((ROOT / "workspace.yaml").read_text())
    assert workspace["load_from"][0]["python_module"]["module_name"] == "fraud_pipelines.definitions"
