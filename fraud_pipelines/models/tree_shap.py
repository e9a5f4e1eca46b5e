"""Exact SHAP values of additive trees, path-dependent, compiled: tens of microseconds per row.

For one leaf, the path to it asks about d different inputs. For each of them let z be the share of training rows that
pass its questions on the path, and o be 1 where the row explained passes them, else 0. With an input set S known, the
row reaches the leaf with probability (product of o over S) * (product of z over the rest); so input i contributes

    value * (o_i - z_i) * sum over s of s! (d - s - 1)! / d! * c_s,    c_s being the coefficient of t^s
                                                                       in the product of z_j + o_j t over all j but i

Source: Lundberg et al. 2020 (algorithm 2, TreeExplainer, path-dependent); the polynomial form after Yang 2021.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
from numba import njit

from fraud_pipelines.models.trees import Trees


@dataclass(frozen=True)
class Paths:
    """What the values need of the trees, leaf by leaf; arrays are flat, with `..._from` (length + 1) as bounds.

    `slot_*` has one entry per leaf and different input on its path: the input and its z. `step_*` has one entry per
    node on the path: which node, whether the path goes left, and the slot of its input.
    `base` is the value without any input known: the mean over the training rows.
    """

    trees: Trees
    inputs: int
    leaf_value: np.ndarray
    slot_from: np.ndarray
    slot_input: np.ndarray
    slot_share: np.ndarray
    step_from: np.ndarray
    step_node: np.ndarray
    step_left: np.ndarray
    step_slot: np.ndarray
    weights: np.ndarray
    base: float

    @classmethod
    def of(cls, trees: Trees, inputs: int) -> "Paths":
        """Args: inputs: how many inputs the trees may ask about."""
        leaf_value, slot_from, slot_input, slot_share, step_from, step_node, step_left, step_slot, base = _paths(
            trees.left, trees.right, trees.feature, trees.cover, trees.value
        )
        return cls(
            trees=trees,
            inputs=inputs,
            leaf_value=leaf_value,
            slot_from=slot_from,
            slot_input=slot_input,
            slot_share=slot_share,
            step_from=step_from,
            step_node=step_node,
            step_left=step_left,
            step_slot=step_slot,
            weights=_weights(int(np.diff(slot_from).max())),
            base=float(base),
        )

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """SHAP value of each input, shape (n, inputs).

        Args:
            matrix: shape (n, inputs), single precision, missing values as NaN.
        """
        found = np.zeros((len(matrix), self.inputs))
        trees = self.trees
        _contributions(
            np.ascontiguousarray(matrix, dtype=np.float32), trees.left, trees.feature, trees.threshold,
            trees.missing_left, self.leaf_value, self.slot_from, self.slot_input, self.slot_share, self.step_from,
            self.step_node, self.step_left, self.step_slot, self.weights, found,
        )  # fmt: skip
        return found


def _weights(most: int) -> np.ndarray:
    """Entry [d, s] is s! (d - s - 1)! / d!, for paths of d different inputs."""
    table = np.zeros((most + 1, most + 1))
    for d in range(1, most + 1):
        for s in range(d):
            table[d, s] = factorial(s) * factorial(d - s - 1) / factorial(d)
    return table


# Both let go of the interpreter's lock: a service goes on answering while a new model is made ready.
@njit(cache=True, nogil=True)
def _paths(left, right, feature, cover, value):  # type: ignore[no-untyped-def]
    """The arrays of `Paths`, leaves in the order of their nodes, which is that of their trees."""
    nodes = len(left)
    parent, depth = np.full(nodes, -1, dtype=np.int64), np.zeros(nodes, dtype=np.int64)
    leaves, steps = 0, 0
    for node in range(nodes):  # a parent comes before its children
        if left[node] == -1:
            leaves += 1
            steps += depth[node]
        else:
            for child in (left[node], right[node]):
                parent[child], depth[child] = node, depth[node] + 1
    leaf_value = np.empty(leaves)
    slot_from, step_from = np.zeros(leaves + 1, dtype=np.int64), np.zeros(leaves + 1, dtype=np.int64)
    slot_input, slot_share = np.empty(steps, dtype=np.int64), np.empty(steps)
    step_node, step_slot = np.empty(steps, dtype=np.int64), np.empty(steps, dtype=np.int64)
    step_left = np.empty(steps, dtype=np.bool_)
    leaf, base = 0, 0.0
    for node in range(nodes):
        if left[node] != -1:
            continue
        leaf_value[leaf] = value[node]
        first_step, first_slot = step_from[leaf], slot_from[leaf]
        end_step, end_slot = first_step + depth[node], first_slot
        child = np.int64(node)
        for step in range(end_step - 1, first_step - 1, -1):
            step_node[step] = parent[child]
            step_left[step] = left[parent[child]] == child
            child = parent[child]
        whole = leaf_value[leaf]
        for step in range(first_step, end_step):
            asked = step_node[step]
            child = left[asked] if step_left[step] else right[asked]
            share = np.float64(cover[child]) / np.float64(cover[asked])
            whole *= share
            slot = first_slot
            while slot < end_slot and slot_input[slot] != feature[asked]:
                slot += 1
            if slot == end_slot:
                slot_input[slot], slot_share[slot] = feature[asked], 1.0
                end_slot += 1
            slot_share[slot] *= share
            step_slot[step] = slot - first_slot
        base += whole
        leaf += 1
        step_from[leaf], slot_from[leaf] = end_step, end_slot
    used = slot_from[leaves]
    return (
        leaf_value, slot_from, slot_input[:used].copy(), slot_share[:used].copy(), step_from, step_node, step_left,
        step_slot, base,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _contributions(  # type: ignore[no-untyped-def]
    matrix, left, feature, threshold, missing_left, leaf_value, slot_from, slot_input, slot_share, step_from,
    step_node, step_left, step_slot, weights, found,
):  # fmt: skip
    most = weights.shape[0]
    goes_left = np.empty(len(left), dtype=np.bool_)
    passes = np.empty(most, dtype=np.bool_)
    full = np.empty(most + 1)
    for row in range(len(matrix)):
        for node in range(len(left)):
            if left[node] != -1:
                x = matrix[row, feature[node]]
                goes_left[node] = missing_left[node] if np.isnan(x) else x < threshold[node]
        for leaf in range(len(leaf_value)):
            start = slot_from[leaf]
            depth = slot_from[leaf + 1] - start
            passes[:depth] = True
            for step in range(step_from[leaf], step_from[leaf + 1]):
                if goes_left[step_node[step]] != step_left[step]:
                    passes[step_slot[step]] = False
            # The product over inputs that pass is a polynomial with leading coefficient 1; the others are a factor.
            degree, outside = 0, 1.0
            full[0] = 1.0
            for slot in range(depth):
                share = slot_share[start + slot]
                if passes[slot]:
                    full[degree + 1] = full[degree]
                    for power in range(degree, 0, -1):
                        full[power] = full[power] * share + full[power - 1]
                    full[0] *= share
                    degree += 1
                else:
                    outside *= share
            if outside == 0.0:
                # A question that no training row passed and this one fails, too: every term of the leaf is 0.
                continue
            of_all = 0.0
            for power in range(degree + 1):
                if power < depth:
                    of_all += full[power] * weights[depth, power]
            for slot in range(depth):
                share = slot_share[start + slot]
                if passes[slot]:
                    # Divide the factor (share + t) out again, from the highest power down: stable, as share <= 1.
                    carried, total = 0.0, 0.0
                    for power in range(degree - 1, -1, -1):
                        carried = full[power + 1] - share * carried
                        total += carried * weights[depth, power]
                    amount = (1.0 - share) * total * outside
                else:
                    amount = -of_all * outside  # -share * (outside / share)
                found[row, slot_input[start + slot]] += leaf_value[leaf] * amount
