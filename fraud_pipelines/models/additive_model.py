"""What a model is once trained: log-odds of fraud as a sum of trees and of one term per input.

    features -> [isolation trees -> anomaly score] -> inputs -> trees + linear terms + intercept = log-odds

Boosted trees, a single tree, a logistic regression and their stack all have this form, because the meta-learner of the
stack is linear in what its members say. So one compiled graph scores all of them, and one algorithm explains them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.trees import Trees, joined, mean_depth
from fraud_pipelines.reasons import ANOMALY_SCORE

if TYPE_CHECKING:
    from fraud_pipelines.models.onnx_graph import Compiled
    from fraud_pipelines.models.tree_shap import Paths


@dataclass(frozen=True)
class Isolation:
    """An isolation forest over the features, as the depth its trees add up to.

    `deepest` is the sum of depths that scores one half: the mean depth of a random row, times the number of trees.
    """

    trees: Trees
    deepest: float

    @classmethod
    def of(cls, trees: Trees, rows_per_tree: int) -> "Isolation":
        """Args: trees: as `trees.of_isolation_forest`; rows_per_tree: how many rows each of them was grown on."""
        return cls(trees, float(len(trees.roots) * mean_depth(np.array([rows_per_tree]))[0]))


@dataclass(frozen=True)
class Linear:
    """One term per input: weight * (z - center) + missing_weight * (is missing - missing_share), summed.

    z is sign(x) * log(1 + |x|), or `fill` where x is missing: amounts, counts and minutes span many powers of ten.
    `center` and `missing_share` are the training means, so that the terms are SHAP values as they stand.
    All arrays have shape (inputs,), single precision.
    """

    weight: np.ndarray
    missing_weight: np.ndarray
    fill: np.ndarray
    center: np.ndarray
    missing_share: np.ndarray

    def terms(self, inputs: np.ndarray) -> np.ndarray:
        """Term of each input, shape (n, inputs), double precision."""
        z, is_missing = signed_log(inputs, self.fill)
        return self.weight.astype(float) * (z - self.center) + self.missing_weight.astype(float) * (
            is_missing - self.missing_share.astype(float)
        )

    def scaled(self, factor: float) -> "Linear":
        """The same terms, `factor` times as large."""
        weights = {name: np.float32(factor) * getattr(self, name) for name in ("weight", "missing_weight")}
        return Linear(**{**self.__dict__, **weights})

    def padded(self, inputs: int) -> "Linear":
        """The same terms where there are further inputs, which have none."""
        return Linear(**{name: np.pad(array, (0, inputs - len(array))) for name, array in self.__dict__.items()})


def weighted_sum(parts: Sequence[tuple[float, "AdditiveModel"]], intercept: float = 0.0) -> "AdditiveModel":
    """The model that says intercept + sum of weight * part, over parts on the same features.

    Parts that read an anomaly score must read the same one. A part of weight 0 is left out.

    Raises:
        ContractBroken: the parts read different features or anomaly scores.
    """
    kept = [(weight, part) for weight, part in parts if weight != 0] or list(parts[:1])
    isolations = {id(part.isolation): part.isolation for _, part in kept if part.isolation is not None}
    if len({part.feature_count for _, part in kept}) != 1 or len(isolations) > 1:
        raise ContractBroken(
            "weighted_sum: expected parts on the same features and at most one anomaly score, found "
            f"{[part.feature_count for _, part in kept]} features and {len(isolations)} anomaly scores."
        )
    isolation = next(iter(isolations.values()), None)
    inputs = kept[0][1].feature_count + (isolation is not None)
    grown = [part.trees.scaled(weight) for weight, part in kept if part.trees is not None]
    lines = [part.linear.scaled(weight).padded(inputs) for weight, part in kept if part.linear is not None]
    if len(lines) > 1:
        raise ContractBroken(f"weighted_sum: expected at most one part with linear terms, found {len(lines)}.")
    return AdditiveModel(
        kept[0][1].feature_count,
        intercept + sum(weight * part.intercept for weight, part in kept),
        joined(grown) if grown else None,
        lines[0] if lines else None,
        isolation,
    )


def signed_log(inputs: np.ndarray, fill: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z of `Linear` and whether the input is missing, both of shape (n, inputs), double precision."""
    values = np.asarray(inputs, dtype=np.float64)
    is_missing = np.isnan(values)
    z = np.sign(values) * np.log1p(np.abs(values))
    return np.where(is_missing, fill.astype(np.float64), z), is_missing.astype(np.float64)


@dataclass(frozen=True)
class AdditiveModel:
    """Log-odds = intercept + sum over trees + sum over linear terms, natural logarithm.

    Inputs are `feature_count` features, followed by the anomaly score where there is an `isolation` forest.
    """

    feature_count: int
    intercept: float = 0.0
    trees: Trees | None = None
    linear: Linear | None = None
    isolation: Isolation | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.intercept):
            raise ContractBroken(f"AdditiveModel: expected a finite intercept, found {self.intercept}.")
        if self.trees is None and self.linear is None:
            raise ContractBroken("AdditiveModel: expected trees or linear terms, found neither.")

    @property
    def input_count(self) -> int:
        return self.feature_count + (self.isolation is not None)

    # Scoring

    @cached_property
    def onnx_bytes(self) -> bytes:
        """The model as an ONNX file: what scores it, here and in any other ONNX runtime."""
        from fraud_pipelines.models.onnx_graph import to_onnx

        return to_onnx(self)

    @cached_property
    def _compiled(self) -> "Compiled":
        from fraud_pipelines.models.onnx_graph import Compiled

        return Compiled(self.onnx_bytes, self.feature_count)

    def margin(self, features: np.ndarray) -> np.ndarray:
        """Log-odds of fraud by the compiled graph, shape (n,), double precision with the digits of a single.

        A row gives the same bits alone as among others.

        Args:
            features: shape (n, feature_count), missing values as NaN.
        """
        return self._compiled.run("log_odds", features)

    def scores(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """`margin` and `anomaly_score` in one call."""
        outputs = ["log_odds", ANOMALY_SCORE] if self.isolation else ["log_odds"]
        margin, *anomaly = self._compiled.run_all(outputs, features)
        return margin, anomaly[0] if anomaly else None

    def anomaly_score(self, features: np.ndarray) -> np.ndarray | None:
        """How easily a row is told from all others, in (0, 1), 0.5 for the average row; shape (n,).

        None without isolation forest. Source: Liu, Ting, Zhou, Isolation Forest, 2008, equation 2.
        """
        return self._compiled.run(ANOMALY_SCORE, features) if self.isolation else None

    def inputs(self, features: np.ndarray) -> np.ndarray:
        """The features and, where there is one, the anomaly score beside them; single precision."""
        values = np.ascontiguousarray(features, dtype=np.float32)
        score = self.anomaly_score(values)
        return values if score is None else np.column_stack([values, score.astype(np.float32)])

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Exact SHAP values of the log-odds, shape (n, input_count + 1); the last column is the base value.

        Of trees they are path-dependent (the expectation follows the training rows down each tree), of linear terms
        interventional (against the training mean); each row sums to `margin` of that row within single precision.
        Source: Lundberg et al., From local explanations to global understanding with explainable AI for trees, 2020.
        """
        inputs = self.inputs(features)
        values = np.zeros((len(inputs), self.input_count + 1))
        values[:, -1] = self.intercept
        if self._paths is not None:
            values[:, :-1] += self._paths.contributions(inputs)
            values[:, -1] += self._paths.base
        if self.linear is not None:
            values[:, :-1] += self.linear.terms(inputs)
        return values

    @cached_property
    def _paths(self) -> "Paths | None":
        from fraud_pipelines.models.tree_shap import Paths

        return Paths.of(self.trees, self.input_count) if self.trees is not None else None
