"""Training: the same rows give the same model, test rows have no say, thresholds come from validation."""

from __future__ import annotations

import dataclasses
from datetime import datetime

import numpy as np
import pytest
from scipy.stats import rankdata
from threadpoolctl import threadpool_info, threadpool_limits

from fraud_pipelines.errors import ContractBroken, EmptySample, SettingInvalid
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.contenders import CONTENDERS, Weights, assembled, fit_anomaly, fit_member
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.metrics import average_precision, roc_auc
from fraud_pipelines.models.policy import (
    DEFAULT_THRESHOLDS,
    CostMatrix,
    PolicyBasis,
    ReviewCapacity,
    Thresholds,
    choose_thresholds,
)
from fraud_pipelines.models.splits import TEST, TRAIN, VALIDATION, TimeSplit
from fraud_pipelines.models.training import (
    BASELINES,
    Trained,
    TrainingParameters,
    require_agreement,
    require_same_anomaly_score,
    train,
    validation_curves,
)
from fraud_pipelines.models.training_set import TrainingSet
from tests.builders import synthetic_training_set

FAST = TrainingParameters(LearnerParameters(trees=40, forest_trees=8, isolation_trees=10), ("xgboost",))
SPEC = load_spec()


def chosen_on_validation(training_set: TrainingSet, trained: Trained, costs: CostMatrix, per_day: float) -> Thresholds:
    return choose_thresholds(
        trained.validation_is_fraud,
        trained.validation_probabilities,
        training_set.part(VALIDATION)["amount_minor"].to_numpy(),
        days=training_set.split.validation_days,
        costs=costs,
        reviews_per_day=per_day,
    )


@pytest.fixture(scope="module")
def training_set():
    return synthetic_training_set(SPEC, rows=6000, fraud_share=0.08)


@pytest.fixture(scope="module")
def trained(training_set):
    return train(training_set, SPEC, FAST, code_version="test")


def test_training_again_gives_the_same_bundle(training_set, trained):
    assert train(training_set, SPEC, FAST, code_version="test").bundle.digest == trained.bundle.digest


def test_test_rows_have_no_say(training_set, trained):
    frame = training_set.frame.copy()
    is_test = frame["part"] == TEST
    frame.loc[is_test, "is_fraud"] = ~frame.loc[is_test, "is_fraud"].astype(bool)
    frame.loc[is_test, SPEC.names[0]] = 1e6
    again = train(dataclasses.replace(training_set, frame=frame), SPEC, FAST, code_version="test").bundle
    assert again.booster_bytes == trained.bundle.booster_bytes
    assert (again.thresholds, again.weights) == (trained.bundle.thresholds, trained.bundle.weights)


def test_thresholds_and_metrics_come_from_the_validation_rows(training_set, trained):
    truth, probabilities = trained.validation_is_fraud, trained.validation_probabilities
    np.testing.assert_array_equal(truth, training_set.part(VALIDATION)["is_fraud"])
    per_day = 0.01 * len(truth) / 7
    assert trained.bundle.thresholds == chosen_on_validation(training_set, trained, CostMatrix(), per_day)
    assert trained.bundle.policy == PolicyBasis(
        CostMatrix(), ReviewCapacity(), per_day, *training_set.split.window(VALIDATION), len(truth), int(truth.sum())
    )
    assert trained.bundle.metrics["average_precision"] == average_precision(truth, probabilities)
    precision_recall, roc = validation_curves(trained)
    assert precision_recall[-1][0] == roc[-1][0] == 1.0


def test_known_cards_have_no_say_in_the_thresholds(training_set):
    known = (training_set.frame["part"] == VALIDATION) & training_set.frame["card_id"].isin(["c1", "c2", "c3"])
    frame = training_set.frame.assign(card_is_known_compromised=known)
    trained = train(dataclasses.replace(training_set, frame=frame), SPEC, FAST)
    assert known.any()
    assert len(trained.validation_is_fraud) == training_set.rows(VALIDATION) - int(known.sum())


def test_costs_and_capacity_of_ones_own_move_the_thresholds_and_are_kept(training_set, trained):
    costs, capacity = CostMatrix(review_cost=0.5, block_friction=400), ReviewCapacity(per_day=30)
    again = train(training_set, SPEC, dataclasses.replace(FAST, costs=costs, capacity=capacity), code_version="test")
    assert again.bundle.booster_bytes == trained.bundle.booster_bytes
    assert again.bundle.thresholds == chosen_on_validation(training_set, again, costs, 30)
    assert again.bundle.thresholds != trained.bundle.thresholds
    assert (again.bundle.policy.costs, again.bundle.policy.capacity) == (costs, capacity)


def test_the_first_fit_keeps_the_label_delay_before_validation(training_set):
    # Labels of the last delay days before validation are flipped: what ranks the validation rows must not notice. (How
    # sure it is of them may: with so little data, calibration is that of all blocks.)
    frame = training_set.frame.copy()
    split = training_set.split
    recent = (frame["part"] == TRAIN) & (frame["label_known_at"] > split.validation_since)
    assert recent.any()
    frame.loc[recent, "is_fraud"] = ~frame.loc[recent, "is_fraud"].astype(bool)
    first = train(training_set, SPEC, FAST)
    again = train(dataclasses.replace(training_set, frame=frame), SPEC, FAST)
    np.testing.assert_array_equal(rankdata(again.validation_probabilities), rankdata(first.validation_probabilities))
    assert again.bundle.booster_bytes != first.bundle.booster_bytes


def test_a_signal_is_found_and_noise_is_not(training_set, trained):
    test = training_set.part(TEST)
    assert roc_auc(test["is_fraud"].to_numpy(bool), trained.bundle.predict(to_matrix(test, SPEC.names))) > 0.95
    noise = synthetic_training_set(SPEC, rows=6000, fraud_share=0.3, signal=0.0)
    of_noise, rows = train(noise, SPEC, FAST).bundle, noise.part(TEST)
    auc = roc_auc(rows["is_fraud"].to_numpy(bool), of_noise.predict(to_matrix(rows, SPEC.names)))
    assert auc == pytest.approx(0.5, abs=0.06)  # 1200 rows: three standard errors are 0.055


def test_without_validation_days_the_documented_defaults_hold():
    split = TimeSplit(datetime(2026, 3, 1), train_days=14, validation_days=0, test_days=7, label_delay_days=7)
    trained = train(synthetic_training_set(SPEC, split=split), SPEC, FAST)
    assert trained.bundle.thresholds == DEFAULT_THRESHOLDS
    assert trained.bundle.weights == {"xgboost": 1.0, "intercept": 0.0}
    assert trained.bundle.metrics == {}
    assert trained.bundle.policy is None
    assert validation_curves(trained) == ([], [])


def test_the_bundle_knows_its_rows_and_its_reference_has_no_identifiers(training_set, trained):
    bundle = trained.bundle
    assert bundle.row_counts["train_rows"] == int((training_set.frame["part"] == TRAIN).sum())
    assert tuple(bundle.reference.columns) == tuple(SPEC.names)
    assert len(bundle.reference) == min(5000, len(training_set.part(TRAIN, VALIDATION)))
    assert bundle.data_hash == training_set.data_hash


def test_blas_uses_the_threads_that_a_fit_may_use_and_is_left_as_it_was(training_set):
    def blas_threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    seen = set()
    with threadpool_limits(2, user_api="blas"):
        train(training_set, SPEC, FAST, progress=lambda done, total: seen.update(blas_threads()))
        assert blas_threads() == {2}
    assert seen == {FAST.learner.threads} == {1}


def test_progress_rises_by_fits_to_the_end(training_set):
    seen: list[tuple[int, int]] = []
    train(training_set, SPEC, FAST, progress=lambda done, total: seen.append((done, total)))
    done, totals = [of for of, _ in seen], {total for _, total in seen}
    assert done == sorted(set(done))
    assert totals == {done[-1]}
    assert done[0] == 1


def test_every_baseline_stands_beside_the_model(training_set, trained):
    assert set(trained.bundle.baselines) == {*BASELINES, "autoencoder"}
    test = training_set.part(TEST)
    matrix, truth = to_matrix(test, SPEC.names), test["is_fraud"].to_numpy(bool)
    for name in BASELINES:
        assert roc_auc(truth, trained.bundle.predict_baseline(name, matrix)) > 0.9
    # It knows genuine payments only; one feature of a hundred that is off hardly shows.
    assert roc_auc(truth, trained.bundle.predict_baseline("autoencoder", matrix)) > 0.5
    np.testing.assert_array_equal(trained.bundle.predict_baseline("xgboost", matrix), trained.bundle.predict(matrix))


def test_the_stack_can_win_and_is_one_model_then(training_set):
    settings = dataclasses.replace(FAST, contenders=("stack",))
    bundle = train(training_set, SPEC, settings).bundle
    assert bundle.contender == "stack"
    assert set(bundle.weights) == {*CONTENDERS["stack"], "intercept"}
    test = training_set.part(TEST)
    matrix = to_matrix(test, SPEC.names)
    assert roc_auc(test["is_fraud"].to_numpy(bool), bundle.predict(matrix)) > 0.95
    contributions = bundle.contributions(matrix)
    assert contributions.shape == (len(test), len(SPEC.names) + 2)
    np.testing.assert_allclose(contributions.sum(axis=1), bundle.margin(matrix), atol=1e-4)
    assert bundle.input_names[-1] == "anomaly_score"


@pytest.mark.parametrize("fraud_weight", [1.0, 20.0])
def test_thresholds_of_little_data_are_on_the_scale_of_the_model(fraud_weight):
    """Four weeks: no block lies a label delay before the validation window, so no earlier weights are known."""
    rows = synthetic_training_set(SPEC, rows=8000, fraud_share=0.1, signal=1.5)
    settings = dataclasses.replace(FAST, learner=dataclasses.replace(FAST.learner, fraud_weight=fraud_weight))
    trained = train(rows, SPEC, settings)
    share = trained.validation_is_fraud.mean()
    assert trained.validation_probabilities.mean() == pytest.approx(share, rel=0.2)
    test = rows.part(TEST)
    predicted = trained.bundle.predict(to_matrix(test, SPEC.names)).mean()
    assert predicted == pytest.approx(test["is_fraud"].mean(), rel=0.25)


def test_the_anomaly_score_is_held_to_scikit_learns(training_set):
    matrix = to_matrix(training_set.part(TRAIN), SPEC.names)
    anomaly = fit_anomaly(matrix, FAST.learner)
    require_same_anomaly_score(anomaly, matrix)
    deeper = dataclasses.replace(anomaly.isolation, deepest=anomaly.isolation.deepest * 1.05)
    with pytest.raises(ContractBroken, match="in anomaly score"):
        require_same_anomaly_score(dataclasses.replace(anomaly, isolation=deeper), matrix)


def test_a_stack_without_days_to_weigh_its_members_on_is_refused():
    split = TimeSplit(datetime(2026, 3, 1), train_days=14, validation_days=0, test_days=7, label_delay_days=7)
    with pytest.raises(EmptySample, match="stack"):
        train(synthetic_training_set(SPEC, split=split), SPEC, dataclasses.replace(FAST, contenders=("stack",)))


def test_a_contender_nobody_knows_is_refused():
    with pytest.raises(SettingInvalid, match=r"some of \['single_tree'.*found \['neural'\]"):
        TrainingParameters(contenders=("neural",))


def test_a_compiled_model_that_says_something_else_is_refused(training_set):
    rows = training_set.part(TRAIN)
    matrix, truth = to_matrix(rows, SPEC.names), rows["is_fraud"].to_numpy(bool)
    member, weights = fit_member("xgboost", matrix, truth, FAST.learner), Weights((1.0,), 0.0)
    require_agreement([member], weights, assembled([member], weights), matrix)
    with pytest.raises(ContractBroken, match=r"differ by 0\.01"):
        require_agreement([member], weights, assembled([member], Weights((1.0,), 0.01)), matrix)
