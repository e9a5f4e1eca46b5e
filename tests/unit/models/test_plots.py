"""Figures say what they show."""

from __future__ import annotations

import numpy as np
import pytest

from fraud_pipelines.models.plots import (
    importance_figure,
    optimisation_history_figure,
    parameter_figure,
    precision_recall_figure,
    roc_figure,
    shap_figure,
)

CURVE = [(0.0, 1.0), (0.5, 0.8), (1.0, 0.1)]


@pytest.mark.parametrize(
    "figure",
    [
        precision_recall_figure({"version 2": CURVE, "version 1": CURVE}, fraud_share=0.01),
        roc_figure({"version 2": CURVE, "version 1": CURVE}),
        precision_recall_figure({"candidate": []}),
    ],
)
def test_curves_have_title_labels_and_a_legend(figure):
    axes = figure.axes[0]
    assert axes.get_title()
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    assert len(axes.get_legend().get_texts()) == len(axes.get_lines())


def test_models_differ_by_line_style_and_not_by_colour_alone():
    lines = roc_figure({"version 2": CURVE, "version 1": CURVE}).axes[0].get_lines()
    assert len({line.get_linestyle() for line in lines}) == len(lines) == 3


def test_importance_shows_the_largest_on_top_and_at_most_so_many():
    axes = importance_figure({f"feature_{number}": number / 100 for number in range(30)}, most=5).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.25, 0.26, 0.27, 0.28, 0.29]


def test_shap_draws_every_row_once_per_feature_missing_values_included():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3))
    values[:10, 1] = np.nan
    axes = shap_figure(["a", "b", "c"], rng.normal(size=(40, 3)), values).axes[0]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 40 * 3


def test_the_history_shows_every_trial_and_the_best_so_far():
    axes = optimisation_history_figure({0: 0.5, 1: 0.4, 2: None, 3: 0.7, 4: 0.6}, base=0.5).axes[0]
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
    assert drawn["complete"] == ([0, 1, 3, 4], [0.5, 0.4, 0.7, 0.6])
    assert drawn["best so far"] == ([0, 1, 3, 4], [0.5, 0.5, 0.7, 0.7])
    assert drawn["not judged to the end"][0] == [2]
    assert drawn["base"][1] == [0.5, 0.5]
    assert axes.get_xlabel()
    assert axes.get_ylabel()


def test_each_parameter_has_a_panel_with_every_trial_in_it():
    tried = {"rate": [0.1, 0.01, 0.2], "kind": ["a", "b", "a"], "depth": [3, 4, 5], "rows": [1, 1, 1]}
    panels = parameter_figure(tried, [0.5, 0.6, 0.7], logarithmic=["rate"]).axes
    assert [axes.get_xlabel() for axes in panels] == list(tried)
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "linear"]
    for axes in panels:
        others, base = axes.get_lines()
        assert list(base.get_ydata()) == [0.5]
        assert list(others.get_ydata()) == [0.6, 0.7]
