"""What tunings found, in the warehouse: every trial, and the parameters that training is to use."""

import json
from dataclasses import dataclass, fields
from datetime import datetime

import pandas as pd

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.tuning import COMPLETE, PRUNED, Tuning
from fraud_pipelines.warehouse import Session


@dataclass(frozen=True)
class TuningRecord:
    """One row of models.tuned_parameters, and its trials by number: the columns of models.tuning_trials."""

    row: pd.Series
    trials: pd.DataFrame


def write_tuning(session: Session, tuning: Tuning, *, mlflow_run_id: str, code_version: str) -> pd.DataFrame:
    """Replace what the warehouse holds of this tuning. Returns the rows of models.tuning_trials."""
    trials = pd.DataFrame(
        {
            "tuning_id": tuning.tuning_id,
            "trial": trial.number,
            "state": trial.state,
            "value": trial.value,
            "fold_values": json.dumps(trial.fold_values),
            "imbalance": trial.imbalance,
            "parameters": json.dumps(trial.parameters.as_dict()),
        }
        for trial in tuning.trials
    ).astype({"value": float})
    ended = session.query(f"select coalesce(max(sequence), 0) as last from {tables.TUNED_PARAMETERS.name}")
    row = {
        "tuning_id": tuning.tuning_id,
        "sequence": int(ended["last"][0]) + 1,
        "as_of": pd.Timestamp(tuning.as_of).as_unit("us"),
        "known_by": pd.Timestamp(tuning.known_by).as_unit("us"),
        "data_hash": tuning.data_hash,
        "spec_hash": tuning.spec_hash,
        "seed": tuning.seed,
        "folds": len(tuning.folds),
        "trials_wanted": tuning.trials_wanted,
        "trials": len(tuning.trials),
        "complete_count": tuning.count(COMPLETE),
        "pruned_count": tuning.count(PRUNED),
        "base_value": tuning.base.value,
        "best_trial": tuning.best,
        "best_value": tuning.trials[tuning.best].value,
        "gain": tuning.gain,
        "p_value": tuning.p_value,
        "p_value_limit": limits.TUNING_P_VALUE,
        "chosen_trial": tuning.chosen,
        "chosen": json.dumps(tuning.parameters.as_dict()),
        "mlflow_run_id": mlflow_run_id,
        "code_version": code_version,
    }
    session.execute(f"delete from {tables.TUNING_TRIALS.name} where tuning_id = :id", id=tuning.tuning_id)
    session.upsert(tables.TUNING_TRIALS, trials)
    session.upsert(tables.TUNED_PARAMETERS, pd.DataFrame([row]).astype({"p_value": float}))
    return trials


def read_tuned_parameters(
    session: Session, spec_hash: str, *, as_of: datetime | None = None, known_by: datetime | None = None
) -> LearnerParameters | None:
    """What the latest tuning chose for this feature spec; None where none was tuned for it.

    Args:
        as_of: only tunings of this moment or earlier count, so that a training of a past moment uses nothing found
            later (rule 1); None for all. Latest means the latest moment, and of one moment the tuning run last.
        known_by: only tunings that no later row or label had a say in count, so that none has seen the test days of
            who asks; None for all.
        A setting that the code did not have then takes its default.
    Raises:
        ContractBroken: the code no longer has a setting that was tuned.
    """
    limits_given = {"as_of": as_of, "known_by": known_by}
    given = {name: moment for name, moment in limits_given.items() if moment is not None}
    moments = " ".join(f"and {name} <= :{name}" for name in given)
    found = session.query(
        f"select tuning_id, chosen from {tables.TUNED_PARAMETERS.name} where spec_hash = :spec_hash {moments} "
        "order by as_of desc, sequence desc limit 1",
        spec_hash=spec_hash,
        **given,
    )
    if found.empty:
        return None
    values = json.loads(found["chosen"][0])
    known = {item.name for item in fields(LearnerParameters)}
    if set(values) - known:
        raise ContractBroken(
            f"{tables.TUNED_PARAMETERS.name}, tuning {found['tuning_id'][0]}: expected settings among {sorted(known)}, "
            f"found {sorted(set(values) - known)}, too. It was written by other code. Run: fraud tune --from-defaults"
        )
    return LearnerParameters(**values)


def read_last_tuning(session: Session) -> TuningRecord | None:
    """The tuning that ended last, with its trials; None before the first."""
    found = session.query(f"select * from {tables.TUNED_PARAMETERS.name} order by sequence desc limit 1")
    if found.empty:
        return None
    trials = session.query(
        f"select * from {tables.TUNING_TRIALS.name} where tuning_id = :id order by trial", id=found["tuning_id"][0]
    )
    return TuningRecord(found.iloc[0], trials)


def faults_of_choice(record: TuningRecord) -> list[str]:
    """What speaks against the parameters chosen, by the trials on record; empty where nothing does."""
    trials, chosen = record.trials.set_index("trial"), int(record.row["chosen_trial"])
    if not {0, chosen} <= set(trials.index):
        return [f"trial 0 (the base) or {chosen} (the chosen one) is not on record"]
    faults = []
    before, after = trials["value"][0], trials["value"][chosen]
    # Written so that a null, which compares with nothing, is a fault.
    if not after >= before:
        faults.append(f"trial {chosen} has average precision {after:.4f}, the base {before:.4f}")
    if json.loads(trials["parameters"][chosen]) != json.loads(record.row["chosen"]):
        faults.append(f"the parameters chosen are not those of trial {chosen}")
    if chosen and not record.row["p_value"] <= limits.TUNING_P_VALUE:
        faults.append(f"the gain of trial {chosen} has p {record.row['p_value']:.3f}, above {limits.TUNING_P_VALUE}")
    return faults
