"""Tuning: the base comes first, the gap holds, chance changes nothing, and what matters is found."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines import limits
from fraud_pipelines.errors import EmptySample, SettingInvalid, TrialFailed
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models import tuning
from fraud_pipelines.models.folds import learning_rows, time_folds
from fraud_pipelines.models.members import LearnerParameters, fit_boosted_trees
from fraud_pipelines.models.metrics import average_precision
from fraud_pipelines.models.splits import TEST, TimeSplit
from fraud_pipelines.models.training_set import TrainingSet
from fraud_pipelines.models.tuning import (
    COMPLETE,
    FRAUD_WEIGHT,
    IMBALANCE,
    MOST_GENUINE_ROWS,
    PRUNED,
    SPACE,
    STOPPED,
    UNWEIGHTED,
    WEIGHTED,
    tune,
)
from fraud_pipelines.models.tuning_report import best_trials, outcome_params, trial_record, verdict
from tests.builders import synthetic_training_set

SPEC = load_spec()
BASE = LearnerParameters(trees=8, learning_rate=0.2, colsample_bytree=0.2)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def training_set() -> TrainingSet:
    return synthetic_training_set(SPEC, rows=2500, signal=1.5)


@pytest.fixture
def seven_weeks() -> TrainingSet:
    split = TimeSplit(datetime(2026, 3, 1), train_days=49, validation_days=7, test_days=7, label_delay_days=7)
    return synthetic_training_set(SPEC, rows=4000, signal=1.5, split=split)


@pytest.fixture
def small(monkeypatch):
    """Trees few enough for a test."""
    monkeypatch.setattr(
        tuning, "SPACE", tuple(replace(item, low=4, high=12) if item.name == "trees" else item for item in SPACE)
    )


@pytest.fixture
def imbalance_alone(monkeypatch):
    monkeypatch.setattr(tuning, "SPACE", ())


def test_the_base_is_the_first_trial_exactly_as_it_is(training_set, small):
    for base in (BASE, replace(BASE, trees=3, fraud_weight=37.5, most_genuine_rows=1234, learning_rate=0.7)):
        found = tune(training_set, SPEC, base, trials=2)
        assert found.base.parameters == base
        assert found.base.state == COMPLETE
        assert found.trials[1].parameters != base


def test_a_value_is_the_mean_average_precision_of_blocks_judged_by_hand(training_set):
    base = tune(training_set, SPEC, BASE, trials=1).base
    rows = learning_rows(training_set)
    matrix, is_fraud = rows[list(SPEC.names)].to_numpy(np.float32), rows["is_fraud"].to_numpy(bool)
    values = []
    for fold in time_folds(rows, training_set.split):
        booster = fit_boosted_trees(matrix[fold.learn], is_fraud[fold.learn], BASE)
        values.append(average_precision(is_fraud[fold.judge], booster.inplace_predict(matrix[fold.judge])))
    assert len(values) == 2
    assert base.fold_values == pytest.approx(values)
    assert base.value == pytest.approx(np.mean(values))


def test_the_same_rows_seed_and_trials_give_the_same_tuning(training_set, small):
    first, again, other = (tune(training_set, SPEC, BASE, trials=4, seed=seed) for seed in (1, 1, 2))
    assert first.trials == again.trials
    assert (first.tuning_id, first.chosen, first.p_value) == (again.tuning_id, again.chosen, again.p_value)
    assert first.tuning_id != other.tuning_id
    assert [trial.parameters for trial in first.trials[1:]] != [trial.parameters for trial in other.trials[1:]]


def test_test_rows_have_no_say(training_set, small):
    frame = training_set.frame.copy()
    is_test = frame["part"] == TEST
    frame.loc[is_test, "is_fraud"] = ~frame.loc[is_test, "is_fraud"]
    frame.loc[is_test, list(SPEC.names)] = 0.0
    changed = replace(training_set, frame=frame)
    assert tune(changed, SPEC, BASE, trials=3).trials == tune(training_set, SPEC, BASE, trials=3).trials


def test_nothing_is_learnt_from_rows_younger_than_the_label_delay_or_judged_out_of_its_block(
    seven_weeks, small, monkeypatch
):
    """The second feature says how many days a row is old at the end of training, the third how long its label is known.

    Half the labels arrive a day after the payment, half after twelve: neither alone keeps the gap of seven.
    """
    frame, split = seven_weeks.frame.copy(), seven_weeks.split
    days_late = np.where(np.arange(len(frame)) % 2, 1, 12)
    frame["label_known_at"] = frame["event_time"] + pd.to_timedelta(days_late, unit="D")
    frame[SPEC.names[1]] = (split.train_until - frame["event_time"]) / DAY
    frame[SPEC.names[2]] = (split.train_until - frame["label_known_at"]) / DAY
    seen: list[tuple[str, float, float]] = []

    def spy(matrix, is_fraud, settings, report=lambda trees: None):
        seen.append(("learn", matrix[:, 1].min(), matrix[:, 2].min()))
        booster = fit_boosted_trees(matrix, is_fraud, settings, report)
        predict = booster.inplace_predict

        def judge(rows, **options):
            seen.append(("judge", rows[:, 1].min(), rows[:, 1].max()))
            return predict(rows, **options)

        booster.inplace_predict = judge
        return booster

    monkeypatch.setattr(tuning, "fit_boosted_trees", spy)
    tune(replace(seven_weeks, frame=frame), SPEC, BASE, trials=2)
    assert [kind for kind, _, _ in seen] == ["learn", "judge"] * 8
    starts = [28, 21, 14, 7] * 2  # days before the end of training
    for start, (_, youngest, last_label), (_, last, first) in zip(starts, seen[::2], seen[1::2], strict=True):
        assert youngest >= start + split.label_delay_days
        assert last_label >= start
        assert start - 7 <= last < first <= start


def test_without_a_gain_beyond_chance_the_base_stays(training_set, small):
    found = tune(training_set, SPEC, BASE, trials=8)
    assert found.chosen == 0
    assert found.parameters == BASE
    assert found.p_value is None or found.p_value > limits.TUNING_P_VALUE
    assert "base stays" in verdict(found)


def test_a_base_that_nothing_beats_is_the_best(training_set, imbalance_alone, monkeypatch):
    monkeypatch.setattr(tuning, "IMBALANCE", {UNWEIGHTED: ""})
    found = tune(training_set, SPEC, BASE, trials=3)
    assert (found.best, found.chosen, found.gain, found.p_value) == (0, 0, 0.0, None)


def test_a_weight_on_frauds_is_found_where_it_matters(imbalance_alone):
    """Leaves need a weight of 40, more than the few frauds of a leaf have alone: only heavier frauds can be told."""
    rows = synthetic_training_set(SPEC, rows=4000, signal=2.5, fraud_share=0.04)
    base = LearnerParameters(trees=15, min_child_weight=40, learning_rate=0.3, colsample_bytree=0.3)
    found = tune(rows, SPEC, base, trials=8)
    chosen = found.trials[found.chosen]
    assert found.chosen == found.best > 0
    assert chosen.imbalance == WEIGHTED
    assert chosen.parameters == replace(base, fraud_weight=chosen.parameters.fraud_weight)
    assert chosen.value > 2 * found.base.value
    assert found.p_value <= limits.TUNING_P_VALUE
    assert verdict(found).startswith(f"Chosen: trial {found.chosen} ")


def test_a_better_setting_is_found_and_replaces_the_base(small):
    rows = synthetic_training_set(SPEC, rows=2500, signal=3.0)
    base = replace(BASE, min_child_weight=500.0)  # nothing can be split off
    found = tune(rows, SPEC, base, trials=8)
    assert found.chosen == found.best > 0
    assert found.parameters.min_child_weight < 200
    assert found.gain == pytest.approx(found.trials[found.best].value / found.base.value - 1)


def test_imbalance_is_one_of_three_choices(training_set, imbalance_alone):
    found = tune(training_set, SPEC, BASE, trials=10)
    weights = {kind: {t.parameters.fraud_weight for t in found.trials if t.imbalance == kind} for kind in IMBALANCE}
    rows = learning_rows(training_set)
    assert weights["unweighted"] == {1.0}
    assert weights["balanced"] == {float((~rows["is_fraud"]).sum() / rows["is_fraud"].sum())}
    assert weights["weighted"]
    assert all(FRAUD_WEIGHT.low <= weight <= FRAUD_WEIGHT.high for weight in weights["weighted"])


def test_genuine_rows_are_sampled_only_where_there_are_more(training_set, imbalance_alone, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_GENUINE_ROWS", (300, 100_000))
    tried = {trial.parameters.most_genuine_rows for trial in tune(training_set, SPEC, BASE, trials=10).trials}
    assert tried == {300, BASE.most_genuine_rows}


def test_trials_worse_than_the_median_are_pruned_after_two_blocks_at_the_earliest(seven_weeks, small):
    told = []
    found = tune(seven_weeks, SPEC, BASE, trials=14, on_trial=told.append)
    pruned = [trial for trial in found.trials if trial.state == PRUNED]
    assert pruned
    assert found.count(PRUNED) == len(pruned)
    assert found.count(COMPLETE) + len(pruned) == len(found.trials) == 14
    assert tuple(told) == found.trials
    assert all(trial.value is None and 2 <= len(trial.fold_values) < 5 for trial in pruned)
    assert all(trial.state == COMPLETE for trial in found.trials[:5])
    assert found.trials[found.best].value == max(trial.value for trial in found.trials if trial.value is not None)


def test_progress_counts_the_trials(training_set, small):
    seen = []
    tune(training_set, SPEC, BASE, trials=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


class Clock:
    """Two seconds pass with every look."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 2.0
        return self.now


def test_the_time_budget_ends_the_work_within_a_trial_but_never_the_base(training_set, small, monkeypatch):
    monkeypatch.setattr(tuning, "time", Clock())
    late = tune(training_set, SPEC, BASE, trials=50, seconds=1.0)
    assert [trial.state for trial in late.trials] == [COMPLETE]
    assert late.chosen == 0
    monkeypatch.setattr(tuning, "time", Clock())
    found = tune(training_set, SPEC, BASE, trials=50, seconds=100.0)
    assert 1 < len(found.trials) < 50
    assert found.trials[-1].state == STOPPED
    assert found.trials[-1].value is None
    assert found.trials_wanted == 50


def test_a_trial_that_cannot_be_fitted_says_which_and_with_what(training_set, monkeypatch):
    def broken(matrix, is_fraud, settings, report=None):
        raise MemoryError("no room")

    monkeypatch.setattr(tuning, "fit_boosted_trees", broken)
    with pytest.raises(TrialFailed, match=r"Trial 0 .*trees=8, .*no room.*fraud tune --from-defaults"):
        tune(training_set, SPEC, BASE, trials=3)


def test_an_error_of_whoever_listens_is_not_blamed_on_the_trial(training_set):
    def away(trial):
        raise ConnectionError("registry")

    with pytest.raises(ConnectionError):
        tune(training_set, SPEC, BASE, trials=1, on_trial=away)


def test_without_blocks_there_is_nothing_to_judge_on():
    split = TimeSplit(datetime(2026, 3, 1), train_days=10, validation_days=7, test_days=7, label_delay_days=7)
    with pytest.raises(EmptySample, match=r"no block of 7 days .* 7 days \(the label delay\).*--train-days"):
        tune(synthetic_training_set(SPEC, rows=500, split=split), SPEC, BASE)


@pytest.mark.parametrize("budget", [{"trials": 0}, {"seconds": 0.0}, {"seconds": -1.0}])
def test_a_budget_of_nothing_is_refused(training_set, budget):
    with pytest.raises(SettingInvalid, match="at least 1 trial"):
        tune(training_set, SPEC, BASE, **budget)


def test_a_tuning_is_known_by_its_rows_base_seed_and_budget(training_set):
    def of(rows=training_set, base=BASE, **changes):
        return tuning.tuning_id(rows, base, **{"trials": 5, "seed": 1, "seconds": None} | changes)

    changed = [
        of(replace(training_set, data_hash="e" * 64)),
        of(replace(training_set, spec_hash="e" * 64)),
        of(base=replace(BASE, trees=9)),
        of(trials=6),
        of(seed=2),
        of(seconds=60.0),
    ]
    assert of() == of()
    assert len({of(), *changed}) == 7


def test_what_is_shown_of_a_tuning_is_what_it_found(training_set, small):
    found = tune(training_set, SPEC, BASE, trials=12)
    shown = best_trials(found)
    assert len(shown) == 10
    values = [row["average_precision"] for row in shown]
    assert values == sorted(values, reverse=True)
    assert [row["is"] for row in shown if row["trial"] == 0] == ["base and chosen"]
    params = outcome_params(found)
    assert (params["base_trees"], params["chosen_trees"]) == (8, 8)
    assert params["best_trial"] == found.best
    record = trial_record(found.trials[3], {"seed": "1"})
    assert record.name == "trial-0003"
    assert record.tags == {"seed": "1", "trial": "3", "state": "complete"}
    assert record.metrics["block_2_average_precision"] == found.trials[3].fold_values[1]


def test_the_documentation_lists_the_search_space_as_it_is():
    text = (Path(__file__).resolve().parents[3] / "docs" / "tuning.md").read_text()
    rows = {cells[0]: cells[1] for cells in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE)}
    for item in (*SPACE, FRAUD_WEIGHT):
        scale = ", logarithmic" if item.is_logarithmic else ""
        assert rows.pop(item.name).strip() == f"{item.low:g} to {item.high:g}{scale}"
    assert rows.pop("imbalance").strip() == ", ".join(IMBALANCE)
    assert rows.pop("most_genuine_rows").strip().startswith(", ".join(f"{count:,}" for count in MOST_GENUINE_ROWS))
    assert rows == {}
    assert f"{limits.TUNING_TRIALS} trials" in text
