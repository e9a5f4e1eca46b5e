"""models/tuning as Dagster runs it, on a real MLflow: tables, runs, the next tuning's base, and each check failing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import mlflow
import pytest

import checks.models as model_checks
from assets.models.candidate import candidate
from assets.models.tuning import tuning
from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, TrialFailed
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models import tuning as search
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.registry import CHAMPION, PARENT_TAG, TUNING_EXPERIMENT, Registry
from fraud_pipelines.models.training_set import TrainingSet, write_training_set
from fraud_pipelines.models.tuned_parameters import read_last_tuning, read_tuned_parameters
from fraud_pipelines.orchestration.resources import RegistryResource, WarehouseResource
from fraud_pipelines.progress import listening
from tests.builders import synthetic_training_set
from tests.served_models import tiny_bundle

SPEC = load_spec()


class World:
    """A training set in a warehouse, and the shared registry."""

    def __init__(self, folder: Path, registry_urls: tuple[str, str], rows: TrainingSet | None = None) -> None:
        self.warehouse = WarehouseResource(url=f"duckdb:///{folder / 'warehouse.duckdb'}")
        self.registry = RegistryResource(url=registry_urls[0], artifacts_url=registry_urls[1])
        self.client = mlflow.MlflowClient(tracking_uri=registry_urls[0], registry_uri=registry_urls[0])
        self.rows = rows or synthetic_training_set(SPEC, rows=2500, signal=3.0)
        write_training_set(self.warehouse.open(), self.rows)

    def tune(self, **config: Any) -> dict[str, Any]:
        result = dg.materialize(
            [tuning],
            resources={"warehouse": self.warehouse, "registry": self.registry},
            run_config={"ops": {"models__tuning": {"config": {"trials": 5, **config}}}},
        )
        (event,) = result.get_asset_materialization_events()
        return {name: value.value for name, value in event.materialization.metadata.items()}

    def runs(self, parent: str) -> list[Any]:
        experiment = self.client.get_experiment_by_name(TUNING_EXPERIMENT)
        return self.client.search_runs(
            [experiment.experiment_id], f"tags.`{PARENT_TAG}` = '{parent}'", order_by=["tags.trial"]
        )

    def check(self, name: str) -> dg.AssetCheckResult:
        needed = {"warehouse": self.warehouse, "registry": self.registry}
        definition = getattr(model_checks, name)
        return definition(**{key: needed[key] for key in definition.required_resource_keys & set(needed)})

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.warehouse.open().session() as session:
            session.execute(statement, **parameters)


BASE = LearnerParameters(trees=8, colsample_bytree=0.2)


def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assets.models.tuning.LearnerParameters", lambda: BASE)
    monkeypatch.setattr(
        search, "SPACE", tuple(replace(i, low=4, high=12) if i.name == "trees" else i for i in search.SPACE)
    )


@pytest.fixture
def world(tmp_path, registry_urls, monkeypatch) -> World:
    few_trees(monkeypatch)
    return World(tmp_path, registry_urls)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, registry_urls):
    with pytest.MonkeyPatch.context() as patch:
        few_trees(patch)
        world = World(tmp_path_factory.mktemp("tuned"), registry_urls)
        seen: list[tuple[str, int, int]] = []
        with listening(lambda *step: seen.append(step)):
            made = world.tune()
    return world, made, seen


def test_every_trial_is_a_run_nested_under_the_tuning(tuned):
    world, made, _ = tuned
    parent = world.client.get_run(made["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == f"tuning-{made['tuning_id']}"
    assert parent.data.params["chosen_trial"] == str(made["chosen_trial"])
    assert parent.data.params["base_trees"] == str(BASE.trees)
    assert parent.data.metrics["base_average_precision"] == pytest.approx(made["base_average_precision"])
    figures = {item.path for item in world.client.list_artifacts(parent.info.run_id, "figures")}
    assert figures == {"figures/trials.png", "figures/parameters.png"}
    runs = world.runs(parent.info.run_id)
    assert [run.info.run_name for run in runs] == [f"trial-{number:04d}" for number in range(5)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["state"] == "complete"
        assert run.data.tags["data_hash"] == world.rows.data_hash
        assert run.data.tags["spec_hash"] == SPEC.hash
        assert run.data.tags["seed"] == str(LearnerParameters.seed)
        blocks = [run.data.metrics[f"block_{number}_average_precision"] for number in (1, 2)]
        assert run.data.metrics["average_precision"] == pytest.approx(sum(blocks) / 2)
    assert runs[0].data.params["learning_rate"] == str(LearnerParameters.learning_rate)


def test_the_tables_say_what_mlflow_and_the_metadata_say(tuned):
    world, made, _ = tuned
    with world.warehouse.open().session() as session:
        last = read_last_tuning(session)
        chosen = read_tuned_parameters(session, SPEC.hash)
    assert made["dagster/row_count"] == len(last.trials) == 5
    assert last.row["mlflow_run_id"] == made["mlflow_run_id"]
    assert last.row["as_of"].to_pydatetime() == world.rows.split.as_of
    values = {
        int(run.data.tags["trial"]): run.data.metrics["average_precision"] for run in world.runs(made["mlflow_run_id"])
    }
    assert dict(zip(last.trials["trial"], last.trials["value"], strict=True)) == pytest.approx(values)
    assert chosen.as_dict() == json.loads(last.trials["parameters"][made["chosen_trial"]])
    assert made["best_trials"].records[0].data["trial"] == made["best_trial"]


def test_progress_is_shown(tuned):
    assert [(done, of) for what, done, of in tuned[2] if what == "trials"] == [(number, 5) for number in range(6)]


def test_checks_pass_on_what_was_just_tuned(tuned):
    world, _, _ = tuned
    assert world.check("tuning_kept_every_trial").passed
    assert world.check("tuned_parameters_are_no_worse_than_before").passed


def test_run_again_it_is_the_same_tuning_and_a_later_moment_starts_from_what_was_chosen(world):
    first = world.tune(trials=3)
    choose(world, replace(BASE, trees=9))
    again = world.tune(trials=3)
    assert first["tuning_id"] == again["tuning_id"]
    assert first["data_hash"] == again["data_hash"]
    assert first["mlflow_run_id"] != again["mlflow_run_id"]
    choose(world, replace(BASE, trees=9))
    split = world.rows.split
    later = replace(world.rows, split=replace(split, as_of=split.as_of + timedelta(hours=1)))
    write_training_set(world.warehouse.open(), later)
    assert base_trees(world, world.tune(trials=1)) == "9"
    assert base_trees(world, world.tune(trials=1, from_defaults=True)) == str(BASE.trees)


def choose(world: World, parameters: LearnerParameters) -> None:
    """As if every tuning so far had chosen these."""
    world.execute(f"update {tables.TUNED_PARAMETERS.name} set chosen = :it", it=json.dumps(parameters.as_dict()))


def base_trees(world: World, made: dict[str, Any]) -> str:
    return world.client.get_run(made["mlflow_run_id"]).data.params["base_trees"]


def test_a_trial_lost_in_mlflow_or_in_the_warehouse_is_noticed(world):
    assert not world.check("tuning_kept_every_trial").passed  # nothing was tuned yet
    made = world.tune(trials=2)
    lost = world.runs(made["mlflow_run_id"])[1].info.run_id
    world.client.delete_run(lost)
    result = world.check("tuning_kept_every_trial")
    assert not result.passed
    assert result.metadata["trials_in_mlflow"].value == 1
    world.client.restore_run(lost)
    assert world.check("tuning_kept_every_trial").passed
    world.execute(f"delete from {tables.TUNING_TRIALS.name} where trial = 1")
    assert not world.check("tuning_kept_every_trial").passed


def test_worse_parameters_than_before_are_noticed(world):
    assert not world.check("tuned_parameters_are_no_worse_than_before").passed  # nothing was tuned yet
    world.tune(trials=2)
    world.execute(
        f"update {tables.TUNED_PARAMETERS.name} set chosen_trial = 1, p_value = 0.01, "
        f"chosen = (select parameters from {tables.TUNING_TRIALS.name} where trial = 1)"
    )
    world.execute(f"update {tables.TUNING_TRIALS.name} set value = 0.9 where trial = 1")
    assert world.check("tuned_parameters_are_no_worse_than_before").passed
    world.execute(f"update {tables.TUNING_TRIALS.name} set value = 0.001 where trial = 1")
    result = world.check("tuned_parameters_are_no_worse_than_before")
    assert not result.passed
    assert "0.0010" in result.metadata["problem"].value


def test_a_tuning_that_fails_is_a_failed_run_with_the_trials_until_then_and_no_row(world, monkeypatch):
    fit, fits = search.fit_boosted_trees, []

    def third_time_unlucky(*arguments, **options):
        fits.append(1)
        if len(fits) > 2:
            raise ValueError("out of luck")
        return fit(*arguments, **options)

    monkeypatch.setattr(search, "fit_boosted_trees", third_time_unlucky)
    with pytest.raises(TrialFailed, match=r"Trial 1 .*out of luck"):
        world.tune(seed=77)
    experiment = world.client.get_experiment_by_name(TUNING_EXPERIMENT)
    (parent, *others) = world.client.search_runs([experiment.experiment_id], "tags.seed = '77' and status = 'FAILED'")
    assert others == []
    assert [run.info.run_name for run in world.runs(parent.info.run_id)] == ["trial-0000"]
    with world.warehouse.open().session() as session:
        assert read_last_tuning(session) is None


def test_a_training_set_of_another_spec_is_refused(world):
    write_training_set(world.warehouse.open(), replace(world.rows, spec_hash="0" * 64))
    with pytest.raises(ContractBroken, match="Run: fraud tune"):
        world.tune()


def test_tuning_leaves_versions_and_aliases_alone(world, registry: Registry, tmp_path):
    version = registry.register(tiny_bundle(seed=4711).save(tmp_path / "bundle"), {}, {}, {}, {})
    registry.set_alias(CHAMPION, version)
    before = registry.versions()
    world.tune(trials=2)
    assert registry.versions() == before
    assert registry.version_of(CHAMPION) == version
    runs = {item.run_id for item in before}
    experiment = world.client.get_experiment_by_name(TUNING_EXPERIMENT)
    assert runs.isdisjoint(run.info.run_id for run in world.client.search_runs([experiment.experiment_id]))


def test_a_candidate_learns_with_what_was_tuned_unless_told_otherwise(world):
    world.tune(trials=1)
    chosen = json.dumps(replace(BASE, max_depth=2, fraud_weight=3.0).as_dict())
    world.execute(f"update {tables.TUNED_PARAMETERS.name} set chosen = :chosen", chosen=chosen)

    def trained(**config: Any) -> tuple[str, dict[str, Any]]:
        result = dg.materialize(
            [candidate],
            resources={"warehouse": world.warehouse, "registry": world.registry},
            run_config={"ops": {"models__candidate": {"config": {"contenders": ["xgboost"], **config}}}},
        )
        (event,) = result.get_asset_materialization_events()
        made = event.materialization.metadata
        bundle = world.registry.open().load(made["model_version"].value)
        return made["parameters"].value, bundle.parameters

    words, parameters = trained()
    assert words == "tuned"
    assert {name: parameters[name] for name in ("trees", "max_depth", "fraud_weight", "learning_rate")} == {
        "trees": 8, "max_depth": 2, "fraud_weight": 3.0, "learning_rate": LearnerParameters.learning_rate,
    }  # fmt: skip
    assert trained(trees=5)[1]["trees"] == 5
    # A tuning of a later moment is nothing that a training of this one could have known.
    world.execute(f"update {tables.TUNED_PARAMETERS.name} set as_of = as_of + interval '1 day'")
    words, parameters = trained(trees=6)
    assert (words, parameters["max_depth"]) == ("defaults", LearnerParameters.max_depth)
