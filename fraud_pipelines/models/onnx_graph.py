"""Additive models as ONNX graphs, and back.

    features (n, f) float -> log_odds (n, 1), fraud_probability (n, 1), and anomaly_score (n, 1) where there is one

The whole model is one graph, so a score is one call. It is written here rather than by a converter: one node holds all
trees (skl2onnx makes an isolation forest a hundred times slower), it keeps the covers that SHAP values need, and the
comparison with a threshold is exact on single-precision input.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines.errors import BundleCorrupt, ContractBroken
from fraud_pipelines.models.trees import LEAF, Trees

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from fraud_pipelines.models.additive_model import AdditiveModel

# What ONNX Runtime 1.17 and later read.
_OPSETS = {"": 17, "ai.onnx.ml": 3}
_IR_VERSION = 8
_TREES, _ISOLATION = "trees", "isolation_trees"
_LINEAR = ("weight", "missing_weight", "fill", "center", "missing_share")
# The runtime takes logarithms in blocks and what is left over one by one, with another last digit. Rows of whole blocks
# leave nothing over, so a row has the same bits alone as among others.
_BLOCK = 16


@dataclass(frozen=True)
class Compiled:
    """An ONNX graph that can be run on rows of `feature_count` features."""

    onnx_bytes: bytes = field(repr=False)
    feature_count: int

    @cached_property
    def _session(self) -> "onnxruntime.InferenceSession":
        """On one thread: two collapse when the cores are busy, and each service worker has its own session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(self.onnx_bytes, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors share no class of their own
            raise BundleCorrupt(f"An ONNX file that cannot be run: {error}. Train again: fraud train") from error

    def run(self, output: str, features: np.ndarray) -> np.ndarray:
        """One output, shape (n,), double precision with the digits of a single."""
        return self.run_all([output], features)[0]

    def run_all(self, outputs: list[str], features: np.ndarray) -> list[np.ndarray]:
        """Several outputs, each of shape (n,), double precision with the digits of a single.

        Args:
            features: shape (n, feature_count), missing values as NaN.
        Raises:
            ContractBroken: the matrix has another shape, or a value is infinite.
            BundleCorrupt: the bytes are no ONNX model.
        """
        values = np.ascontiguousarray(features, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != self.feature_count:
            raise ContractBroken(
                f"The model expects a matrix of shape (n, {self.feature_count}), found {values.shape}."
            )
        if len(values) == 0:
            return [np.empty(0) for _ in outputs]
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            raise ContractBroken(
                f"The model expects finite or missing features, found {values[row, column]} in {column}."
            )
        found = self._session.run(outputs, {"features": values})
        return [values[:, 0].astype(np.float64) for values in found]


def to_onnx(model: "AdditiveModel") -> bytes:
    """The model as ONNX; the same model gives the same bytes."""
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {"intercept": np.array([[model.intercept]])}
    whole_numbers: dict[str, list[int]] = {}
    outputs = ["log_odds", "fraud_probability"]
    inputs = "features"
    if model.isolation is not None:
        constants["depth_to_exponent"] = np.array([[-np.log(2) / model.isolation.deepest]])
        nodes += [
            _tree_node(model.isolation.trees, _ISOLATION, "features", "depth"),
            helper.make_node("Mul", ["depth", "depth_to_exponent"], ["exponent"]),
            helper.make_node("Exp", ["exponent"], ["anomaly_score"]),
            helper.make_node("Concat", ["features", "anomaly_score"], ["inputs"], axis=1),
        ]
        outputs.append("anomaly_score")
        inputs = "inputs"
    parts = ["intercept"]
    if model.linear is not None:
        padding = -model.input_count % _BLOCK
        for name in _LINEAR:
            constants[name] = np.pad(getattr(model.linear, name), (0, padding))[None, :]
        constants["one"] = np.ones((1, 1))
        whole_numbers |= {"padding": [0, 0, 0, padding], "input_axis": [1]}
        nodes += [
            helper.make_node("Pad", [inputs, "padding"], ["padded"]),
            helper.make_node("IsNaN", ["padded"], ["nan"]),
            helper.make_node("Cast", ["nan"], ["is_missing"], to=TensorProto.FLOAT),
            helper.make_node("Abs", ["padded"], ["size"]),
            helper.make_node("Add", ["size", "one"], ["size_and_one"]),
            helper.make_node("Log", ["size_and_one"], ["log_size"]),
            helper.make_node("Sign", ["padded"], ["sign"]),
            helper.make_node("Mul", ["sign", "log_size"], ["signed_log"]),
            helper.make_node("Where", ["nan", "fill", "signed_log"], ["z"]),
            helper.make_node("Sub", ["z", "center"], ["centered"]),
            helper.make_node("Mul", ["centered", "weight"], ["value_terms"]),
            helper.make_node("Sub", ["is_missing", "missing_share"], ["missing_centered"]),
            helper.make_node("Mul", ["missing_centered", "missing_weight"], ["missing_terms"]),
            helper.make_node("Add", ["value_terms", "missing_terms"], ["terms"]),
            helper.make_node("ReduceSum", ["terms", "input_axis"], ["linear"], keepdims=1),
        ]
        parts.append("linear")
    if model.trees is not None:
        nodes.append(_tree_node(model.trees, _TREES, inputs, "tree_sum"))
        parts.append("tree_sum")
    for position, part in enumerate(parts[1:], start=1):
        total = "log_odds" if position == len(parts) - 1 else f"partial_{position}"
        nodes.append(helper.make_node("Add", [part, parts[0] if position == 1 else f"partial_{position - 1}"], [total]))
    nodes.append(helper.make_node("Sigmoid", ["log_odds"], ["fraud_probability"]))
    return model_bytes("fraud_scorer", nodes, constants, whole_numbers, model.feature_count, outputs)


def model_bytes(
    name: str,
    nodes: list[Any],
    constants: Mapping[str, np.ndarray],
    whole_numbers: Mapping[str, list[int]],
    features: int,
    outputs: list[str],
) -> bytes:
    """An ONNX file of these nodes that reads `features` (n, features) and gives each output as (n, 1)."""
    from onnx import TensorProto, helper

    initializers = [
        helper.make_tensor(key, TensorProto.FLOAT, value.shape, value.astype(np.float32).ravel())
        for key, value in constants.items()
    ]
    initializers += [
        helper.make_tensor(key, TensorProto.INT64, [len(values)], values) for key, values in whole_numbers.items()
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 1]) for output in outputs],
        initializers,
    )
    opsets = [helper.make_opsetid(domain, number) for domain, number in _OPSETS.items()]
    file = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="fraud-pipelines")
    return file.SerializeToString(deterministic=True)


def from_onnx(onnx_bytes: bytes) -> "AdditiveModel":
    """The model that `to_onnx` wrote.

    Raises:
        BundleCorrupt: the bytes are no ONNX model, or not one of ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from fraud_pipelines.models.additive_model import AdditiveModel, Isolation, Linear

    try:
        graph = onnx.load_from_string(onnx_bytes).graph
        if any(item.data_location == onnx.TensorProto.EXTERNAL for item in graph.initializer):
            raise ValueError("it reads another file")
        values = {item.name: onnx.numpy_helper.to_array(item).ravel() for item in graph.initializer}
        nodes = {node.name: node for node in graph.node if node.name}
        features = graph.input[0].type.tensor_type.shape.dim[1].dim_value
        inputs = features + (_ISOLATION in nodes)
        model = AdditiveModel(
            feature_count=features,
            intercept=float(values["intercept"][0]),
            trees=_trees_of(nodes[_TREES], inputs) if _TREES in nodes else None,
            linear=Linear(**{name: values[name][:inputs] for name in _LINEAR}) if "weight" in values else None,
            isolation=(
                Isolation(_trees_of(nodes[_ISOLATION], features), -np.log(2) / float(values["depth_to_exponent"][0]))
                if _ISOLATION in nodes
                else None
            ),
        )
    except (DecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise BundleCorrupt(
            f"The ONNX file is not a model of this project: {type(error).__name__} {error}. Train it again: fraud train"
        ) from error
    model.__dict__["onnx_bytes"] = onnx_bytes  # as read: it scores with these
    return model


def _tree_node(trees: Trees, name: str, source: str, result: str) -> "onnx.NodeProto":
    from onnx import helper

    count = np.diff(np.append(trees.roots, len(trees.left)))
    tree = np.repeat(np.arange(len(trees.roots)), count)
    first = np.repeat(trees.roots, count)
    inner = np.arange(len(trees.left)) - first
    leaf = trees.is_leaf
    return helper.make_node(
        "TreeEnsembleRegressor",
        [source],
        [result],
        name=name,
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=tree.tolist(),
        nodes_nodeids=inner.tolist(),
        nodes_featureids=trees.feature.tolist(),
        nodes_modes=np.where(leaf, "LEAF", "BRANCH_LT").tolist(),
        nodes_values=trees.threshold.tolist(),
        nodes_truenodeids=np.where(leaf, 0, trees.left - first).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, trees.right - first).tolist(),
        nodes_missing_value_tracks_true=trees.missing_left.astype(int).tolist(),
        nodes_hitrates=trees.cover.tolist(),
        target_treeids=tree[leaf].tolist(),
        target_nodeids=inner[leaf].tolist(),
        target_ids=np.zeros(int(leaf.sum()), dtype=int).tolist(),
        target_weights=trees.value[leaf].tolist(),
        post_transform="NONE",
        aggregate_function="SUM",
    )


def _trees_of(node: "onnx.NodeProto", inputs: int) -> Trees:
    """The trees of a node that reads so many inputs; ValueError where an array cannot be one of trees."""
    from onnx import helper

    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    tree = np.array(found["nodes_treeids"])
    roots = np.flatnonzero(np.diff(tree, prepend=-1))
    first = roots[tree]
    leaf = np.array([mode == b"LEAF" for mode in found["nodes_modes"]])
    value = np.zeros(len(tree), dtype=np.float32)
    value[leaf] = found["target_weights"]
    trees = Trees(
        roots=roots.astype(np.int32),
        left=np.where(leaf, LEAF, first + np.array(found["nodes_truenodeids"])).astype(np.int32),
        right=np.where(leaf, LEAF, first + np.array(found["nodes_falsenodeids"])).astype(np.int32),
        feature=np.array(found["nodes_featureids"], dtype=np.int32),
        threshold=np.array(found["nodes_values"], dtype=np.float32),
        missing_left=np.array(found["nodes_missing_value_tracks_true"], dtype=bool),
        value=value,
        cover=np.array(found["nodes_hitrates"], dtype=np.float32),
    )
    # Compiled code follows these without looking: a child lies behind its parent in the same tree, an input exists.
    here = np.arange(len(tree))[~leaf]
    last = np.append(roots[1:], len(tree))[tree][~leaf]
    for child in (trees.left[~leaf], trees.right[~leaf]):
        if ((child <= here) | (child >= last)).any():
            raise ValueError("a node of a tree leads out of it")
    if ((trees.feature < 0) | (trees.feature >= inputs)).any() or not (trees.cover[~leaf] > 0).all():
        raise ValueError(f"a node asks for none of the {inputs} inputs, or no row ever came by")
    return trees
