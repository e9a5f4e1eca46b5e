"""Why a score is what it is: exact SHAP values, over a sample and for one transaction in plain words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.errors import ContractBroken, EmptySample
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.reasons import ANOMALY_SCORE, UNUSUAL_COMBINATION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fraud_pipelines.models.bundle import Bundle
    from fraud_pipelines.models.trees import Trees


@dataclass(frozen=True)
class ShapSummary:
    """Mean absolute SHAP value per input (log-odds), largest first, on `rows` rows; and the figure of all dots."""

    mean_absolute: dict[str, float]
    rows: int
    figure: "Figure" = field(repr=False)

    def table(self, model_version: str) -> "pd.DataFrame":
        """Rows of models.attributions."""
        import pandas as pd

        return pd.DataFrame(
            {
                "model_version": model_version,
                "feature": list(self.mean_absolute),
                "mean_absolute_shap": list(self.mean_absolute.values()),
                "rows": self.rows,
            }
        )


def shap_summary(bundle: "Bundle", frame: "pd.DataFrame", max_rows: int = 2000) -> ShapSummary:
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
    """The reasons that pushed one score up most, in the words of the spec's catalogue; at most k, largest first.

    A reason's contribution is the sum over its inputs, what some of them push down taken off. Of equal ones the first
    of the catalogue, and of its inputs the first of the spec, comes first.

    Args:
        contributions_row: shape (f + 1,) or (f + 2,), as of `reason_contributions`.
        values: feature values by name, and `anomaly_score` where the model has one; a missing one may be a reason, too.
    Returns:
        Dicts of code, words, feature (the input of this code that pushed up most), its value, and contribution (of the
        code, log-odds, > 0).
    Raises:
        ContractBroken: the row has another shape.
        SpecInvalid: an anomaly score pushed, and the spec is of before there was a catalogue.
    """
    inputs = _inputs(contributions_row, spec)
    pushed = _by_reason(inputs, spec)
    reasons = []
    for code in sorted(pushed, key=lambda code: -pushed[code])[:k]:
        if pushed[code] > 0:
            feature, _, _ = max((entry for entry in inputs if entry[1] == code), key=lambda entry: entry[2])
            reasons.append(
                {
                    "code": code,
                    "words": spec.reason(code).words,
                    "feature": feature,
                    "value": values.get(feature),
                    "contribution": pushed[code],
                }
            )
    return reasons


@dataclass(frozen=True, slots=True)
class InputContribution:
    """One input of the model behind a reason: its value (None is missing), what it adds in log-odds, what it means."""

    name: str
    value: float | None
    contribution: float
    meaning: str


@dataclass(frozen=True, slots=True)
class FullReason:
    """One reason with everything behind it: `contribution` is the sum of those of its inputs, log-odds, up or down."""

    code: str
    words: str
    meaning: str
    contribution: float
    inputs: tuple[InputContribution, ...]


@dataclass(frozen=True, slots=True)
class FullReasons:
    """A score taken apart: `base_value`, the log-odds with nothing known, and what every reason adds to it."""

    base_value: float
    reasons: tuple[FullReason, ...]

    @property
    def log_odds(self) -> float:
        """What it all adds up to: the score's log-odds, within the single precision of the model."""
        return self.base_value + sum(reason.contribution for reason in self.reasons)


def full_reasons(contributions_row: np.ndarray, values: Mapping[str, float | None], spec: FeatureSpec) -> FullReasons:
    """Every reason of one score with every input behind it; of both, what pushed up most comes first.

    Of equal ones the first of the catalogue, or of the spec, comes first. Reasons without an input in this model, such
    as that of an anomaly score it does not have, are left out; inputs that add nothing are not.

    Args:
        contributions_row, values: as of `top_reasons`.
    Raises:
        ContractBroken: the row has another shape.
        SpecInvalid: there is an anomaly score, and the spec is of before there was a catalogue.
    """
    behind: dict[str, list[InputContribution]] = {}
    all_inputs = _inputs(contributions_row, spec)
    for name, code, push in all_inputs:
        meaning = spec.reason(code).meaning if name == ANOMALY_SCORE else spec.feature(name).meaning
        behind.setdefault(code, []).append(InputContribution(name, values.get(name), push, meaning))
    reasons = []
    for code, contribution in _by_reason(all_inputs, spec).items():
        if code in behind:
            inputs = sorted(behind[code], key=lambda entry: -entry.contribution)
            said = spec.reason(code)
            reasons.append(FullReason(code, said.words, said.meaning, contribution, tuple(inputs)))
    reasons.sort(key=lambda reason: -reason.contribution)
    return FullReasons(float(contributions_row[-1]), tuple(reasons))


def reason_contributions(contributions_row: np.ndarray, spec: FeatureSpec) -> dict[str, float]:
    """What every reason adds to one score, log-odds, up or down, in the order of the catalogue.

    SHAP values are additive, so a sum over inputs is as exact as they are: all reasons and the base value together
    are the score's log-odds.

    Args:
        contributions_row: shape (f + 1,), log-odds: the features in the spec's order, then the base value; or (f + 2,)
            with the contribution of the anomaly score in between.
    Raises:
        ContractBroken: the row has another shape.
    """
    return _by_reason(_inputs(contributions_row, spec), spec)


def _by_reason(inputs: Sequence[tuple[str, str, float]], spec: FeatureSpec) -> dict[str, float]:
    sums = {reason.code: 0.0 for reason in spec.reasons}
    for _, code, push in inputs:
        sums[code] = sums.get(code, 0.0) + push
    return sums


def _inputs(contributions_row: np.ndarray, spec: FeatureSpec) -> list[tuple[str, str, float]]:
    """Name, code and contribution of every input of the model; the base value is none."""
    row, count = np.asarray(contributions_row, dtype=np.float64), len(spec.features)
    if row.shape not in ((count + 1,), (count + 2,)):
        raise ContractBroken(
            f"Contributions: expected shape ({count + 1},), or ({count + 2},) with an anomaly score, for the spec's "
            f"{count} features; found {row.shape}. Explain a score with the spec of the model that gave it."
        )
    named = [(feature.name, feature.reason) for feature in spec.features]
    if len(row) == count + 2:
        named.append((ANOMALY_SCORE, UNUSUAL_COMBINATION))
    return [(name, code, push) for (name, code), push in zip(named, row[:-1].tolist(), strict=True)]
