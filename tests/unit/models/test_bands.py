"""Bands of probabilities with their observed fraud rates, against numbers worked by hand and a plain count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.bands import EDGES, Band, observed_bands


def test_rows_are_counted_in_the_band_their_probability_lies_in():
    probabilities = np.array([0.0, 0.0009, 0.001, 0.3, 0.49, 0.5, 0.95, 1.0])
    bands = observed_bands(np.array([0, 0, 1, 1, 0, 1, 1, 0], bool), probabilities)
    counted = {(band.low, band.high): (band.transactions, band.frauds) for band in bands if band.transactions}
    assert counted == {
        (0.0, 0.001): (2, 0),
        (0.001, 0.002): (1, 1),
        (0.3, 0.5): (2, 1),
        (0.5, 0.7): (1, 1),
        (0.9, 1.0): (2, 1),
    }


def test_the_interval_is_the_published_one():
    """Newcombe 1998, table I: 81 of 263 and 0 of 20, Wilson's method without continuity correction."""
    assert Band(0, 1, 263, 81).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Band(0, 1, 20, 0).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Band(0, 1, 263, 81).observed_rate == 81 / 263


def test_a_band_without_rows_claims_nothing():
    assert (Band(0, 1, 0, 0).observed_rate, Band(0, 1, 0, 0).interval) == (None, None)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ContractBroken, match="Bands"):
        observed_bands(np.array([True]), np.array([wrong]))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1))
def test_every_row_is_in_exactly_one_band(rows):
    truth, probabilities = (np.array(column) for column in zip(*rows, strict=True))
    bands = observed_bands(truth, probabilities)
    assert [band.low for band in bands] == list(EDGES[:-1])
    for band in bands:
        inside = [t for t, p in rows if band.low <= p and (p < band.high or band.high == p == 1)]
        assert (band.transactions, band.frauds) == (len(inside), sum(inside))
