"""The simulation behind `improves_on_champion`: it runs, and its two kinds of trials are what they say."""

import numpy as np
import pytest

from benchmarks import promotion
from fraud_pipelines.models.metrics import average_precision
from tests.integration.benchmarks.test_benchmarks import run


def test_a_few_pairs_of_models():
    code, figures = run("promotion.py", "--quick")
    assert code == 0
    assert figures["trials"] == promotion.QUICK
    (size,) = figures["sizes"]
    assert figures["promoted_share"] == size["promoted_share"] <= 1 / 8  # of eight, at most one by chance
    assert 0 < size["power"] <= 1
    assert size["real_gain"] > 0.05
    assert figures["seconds"] > 0


def test_equal_models_differ_by_chance_alone_and_the_better_one_by_more():
    rng = np.random.default_rng(11)
    size = promotion.Size(7, 2_000, 0.01)
    for gain, expected in ((0.0, 0.0), (promotion.REAL_GAIN, 0.15)):
        found = []
        for _ in range(60):
            scores = [one.scores for one in promotion.pair(rng, size, gain=gain)]
            ours, theirs = (
                average_precision(one["is_fraud"].to_numpy(), one["fraud_probability"].to_numpy()) for one in scores
            )
            found.append(ours / theirs - 1)
        assert np.mean(found) == pytest.approx(expected, abs=0.05)  # standard error about 0.015


def test_a_rollback_by_its_command():
    code, figures = run("rollback.py", "--quick")
    assert code == 0
    assert figures["rollback_seconds"] == figures["seconds"][0] > 0  # how fast is for the benchmark to say
    assert figures["versions"] == 2
