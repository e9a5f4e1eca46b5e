"""What a model is once trained: log-odds of fraud as a sum of trees and of one term per input.

    features -> [isolation trees -> anomaly score] -> inputs -> trees + linear terms + intercept = log-odds

Boosted trees, a single tree, a logistic regression and their stack all have this form, because the meta-learner of the
stack is linear in what its members say. So one compiled graph scores all of them, and one algorithm explains them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.models.trees import Trees, mean_depth

if TYPE_CHECKING:
    import onnxruntime

ANOMALY_SCORE = "anomaly_score"


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

    def calibrated(self, slope: float, intercept: float) -> "AdditiveModel":
        """The model whose log-odds are slope * this one's + intercept: calibration is part of the sum."""
        return AdditiveModel(
            self.feature_count,
            slope * self.intercept + intercept,
            self.trees.scaled(slope) if self.trees else None,
            self.linear.scaled(slope) if self.linear else None,
            self.isolation,
        )

    # Scoring

    @cached_property
    def onnx_bytes(self) -> bytes:
        """The model as an ONNX file: what scores it, here and in any other ONNX runtime."""
        from fraud_pipelines.models.onnx_graph import to_onnx

        return to_onnx(self)

    @cached_property
    def _session(self) -> "onnxruntime.InferenceSession":
        from fraud_pipelines.models.onnx_graph import open_session

        return open_session(self.onnx_bytes)

    def margin(self, features: np.ndarray) -> np.ndarray:
        """Log-odds of fraud by the compiled graph, shape (n,), double precision with the digits of a single.

        A row gives the same bits alone as among others.

        Args:
            features: shape (n, feature_count), missing values as NaN.
        """
        return self._run("log_odds", features)

    def anomaly_score(self, features: np.ndarray) -> np.ndarray | None:
        """How easily a row is told from all others, in (0, 1), 0.5 for the average row; shape (n,).

        None without isolation forest. Source: Liu, Ting, Zhou, Isolation Forest, 2008, equation 2.
        """
        return self._run(ANOMALY_SCORE, features) if self.isolation else None

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
        from fraud_pipelines.models.tree_shap import Paths

        inputs = self.inputs(features)
        values = np.zeros((len(inputs), self.input_count + 1))
        values[:, -1] = self.intercept
        if self.trees is not None:
            paths: Paths = self._paths
            values[:, :-1] += paths.contributions(inputs)
            values[:, -1] += paths.base
        if self.linear is not None:
            values[:, :-1] += self.linear.terms(inputs)
        return values

    @cached_property
    def _paths(self) -> "object":
        from fraud_pipelines.models.tree_shap import Paths

        return Paths.of(self.trees, self.input_count)

    def _run(self, output: str, features: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(features, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != self.feature_count:
            raise ContractBroken(
                f"AdditiveModel: expected a matrix of shape (n, {self.feature_count}), found {values.shape}."
            )
        if len(values) == 0:
            return np.empty(0)
        return self._session.run([output], {"features": values})[0][:, 0].astype(np.float64)
