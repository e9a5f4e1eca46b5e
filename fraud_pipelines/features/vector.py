"""From features to the numbers a model reads: one function shared by training, batch scoring and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fraud_pipelines.errors import ContractBroken

if TYPE_CHECKING:
    import pandas as pd


def to_matrix(
    rows: pd.DataFrame | Sequence[Mapping[str, float | None]],
    names: Sequence[str],
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """Matrix of shape (rows, features), columns in the order of `names`; missing values are NaN.

    Doubles are rounded to `dtype` once, here, so the same row gives the same bits on every route.

    Args:
        rows: a frame with one column per feature, or one mapping per row.
        names: the model's features, in its order; further columns are ignored.
    Raises:
        ContractBroken: a feature is absent altogether. A missing value is null, never an absent column.
    """
    if isinstance(rows, Sequence):
        for position, row in enumerate(rows):
            _require(names, row.keys(), f"row {position}")
        values = [[np.nan if row[name] is None else row[name] for name in names] for row in rows]
        return np.array(values, dtype=np.float64).reshape(len(rows), len(names)).astype(dtype)
    _require(names, rows.columns, "the frame")
    return rows.loc[:, list(names)].to_numpy(dtype=np.float64, na_value=np.nan).astype(dtype)


def _require(names: Sequence[str], present: object, place: str) -> None:
    absent = [name for name in names if name not in present]  # type: ignore[operator]
    if absent:
        raise ContractBroken(
            f"Features {', '.join(absent)} are absent from {place}: expected every feature of the model's spec. "
            f"Run: fraud materialize features"
        )
