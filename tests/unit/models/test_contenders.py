"""Members say what their libraries say; their weights are calibrated and never negative."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.models import contenders
from fraud_pipelines.models.contenders import (
    CONTENDERS,
    Weights,
    assembled,
    fit_member,
    fit_weights,
    native_log_odds,
    unweighed,
)
from fraud_pipelines.models.members import LearnerParameters, fit_logistic_regression, sampled
from fraud_pipelines.models.metrics import calibration_error, roc_auc
from tests import learners

QUICK = LearnerParameters(trees=30, forest_trees=10, isolation_trees=15, isolation_rows=64)
FRESH, FRESH_TRUTH = learners.rows(1500, seed=21)


@pytest.fixture(scope="module")
def members():
    matrix, truth = learners.rows()
    anomaly = contenders.fit_anomaly(matrix, QUICK)
    return {name: fit_member(name, matrix, truth, QUICK, anomaly) for name in contenders.members_of(CONTENDERS)}


@pytest.mark.parametrize("name", [name for names in CONTENDERS.values() for name in names])
def test_a_compiled_member_agrees_with_its_library_and_finds_the_signal(members, name):
    member = members[name]
    inputs = member.model.inputs(FRESH)
    assert inputs.shape[1] == learners.FEATURES + name.endswith("_on_anomaly")
    np.testing.assert_allclose(member.says(FRESH), member.native(inputs), atol=2e-5)
    assert roc_auc(FRESH_TRUTH, member.says(FRESH)) > 0.8


@pytest.mark.parametrize("name", CONTENDERS)
def test_an_assembled_contender_agrees_with_its_libraries(members, name):
    chosen = [members[member] for member in CONTENDERS[name]]
    weights = Weights(tuple(np.linspace(0.4, 1.2, len(chosen))), -0.7)
    model = assembled(chosen, weights)
    np.testing.assert_allclose(model.margin(FRESH), native_log_odds(chosen, weights, FRESH), atol=5e-5)


def test_members_that_count_for_nothing_are_left_out_of_model_and_comparison_alike(members):
    chosen = [members[member] for member in CONTENDERS["stack"]]
    weights = Weights((0.0, 0.0, 0.8), -0.7)
    model = assembled(chosen, weights)
    assert model.isolation is None
    np.testing.assert_allclose(model.margin(FRESH), native_log_odds(chosen, weights, FRESH), atol=5e-5)


def test_weights_mend_a_known_distortion_as_scikit_learn_does():
    rng = np.random.default_rng(2)
    logit = rng.normal(-2, 2, 20_000)
    is_fraud = rng.random(20_000) < 1 / (1 + np.exp(-logit))
    distorted = 2 * logit + 3  # true log-odds = 0.5 * distorted - 1.5
    found = fit_weights(distorted[:, None], is_fraud)
    assert found.weights[0] == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(-1.5, abs=0.06)
    reference = LogisticRegression(C=np.inf).fit(distorted[:, None], is_fraud)
    assert found.weights[0] == pytest.approx(reference.coef_[0, 0], abs=2e-3)  # Platt's targets differ slightly
    assert found.intercept == pytest.approx(reference.intercept_[0], abs=5e-3)
    probability = 1 / (1 + np.exp(-found.of(distorted[:, None])))
    assert calibration_error(is_fraud, probability) < 0.01 < calibration_error(is_fraud, 1 / (1 + np.exp(-distorted)))


def test_two_halves_of_the_truth_are_weighed_as_scikit_learn_does_and_noise_hardly_counts():
    rng = np.random.default_rng(3)
    said = rng.normal(size=(20_000, 3))
    is_fraud = rng.random(20_000) < 1 / (1 + np.exp(3 - 1.5 * said[:, 0] - 0.8 * said[:, 1]))
    found = fit_weights(said, is_fraud)
    reference = LogisticRegression(C=np.inf).fit(said, is_fraud)
    np.testing.assert_allclose(found.weights[:2], reference.coef_[0, :2], atol=0.02)
    assert found.weights[2] < 0.05


def test_no_member_counts_against_its_own_evidence():
    rng = np.random.default_rng(4)
    said = rng.normal(size=(5000, 2))
    is_fraud = rng.random(5000) < 1 / (1 + np.exp(2 - said[:, 0] + 2 * said[:, 1]))
    assert fit_weights(said, is_fraud).weights[1] == 0.0


def test_what_cannot_be_weighed_is_not():
    rng = np.random.default_rng(5)
    said = rng.normal(size=(1000, 1))
    assert fit_weights(said, np.arange(1000) < 49) is None
    assert fit_weights(said, said[:, 0] < -0.5) is None  # says the opposite: no weight above 0 helps
    assert fit_weights(np.zeros((1000, 1)), np.arange(1000) < 500) is None


def test_a_frauds_weight_shifts_the_odds_by_its_logarithm_and_weighing_takes_it_back():
    matrix, truth = learners.rows(4000, seed=8)
    weighted = LearnerParameters(trees=30, fraud_weight=8.0)
    plain, heavy = (fit_member("logistic_regression", matrix, truth, item) for item in (QUICK, weighted))
    shift = float(np.mean(heavy.says(FRESH) - plain.says(FRESH)))
    assert shift == pytest.approx(np.log(8), abs=0.35)
    # Where there is too little to fit weights on, the logarithm is taken off.
    assert unweighed(weighted) == Weights((1.0,), -np.log(8))
    weights = fit_weights(heavy.says(FRESH)[:, None], FRESH_TRUTH)
    mean = float(np.mean(1 / (1 + np.exp(-weights.of(heavy.says(FRESH)[:, None])))))
    assert mean == pytest.approx(float(FRESH_TRUTH.mean()), abs=0.01)


def test_a_logistic_regression_is_scikit_learns_on_the_transformed_rows():
    matrix, truth = learners.rows()
    linear, intercept = fit_logistic_regression(matrix, truth, LearnerParameters(regularisation=1e-9))
    z = np.sign(matrix) * np.log1p(np.abs(matrix))
    missing = np.isnan(matrix)
    design = np.hstack([np.where(missing, linear.fill, z), missing])
    reference = LogisticRegression(C=np.inf, max_iter=2000).fit(design, truth).decision_function(design)
    np.testing.assert_allclose(intercept + linear.terms(matrix).sum(axis=1), reference, atol=5e-2)


def test_sampling_keeps_every_fraud_and_the_weight_of_the_genuine():
    is_fraud = np.arange(1000) % 50 == 0
    keep, weights = sampled(is_fraud, LearnerParameters(most_genuine_rows=100, fraud_weight=3.0))
    assert set(np.flatnonzero(is_fraud)) <= set(keep)
    assert (np.diff(keep) > 0).all()
    assert weights[is_fraud[keep]].tolist() == [3.0] * 20
    assert weights[~is_fraud[keep]].sum() == pytest.approx(980)
    everything, ones = sampled(is_fraud, LearnerParameters(most_genuine_rows=980))
    assert len(everything) == 1000
    assert (ones == 1).all()
    assert len(sampled(is_fraud, LearnerParameters(), most_genuine_rows=200)[0]) == 220


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("trees", 0, "trees must be at least 1, found 0"),
        ("isolation_rows", 1, "isolation_rows must be at least 2, found 1"),
        ("fraud_weight", 0.0, "fraud_weight must be above 0, found 0.0"),
        ("subsample", 1.5, "subsample must be at most 1, found 1.5"),
        ("base_score", 1.0, "base_score must be below 1, found 1.0"),
        ("regularisation", float("nan"), "regularisation must be above 0, found nan"),
    ],
)
def test_a_setting_out_of_range_is_refused(name, value, words):
    with pytest.raises(SettingInvalid, match=words):
        LearnerParameters(**{name: value})
