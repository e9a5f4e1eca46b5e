"""The models that compete for being registered, each a weighted sum of what its members say.

    contender              members                                              weights
    single_tree            one tree                                             calibration: slope and intercept
    logistic_regression    signed logarithms, and what is missing               calibration
    xgboost                boosted trees on the features                        calibration
    stack                  boosted trees and random forest, both with the       the meta-learner
                           anomaly score as an input; logistic regression

Weights are a logistic regression of the truth on what the members said of blocks of days that they had not seen. With
one member that is Platt scaling; with several it is a stack's meta-learner, and calibrates just so. No weight is
negative: a member cannot speak against its own evidence.
Source: Wolpert, Stacked generalization, 1992; Platt 1999; Breiman, Stacked regressions, 1996 (weights not negative).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

from fraud_pipelines.models import trees
from fraud_pipelines.models.additive_model import AdditiveModel, Isolation, weighted_sum
from fraud_pipelines.models.members import (
    LearnerParameters,
    fit_boosted_trees,
    fit_isolation_forest,
    fit_logistic_regression,
    fit_random_forest,
    fit_single_tree,
)

# Simplest first: what is preferred among equals.
CONTENDERS = {
    "single_tree": ("single_tree",),
    "logistic_regression": ("logistic_regression",),
    "xgboost": ("xgboost",),
    "stack": ("xgboost_on_anomaly", "random_forest_on_anomaly", "logistic_regression"),
}
ON_ANOMALY = "_on_anomaly"
# Fewer frauds than this cannot place the weights; one member then counts as it is, and a stack is not possible.
FEWEST_FRAUDS_TO_WEIGH = 50


@dataclass(frozen=True)
class Member:
    """A fitted learner: what it says, as a sum of trees and linear terms, and as its own library says it.

    A forest says a probability, the others log-odds. `native` takes the inputs of `model`, shape (n, input_count).
    """

    model: AdditiveModel
    native: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    booster_bytes: bytes | None = field(default=None, repr=False)

    def says(self, features: np.ndarray) -> np.ndarray:
        """Shape (n,)."""
        return self.model.margin(features)


@dataclass(frozen=True)
class Weights:
    """Log-odds = intercept + sum of weight * what the member says; no weight is negative, and one is positive."""

    weights: tuple[float, ...]
    intercept: float

    def of(self, said: np.ndarray) -> np.ndarray:
        """Log-odds, shape (n,), of what the members said, shape (n, members)."""
        return said @ np.array(self.weights) + self.intercept


def members_of(contenders: Sequence[str]) -> list[str]:
    """Every member of these contenders once, in the order of CONTENDERS."""
    return list(dict.fromkeys(member for name in CONTENDERS if name in contenders for member in CONTENDERS[name]))


@dataclass(frozen=True)
class Anomaly:
    """An isolation forest, and the rows it was fitted on with their anomaly score beside them, shape (n, f + 1).

    `native` gives the score of features as scikit-learn computes it.
    """

    isolation: Isolation
    inputs: np.ndarray = field(repr=False)
    native: Callable[[np.ndarray], np.ndarray] = field(repr=False)


def fit_anomaly(features: np.ndarray, settings: LearnerParameters) -> Anomaly:
    """What members that read the anomaly score are fitted with. `features` has shape (n, f), as in `fit_member`."""
    forest = fit_isolation_forest(features, settings)
    isolation = Isolation.of(trees.of_isolation_forest(forest), int(forest.max_samples_))
    # The score that the compiled graph gives, to the bit: thresholds learnt on another would split elsewhere.
    scorer = AdditiveModel(features.shape[1], trees=isolation.trees, isolation=isolation)
    return Anomaly(isolation, scorer.inputs(features), lambda rows: -forest.score_samples(rows))


def fit_member(
    name: str,
    features: np.ndarray,
    is_fraud: np.ndarray,
    settings: LearnerParameters,
    anomaly: Anomaly | None = None,
) -> Member:
    """Fit one member.

    Args:
        features: shape (n, f), single precision, missing values as NaN; is_fraud: shape (n,), both kinds present.
        anomaly: of the same rows; for members that read the anomaly score.
    """
    count = features.shape[1]
    read, inputs = None, features
    if name.endswith(ON_ANOMALY) and anomaly is not None:
        read, inputs = anomaly.isolation, anomaly.inputs
    match name.removesuffix(ON_ANOMALY):
        case "single_tree":
            tree = fit_single_tree(inputs, is_fraud, settings)
            model = AdditiveModel(count, trees=trees.of_tree(tree), isolation=read)
            return Member(model, lambda rows: trees.node_log_odds(tree)[tree.apply(rows)])
        case "logistic_regression":
            linear, intercept = fit_logistic_regression(inputs, is_fraud, settings)
            model = AdditiveModel(count, intercept, linear=linear, isolation=read)
            return Member(model, lambda rows: intercept + linear.terms(rows).sum(axis=1))
        case "xgboost":
            booster = fit_boosted_trees(inputs, is_fraud, settings)
            base = float(np.log(settings.base_score / (1 - settings.base_score)))
            model = AdditiveModel(count, base, trees.of_booster(booster), isolation=read)
            return Member(
                model,
                lambda rows: booster.inplace_predict(rows, predict_type="margin").astype(np.float64),
                bytes(booster.save_raw(raw_format="ubj")),
            )
        case "random_forest":
            forest = fit_random_forest(inputs, is_fraud, settings)
            model = AdditiveModel(count, trees=trees.of_forest(forest), isolation=read)
            return Member(model, lambda rows: forest.predict_proba(rows)[:, 1])
    raise ValueError(f"no member is called {name}")


def fit_weights(said: np.ndarray, is_fraud: np.ndarray) -> Weights | None:
    """Weights of greatest likelihood; None where there are too few frauds (or genuine rows) to place them.

    Args:
        said: shape (n, members), on rows that the members had not seen; is_fraud: shape (n,).
    """
    frauds, genuine = int(is_fraud.sum()), int((~is_fraud).sum())
    if min(frauds, genuine) < FEWEST_FRAUDS_TO_WEIGH:
        return None
    spread = said.std(axis=0)
    varies = spread > 0
    spread[~varies] = 1.0
    center = said.mean(axis=0)
    design = np.column_stack([(said - center) / spread, np.ones(len(said))])
    # Platt's targets: never quite sure, so that members who separate the truth do not get endless weight.
    target = np.where(is_fraud, (frauds + 1) / (frauds + 2), 1 / (genuine + 2))

    def loss(candidate: np.ndarray) -> tuple[float, np.ndarray]:
        log_odds = design @ candidate
        residual = 1 / (1 + np.exp(-log_odds)) - target
        # Hardly a penalty; it decides between members that say the same.
        penalty = 1e-6 * candidate[:-1]
        value = np.mean(np.logaddexp(0.0, log_odds) - target * log_odds) + 0.5 * float(penalty @ candidate[:-1])
        return float(value), design.T @ residual / len(said) + np.append(penalty, 0.0)

    start = np.append(np.full(said.shape[1], 1 / said.shape[1]), np.log(frauds / genuine))
    bounds = [(0.0, None)] * said.shape[1] + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 1000, "ftol": 1e-14})
    weights = np.where(varies, found.x[:-1] / spread, 0.0)
    if not weights.any():  # what they said tells nothing
        return None
    return Weights(tuple(map(float, weights)), float(found.x[-1] - weights @ center))


def unweighed(settings: LearnerParameters) -> Weights:
    """One member that says log-odds as it is, less what a weight on frauds added to them."""
    return Weights((1.0,), -float(np.log(settings.fraud_weight)))


def assembled(members: Sequence[Member], weights: Weights) -> AdditiveModel:
    """The contender as one model: the weighted sum of its members."""
    return weighted_sum(
        [(weight, member.model) for weight, member in zip(weights.weights, members, strict=True)], weights.intercept
    )


def native_log_odds(members: Sequence[Member], weights: Weights, features: np.ndarray) -> np.ndarray:
    """Log-odds as the libraries that fitted the members give them; shape (n,). What the compiled model is held to."""
    return weights.of(np.column_stack([member.native(member.model.inputs(features)) for member in members]))
