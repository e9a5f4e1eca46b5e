"""Why a score is what it is: exact SHAP values, over a sample and for one transaction in plain words."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud_pipelines.errors import EmptySample
from fraud_pipelines.features.spec import FeatureSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fraud_pipelines.models.bundle import Bundle
    from fraud_pipelines.models.trees import Trees


@dataclass(frozen=True)
class ShapSummary:
    """Mean absolute SHAP value per input (log-odds), largest first, on `rows` rows; and the figure of all dots."""

    mean_absolute: dict[str, float]
    rows: int
    figure: "Figure" = field(repr=False)

    def table(self, model_version: str) -> pd.DataFrame:
        """Rows of models.attributions."""
        return pd.DataFrame(
            {
                "model_version": model_version,
                "feature": list(self.mean_absolute),
                "mean_absolute_shap": list(self.mean_absolute.values()),
                "rows": self.rows,
            }
        )


def shap_summary(bundle: "Bundle", frame: pd.DataFrame, max_rows: int = 2000) -> ShapSummary:
    """SHAP values of a sample of rows, those of trees with the shap library's explainer: a route of its own to them.

    Args:
        frame: rows with the model's features; when longer than `max_rows`, evenly spaced rows are taken, so the sample
            covers the whole window and is the same every time.
    Raises:
        EmptySample: no rows.
    """
    if frame.empty:
        raise EmptySample("SHAP values need at least one row; the frame given is empty.")
    import shap

    from fraud_pipelines.features.vector import to_matrix
    from fraud_pipelines.models.plots import shap_figure

    keep = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), max_rows)).astype(int))
    inputs = bundle.model.inputs(to_matrix(frame.iloc[keep], bundle.feature_names))
    values = np.zeros(inputs.shape)
    if bundle.model.trees is not None:
        explainer = shap.TreeExplainer(_as_shap_reads(bundle.model.trees), feature_perturbation="tree_path_dependent")
        values += explainer.shap_values(inputs, check_additivity=False)
    if bundle.model.linear is not None:
        values += bundle.model.linear.terms(inputs)
    means = np.abs(values).mean(axis=0)
    order = np.argsort(-means, kind="stable")
    return ShapSummary(
        mean_absolute={bundle.input_names[position]: float(means[position]) for position in order},
        rows=len(keep),
        figure=shap_figure(bundle.input_names, values, inputs.astype(np.float64)),
    )


def _as_shap_reads(trees: "Trees") -> dict[str, Any]:
    """Trees in the form in which shap.TreeExplainer takes any; there a row goes left where x <= limit."""
    just_below = np.nextafter(trees.threshold, np.float32(-np.inf)).astype(np.float64)
    described = []
    for first, end in pairwise([*trees.roots, len(trees.left)]):
        leaf = trees.is_leaf[first:end]
        left, right = (np.where(leaf, -1, side[first:end] - first) for side in (trees.left, trees.right))
        described.append(
            {
                "children_left": left,
                "children_right": right,
                "children_default": np.where(trees.missing_left[first:end], left, right),
                "features": np.where(leaf, -1, trees.feature[first:end]),
                "thresholds": just_below[first:end],
                "values": trees.value[first:end, None].astype(np.float64),
                "node_sample_weight": trees.cover[first:end].astype(np.float64),
            }
        )
    return {
        "trees": described,
        "base_offset": 0.0,
        "tree_output": "log_odds",
        "objective": "binary_crossentropy",
        "input_dtype": np.float32,
        "internal_dtype": np.float64,
    }


def top_reasons(
    contributions_row: np.ndarray, values: dict[str, float | None], spec: FeatureSpec, k: int = 3
) -> list[dict[str, Any]]:
    """The features that pushed one score up most, in the words of the reason catalogue; at most k, largest first.

    Args:
        contributions_row: shape (f + 1,) in the spec's order, log-odds; the last entry is the base value and no reason.
        values: feature values by name; a missing one may still be a reason.
    Returns:
        Dicts of code (feature name in upper case), words, feature, value and contribution (log-odds, > 0).
    """
    pushed = np.asarray(contributions_row, dtype=np.float64)[: len(spec.features)]
    order = np.argsort(-pushed, kind="stable")[:k]
    return [
        {
            "code": spec.features[position].name.upper(),
            "words": spec.features[position].reason,
            "feature": spec.features[position].name,
            "value": values.get(spec.features[position].name),
            "contribution": float(pushed[position]),
        }
        for position in order
        if pushed[position] > 0
    ]
