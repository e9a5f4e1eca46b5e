"""Thresholds: what they decide, what decisions cost, and that the cheapest ones are chosen."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken, SettingInvalid
from fraud_pipelines.models import policy
from fraud_pipelines.models.policy import (
    DEFAULT_THRESHOLDS,
    FEWEST_FRAUDS,
    CostMatrix,
    PolicyBasis,
    ReviewCapacity,
    Thresholds,
    choose_thresholds,
    expected_cost,
)
from tests.served_models import POLICY_BASIS


def choose(is_fraud, probabilities, amounts_minor, *, per_day=1000.0, days=1, **costs) -> Thresholds:
    return choose_thresholds(
        np.asarray(is_fraud), np.asarray(probabilities), np.asarray(amounts_minor),
        days=days, costs=CostMatrix(**costs), reviews_per_day=per_day,
    )  # fmt: skip


def test_decisions_at_and_around_each_threshold():
    thresholds = Thresholds(review=0.3, block=0.7)
    probabilities = np.array([0.0, 0.2999, 0.3, 0.6999, 0.7, 1.0])
    expected = ["APPROVE", "APPROVE", "REVIEW", "REVIEW", "BLOCK", "BLOCK"]
    assert list(thresholds.decide(probabilities)) == expected
    assert [thresholds.decide(float(value)) for value in probabilities] == expected


def test_a_probability_that_is_no_number_is_never_approved():
    with pytest.raises(ContractBroken, match="NaN"):
        DEFAULT_THRESHOLDS.decide(np.array([0.1, np.nan]))


@pytest.mark.parametrize(("review", "block"), [(0.8, 0.7), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_thresholds_out_of_order_or_range_are_refused(review, block):
    with pytest.raises(ContractBroken, match="0 <= review <= block <= 1"):
        Thresholds(review, block)


# What decisions cost


@pytest.mark.parametrize(
    ("decision", "is_fraud", "expected"),
    [
        ("APPROVE", True, 0.8 * 200 + 15),  # the part that is lost, and the fee
        ("APPROVE", False, 0.0),
        ("REVIEW", True, 5 + 0.1 * 175),  # the review, and one fraud in ten that slips by
        ("REVIEW", False, 5 + 2),
        ("BLOCK", True, 0.0),
        ("BLOCK", False, 25.0),
    ],
)
def test_each_cell_of_the_cost_matrix_by_hand(decision, is_fraud, expected):
    costs = CostMatrix(missed_share=0.8, chargeback_fee=15, review_catches=0.9, review_friction=2)
    cost = expected_cost(np.array([is_fraud]), np.array([20_000]), np.array([decision], dtype=object), costs)
    assert cost == pytest.approx(expected)


def test_costs_of_several_decisions_add_up():
    truth, amounts = np.array([True, True, False, False]), np.array([10_000, 20_000, 5_000, 7_000])
    decisions = np.array(["APPROVE", "REVIEW", "BLOCK", "APPROVE"], dtype=object)
    # 100 missed, 5 + 5 % of 200 reviewed, 25 blocked
    assert expected_cost(truth, amounts, decisions, CostMatrix()) == pytest.approx(100 + 15 + 25)


@pytest.mark.parametrize("wrong", [{"review_catches": 1.1}, {"review_cost": -1}, {"block_friction": float("nan")}])
def test_a_cost_out_of_range_is_named(wrong):
    with pytest.raises(SettingInvalid, match=next(iter(wrong))):
        CostMatrix(**wrong)


def test_a_cost_nobody_knows_is_answered_with_those_there_are():
    with pytest.raises(SettingInvalid, match=r"FRAUD_COSTS.*'review_cost'.*found 'reviewcost=3'"):
        CostMatrix.parse("reviewcost=3")
    with pytest.raises(SettingInvalid, match=r"FRAUD_COSTS.*review_cost=5, found 'review_cost=dear'"):
        CostMatrix.parse("review_cost=dear")
    assert CostMatrix.parse(" review_cost = 3, block_friction=40") == CostMatrix(review_cost=3, block_friction=40)
    assert CostMatrix.parse("") == CostMatrix()


def test_the_capacity_is_a_number_or_follows_the_volume():
    assert ReviewCapacity(per_day=80).reviews_per_day(rows=70_000, days=7) == 80
    assert ReviewCapacity(share=0.01).reviews_per_day(rows=70_000, days=7) == pytest.approx(100)
    with pytest.raises(SettingInvalid, match="share from 0 to 1"):
        ReviewCapacity(share=1.5)
    with pytest.raises(SettingInvalid, match="per_day of at least 0"):
        ReviewCapacity(per_day=-1)


# The cheapest thresholds

# 40 frauds of 100 EUR at 0.9, 30 frauds and 20 genuine at 0.6, 910 genuine at 0.1.
SCORES = np.repeat([0.9, 0.6, 0.6, 0.1], [40, 30, 20, 910])
TRUTH = np.repeat([True, True, False, False], [40, 30, 20, 910])
AMOUNTS = np.repeat([10_000, 10_000, 3_000, 3_000], [40, 30, 20, 910])


def test_the_cheapest_thresholds_by_hand():
    # The group at 0.6: approved 3000; reviewed 50 * 5 + 30 * 5 = 400; blocked 20 * 25 = 500.
    assert choose(TRUTH, SCORES, AMOUNTS) == Thresholds(review=0.6, block=0.9)
    # With an analyst who catches fewer (50 * 5 + 30 * 10 = 550), blocking is cheaper.
    assert choose(TRUTH, SCORES, AMOUNTS, review_catches=0.9) == Thresholds(review=0.6, block=0.6)
    # With a dearer block (20 * 200 = 4000) and a dear review (50 * 70 = 3500), approving is.
    assert choose(TRUTH, SCORES, AMOUNTS, review_cost=70, block_friction=200) == Thresholds(review=0.9, block=0.9)


def test_the_amounts_decide_too():
    # Frauds of 1 EUR are not worth a review: 50 * 5 against 30.
    small = np.where(SCORES == 0.6, 100, AMOUNTS)
    assert choose(TRUTH, SCORES, small) == Thresholds(review=0.9, block=0.9)


def test_the_capacity_is_kept_in_the_mean_of_the_days():
    assert choose(TRUTH, SCORES, AMOUNTS, per_day=50) == Thresholds(review=0.6, block=0.9)
    # 49 reviews cannot hold 50 payments of one score: blocking (500) is cheaper than approving (3000).
    assert choose(TRUTH, SCORES, AMOUNTS, per_day=49) == Thresholds(review=0.6, block=0.6)
    assert choose(TRUTH, SCORES, AMOUNTS, per_day=7.2, days=7) == Thresholds(review=0.6, block=0.9)


def test_a_share_of_the_volume_that_is_a_whole_number_counts_as_that_number():
    kinds = [40, 30, 31, 1119]  # as above: 61 of 1220 payments at 0.6, and 0.05 * 1220 / 7 * 7 is a hair below 61
    truth, scores = np.repeat([True, True, False, False], kinds), np.repeat([0.9, 0.6, 0.6, 0.1], kinds)
    per_day = ReviewCapacity(share=0.05).reviews_per_day(len(scores), 7)
    assert per_day * 7 < 61
    assert choose(truth, scores, np.full(1220, 10_000), per_day=per_day, days=7) == Thresholds(review=0.6, block=0.9)


def test_where_blocking_never_pays_nothing_seen_is_blocked():
    # Free reviews that catch everything: blocking is no cheaper even where all are frauds.
    thresholds = choose(TRUTH, SCORES, AMOUNTS, review_cost=0, review_catches=1)
    assert thresholds.review == 0.6
    assert thresholds.block > 0.9
    assert set(thresholds.decide(SCORES)) == {"APPROVE", "REVIEW"}


def test_a_score_of_one_is_blocked_because_no_threshold_lies_above_it():
    scores = np.where(SCORES == 0.9, 1.0, SCORES)
    genuine_on_top = np.where(np.arange(1000) < 5, False, TRUTH)
    thresholds = choose(genuine_on_top, scores, AMOUNTS, block_friction=1e6)
    assert thresholds.block == 1.0
    assert (thresholds.decide(scores) == "BLOCK").sum() == 40


def test_too_few_frauds_give_the_documented_defaults():
    is_fraud = np.arange(500) < FEWEST_FRAUDS - 1
    assert choose(is_fraud, is_fraud * 0.9, np.full(500, 1000)) == DEFAULT_THRESHOLDS
    assert choose(np.empty(0, dtype=bool), np.empty(0), np.empty(0)) == DEFAULT_THRESHOLDS


@pytest.mark.parametrize("wrong", [1.5, -0.1, np.nan])
def test_a_score_that_is_no_probability_is_refused(wrong):
    with pytest.raises(ContractBroken, match=r"in \[0, 1\]"):
        choose(TRUTH, np.where(np.arange(1000) == 3, wrong, SCORES), AMOUNTS)


payments = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.500001, 0.9, 1.0]),
        st.sampled_from([1, 100, 2_500, 10_000, 3_000_000_000]),
    ),
    min_size=1,
    max_size=14,
)


@given(
    payments,
    st.integers(1, 3),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]),
    st.sampled_from([0.0, 1.0, 25.0, 1000.0]),
    st.sampled_from([0.0, 5.0, 40.0]),
    st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_no_pair_of_thresholds_within_the_capacity_is_cheaper(
    rows, days, per_day, block_friction, review_cost, catches
):
    truth, scores, amounts = (np.array(column) for column in zip(*rows, strict=True))
    costs = CostMatrix(block_friction=block_friction, review_cost=review_cost, review_catches=catches, chargeback_fee=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "FEWEST_FRAUDS", 0)
        chosen = choose_thresholds(truth, scores, amounts, days=days, costs=costs, reviews_per_day=per_day)

    # Every pair of thresholds that decides differently: at a score seen, between two of them, above all.
    seen = sorted({0.0, 1.0, *scores.tolist()})
    grid = sorted({*seen, *((a + b) / 2 for a, b in pairwise(seen))})
    found = []
    for review in grid:
        for block in grid:
            if review <= block:
                decisions = Thresholds(review, block).decide(scores)
                reviews, blocks = (decisions == "REVIEW").sum(), (decisions == "BLOCK").sum()
                if reviews <= days * per_day:
                    cost = expected_cost(truth, amounts, decisions, costs)
                    found.append((cost, int(reviews + blocks), int(blocks)))
    decisions = chosen.decide(scores)
    reviews, blocks = (decisions == "REVIEW").sum(), (decisions == "BLOCK").sum()
    assert (expected_cost(truth, amounts, decisions, costs), reviews + blocks, blocks) == min(found)


@given(st.integers(0, 10_000))
def test_the_order_of_the_rows_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(SCORES))
    scores = np.round(np.clip(SCORES + rng.normal(0, 0.2, len(SCORES)), 0, 1), 2)
    assert choose(TRUTH[order], scores[order], AMOUNTS[order], per_day=30) == choose(TRUTH, scores, AMOUNTS, per_day=30)


def test_a_basis_is_read_back_as_written():
    assert PolicyBasis.from_dict(POLICY_BASIS.as_dict()) == POLICY_BASIS
