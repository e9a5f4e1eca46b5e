"""Two tables of features compared cell by cell: the same transactions, the same values, null only where null is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud_pipelines.features.spec import FeatureSpec

# Largest relative difference of what sines and arcsines enter: their last bits are the mathematical library's own.
TOLERANCE = 1e-9
_WITH_SINES = ("home_distance", "place")


def tolerances(spec: FeatureSpec) -> dict[str, float]:
    """By name, the features that need not be equal to the last bit."""
    return {feature.name: TOLERANCE for feature in spec.features if feature.of in _WITH_SINES}


@dataclass
class Comparison:
    """What was compared so far, and what differed. A cell is one feature of one transaction.

    `differing` counts cells per feature, those beyond the tolerance; `largest` is the largest relative difference per
    feature that has a tolerance, be it within it. `values` counts the cells that are not null on either side: what a
    source lacks is null everywhere, and that it is so proves little.
    """

    names: Sequence[str]
    tolerances: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    rows_in_one_only: int = 0
    values: int = 0
    differing: Counter[str] = field(default_factory=Counter)
    largest: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.largest |= dict.fromkeys(self.tolerances, 0.0)

    @property
    def mismatches(self) -> int:
        """Differing cells, every cell of a row that only one side has among them."""
        return self.differing.total() + self.rows_in_one_only * len(self.names)

    def add(self, one: pa.Table, other: pa.Table) -> None:
        """Compare two tables with `transaction_id` and the features, in any order of rows."""
        one, other = (table.sort_by("transaction_id") for table in (one, other))
        first, second = one["transaction_id"], other["transaction_id"]
        if not first.equals(second):
            only = [pc.invert(pc.is_in(a, value_set=b)) for a, b in ((first, second), (second, first))]
            self.rows_in_one_only += sum(int(pc.sum(mask).as_py() or 0) for mask in only)
            one, other = one.filter(pc.invert(only[0])), other.filter(pc.invert(only[1]))
        self.rows += one.num_rows
        for name in self.names:
            self._compare(name, one[name], other[name])

    def _compare(self, name: str, one: pa.ChunkedArray, other: pa.ChunkedArray) -> None:
        if one.type != other.type:
            self.differing[name] += len(one)
            return
        is_known, is_known_too = (np.asarray(pc.is_valid(column)) for column in (one, other))
        self.values += int(np.count_nonzero(is_known & is_known_too))
        a, b = (np.asarray(pc.fill_null(column, 0)) for column in (one, other))
        is_equal = a == b
        if name in self.tolerances and len(a):
            size = np.maximum(np.abs(a), np.abs(b))
            relative = np.abs(a - b) / np.where(size > 0, size, 1.0)
            relative[~(is_known & is_known_too)] = 0.0
            self.largest[name] = max(self.largest[name], float(relative.max()))
            is_equal = relative <= self.tolerances[name]
        is_equal = np.where(is_known & is_known_too, is_equal, is_known == is_known_too)
        wrong = int(np.count_nonzero(~is_equal))
        if wrong:
            self.differing[name] += wrong

    def report(self) -> dict[str, Any]:
        """The comparison as the benchmark prints it."""
        return {
            "rows": self.rows,
            "cells": self.rows * len(self.names),
            "cells_with_a_value": self.values,
            "mismatches": self.mismatches,
            "rows_in_one_only": self.rows_in_one_only,
            "differing_cells": dict(self.differing),
            "largest_relative_difference": self.largest,
        }
