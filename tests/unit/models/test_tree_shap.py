"""SHAP values: against every subset by brute force, against the shap library, against XGBoost."""

from __future__ import annotations

from itertools import chain, combinations
from math import factorial

import numpy as np
import shap
import xgboost

from fraud_pipelines.models import trees
from fraud_pipelines.models.additive_model import AdditiveModel
from fraud_pipelines.models.tree_shap import Paths
from fraud_pipelines.models.trees import LEAF, Trees
from tests import learners

FRESH = learners.rows(200, seed=11)[0]


def expectation(grown: Trees, node: int, row: np.ndarray, known: frozenset[int]) -> float:
    """What a tree is expected to say when only the inputs in `known` are: training rows decide the rest."""
    if grown.left[node] == LEAF:
        return float(grown.value[node])
    feature, left, right = int(grown.feature[node]), int(grown.left[node]), int(grown.right[node])
    if feature in known:
        x = row[feature]
        goes_left = grown.missing_left[node] if np.isnan(x) else x < grown.threshold[node]
        return expectation(grown, left if goes_left else right, row, known)
    return sum(
        float(grown.cover[child]) / float(grown.cover[node]) * expectation(grown, child, row, known)
        for child in (left, right)
    )


def by_brute_force(grown: Trees, row: np.ndarray, inputs: int) -> np.ndarray:
    """Shapley's definition: each input's mean gain over every order in which inputs become known."""
    found = np.zeros(inputs)
    for feature in range(inputs):
        others = [other for other in range(inputs) if other != feature]
        for subset in chain.from_iterable(combinations(others, size) for size in range(inputs)):
            weight = factorial(len(subset)) * factorial(inputs - len(subset) - 1) / factorial(inputs)
            known = frozenset(subset)
            for root in grown.roots:
                with_it = expectation(grown, int(root), row, known | {feature})
                found[feature] += weight * (with_it - expectation(grown, int(root), row, known))
    return found


def test_values_are_shapleys_by_brute_force_over_every_subset():
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(300, 5)).astype(np.float32)
    truth = matrix[:, 0] * matrix[:, 1] + matrix[:, 2] > 0.3
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    settings = {"objective": "binary:logistic", "max_depth": 4, "base_score": 0.5, "nthread": 1}
    grown = trees.of_booster(xgboost.train(settings, xgboost.DMatrix(matrix, truth), num_boost_round=3))
    ours = Paths.of(grown, 5).contributions(matrix[:12])
    expected = [by_brute_force(grown, row, 5) for row in matrix[:12]]
    np.testing.assert_allclose(ours, expected, atol=1e-9)


def test_values_of_a_forest_are_those_of_the_shap_library():
    model = AdditiveModel(learners.FEATURES, trees=trees.of_forest(learners.forest()))
    explainer = shap.TreeExplainer(learners.forest())
    expected = explainer.shap_values(FRESH, check_additivity=False)[:, :, 1]
    ours = model.contributions(FRESH)
    np.testing.assert_allclose(ours[:, :-1], expected, atol=1e-7)
    np.testing.assert_allclose(ours[:, -1], explainer.expected_value[1], atol=1e-7)


def test_values_of_a_booster_are_xgboosts_own():
    model = AdditiveModel(learners.FEATURES, trees=trees.of_booster(learners.booster()))
    expected = learners.booster().predict(xgboost.DMatrix(FRESH), pred_contribs=True)
    np.testing.assert_allclose(model.contributions(FRESH), expected, atol=1e-5)


def test_an_input_nobody_asks_about_has_none():
    model = AdditiveModel(learners.FEATURES + 3, trees=trees.of_booster(learners.booster()))
    wider = np.hstack([FRESH, FRESH[:, :3]])
    assert (model.contributions(wider)[:, learners.FEATURES : -1] == 0).all()


def test_a_tree_of_one_leaf_is_all_base_value():
    leaf = {name: np.array([0]) for name in ("feature", "threshold", "missing_left")}
    grown = trees._trees(
        roots=np.array([0]), left=np.array([LEAF]), right=np.array([LEAF]), value=np.array([0.5]), cover=np.array([3]),
        **leaf,
    )  # fmt: skip
    both = trees.joined([grown, trees.of_booster(learners.booster())])
    alone = AdditiveModel(learners.FEATURES, trees=trees.of_booster(learners.booster())).contributions(FRESH)
    together = AdditiveModel(learners.FEATURES, trees=both).contributions(FRESH)
    np.testing.assert_allclose(together[:, :-1], alone[:, :-1], atol=1e-9)
    np.testing.assert_allclose(together[:, -1], alone[:, -1] + 0.5, atol=1e-6)
