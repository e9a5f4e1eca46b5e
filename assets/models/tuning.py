"""Settings of the learners, searched on blocks of time."""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from fraud_pipelines import limits, tables
from fraud_pipelines.evidence import code_version, hash_rows
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.training_set import read_training_set
from fraud_pipelines.models.tuned_parameters import read_tuned_parameters, write_tuning
from fraud_pipelines.models.tuning import Trial, tune, tuning_id
from fraud_pipelines.models.tuning_report import (
    best_trials,
    outcome_metrics,
    outcome_params,
    searched,
    trial_record,
    tuning_figures,
    verdict,
)
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import RegistryResource, WarehouseResource
from fraud_pipelines.progress import report


class TuningConfig(dg.Config):
    """Budget of the search; the windows come from the training set."""

    trials: int = Field(
        limits.TUNING_TRIALS, ge=1, description="Settings to try, those on record included; at least 1."
    )
    minutes: float | None = Field(None, gt=0, description="Time budget in minutes; None: as long as the trials take.")
    seed: int | None = Field(None, ge=0, description="Seed of what is tried; at least 0. None: the learners' own.")
    from_defaults: bool = Field(False, description="Start from the defaults, not from what was tuned before.")


@dg.asset(
    key=keys.TUNING,
    group_name="models",
    deps=[keys.TRAINING_SET],
    kinds={"optuna", "xgboost", "mlflow"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def tuning(
    context: dg.AssetExecutionContext, config: TuningConfig, warehouse: WarehouseResource, registry: RegistryResource
) -> dg.MaterializeResult:
    """One row per tuning and trial: settings of the boosted trees, judged on blocks of time by average precision.

    Each block is judged by trees that learnt from rows at least the label delay older. Trial 0 is what an earlier
    moment's tuning chose (else the defaults), and stays chosen unless the best trial gains more than chance explains.
    What was chosen goes to models.tuned_parameters, every trial to MLflow as it ends.
    """
    store, spec = warehouse.open(), load_spec()
    rows = read_training_set(store)
    rows.require_spec(spec, command="fraud tune")
    with store.session() as session:
        # Not its own moment's: running it again starts from the same base.
        before = rows.split.as_of - timedelta(microseconds=1)
        earlier = None if config.from_defaults else read_tuned_parameters(session, spec.hash, as_of=before)
    base = earlier or LearnerParameters()
    seed = base.seed if config.seed is None else config.seed
    seconds = config.minutes * 60 if config.minutes else None
    name = f"tuning-{tuning_id(rows, base, trials=config.trials, seed=seed, seconds=seconds)}"
    tags = {
        "data_hash": rows.data_hash,
        "spec_hash": rows.spec_hash,
        "seed": str(seed),
        "as_of": rows.split.as_of.isoformat(),
        "code_version": code_version(),
    }
    models = registry.open()
    with models.tuning_run(name, tags=tags) as run_id:

        def keep(trial: Trial) -> None:
            made = trial_record(trial, tags)
            models.add_trial(run_id, made.name, params=made.params, metrics=made.metrics, tags=made.tags)
            context.log.info(f"Trial {trial.number}: {trial.state}, {trial.value}, {searched(trial.parameters)}")

        found = tune(
            rows,
            spec,
            base,
            trials=config.trials,
            seconds=seconds,
            seed=seed,
            progress=lambda done, total: report("trials", done, total),
            on_trial=keep,
        )
        models.describe_run(
            run_id, params=outcome_params(found), metrics=outcome_metrics(found), figures=tuning_figures(found)
        )
    with store.session() as session:
        written = write_tuning(session, found, mlflow_run_id=run_id, code_version=code_version())
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(written),
            "dagster/table_name": tables.TUNING_TRIALS.name,
            "data_hash": hash_rows(written),
            "training_data_hash": found.data_hash,
            "tuning_id": found.tuning_id,
            "mlflow_run_id": run_id,
            "blocks": len(found.folds),
            "verdict": verdict(found),
            "chosen_trial": found.chosen,
            "best_trial": found.best,
            **{name: value for name, value in outcome_metrics(found).items() if value is not None},
            "chosen": dg.JsonMetadataValue(searched(found.parameters)),
            "best_trials": dg.TableMetadataValue([dg.TableRecord(row) for row in best_trials(found)], schema=None),
        }
    )
