"""The autoencoder of the baselines: it learns what genuine rows have in common, and says log-odds."""

from __future__ import annotations

import numpy as np
import pytest

from fraud_pipelines.models.autoencoder import fit_autoencoder
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.metrics import roc_auc
from fraud_pipelines.models.onnx_graph import Compiled


@pytest.fixture(scope="module")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Six features that follow one hidden number; in a fraud they do not, each being as usual by itself."""
    rng = np.random.default_rng(0)
    truth = rng.random(6000) < 0.05
    hidden = rng.normal(size=(6000, 1)) * np.array([[1, -1, 2, 0.5, 1.5, -2]])
    loose = np.column_stack([rng.permutation(hidden[:, column]) for column in range(6)])
    matrix = np.where(truth[:, None], loose, hidden).astype(np.float32)
    matrix[::11, 2] = np.nan
    return matrix, truth


def test_what_breaks_the_pattern_of_genuine_rows_scores_high(rows):
    matrix, truth = rows
    said = Compiled(fit_autoencoder(matrix, truth, LearnerParameters()), 6).run("log_odds", matrix)
    assert roc_auc(truth, said) > 0.9
    probability = 1 / (1 + np.exp(-said))
    assert probability.mean() == pytest.approx(truth.mean(), abs=0.01)
    assert [Compiled(fit_autoencoder(matrix, truth, LearnerParameters()), 6).run("log_odds", matrix[:5]).tolist()] == [
        said[:5].tolist()
    ]
