"""Trees as arrays say what the library that grew them says, on every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.models import trees
from fraud_pipelines.models.trees import LEAF
from tests import learners

FRESH = learners.rows(3000, seed=7)[0]


def test_a_boosters_trees_sum_to_its_margin():
    native = learners.booster().inplace_predict(FRESH, predict_type="margin")
    np.testing.assert_allclose(trees.of_booster(learners.booster()).predict(FRESH), native, atol=1e-5)


def test_a_forests_trees_sum_to_its_probability():
    native = learners.forest().predict_proba(FRESH)[:, 1]
    np.testing.assert_allclose(trees.of_forest(learners.forest()).predict(FRESH), native, atol=1e-6)


def test_an_isolation_forests_trees_sum_to_the_depth_behind_its_score():
    forest = learners.isolation_forest()
    depth = trees.of_isolation_forest(forest).predict(FRESH)
    score = 2 ** (-depth / (20 * trees.mean_depth(np.array([64]))[0]))
    np.testing.assert_allclose(score, -forest.score_samples(FRESH), atol=1e-6)


def test_a_single_tree_says_the_log_odds_of_its_leaf_with_one_more_row_like_the_whole():
    tree, (matrix, truth) = learners.tree(), learners.rows()
    said = trees.of_tree(tree).predict(matrix)
    leaf = tree.apply(matrix)
    for number in np.unique(leaf):
        inside = leaf == number
        share = (truth[inside].sum() + truth.mean()) / (inside.sum() + 1)
        np.testing.assert_allclose(said[inside], np.log(share / (1 - share)), rtol=1e-5)


def test_the_mean_depth_of_small_trees_is_that_of_the_authors():
    # c(2) = 1; c(256) = 2 (ln 255 + 0.5772156649) - 2 * 255 / 256 = 10.2448 (Liu, Ting, Zhou 2008, equation 1).
    np.testing.assert_allclose(trees.mean_depth(np.array([0, 1, 2, 256])), [0, 0, 1, 10.2448], atol=5e-5)


@given(
    limit=st.floats(-1e6, 1e6),
    step=st.integers(-3, 3),
)
def test_a_row_at_most_at_the_limit_goes_left_and_no_other(limit, step):
    """scikit-learn asks x <= limit in double precision; what is kept asks x < threshold in single precision."""
    x = np.float32(limit)
    for _ in range(abs(step)):
        x = np.nextafter(x, np.float32(np.sign(step) * np.inf))
    threshold = trees._just_above(np.array([limit]))[0]
    assert threshold.dtype == np.float32
    assert (x < threshold) == (float(x) <= limit)


def test_joined_trees_add_up_and_scaled_ones_say_more():
    one, other = trees.of_booster(learners.booster()), trees.of_forest(learners.forest())
    both = trees.joined([one, other.scaled(2.5)])
    assert len(both.roots) == 25 + 12
    expected = one.predict(FRESH) + 2.5 * other.predict(FRESH)
    np.testing.assert_allclose(both.predict(FRESH), expected, atol=1e-5)


def test_covers_of_children_add_up_to_their_parents():
    for grown in (trees.of_booster(learners.booster()), trees.of_forest(learners.forest())):
        inner = np.flatnonzero(grown.left != LEAF)
        assert len(inner)
        np.testing.assert_allclose(
            grown.cover[grown.left[inner]] + grown.cover[grown.right[inner]], grown.cover[inner], rtol=1e-4
        )


@pytest.mark.parametrize("missing_left", [True, False])
def test_a_missing_value_goes_where_the_tree_learnt(missing_left):
    grown = trees._trees(
        roots=np.array([0]),
        left=np.array([1, LEAF, LEAF]),
        right=np.array([2, LEAF, LEAF]),
        feature=np.array([0, 0, 0]),
        threshold=np.array([0.5, 0, 0]),
        missing_left=np.array([missing_left, False, False]),
        value=np.array([0, 1, 2]),
        cover=np.array([2, 1, 1]),
    )
    assert grown.predict(np.array([[np.nan], [0.4], [0.5]], np.float32)).tolist() == [1 if missing_left else 2, 1, 2]
