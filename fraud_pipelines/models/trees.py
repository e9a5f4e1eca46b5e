"""Decision trees as arrays: what boosters, forests and isolation forests share, ready to compile and to explain.

Every tree says of a row x one number, and the numbers of all trees add up. At a node the row goes left where
x < threshold, and where x is missing it goes where the tree learnt to send it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xgboost
    from sklearn.ensemble import IsolationForest, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

LEAF = -1
# Natural logarithm minus harmonic number, as scikit-learn has it for the mean depth of an isolation tree.
_EULER = np.euler_gamma


@dataclass(frozen=True)
class Trees:
    """Nodes of all trees one after the other, shape (nodes,); children are positions in the same arrays, -1 at a leaf.

    `roots` has the position of each tree's first node, shape (trees,). `value` counts at leaves only. `cover` is the
    weight of training rows that came by. Thresholds and values are single precision, which is what they are kept as.
    """

    roots: np.ndarray
    left: np.ndarray
    right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    cover: np.ndarray

    @property
    def is_leaf(self) -> np.ndarray:
        """bool, shape (nodes,)."""
        return self.left == LEAF

    def scaled(self, factor: float) -> "Trees":
        """The same trees saying `factor` times as much."""
        values = (self.value.astype(np.float64) * factor).astype(np.float32)
        return Trees(**{**self.__dict__, "value": values})

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        """Sum over all trees in double precision, shape (n,), row by row in plain steps: slow, the measure of the rest.

        Args:
            matrix: shape (n, features), single precision, missing values as NaN.
        """
        totals = np.zeros(len(matrix))
        for root in self.roots:
            at = np.full(len(matrix), root)
            moving = ~self.is_leaf[at]
            while moving.any():
                rows, node = np.flatnonzero(moving), at[moving]
                x = matrix[rows, self.feature[node]]
                goes_left = np.where(np.isnan(x), self.missing_left[node], x < self.threshold[node])
                at[rows] = np.where(goes_left, self.left[node], self.right[node])
                moving = ~self.is_leaf[at]
            totals += self.value[at]
        return totals


def joined(parts: Iterable[Trees]) -> Trees:
    """All trees of all parts, which add up."""
    shifted, nodes = [], 0
    for part in parts:
        moved = {name: getattr(part, name) + nodes for name in ("roots",)}
        for side in ("left", "right"):
            child = getattr(part, side)
            moved[side] = np.where(child == LEAF, LEAF, child + nodes)
        shifted.append({**part.__dict__, **moved})
        nodes += len(part.left)
    return _trees(**{name: np.concatenate([part[name] for part in shifted]) for name in shifted[0]})


def of_booster(booster: "xgboost.Booster") -> Trees:
    """The trees of a booster; their sum is its margin, less the log-odds of its base score."""
    model = json.loads(booster.save_raw(raw_format="json"))["learner"]["gradient_booster"]["model"]
    parts = []
    for tree in model["trees"]:
        left = np.array(tree["left_children"])
        condition = np.array(tree["split_conditions"], dtype=np.float32)  # at a leaf: its value
        parts.append(
            _trees(
                roots=np.array([0]),
                left=left,
                right=np.array(tree["right_children"]),
                feature=np.array(tree["split_indices"]),
                threshold=condition,
                missing_left=np.array(tree["default_left"]),
                value=np.where(left == LEAF, condition, 0),
                cover=np.array(tree["sum_hessian"]),
            )
        )
    return joined(parts)


def of_forest(forest: "RandomForestClassifier") -> Trees:
    """The trees of a random forest of two classes; their sum is its probability of the second."""
    trees = [tree.tree_ for tree in forest.estimators_]
    return joined(_of_sklearn(tree, _share(tree) / len(trees)) for tree in trees)


def of_tree(classifier: "DecisionTreeClassifier") -> Trees:
    """One tree that says log-odds, as `node_log_odds`."""
    return _of_sklearn(classifier.tree_, node_log_odds(classifier))


def node_log_odds(classifier: "DecisionTreeClassifier") -> np.ndarray:
    """Log-odds of the second class in each node, with one more row that is like the whole: never endless."""
    tree = classifier.tree_
    cover = tree.weighted_n_node_samples
    share = (_share(tree) * cover + _share(tree)[0]) / (cover + 1)
    return np.log(share / (1 - share))


def of_isolation_forest(forest: "IsolationForest") -> Trees:
    """The trees of an isolation forest; their sum is how deep a row lies in all of them together.

    Source: Liu, Ting, Zhou 2008: the depth of a leaf, plus the mean depth of a tree of the rows that it still holds.
    """
    parts = []
    for tree in (estimator.tree_ for estimator in forest.estimators_):
        depth = np.zeros(tree.node_count)
        for node in range(tree.node_count):  # a parent comes before its children
            for child in (tree.children_left[node], tree.children_right[node]):
                if child != LEAF:
                    depth[child] = depth[node] + 1
        parts.append(_of_sklearn(tree, depth + mean_depth(tree.n_node_samples)))
    return joined(parts)


def mean_depth(rows: np.ndarray) -> np.ndarray:
    """Mean depth at which one of so many random rows stands alone, c(n) of the isolation forest's authors."""
    n = np.maximum(np.asarray(rows, dtype=np.float64), 2)
    harmonic = np.where(n == 2, 1.0, 2 * (np.log(n - 1) + _EULER) - 2 * (n - 1) / n)
    return np.where(np.asarray(rows) <= 1, 0.0, harmonic)


def _share(tree: Any) -> np.ndarray:
    """Weighted share of the second class in each node."""
    counts = tree.value[:, 0, :]
    return counts[:, 1] / counts.sum(axis=1)


def _of_sklearn(tree: Any, value: np.ndarray) -> Trees:
    left = tree.children_left
    return _trees(
        roots=np.array([0]),
        left=left,
        right=tree.children_right,
        feature=np.maximum(tree.feature, 0),
        threshold=_just_above(tree.threshold),
        missing_left=tree.missing_go_to_left,
        value=np.where(left == LEAF, value, 0),
        cover=tree.weighted_n_node_samples,
    )


def _just_above(limits: np.ndarray) -> np.ndarray:
    """Single-precision thresholds such that x < threshold exactly where x <= limit, for every single-precision x.

    Args:
        limits: shape (nodes,), double precision.
    """
    nearest = limits.astype(np.float32)
    below = np.where(nearest > limits, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return np.nextafter(below, np.float32(np.inf))


def _trees(**arrays: np.ndarray) -> Trees:
    kinds = {"threshold": np.float32, "value": np.float32, "cover": np.float32, "missing_left": np.bool_}
    return Trees(**{name: np.ascontiguousarray(array, kinds.get(name, np.int32)) for name, array in arrays.items()})
