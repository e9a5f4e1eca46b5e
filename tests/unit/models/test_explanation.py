"""Explanations: exact values, and reasons that are reasons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from fraud_pipelines.errors import EmptySample
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.bundle import Calibration
from fraud_pipelines.models.explanation import shap_summary, top_reasons
from tests.served_models import tiny_bundle


@pytest.fixture(scope="module")
def bundle():
    return dataclasses.replace(tiny_bundle(), calibration=Calibration(slope=0.8, intercept=-0.3))


@pytest.fixture(scope="module")
def frame(bundle) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    rows = pd.DataFrame(rng.uniform(0, 1000, (300, len(bundle.feature_names))), columns=list(bundle.feature_names))
    rows.iloc[::5, 3] = np.nan
    return rows


def test_the_shap_library_agrees_with_the_bundles_contributions(bundle, frame):
    summary = shap_summary(bundle, frame)
    ours = np.abs(bundle.contributions(to_matrix(frame, bundle.feature_names))[:, :-1]).mean(axis=0)
    expected = dict(zip(bundle.feature_names, ours, strict=True))
    assert summary.mean_absolute == pytest.approx(expected, abs=1e-6)
    assert list(summary.mean_absolute.values()) == sorted(summary.mean_absolute.values(), reverse=True)
    assert summary.rows == 300
    table = summary.table("7")
    assert set(table["model_version"]) == {"7"}
    assert len(table) == len(bundle.feature_names)


def test_a_sample_covers_the_window_evenly_and_is_the_same_every_time(bundle, frame):
    first, again = shap_summary(bundle, frame, max_rows=60), shap_summary(bundle, frame, max_rows=60)
    assert first.rows == 60
    assert first.mean_absolute == again.mean_absolute


def test_the_figure_has_title_and_labels(bundle, frame):
    figure = shap_summary(bundle, frame, max_rows=20).figure
    axes = figure.axes[0]
    assert axes.get_title()
    assert "log-odds" in axes.get_xlabel()
    assert {label.get_text() for label in axes.get_yticklabels()} <= set(bundle.feature_names)


def test_no_rows_are_an_error(bundle, frame):
    with pytest.raises(EmptySample, match="at least one row"):
        shap_summary(bundle, frame.head(0))


def test_reasons_are_what_pushed_up_most_first_and_never_the_base_value(bundle):
    spec = bundle.spec
    row = np.zeros(len(spec.names) + 1)
    row[[2, 4, 5, 6]] = [0.5, -3.0, 1.5, 0.1]
    row[-1] = 9.0
    values = dict.fromkeys(spec.names, 0.0) | {spec.names[2]: None}
    reasons = top_reasons(row, values, spec, k=2)
    assert [(reason["feature"], reason["contribution"]) for reason in reasons] == [
        (spec.names[5], 1.5),
        (spec.names[2], 0.5),
    ]
    assert reasons[0]["code"] == spec.names[5].upper()
    assert reasons[0]["words"] == spec.features[5].reason != ""
    assert reasons[1]["value"] is None


def test_a_score_that_nothing_pushed_up_has_no_reasons(bundle):
    row = np.full(len(bundle.spec.names) + 1, -0.1)
    assert top_reasons(row, {}, bundle.spec) == []
