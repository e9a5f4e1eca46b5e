"""Fairness: how a model's decisions fall on groups of customers, on mature labels.

Attributes come from raw.customers and reach no feature. Small groups are listed with their counts and no rates.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from fraud_pipelines import limits, tables

ATTRIBUTES = ("age_band", "gender", "region")
UNKNOWN = "unknown"
RATES = ("flagged_share", "blocked_share", "false_positive_rate", "true_positive_rate", "precision")


@dataclass(frozen=True)
class RateGap:
    """Largest and smallest false positive rate among the readable groups of one attribute, shares in [0, 1].

    `certain_ratio` is the factor between them that chance does not explain: the lower 95 % bound of the largest rate
    over the upper bound of the smallest (Wilson 1927). It is cautious, and below 1 where the groups may be equal.
    """

    attribute: str
    largest_group: str
    largest: float
    smallest_group: str
    smallest: float
    certain_ratio: float

    @property
    def difference(self) -> float:
        return self.largest - self.smallest


def group_rates(
    judged: pd.DataFrame,
    *,
    day: datetime,
    model_version: str,
    min_rows: int = limits.FAIRNESS_MIN_ROWS,
    min_frauds: int = limits.FAIRNESS_MIN_FRAUDS,
) -> pd.DataFrame:
    """FAIRNESS rows of one day and model version: one per attribute and group present in `judged`.

    flagged = REVIEW or BLOCK. FPR = flagged genuine / genuine; TPR = flagged frauds / frauds; precision = flagged
    frauds / flagged. Groups below `min_rows` keep their counts and lose every rate; a TPR on fewer than `min_frauds`
    frauds is null.

    Args:
        judged: one row per labelled transaction that `model_version` scored: `decision`, `is_fraud` and the
            attributes (null = unknown).
    """
    rows = []
    for attribute in ATTRIBUTES:
        groups = judged[attribute].astype(object).where(judged[attribute].notna(), UNKNOWN)
        for name in sorted(groups.unique(), key=lambda value: (value == UNKNOWN, value)):
            group = judged[groups == name]
            is_fraud = group["is_fraud"].to_numpy(bool)
            is_blocked = (group["decision"] == "BLOCK").to_numpy(bool)
            is_flagged = (group["decision"] != "APPROVE").to_numpy(bool)
            is_suppressed = len(group) < min_rows
            rates = {
                "flagged_share": _share(is_flagged),
                "blocked_share": _share(is_blocked),
                "false_positive_rate": _share(is_flagged[~is_fraud]),
                "true_positive_rate": _share(is_flagged[is_fraud]) if is_fraud.sum() >= min_frauds else None,
                "precision": _share(is_fraud[is_flagged]),
            }
            rows.append(
                {
                    "day": day,
                    "model_version": model_version,
                    "attribute": attribute,
                    "group_name": name,
                    "rows": len(group),
                    "fraud_count": int(is_fraud.sum()),
                    **{rate: None if is_suppressed else value for rate, value in rates.items()},
                    "is_suppressed": is_suppressed,
                }
            )
    frame = pd.DataFrame(rows, columns=list(tables.FAIRNESS.columns))
    return frame.astype({"day": "datetime64[us]", "is_suppressed": bool, **dict.fromkeys(RATES, float)})


def rate_gaps(rates: pd.DataFrame) -> list[RateGap]:
    """Gap of the false positive rate per attribute with at least two readable, known groups; most certain first.

    Args:
        rates: FAIRNESS rows of one day and one model version.
    """
    gaps = []
    readable = rates[
        ~rates["is_suppressed"].astype(bool) & rates["false_positive_rate"].notna() & (rates["group_name"] != UNKNOWN)
    ]
    for attribute, groups in readable.groupby("attribute", sort=False):
        if len(groups) < 2:
            continue
        largest = groups.iloc[int(groups["false_positive_rate"].argmax())]
        smallest = groups.iloc[int(groups["false_positive_rate"].argmin())]
        gaps.append(
            RateGap(
                str(attribute),
                str(largest["group_name"]),
                float(largest["false_positive_rate"]),
                str(smallest["group_name"]),
                float(smallest["false_positive_rate"]),
                false_positive_interval(largest)[0] / false_positive_interval(smallest)[1],
            )
        )
    return sorted(gaps, key=lambda gap: gap.certain_ratio, reverse=True)


def false_positive_interval(group: pd.Series) -> tuple[float, float]:
    """95 % interval of the false positive rate of one FAIRNESS row."""
    genuine = int(group["rows"] - group["fraud_count"])
    return rate_interval(round(float(group["false_positive_rate"]) * genuine), genuine)


def rate_interval(events: int, trials: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) without trials.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    share = events / trials
    centre = share + z * z / (2 * trials)
    margin = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if events == 0 else float((centre - margin) / scale)
    high = 1.0 if events == trials else float((centre + margin) / scale)
    return low, high


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None
