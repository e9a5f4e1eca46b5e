"""Performance of the scores that were given, on labels mature at the end of each day, never on guesses."""

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.models.evaluation import ranking_metrics
from fraud_pipelines.models.policy import APPROVE, BLOCK
from fraud_pipelines.monitoring.windows import DAY, MatureWindow


def performance_rows(window: MatureWindow) -> pd.DataFrame:
    """PERFORMANCE rows of one model version on the day that ends at `window.end`, one per metric.

    The ranking metrics are those of the evaluation; the others judge the recorded decisions, not thresholds applied
    again. A metric the sample does not define (no labels yet, no frauds) is null, with its row counts beside it, so
    that an early day says openly that nothing could be judged.
    """
    labelled = window.labelled
    scores = labelled["fraud_probability"].to_numpy(np.float64)
    values = {**ranking_metrics(labelled, scores), **decision_metrics(labelled)}
    rows = pd.DataFrame(
        {
            "day": window.end - DAY,
            "model_version": window.model_version,
            "metric": list(values),
            "value": list(values.values()),
            "rows": len(labelled),
            "fraud_count": int(labelled["is_fraud"].sum()),
            "unlabelled_rows": window.unlabelled_rows,
        },
        columns=list(tables.PERFORMANCE.columns),
    )
    return rows.astype({"day": "datetime64[us]", "value": float})


def decision_metrics(judged: pd.DataFrame) -> dict[str, float | None]:
    """Shares in [0, 1] of what was decided; flagged = REVIEW or BLOCK. None where the denominator is empty.

    Args:
        judged: one row per labelled transaction: `decision`, `is_fraud`, `amount_minor`.
    """
    truth = judged["is_fraud"].to_numpy(bool)
    blocked = (judged["decision"] == BLOCK).to_numpy(bool)
    flagged = (judged["decision"] != APPROVE).to_numpy(bool)
    fraud_amount = judged["amount_minor"].to_numpy(np.float64)[truth]
    return {
        "fraud_share": _share(truth),
        "flagged_share": _share(flagged),
        "block_precision": _share(truth[blocked]),
        "block_recall": _share(blocked[truth]),
        "flagged_precision": _share(truth[flagged]),
        "flagged_recall": _share(flagged[truth]),
        "value_detected": float(fraud_amount[flagged[truth]].sum() / fraud_amount.sum())
        if fraud_amount.sum()
        else None,
    }


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None
