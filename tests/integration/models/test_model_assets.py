"""The models stage as Dagster runs it: from features to champion, and each check passing and failing."""

from __future__ import annotations

import copy
import hashlib
import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import numpy as np
import pytest

import checks.models as model_checks
from assets.models.candidate import candidate
from assets.models.champion import champion
from assets.models.evaluation import evaluation
from assets.models.training_set import training_set
from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample, MissingPartition, PromotionRefused
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.backtest import backtest
from fraud_pipelines.models.evaluation import evaluate, read_evaluation
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.policy import CostMatrix, ReviewCapacity
from fraud_pipelines.models.prequential import prequential
from fraud_pipelines.models.registry import CHALLENGER, CHAMPION
from fraud_pipelines.models.splits import TEST, TimeSplit
from fraud_pipelines.models.training import TrainingParameters, train
from fraud_pipelines.models.training_set import build_training_set, read_training_set
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource
from fraud_pipelines.settings import load_settings
from tests.builders import fill_warehouse, label, payment

# One kind of model is enough to see what the assets do with it.
QUICK = {"contenders": ["xgboost"]}
ASSETS = [training_set, candidate, evaluation, champion]
WINDOWS = {"train_days": 14, "validation_days": 4, "test_days": 7, "label_delay_days": 2}


class World:
    """Four weeks of payments in a warehouse, an empty ledger, and the shared registry."""

    def __init__(self, folder: Path, registry_urls: tuple[str, str], *, rows: int = 6000, seed: int = 0) -> None:
        self.open_stores(folder)
        self.registry = RegistryResource(url=registry_urls[0], artifacts_url=registry_urls[1])
        self.instance = dg.DagsterInstance.ephemeral()
        self.fill(rows, seed)

    def fill(self, rows: int, seed: int, *, start: datetime = datetime(2026, 1, 1)) -> None:
        rng = np.random.default_rng(seed)
        is_fraud = rng.random(rows) < 0.05
        amounts = np.where(is_fraud, rng.normal(300, 80, rows), rng.normal(100, 80, rows)).clip(1) * 100
        payments, labels = [], []
        for number in range(rows):
            moment = start + timedelta(days=28 * number / rows)
            identifier = f"{seed}-{number:05d}"
            card = f"tok_{rng.integers(0, 2000):032x}"
            payments.append(payment(identifier, str(moment), card_id=card, amount_minor=int(amounts[number])))
            known = moment + timedelta(days=2)
            labels.append(label(identifier, str(moment), str(known), is_fraud=bool(is_fraud[number])))
        fill_warehouse(self.warehouse.open(), load_spec(), payments, labels)

    def copied(self, folder: Path) -> World:
        """The same with a warehouse and a ledger of its own, as they are now."""
        twin = copy.copy(self)
        shutil.copy(self.folder / "warehouse.duckdb", folder)
        with (
            closing(sqlite3.connect(self.folder / "ledger.sqlite")) as origin,
            closing(sqlite3.connect(folder / "ledger.sqlite")) as target,
        ):
            origin.backup(target)  # the newest rows may be in the write-ahead log beside the file
        twin.open_stores(folder)
        return twin

    def open_stores(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = WarehouseResource(url=f"duckdb:///{folder / 'warehouse.duckdb'}")
        self.ledger = LedgerResource(url=f"sqlite:///{folder / 'ledger.sqlite'}")

    @property
    def resources(self) -> dict[str, Any]:
        return {"warehouse": self.warehouse, "ledger": self.ledger, "registry": self.registry}

    def run(
        self, *assets: Any, candidate_config: dict[str, Any] | None = None, **windows: Any
    ) -> dict[str, dict[str, Any]]:
        chosen = list(assets or ASSETS)
        config: dict[str, Any] = {}
        if training_set in chosen:
            config["models__training_set"] = {"config": {**WINDOWS, **windows}}
        if candidate in chosen:
            config["models__candidate"] = {"config": {**QUICK, "trees": 120, **(candidate_config or {})}}
        result = dg.materialize(
            chosen, resources=self.resources, instance=self.instance, run_config={"ops": config}, raise_on_error=True
        )
        return {
            event.asset_key.path[-1]: {name: value.value for name, value in event.materialization.metadata.items()}
            for event in result.get_asset_materialization_events()
        }

    def check(self, name: str) -> dg.AssetCheckResult:
        definition = getattr(model_checks, name)
        needed = {key: self.resources[key] for key in definition.required_resource_keys & set(self.resources)}
        return definition(**needed)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, registry_urls) -> tuple[World, dict[str, dict[str, Any]]]:
    world = World(tmp_path_factory.mktemp("world"), registry_urls)
    return world, world.run()


def test_the_first_good_candidate_becomes_champion_with_every_gate_on_record(trained):
    world, made = trained
    rows = world.ledger.open().promotions()
    assert [(row.kind, row.actor) for row in rows] == [("promote", "pipeline")]
    assert rows[0].model_version == made["champion"]["model_version"] == made["candidate"]["model_version"]
    assert len(rows[0].gates) == 9
    assert rows[0].as_of == datetime(2026, 1, 29)
    assert made["champion"]["decision"] == "promote"
    manifest = world.registry.open().download(made["champion"]["model_version"]) / "manifest.json"
    assert made["champion"]["data_hash"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_what_was_read_and_what_was_left_out_is_in_the_metadata(trained):
    world, made = trained
    rows = read_training_set(world.warehouse.open())
    assert made["training_set"]["as_of"] == "2026-01-29T00:00:00"
    assert made["training_set"]["dagster/row_count"] == len(rows.frame)
    assert made["training_set"]["data_hash"] == made["candidate"]["data_hash"] == rows.data_hash
    judged = made["evaluation"]["dagster/row_count"]
    assert judged + made["evaluation"]["left_out_card_known_compromised"] == rows.rows("test")
    assert made["evaluation"]["average_precision"] > 0.5


def test_the_warehouse_holds_metrics_scores_and_attributions_of_the_version(trained):
    world, made = trained
    version = made["champion"]["model_version"]
    with world.warehouse.open().session() as session:
        found = {
            table.name: session.query(f"select count(*) as n from {table.name} where model_version = :v", v=version)[
                "n"
            ][0]
            for table in (tables.EVALUATIONS, tables.EVALUATION_SCORES, tables.ATTRIBUTIONS)
        }
    assert found[tables.EVALUATION_SCORES.name] == made["evaluation"]["dagster/row_count"]
    assert found[tables.ATTRIBUTIONS.name] == len(load_spec().names)
    assert found[tables.EVALUATIONS.name] == 15


def test_thresholds_follow_the_costs_and_the_capacity_of_the_settings(trained, monkeypatch):
    world, made = trained
    monkeypatch.setenv("FRAUD_COSTS", "review_cost=1, block_friction=60")
    monkeypatch.setenv("FRAUD_REVIEWS_PER_DAY", "9")
    load_settings.cache_clear()
    try:
        own = world.run(candidate)["candidate"]
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert own["model_version"] != made["candidate"]["model_version"]
    policy = world.registry.open().load(own["model_version"]).policy
    assert policy.costs == CostMatrix(review_cost=1, block_friction=60)
    assert (policy.capacity, policy.reviews_per_day) == (ReviewCapacity(per_day=9), 9.0)
    assert own["block_threshold"] > made["candidate"]["block_threshold"]


def test_every_check_passes_on_a_sound_training(trained):
    world, made = trained
    world.registry.open().set_alias(CHALLENGER, made["candidate"]["model_version"])
    world.registry.open().set_alias(CHAMPION, made["candidate"]["model_version"])
    for name in (
        "no_training_label_was_known_too_late",
        "the_days_trained_on_are_sound",
        "training_ends_a_label_delay_before_the_test",
        "labels_stand_for_their_window",
        "candidate_bundle_is_sound",
        "flagging_beats_chance",
        "average_precision_is_plausible",
        "champion_matches_ledger",
        "champion_bundle_is_sound",
    ):
        result = world.check(name)
        assert result.passed, (name, result.metadata)


@pytest.fixture
def judged(trained, tmp_path: Path, registry) -> World:
    """A copy of the world whose first candidate was trained, judged and promoted."""
    world, made = trained
    for alias in (CHALLENGER, CHAMPION):
        registry.set_alias(alias, made["candidate"]["model_version"])
    return world.copied(tmp_path)


@pytest.fixture
def world(tmp_path: Path, registry_urls, registry) -> World:
    return World(tmp_path, registry_urls)


def test_training_again_changes_nothing_and_a_candidate_no_better_is_refused(world):
    first = world.run()
    again = world.run()
    assert again["candidate"]["bundle_digest"] == first["candidate"]["bundle_digest"]
    assert again["champion"]["decision"] == "unchanged"
    assert len(world.ledger.open().promotions()) == 1
    other = world.run(candidate_config={"seed": 5})
    assert other["champion"]["decision"] == "refuse"
    assert other["champion"]["model_version"] == first["champion"]["model_version"]
    assert "improves_on_champion" in other["champion"]["failing_gates"]
    assert "champion_average_precision" in other["evaluation"]
    assert [row.kind for row in world.ledger.open().promotions()] == ["promote", "refuse"]
    assert world.registry.open().version_of(CHAMPION) == first["champion"]["model_version"]


def test_a_first_candidate_that_fails_a_gate_stops_the_line(tmp_path, registry_urls, registry):
    small = World(tmp_path, registry_urls, rows=1200)
    with pytest.raises(PromotionRefused, match="enough_labelled_rows"):
        small.run()
    assert [row.kind for row in small.ledger.open().promotions()] == ["refuse"]
    assert small.registry.open().version_of(CHAMPION) is None


def test_a_challenger_of_another_training_set_is_not_evaluated(judged):
    judged.run(training_set, test_days=6)
    with pytest.raises(ContractBroken, match="may be rows the challenger has seen"):
        judged.run(evaluation)


def test_a_failing_blocking_check_of_earlier_data_refuses_the_candidate(world):
    @dg.asset(key=keys.TRANSACTIONS)
    def transactions() -> None: ...

    @dg.asset_check(asset=keys.TRANSACTIONS, blocking=True)
    def amounts_are_positive() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    dg.materialize([transactions, amounts_are_positive], instance=world.instance, raise_on_error=False)
    definitions = dg.Definitions(
        assets=[transactions, *ASSETS], asset_checks=[amounts_are_positive], resources=world.resources
    )
    windows = {"models__training_set": {"config": WINDOWS}, "models__candidate": {"config": {**QUICK, "trees": 30}}}
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[asset.key for asset in ASSETS],
        instance=world.instance,
        run_config={"ops": windows},
        raise_on_error=False,
    )
    assert not result.success
    gates = {gate["name"]: gate for gate in world.ledger.open().promotions()[-1].gates}
    assert gates["data_checks_pass"]["words"] == "failing: raw/transactions:amounts_are_positive"


# Checks that fail


def test_a_bad_file_in_the_training_days_is_caught_whatever_passed_since(judged):
    """The file's own check failed in its run, a later file passed: only the days themselves still tell."""
    assert judged.check("the_days_trained_on_are_sound").passed
    judged.warehouse.open().execute(
        f"update {tables.TRANSACTIONS.name} set amount_minor = -1, card_id = '4111111111111111' "
        "where event_time >= '2026-01-10' and event_time < '2026-01-10 01:00'"
    )
    result = judged.check("the_days_trained_on_are_sound")
    assert not result.passed
    # 6000 payments over 672 hours are one in 6.72 minutes: 9 in an hour.
    assert result.metadata["broken"].value == "card_id_is_no_token: 9, amount_out_of_range: 9"


def test_every_training_metadata_default_is_the_splits_own():
    from assets.models.training_set import TrainingConfig

    split = TimeSplit(datetime(2026, 4, 1))
    config = TrainingConfig()
    for name in ("train_days", "validation_days", "test_days", "label_delay_days"):
        assert getattr(config, name) == getattr(split, name)


def test_a_label_from_the_future_is_caught(judged):
    judged.warehouse.open().execute(
        f"update {tables.TRAINING_SET} set label_known_at = :late where part = 'train'",
        late=datetime(2026, 1, 20, 0, 0, 1),
    )
    result = judged.check("no_training_label_was_known_too_late")
    assert not result.passed
    assert result.metadata["train_late_labels"].value == result.metadata["late_labels"].value > 0


def test_a_test_row_in_the_label_delay_is_caught(judged):
    gap = datetime(2026, 1, 19)  # training ends on the 18th, the test starts on the 20th
    judged.warehouse.open().execute(
        f"update {tables.TRAINING_SET} set event_time = :gap where transaction_id = "
        f"(select min(transaction_id) from {tables.TRAINING_SET} where part = 'test')",
        gap=gap,
    )
    result = judged.check("training_ends_a_label_delay_before_the_test")
    assert not result.passed
    assert 1 <= result.metadata["gap_days"].value < 2


def test_a_transaction_on_both_sides_is_caught(judged):
    assert judged.check("training_ends_a_label_delay_before_the_test").passed
    judged.warehouse.open().execute(
        f"insert into {tables.TRAINING_SET} select * replace ('test' as part, :moment as event_time) "
        f"from {tables.TRAINING_SET} where transaction_id = "
        f"(select min(transaction_id) from {tables.TRAINING_SET} where part = 'train')",
        moment=datetime(2026, 1, 23),
    )
    result = judged.check("training_ends_a_label_delay_before_the_test")
    assert not result.passed
    assert result.metadata["transactions_twice"].value == 1
    assert result.metadata["gap_days"].value >= result.metadata["limit_days"].value


def test_missing_labels_are_caught(world):
    world.warehouse.open().execute(
        f"delete from {tables.LABELS.name} where not is_fraud and event_time >= '2026-01-26'"
    )
    world.run(training_set)
    result = world.check("labels_stand_for_their_window")
    assert not result.passed
    assert result.metadata["test_unlabelled_share"].value == pytest.approx(1 / 7, abs=0.05)


@pytest.mark.parametrize("value", [0.10, 0.95, None])
def test_an_implausible_average_precision_is_caught(judged, value):
    judged.warehouse.open().execute(
        f"update {tables.EVALUATIONS.name} set value = {'null' if value is None else value} "
        "where metric = 'average_precision'"
    )
    assert not judged.check("average_precision_is_plausible").passed


def test_flagging_at_random_is_caught(judged):
    judged.warehouse.open().execute(
        f"update {tables.EVALUATION_SCORES.name} set fraud_probability = "
        "case when hash(transaction_id) % 2 = 0 then 0.99 else 0.0 end"
    )
    result = judged.check("flagging_beats_chance")
    assert not result.passed
    assert result.metadata["lift"].value == pytest.approx(1.0, abs=0.35)


def test_flagging_nothing_is_caught(judged):
    judged.warehouse.open().execute(f"update {tables.EVALUATION_SCORES.name} set fraud_probability = 0.0")
    result = judged.check("flagging_beats_chance")
    assert not result.passed
    assert result.metadata["flagged_share"].value == 0.0
    assert result.metadata["lift"].value == "undefined: nothing was flagged, or there was no fraud"


def test_an_alias_moved_behind_the_ledgers_back_is_caught(judged, trained):
    _, made = trained
    other = judged.run(candidate, candidate_config={"seed": 6})["candidate"]["model_version"]
    judged.registry.open().set_alias(CHAMPION, other)
    result = judged.check("champion_matches_ledger")
    assert not result.passed
    assert (result.metadata["alias"].value, result.metadata["ledger"].value) == (
        other,
        made["champion"]["model_version"],
    )


@pytest.mark.parametrize(
    ("alias", "name"), [(CHALLENGER, "candidate_bundle_is_sound"), (CHAMPION, "champion_bundle_is_sound")]
)
def test_a_damaged_bundle_is_caught(world, alias, name):
    made = world.run(training_set, candidate, candidate_config={"seed": 7 if alias == CHAMPION else 8})
    models = world.registry.open()
    models.set_alias(alias, made["candidate"]["model_version"])
    (models.download(made["candidate"]["model_version"]) / "model.onnx").write_bytes(b"not a model")
    result = world.check(name)
    assert not result.passed
    assert "model.onnx" in result.metadata["problem"].value


# The training window ends 2026-01-18, the test window is 2026-01-20 to 2026-01-27, labels come after 2 days.
SINCE, UNTIL = datetime(2026, 1, 20), datetime(2026, 1, 27)


@pytest.fixture
def champion_bundle(trained):
    world, made = trained
    return (
        world.warehouse.open(),
        made["champion"]["model_version"],
        world.registry.open().load(made["champion"]["model_version"]),
    )


def test_what_was_judged_is_in_the_versions_card(trained):
    world, made = trained
    version = made["candidate"]["model_version"]
    models, client = world.registry.open(), mlflow.MlflowClient(world.registry.url, world.registry.url)
    card = mlflow.artifacts.load_text(
        f"{client.get_run(models.version(version).run_id).info.artifact_uri}/model_card.md"
    )
    assert f"# Version {version}: xgboost" in card
    average_precision = f"{made['evaluation']['average_precision']:.4f}"
    assert f"| average_precision | {average_precision} (" in card
    for baseline in ("single tree", "logistic regression", "xgboost", "autoencoder"):
        assert f"| {baseline} " in card
    assert "xgboost, trained on " in client.get_model_version("fraud-scorer", version).description


def test_a_backtest_of_the_test_days_is_the_evaluation_on_record(champion_bundle):
    warehouse, version, bundle = champion_bundle
    found = backtest(warehouse, bundle, since=SINCE, until=UNTIL)
    with warehouse.session() as session:
        recorded = read_evaluation(session, version, UNTIL + timedelta(days=2))
        baselines = {
            name: read_evaluation(session, f"{version}/{name}", UNTIL + timedelta(days=2)) for name in found.baselines
        }
    assert set(baselines) == {"single_tree", "logistic_regression", "xgboost", "autoencoder"}
    for name, baseline in baselines.items():
        ranking = {metric: baseline.metrics[metric] for metric in ("average_precision", "roc_auc", "cost_per_1000")}
        assert ranking == pytest.approx({metric: found.baselines[name].metrics[metric] for metric in ranking})
    assert found.evaluation.metrics == pytest.approx(recorded.metrics, nan_ok=True)
    assert found.evaluation.intervals == recorded.intervals
    assert found.evaluation.rows == recorded.rows
    assert found.evaluation.excluded["label_not_mature"] == found.learnt_from == 0


def test_rows_whose_label_had_no_time_are_left_out_and_counted(champion_bundle):
    warehouse, _, bundle = champion_bundle
    whole = backtest(warehouse, bundle, since=SINCE, until=UNTIL).evaluation
    earlier = backtest(warehouse, bundle, since=SINCE, until=UNTIL, as_of=datetime(2026, 1, 25)).evaluation
    # Mature until the 23rd: three of the seven days.
    in_time = backtest(warehouse, bundle, since=SINCE, until=datetime(2026, 1, 23)).evaluation
    assert earlier.metrics == in_time.metrics
    assert sum(earlier.excluded.values()) + earlier.rows == sum(whole.excluded.values()) + whole.rows
    assert earlier.excluded["label_not_mature"] == pytest.approx(6000 / 28 * 4, abs=1)


def test_days_the_version_learnt_from_are_said(champion_bundle):
    warehouse, _, bundle = champion_bundle
    found = backtest(warehouse, bundle, since=datetime(2026, 1, 17), until=datetime(2026, 1, 20))
    assert found.learnt_from == pytest.approx(6000 / 28, abs=1)  # of the 17th alone


@pytest.mark.parametrize(
    ("since", "until", "as_of", "error"),
    [
        (UNTIL, SINCE, None, ContractBroken),
        (datetime(2026, 3, 1), datetime(2026, 3, 2), None, MissingPartition),
        (SINCE, UNTIL, datetime(2026, 1, 21), EmptySample),
    ],
)
def test_a_range_that_cannot_be_judged_says_what_to_do(champion_bundle, since, until, as_of, error):
    warehouse, _, bundle = champion_bundle
    with pytest.raises(error, match="fraud "):
        backtest(warehouse, bundle, since=since, until=until, as_of=as_of)


def test_a_backtest_before_any_features_says_what_to_do(champion_bundle, tmp_path):
    _, _, bundle = champion_bundle
    empty = WarehouseResource(url=f"duckdb:///{tmp_path / 'warehouse.duckdb'}").open()
    with pytest.raises(MissingPartition, match=r"does not exist yet.*fraud ingest"):
        backtest(empty, bundle, since=SINCE, until=UNTIL)


def test_a_week_judged_prequentially_is_that_weeks_own_training_and_evaluation(trained):
    world, _ = trained
    warehouse, spec, quick = (
        world.warehouse.open(),
        load_spec(),
        TrainingParameters(LearnerParameters(trees=20), ("xgboost",)),
    )
    (week,) = prequential(
        warehouse, spec, [SINCE], lambda rows: train(rows, spec, quick).bundle,
        train_days=14, validation_days=4, label_delay_days=2,
    )  # fmt: skip
    split = TimeSplit(datetime(2026, 1, 29), **WINDOWS)
    rows = build_training_set(warehouse, spec, split)
    own = evaluate(
        train(rows, spec, quick).bundle, rows.part(TEST), since=SINCE, until=UNTIL, as_of=split.as_of
    )  # fmt: skip
    assert week.split == split
    assert week.evaluation.metrics == own.metrics
