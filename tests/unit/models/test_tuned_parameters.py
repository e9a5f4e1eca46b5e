"""Tuned parameters in the warehouse: the latest for a spec and a moment, and what speaks against a choice."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.tuned_parameters import (
    faults_of_choice,
    read_last_tuning,
    read_tuned_parameters,
    write_tuning,
)
from fraud_pipelines.models.tuning import COMPLETE, PRUNED, Trial, Tuning
from fraud_pipelines.warehouse import Warehouse, open_warehouse

BASE, BETTER = LearnerParameters(), LearnerParameters(trees=77, fraud_weight=3.5)
SPEC_HASH = "5" * 64


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    if request.param == "duckdb":
        return open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    return open_warehouse(request.getfixturevalue("fresh_postgres_url"))


@pytest.fixture
def duckdb(tmp_path: Path) -> Warehouse:
    return open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")


def tuned(name: str = "t1", as_of: datetime = datetime(2026, 3, 1), **changes) -> Tuning:
    trials = (
        Trial(0, COMPLETE, BASE, "unweighted", (0.5, 0.3), 0.4, 1.0),
        Trial(1, PRUNED, replace(BASE, trees=50), "unweighted", (0.1,), None, 1.0),
        Trial(2, COMPLETE, BETTER, "weighted", (0.6, 0.4), 0.5, 1.0),
    )
    return Tuning(**{
        "tuning_id": name, "trials": trials, "trials_wanted": 3, "seed": 1, "best": 2, "chosen": 2, "gain": 0.25,
        "p_value": 0.01, "folds": (None, None), "as_of": as_of,
        "known_by": as_of - timedelta(days=21), "data_hash": "d" * 64, "spec_hash": SPEC_HASH,
    } | changes)  # fmt: skip


def keep(warehouse: Warehouse, *tunings: Tuning) -> None:
    with warehouse.session() as session:
        for each in tunings:
            write_tuning(session, each, mlflow_run_id="run", code_version="1")


def test_what_was_chosen_comes_back_to_the_last_bit(warehouse):
    with warehouse.session() as session:
        assert read_tuned_parameters(session, SPEC_HASH) is None
    exact = replace(BETTER, learning_rate=0.1 + 0.2, min_child_weight=1 / 3)
    trials = (*tuned().trials[:2], replace(tuned().trials[2], parameters=exact))
    keep(warehouse, tuned(trials=trials))
    with warehouse.session() as session:
        assert read_tuned_parameters(session, SPEC_HASH) == exact
        assert read_tuned_parameters(session, "6" * 64) is None


def test_every_trial_is_a_row_and_a_tuning_run_again_replaces_its_own(warehouse):
    keep(warehouse, tuned(), tuned("t2"), tuned(trials=tuned().trials[:1], best=0, chosen=0, p_value=None))
    with warehouse.session() as session:
        last = read_last_tuning(session)
        rows = session.query(f"select tuning_id, count(*) as n from {tables.TUNING_TRIALS.name} group by 1 order by 1")
        other = session.query(f"select * from {tables.TUNING_TRIALS.name} where tuning_id = 't2' order by trial")
    assert list(rows["n"]) == [1, 3]
    assert (last.row["tuning_id"], int(last.row["sequence"]), len(last.trials)) == ("t1", 3, 1)
    assert last.row.isna()["p_value"]
    assert list(other["state"]) == ["complete", "pruned", "complete"]
    assert list(other["value"].isna()) == [False, True, False]
    assert json.loads(other["fold_values"][2]) == [0.6, 0.4]
    assert LearnerParameters(**json.loads(other["parameters"][2])) == BETTER


def test_the_latest_moment_wins_and_of_one_moment_the_tuning_run_last(duckdb):
    def choosing(trees: int, day: int, name: str) -> Tuning:
        better = replace(tuned().trials[2], parameters=replace(BASE, trees=trees))
        return tuned(name, datetime(2026, 3, day), trials=(*tuned().trials[:2], better))

    # The 20th was tuned before the 10th; the 20th then again, in another way.
    keep(duckdb, choosing(1, 20, "a"), choosing(2, 10, "b"))
    with duckdb.session() as session:
        assert read_tuned_parameters(session, SPEC_HASH).trees == 1
        assert read_tuned_parameters(session, SPEC_HASH, as_of=datetime(2026, 3, 19)).trees == 2
        assert read_tuned_parameters(session, SPEC_HASH, as_of=datetime(2026, 3, 20)).trees == 1
        assert read_tuned_parameters(session, SPEC_HASH, as_of=datetime(2026, 3, 9)) is None
        # Nor one that has seen days on which who asks is judged.
        assert read_tuned_parameters(session, SPEC_HASH, known_by=datetime(2026, 2, 26)).trees == 2
        assert read_tuned_parameters(session, SPEC_HASH, known_by=datetime(2026, 2, 16)) is None
    keep(duckdb, choosing(3, 20, "c"))
    with duckdb.session() as session:
        assert read_tuned_parameters(session, SPEC_HASH).trees == 3
    keep(duckdb, choosing(1, 20, "a"))
    with duckdb.session() as session:
        assert read_tuned_parameters(session, SPEC_HASH).trees == 1


def test_settings_of_other_code_are_refused_and_new_ones_take_their_default(duckdb):
    keep(duckdb, tuned())
    fewer = {name: value for name, value in BETTER.as_dict().items() if name != "threads"}
    statement = f"update {tables.TUNED_PARAMETERS.name} set chosen = :chosen"
    with duckdb.session() as session:
        session.execute(statement, chosen=json.dumps(fewer))
        assert read_tuned_parameters(session, SPEC_HASH) == BETTER
        session.execute(statement, chosen=json.dumps({**fewer, "leaves": 31}))
        with pytest.raises(ContractBroken, match=r"tuning t1: .*\['leaves'\].*fraud tune --from-defaults"):
            read_tuned_parameters(session, SPEC_HASH)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"best": 2, "chosen": 0, "p_value": 0.4}, None),
        ({"p_value": 0.051}, "p 0.051, above 0.05"),
        ({"p_value": None}, "above 0.05"),
        ({"chosen": 1}, "average precision nan, the base 0.4"),
        ({"trials": (tuned().trials[0], replace(tuned().trials[2], number=2, value=0.39))}, "0.3900, the base 0.4000"),
    ],
)
def test_what_speaks_against_a_choice(duckdb, changes, fault):
    if "trials" in changes:
        first, last = changes["trials"]
        changes = changes | {"trials": (first, tuned().trials[1], last)}
    keep(duckdb, tuned(**changes))
    with duckdb.session() as session:
        faults = faults_of_choice(read_last_tuning(session))
    assert (faults == []) if fault is None else any(fault in found for found in faults)


def test_parameters_that_are_not_those_of_the_trial_chosen_are_a_fault(duckdb):
    keep(duckdb, tuned())
    with duckdb.session() as session:
        session.execute(f"update {tables.TUNED_PARAMETERS.name} set chosen = :it", it=json.dumps(BASE.as_dict()))
        assert faults_of_choice(read_last_tuning(session)) == ["the parameters chosen are not those of trial 2"]
        session.execute(f"delete from {tables.TUNING_TRIALS.name} where trial = 2")
        assert "not on record" in faults_of_choice(read_last_tuning(session))[0]
