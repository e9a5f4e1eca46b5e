"""Thresholds: what they decide and how they are chosen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.policy import (
    DEFAULT_THRESHOLDS,
    FEWEST_FRAUDS,
    Thresholds,
    choose_thresholds,
)


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


def test_chosen_thresholds_by_hand():
    # 40 frauds at 0.9, then 2 genuine at 0.8 (precision 40/42 = 0.952), 10 genuine at 0.6 (40/52), 948 genuine at 0.1.
    probabilities = np.concatenate([np.full(40, 0.9), np.full(2, 0.8), np.full(10, 0.6), np.full(948, 0.1)])
    is_fraud = np.arange(1000) < 40
    assert choose_thresholds(is_fraud, probabilities) == Thresholds(review=0.6, block=0.8)
    # A capacity of 0.9 % does not hold the ten tied rows: nothing can be reviewed.
    assert choose_thresholds(is_fraud, probabilities, review_share=0.009) == Thresholds(review=0.8, block=0.8)
    # A stricter floor blocks the pure group only, and the two genuine rows become reviews.
    assert choose_thresholds(is_fraud, probabilities, precision_floor=0.99, review_share=0.002) == Thresholds(0.8, 0.9)


def test_a_precision_equal_to_the_floor_is_enough():
    # 40 frauds at 0.9 and 10 genuine at 0.8: blocking from 0.8 is right in 40 of 50, exactly 0.8.
    probabilities = np.concatenate([np.full(40, 0.9), np.full(10, 0.8), np.full(950, 0.1)])
    is_fraud = np.arange(1000) < 40
    assert choose_thresholds(is_fraud, probabilities, precision_floor=0.8).block == 0.8
    assert choose_thresholds(is_fraud, probabilities, precision_floor=0.81).block == 0.9


def test_without_a_precise_threshold_nothing_seen_is_blocked():
    probabilities = np.concatenate([np.linspace(0.5, 0.9, 100), np.linspace(0.0, 0.4, 900)])
    is_fraud = np.zeros(1000, dtype=bool)
    is_fraud[:100:2] = True
    is_fraud[99] = False
    thresholds = choose_thresholds(is_fraud, probabilities)
    assert thresholds.block > 0.9
    assert (thresholds.decide(probabilities) == "REVIEW").sum() == 10


def test_too_few_frauds_give_the_documented_defaults():
    is_fraud = np.arange(500) < FEWEST_FRAUDS - 1
    assert choose_thresholds(is_fraud, is_fraud.astype(float)) == DEFAULT_THRESHOLDS
    assert choose_thresholds(np.empty(0, dtype=bool), np.empty(0)) == DEFAULT_THRESHOLDS


@given(st.integers(0, 10_000), st.floats(0.5, 1.0), st.floats(0.0, 0.2))
def test_the_chosen_thresholds_keep_floor_and_capacity_on_their_own_sample(seed, floor, share):
    rng = np.random.default_rng(seed)
    is_fraud = rng.random(400) < 0.15
    probabilities = np.round(np.clip(0.3 * is_fraud + rng.random(400) * 0.7, 0, 1), 2)
    thresholds = choose_thresholds(is_fraud, probabilities, precision_floor=floor, review_share=share)
    decisions = thresholds.decide(probabilities)
    if is_fraud.sum() >= FEWEST_FRAUDS:
        blocked = decisions == "BLOCK"
        assert not blocked.any() or is_fraud[blocked].mean() >= floor - 1e-12
        assert (decisions == "REVIEW").sum() <= share * 400
