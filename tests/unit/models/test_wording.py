"""Numbers as people read them never say something else than the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.models.wording import money, percentages


@pytest.mark.parametrize(
    ("probability", "thresholds", "texts"),
    [
        (0.012, [0.3], ("1.2 %", "30 %")),
        (0.29996, [0.3], ("29.996 %", "30 %")),  # neither 30.0 % nor 30.00 %: it is below
        (0.3, [0.3, 0.7], ("30.0 %", "30 %", "70 %")),
        (0.6999, [0.237128, 0.7], ("69.99 %", "23.71 %", "70 %")),
        (1.0, [0.3, 1.0], ("100.0 %", "30 %", "100 %")),
    ],
)
def test_a_probability_reads_as_below_a_threshold_exactly_when_it_is(probability, thresholds, texts):
    assert percentages(probability, thresholds) == texts


@given(st.floats(0, 1), st.floats(0, 1))
def test_texts_compare_as_the_numbers_down_to_a_trillionth(probability, threshold):
    texts = percentages(probability, [threshold])
    shown = [float(text.removesuffix(" %")) for text in texts]
    if abs(probability - threshold) > 1e-12 or probability == threshold:
        assert (shown[0] < shown[1]) == (probability < threshold)


@pytest.mark.parametrize(
    ("minor", "text"), [(12_050, "120.50 EUR"), (5, "0.05 EUR"), (3_000_000_000, "30000000.00 EUR")]
)
def test_money(minor, text):
    assert money(minor, "EUR") == text
