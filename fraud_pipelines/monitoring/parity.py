"""Parity: the feature vectors that were served, against what the warehouse computes for the same transactions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
import pandas as pd

from fraud_pipelines import tables


class Served(Protocol):
    """What parity needs of a ledger decision."""

    @property
    def transaction_id(self) -> str: ...
    @property
    def event_time(self) -> datetime: ...
    @property
    def features(self) -> Mapping[str, float | None]: ...


def compare_served(decisions: Sequence[Served], features: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """PARITY rows, one per day with decisions and feature; equality is exact, and null equals only null.

    A decision whose vector lacks a feature (a fallback, or an older spec) is not compared for it: `compared_count` says
    how many were. One that the warehouse does not hold is counted as absent.

    Args:
        features: one row per transaction with `transaction_id` and the features of `names`; more rows do no harm.
        names: the features to compare, in the order of the rows.
    """
    if not decisions:
        return pd.DataFrame(columns=list(tables.PARITY.columns))
    identifiers = [decision.transaction_id for decision in decisions]
    day = pd.Series(pd.to_datetime([decision.event_time for decision in decisions])).dt.floor("D")
    warehouse = features.drop_duplicates("transaction_id").set_index("transaction_id").reindex(identifiers)
    is_present = pd.Index(identifiers).isin(features["transaction_id"])
    blocks = []
    for name in names:
        is_served = np.array([name in decision.features for decision in decisions])
        served = np.array([_number(decision.features.get(name)) for decision in decisions])
        expected = pd.to_numeric(warehouse[name]).to_numpy(np.float64, na_value=np.nan)
        is_compared = is_served & is_present
        is_equal = (served == expected) | (np.isnan(served) & np.isnan(expected))
        difference = np.where(is_compared, np.abs(served - expected), np.nan)
        blocks.append(
            pd.DataFrame(
                {
                    "day": day,
                    "feature": name,
                    "compared_count": is_compared.astype(np.int64),
                    "mismatch_count": (is_compared & ~is_equal).astype(np.int64),
                    "largest_difference": difference,
                    "absent_count": (is_served & ~is_present).astype(np.int64),
                }
            )
        )
    counts = {"compared_count": "sum", "mismatch_count": "sum", "largest_difference": "max", "absent_count": "sum"}
    rows = pd.concat(blocks).groupby(["day", "feature"], sort=False).agg(counts).reset_index()
    order = {name: position for position, name in enumerate(names)}
    rows = rows.sort_values(
        ["day", "feature"], key=lambda column: column.map(order) if column.name == "feature" else column
    )
    rows["day"] = rows["day"].astype("datetime64[us]")
    return rows.reset_index(drop=True)[list(tables.PARITY.columns)]


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
