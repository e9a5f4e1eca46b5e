"""One compiled graph for every kind of model: it says what the parts say, alone as among many, and can be read back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.errors import BundleCorrupt, ContractBroken
from fraud_pipelines.models import trees
from fraud_pipelines.models.additive_model import AdditiveModel, Isolation, Linear, weighted_sum
from fraud_pipelines.models.onnx_graph import Compiled, from_onnx, to_onnx
from tests import learners

FRESH = learners.rows(500, seed=3)[0]
# Agreement of compiled and native log-odds: single precision over all trees and terms.
TOLERANCE = 2e-5


def linear(inputs: int, seed: int = 1) -> Linear:
    rng = np.random.default_rng(seed)
    return Linear(*(rng.normal(size=inputs).astype(np.float32) for _ in range(5)))


@pytest.fixture(scope="module")
def isolation() -> Isolation:
    return Isolation.of(trees.of_isolation_forest(learners.isolation_forest()), 64)


@pytest.fixture(scope="module")
def stack(isolation) -> AdditiveModel:
    grown = trees.joined(
        [trees.of_booster(learners.booster()).scaled(0.7), trees.of_forest(learners.forest()).scaled(3)]
    )
    return AdditiveModel(learners.FEATURES, -1.5, grown, linear(learners.FEATURES + 1), isolation)


def native_log_odds(model: AdditiveModel, matrix: np.ndarray) -> np.ndarray:
    inputs = model.inputs(matrix)
    boosted = learners.booster().inplace_predict(matrix, predict_type="margin")
    forest = learners.forest().predict_proba(matrix)[:, 1]
    return -1.5 + 0.7 * boosted + 3 * forest + model.linear.terms(inputs).sum(axis=1)


def test_the_compiled_graph_agrees_with_the_libraries(stack):
    np.testing.assert_allclose(stack.margin(FRESH), native_log_odds(stack, FRESH), atol=TOLERANCE)
    score = -learners.isolation_forest().score_samples(FRESH)
    np.testing.assert_allclose(stack.anomaly_score(FRESH), score, atol=1e-6)
    np.testing.assert_array_equal(stack.inputs(FRESH)[:, -1], stack.anomaly_score(FRESH).astype(np.float32))


def test_the_graphs_probability_is_that_of_its_log_odds(stack):
    probability = Compiled(stack.onnx_bytes, learners.FEATURES).run("fraud_probability", FRESH)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-stack.margin(FRESH))), atol=1e-6)


def test_a_linear_term_worked_by_hand():
    # z = sign(x) ln(1 + |x|): ln 3 for 2, -ln 3 for -2, the fill for a missing value.
    terms = Linear(*(np.array([value], np.float32) for value in (2.0, 5.0, 0.5, 0.25, 0.125)))
    model = AdditiveModel(1, 1.0, linear=terms)
    expected = [
        1 + 2 * (np.log(3) - 0.25) - 5 * 0.125,
        1 + 2 * (-np.log(3) - 0.25) - 5 * 0.125,
        1 + 2 * 0.25 + 5 * 0.875,
    ]
    np.testing.assert_allclose(model.margin(np.array([[2], [-2], [np.nan]], np.float32)), expected, rtol=1e-6)


@settings(max_examples=25)
@given(inputs=st.integers(1, 40), count=st.integers(2, 60), seed=st.integers(0, 5))
def test_a_row_has_the_same_bits_alone_as_among_many(inputs, count, seed):
    rng = np.random.default_rng(seed)
    matrix = (rng.normal(size=(count, inputs)) * 10 ** rng.uniform(-3, 6, inputs)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    model = AdditiveModel(inputs, 0.3, linear=linear(inputs, seed))
    together = model.margin(matrix)
    assert [model.margin(matrix[row : row + 1])[0] for row in range(count)] == together.tolist()


def test_the_whole_stack_has_the_same_bits_alone_as_among_many(stack):
    together = stack.margin(FRESH)
    assert [stack.margin(FRESH[row : row + 1])[0] for row in range(len(FRESH))] == together.tolist()


def test_a_model_read_back_is_the_same_model(stack):
    again = from_onnx(stack.onnx_bytes)
    assert to_onnx(again) == stack.onnx_bytes
    np.testing.assert_array_equal(again.margin(FRESH), stack.margin(FRESH))
    np.testing.assert_allclose(again.contributions(FRESH), stack.contributions(FRESH), atol=1e-6)


@pytest.mark.parametrize("part", ["trees", "linear"])
def test_models_of_one_part_are_compiled_and_read_back(part, isolation):
    parts = {"trees": trees.of_booster(learners.booster()), "linear": linear(learners.FEATURES)}
    model = AdditiveModel(learners.FEATURES, 0.25, **{part: parts[part]})
    again = from_onnx(model.onnx_bytes)
    np.testing.assert_array_equal(again.margin(FRESH), model.margin(FRESH))
    assert (again.isolation, again.intercept) == (None, 0.25)
    assert model.anomaly_score(FRESH) is None


def test_contributions_sum_to_the_log_odds(stack):
    contributions = stack.contributions(FRESH)
    assert contributions.shape == (500, learners.FEATURES + 2)
    np.testing.assert_allclose(contributions.sum(axis=1), stack.margin(FRESH), atol=TOLERANCE)


def test_a_weighted_sum_says_the_weighted_sum(isolation):
    boosted = AdditiveModel(learners.FEATURES, 0.5, trees.of_booster(learners.booster()))
    scored = AdditiveModel(learners.FEATURES, 0.0, trees.of_forest(learners.forest()), isolation=isolation)
    lines = AdditiveModel(learners.FEATURES, 1.0, linear=linear(learners.FEATURES))
    whole = weighted_sum([(0.5, boosted), (2.0, scored), (0.25, lines)], -3.0)
    expected = -3 + 0.5 * boosted.margin(FRESH) + 2 * scored.margin(FRESH) + 0.25 * lines.margin(FRESH)
    np.testing.assert_allclose(whole.margin(FRESH), expected, atol=TOLERANCE)
    without = weighted_sum([(1.0, boosted), (0.0, scored)])
    assert without.isolation is None
    np.testing.assert_allclose(without.margin(FRESH), boosted.margin(FRESH), atol=TOLERANCE)


def test_parts_that_do_not_belong_together_are_refused(isolation):
    grown = trees.of_booster(learners.booster())
    other = Isolation(isolation.trees, isolation.deepest)
    one = AdditiveModel(learners.FEATURES, trees=grown, isolation=isolation)
    with pytest.raises(ContractBroken, match="2 anomaly scores"):
        weighted_sum([(1.0, one), (1.0, AdditiveModel(learners.FEATURES, trees=grown, isolation=other))])
    with pytest.raises(ContractBroken, match=r"\[9, 12\] features"):
        weighted_sum([(1.0, one), (1.0, AdditiveModel(12, trees=grown))])
    with pytest.raises(ContractBroken, match="neither"):
        AdditiveModel(3)
    with pytest.raises(ContractBroken, match="finite intercept"):
        AdditiveModel(learners.FEATURES, float("nan"), trees=grown)


def test_what_is_no_model_of_ours_is_refused(stack):
    with pytest.raises(BundleCorrupt, match="not a model of this project"):
        from_onnx(b"not a model")
    with pytest.raises(BundleCorrupt, match="cannot be run"):
        Compiled(b"not a model", 3).run("log_odds", np.zeros((1, 3)))
    infinite = FRESH.copy()
    infinite[3, 2] = np.inf
    with pytest.raises(ContractBroken, match="finite or missing features, found inf in 2"):
        stack.margin(infinite)
    with pytest.raises(ContractBroken, match=r"expects a matrix of shape \(n, 9\), found \(2, 3\)"):
        stack.margin(np.zeros((2, 3)))
    assert stack.margin(np.empty((0, learners.FEATURES))).shape == (0,)


def test_a_graph_that_reads_another_file_or_leads_out_of_its_arrays_is_refused(stack):
    outside = onnx.load_from_string(stack.onnx_bytes)
    outside.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(BundleCorrupt, match="another file"):
        from_onnx(outside.SerializeToString())
    for name, value in (("nodes_featureids", 9_999_999), ("nodes_truenodeids", 9_999_999), ("nodes_falsenodeids", 0)):
        broken = onnx.load_from_string(stack.onnx_bytes)
        node = next(node for node in broken.graph.node if node.name == "trees")
        next(item for item in node.attribute if item.name == name).ints[0] = value
        with pytest.raises(BundleCorrupt, match="a node"):
            from_onnx(broken.SerializeToString())
