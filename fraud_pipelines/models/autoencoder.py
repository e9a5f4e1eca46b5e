"""An autoencoder as a baseline: how badly a network that learnt genuine payments alone reproduces one, as log-odds.

It competes for nothing and is never served; it stands in every evaluation beside the model that is, as an ONNX graph.
"""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.models.additive_model import signed_log
from fraud_pipelines.models.contenders import fit_weights
from fraud_pipelines.models.members import LearnerParameters, typical
from fraud_pipelines.models.onnx_graph import Compiled, model_bytes

if TYPE_CHECKING:
    from sklearn.neural_network import MLPRegressor

HIDDEN = (32, 8, 32)
MOST_GENUINE_ROWS = 20_000
_PASSES = 15
# Beyond this many standard deviations a value says no more, so that one wild number is not the whole error.
_FARTHEST = 5.0


def fit_autoencoder(features: np.ndarray, is_fraud: np.ndarray, settings: LearnerParameters) -> bytes:
    """The fitted baseline as ONNX: features (n, f) -> log_odds (n, 1).

    The network learns genuine rows only; labels serve to turn its error into log-odds, two numbers.

    Args:
        features: shape (n, f), single precision, missing values as NaN; is_fraud: shape (n,), both kinds present.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    generator = np.random.default_rng(settings.seed)
    genuine = np.flatnonzero(~is_fraud)
    chosen = np.sort(generator.permutation(genuine)[:MOST_GENUINE_ROWS])
    rows = features[chosen]
    fill = typical(rows)
    z = signed_log(rows, fill)[0]
    center, spread = z.mean(axis=0), z.std(axis=0)
    scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9)
    standard = np.clip((z - center) * scale, -_FARTHEST, _FARTHEST)
    network = MLPRegressor(
        hidden_layer_sizes=HIDDEN, batch_size=min(256, len(rows)), max_iter=_PASSES, random_state=settings.seed
    )
    with warnings.catch_warnings():
        # A fixed number of passes, on purpose: a baseline need not be polished.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(standard, standard)
    constants = {"fill": fill, "center": center, "scale": scale}
    sample = np.sort(np.concatenate([np.flatnonzero(is_fraud), chosen]))
    said = Compiled(_graph(network, constants, 1.0, 0.0), features.shape[1]).run("log_odds", features[sample])
    weights = fit_weights(said[:, None], is_fraud[sample])
    if weights is None:  # too few frauds: around the fraud share
        log_share = float(np.log(max(is_fraud.sum(), 1) / len(genuine)))
        return _graph(network, constants, 1.0, log_share - float(said.mean()))
    # The sample holds every fraud but few genuine rows; what that adds to the log-odds is known.
    intercept = weights.intercept - float(np.log(len(genuine) / len(chosen)))
    return _graph(network, constants, weights.weights[0], intercept)


def _graph(network: "MLPRegressor", constants: dict[str, np.ndarray], slope: float, intercept: float) -> bytes:
    """Log of the mean squared error, times slope, plus intercept."""
    from onnx import helper

    numbers = {name: array[None, :] for name, array in constants.items()}
    numbers |= {"one": np.ones((1, 1)), "slope": np.array([[slope]]), "intercept": np.array([[intercept]])}
    numbers |= {"lowest": np.array(-_FARTHEST), "highest": np.array(_FARTHEST), "tiny": np.array([[1e-9]])}
    nodes: list[Any] = [
        helper.make_node("IsNaN", ["features"], ["nan"]),
        helper.make_node("Abs", ["features"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["size_and_one"]),
        helper.make_node("Log", ["size_and_one"], ["log_size"]),
        helper.make_node("Sign", ["features"], ["sign"]),
        helper.make_node("Mul", ["sign", "log_size"], ["signed_log"]),
        helper.make_node("Where", ["nan", "fill", "signed_log"], ["z"]),
        helper.make_node("Sub", ["z", "center"], ["centered"]),
        helper.make_node("Mul", ["centered", "scale"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "lowest", "highest"], ["standard"]),
    ]
    value, layers = "standard", len(network.coefs_)
    for layer, (weights, biases) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        numbers |= {f"weights_{layer}": weights, f"biases_{layer}": biases[None, :]}
        nodes += [
            helper.make_node("MatMul", [value, f"weights_{layer}"], [f"weighted_{layer}"]),
            helper.make_node("Add", [f"weighted_{layer}", f"biases_{layer}"], [f"sum_{layer}"]),
        ]
        value = f"sum_{layer}"
        if layer < layers - 1:
            nodes.append(helper.make_node("Relu", [value], [f"active_{layer}"]))
            value = f"active_{layer}"
    nodes += [
        helper.make_node("Sub", [value, "standard"], ["error"]),
        helper.make_node("Mul", ["error", "error"], ["squared"]),
        helper.make_node("ReduceMean", ["squared"], ["mean_squared"], axes=[1], keepdims=1),
        helper.make_node("Add", ["mean_squared", "tiny"], ["positive"]),
        helper.make_node("Log", ["positive"], ["log_error"]),
        helper.make_node("Mul", ["log_error", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "intercept"], ["log_odds"]),
    ]
    return model_bytes("autoencoder", nodes, numbers, {}, len(constants["fill"]), ["log_odds"])
