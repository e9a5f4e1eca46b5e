"""Drift: how far a trailing window lies from the champion's training reference, with Evidently's tests.

Evidently computes the scores; the limits are compared here, so that a table row says which limit it met.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fraud_pipelines import limits, tables
from fraud_pipelines.errors import EmptySample

if TYPE_CHECKING:
    from evidently.core.report import Snapshot

MODEL_OUTPUT = "fraud_probability"
SAMPLE_SEED = 20_180_401  # any fixed number: the same window must give the same sample

# Method -> (limit, whether the score is a p-value: it alarms below the limit, a distance at or above it).
METHODS: dict[str, tuple[float, bool]] = {
    "wasserstein": (limits.DRIFT_WASSERSTEIN, False),
    "ks": (limits.DRIFT_KS_P_VALUE, True),
    "jensenshannon": (limits.DRIFT_JENSEN_SHANNON, False),
}
# On the page; the table has every method. The plots are of the values, not of the method: with all three, the page held
# each plot three times, and a browser worked half a minute to open it.
_SHOWN = "wasserstein"
DISTANCES = tuple(method for method, (_, is_p_value) in METHODS.items() if not is_p_value)


@dataclass(frozen=True)
class DriftVerdict:
    """What one day's rows say together.

    A feature has drifted when every distance alarms; the KS test is reported but does not decide, because its
    false alarms grow with the number of features and rows. Shares lie in [0, 1].
    """

    day: datetime
    drifted_features: int
    features: int
    share: float
    limit: float
    worst_feature: str
    worst_wasserstein: float | None
    is_output_drifted: bool
    reference_rows: int
    current_rows: int

    @property
    def is_drifted(self) -> bool:
        """Too many features drifted, or the model's own output did."""
        return self.share >= self.limit or self.is_output_drifted


def compare_windows(
    reference: pd.DataFrame, current: pd.DataFrame, *, features: tuple[str, ...], day: datetime, model_version: str
) -> pd.DataFrame:
    """DRIFT rows of one day: one per column (`features` and the model's output) and method.

    A column empty on one side only counts as drifted, with a null score: a feature that vanished is the worst drift.

    Args:
        reference, current: one row per transaction with `features` and `fraud_probability`; larger frames than
            `limits.DRIFT_SAMPLE_ROWS` are sampled with a fixed seed.
    Raises:
        EmptySample: one of the frames has no rows.
    """
    for name, frame in (("reference", reference), ("current", current)):
        if frame.empty:
            raise EmptySample(f"Drift of {day:%Y-%m-%d}: the {name} sample has no rows, at least one expected.")
    reference, current = sample(reference), sample(current)
    rows = []
    for column in (*features, MODEL_OUTPUT):
        before, after = _values(reference, column), _values(current, column)
        for method, (limit, is_p_value) in METHODS.items():
            score = drift_score(before, after, method) if len(before) and len(after) else None
            rows.append(
                {
                    "day": day,
                    "model_version": model_version,
                    "feature": column,
                    "method": method,
                    "score": score,
                    "threshold": limit,
                    "is_drifted": bool(len(before)) != bool(len(after))
                    if score is None
                    else (score < limit if is_p_value else score >= limit),
                    "reference_rows": len(reference),
                    "current_rows": len(current),
                }
            )
    frame = pd.DataFrame(rows, columns=list(tables.DRIFT.columns))
    return frame.astype({"day": "datetime64[us]", "score": float, "is_drifted": bool})


def drift_score(reference: pd.Series, current: pd.Series, method: str) -> float:
    """Evidently's score of two samples without nulls: a distance (>= 0), or a p-value in [0, 1] for "ks".

    "wasserstein" is divided by the reference's standard deviation (at least 0.001).
    """
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    test = get_stattest(reference, current, ColumnType.Numerical, method)
    with _without_ks_warning():
        return float(test(reference, current, ColumnType.Numerical, METHODS[method][0]).drift_score)


def verdict_of(rows: pd.DataFrame, *, limit: float = limits.DRIFT_FEATURE_SHARE) -> DriftVerdict:
    """Verdict over the DRIFT rows of one day.

    Raises:
        EmptySample: `rows` is empty.
    """
    if rows.empty:
        raise EmptySample(
            f"{tables.DRIFT.name} has no rows for this day, so there is no verdict. "
            "Run: fraud materialize monitoring/drift --from DAY --to DAY"
        )
    wide = rows[rows["method"].isin(DISTANCES)].groupby("feature", sort=False)["is_drifted"].all()
    wasserstein = rows[rows["method"] == "wasserstein"].set_index("feature")["score"]
    inputs = wide.drop(MODEL_OUTPUT)
    # A vanished feature has no score; it ranks above every distance.
    ranked = wasserstein.drop(MODEL_OUTPUT).where(lambda score: score.notna() | ~inputs, np.inf)
    worst = str(ranked.fillna(-1.0).idxmax())
    worst_score = wasserstein[worst]
    return DriftVerdict(
        day=rows["day"].iloc[0].to_pydatetime(),
        drifted_features=int(inputs.sum()),
        features=len(inputs),
        share=float(inputs.mean()),
        limit=limit,
        worst_feature=worst,
        worst_wasserstein=None if pd.isna(worst_score) else float(worst_score),
        is_output_drifted=bool(wide[MODEL_OUTPUT]),
        reference_rows=int(rows["reference_rows"].iloc[0]),
        current_rows=int(rows["current_rows"].iloc[0]),
    )


def drift_page(
    reference: pd.DataFrame, current: pd.DataFrame, *, features: tuple[str, ...], verdict: DriftVerdict
) -> str:
    """Evidently's interactive report of one day as one HTML page that fetches nothing when opened.

    The day's verdict, one distance and the distributions of each column. Columns without a value on either side are
    left out of the page; `compare_windows` reports them, and the other methods.
    """
    from evidently.metrics import DriftedColumnsCount, ValueDrift

    reference, current = sample(reference), sample(current)
    columns = [
        name for name in (*features, MODEL_OUTPUT) if len(_values(reference, name)) and len(_values(current, name))
    ]
    metrics = [
        DriftedColumnsCount(drift_share=limits.DRIFT_FEATURE_SHARE, num_method=_SHOWN),
        *(ValueDrift(column=name, method=_SHOWN, threshold=METHODS[_SHOWN][0]) for name in columns),
    ]
    page = str(_run(metrics, reference[columns], current[columns]).get_html_str(as_iframe=False))
    head, body, rest = page.partition("<body>")
    return f"{head}{body}\n{_words(verdict)}{rest}"


def _words(verdict: DriftVerdict) -> str:
    """What decides, ahead of a page that marks columns by one distance."""
    result, output = (
        ("has drifted" if drifted else "has not drifted") for drifted in (verdict.is_drifted, verdict.is_output_drifted)
    )
    return (
        '<p style="font-family: sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em">'
        f"<strong>Verdict of {verdict.day:%Y-%m-%d}: {result}.</strong> {verdict.drifted_features} of "
        f"{verdict.features} features drifted (share {verdict.share:.3f}, limit {verdict.limit:g}); the model's output "
        f"{output}. A feature counts when both its Wasserstein and its Jensen-Shannon distance alarm. Below, columns "
        f"are marked by the Wasserstein distance alone; table {tables.DRIFT.name} has every method.</p>"
    )


def sample(frame: pd.DataFrame) -> pd.DataFrame:
    """At most `limits.DRIFT_SAMPLE_ROWS` rows of `frame`, the same ones each time, in their order."""
    if len(frame) <= limits.DRIFT_SAMPLE_ROWS:
        return frame
    return frame.sample(limits.DRIFT_SAMPLE_ROWS, random_state=SAMPLE_SEED).sort_index()


def _values(frame: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(frame[column]).astype(float).dropna()


def _run(metrics: list, reference: pd.DataFrame, current: pd.DataFrame) -> "Snapshot":
    from evidently import DataDefinition, Dataset, Report

    definition = DataDefinition(numerical_columns=list(reference.columns))
    before, after = (
        Dataset.from_pandas(frame.astype(float).reset_index(drop=True), data_definition=definition)
        for frame in (reference, current)
    )
    with _without_ks_warning():
        return Report(metrics).run(after, before)  # current first


@contextmanager
def _without_ks_warning() -> Iterator[None]:
    """Where the exact p-value fails, SciPy says so and uses the asymptotic formula, which is what is wanted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
        yield
