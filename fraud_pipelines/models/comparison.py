"""Contenders side by side on the same rows: how each stood, and that the simplest within noise of the best wins."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud_pipelines import limits
from fraud_pipelines.models.intervals import RankedDays, day_numbers, draw_days, interval, resampled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Standing:
    """One contender in the comparison, on the same rows as all others.

    `behind` is the average precision it lacks to the best, `standard_error` that of this difference (bootstrap over
    whole days, both judged on the same days); None where it could not be judged, and `words` says why.
    """

    name: str
    average_precision: float | None = None
    lower: float | None = None
    upper: float | None = None
    behind: float | None = None
    standard_error: float | None = None
    words: str = ""

    @property
    def is_within_noise(self) -> bool:
        """Not further behind the best than one standard error of the difference (Breiman et al. 1984, 1-SE rule)."""
        if self.behind is None or self.standard_error is None:
            return False
        return self.behind <= limits.STANDARD_ERRORS_OF_NOISE * self.standard_error


@dataclass(frozen=True)
class Comparison:
    """Who won and how all stood, simplest first; `rows`, `fraud_count` and `days` are what they were compared on."""

    winner: str
    standings: tuple[Standing, ...]
    rows: int = 0
    fraud_count: int = 0
    days: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for bundles and the registry."""
        return {**asdict(self), "standings": [asdict(standing) for standing in self.standings]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Comparison":
        return cls(**{**values, "standings": tuple(Standing(**standing) for standing in values["standings"])})

    def markdown(self) -> str:
        """One row per contender."""
        lines = ["| contender | average precision | behind the best | registered |", "|---|---|---|---|"]
        for standing in self.standings:
            if standing.average_precision is None:
                lines.append(f"| {standing.name} | {standing.words} | | |")
                continue
            bounds = f" ({standing.lower:.4f} to {standing.upper:.4f})" if standing.lower is not None else ""
            noise = f" (standard error {standing.standard_error:.4f})" if standing.standard_error else ""
            lines.append(
                f"| {standing.name} | {standing.average_precision:.4f}{bounds} | {standing.behind:.4f}{noise} | "
                f"{'yes' if standing.name == self.winner else ''} |"
            )
        return "\n".join(lines)


def compare(
    rows: "pd.DataFrame", log_odds: dict[str, np.ndarray], *, possible: Sequence[str] | None = None
) -> Comparison:
    """Rank the contenders on the rows that all of them were judged on; of those within noise of the best, the simplest.

    Args:
        rows: columns event_time, is_fraud; shape (n, ...).
        log_odds: per contender, simplest first, shape (n,); NaN where it was not judged. Any score that ranks will do.
        possible: the contenders that can be registered; None is all.
    """
    able = [name for name in log_odds if possible is None or name in possible]
    judged = [name for name in able if not np.isnan(log_odds[name]).all()]
    shared = np.all([~np.isnan(log_odds[name]) for name in judged], axis=0) if judged else np.zeros(len(rows), bool)
    truth = rows["is_fraud"].to_numpy(bool)[shared]
    missing = "could not be judged: too few blocks of days with labels before them"
    if not truth.any():
        simple = "xgboost" if "xgboost" in able else able[0]
        return Comparison(simple, tuple(Standing(name, words=missing) for name in log_odds))
    day = day_numbers(rows["event_time"][shared])
    ranked = {name: RankedDays(truth, log_odds[name][shared], day) for name in judged}
    days = len(next(iter(ranked.values())).frauds)
    copies, once = draw_days(days), np.ones((1, days))
    values = {name: float(found.average_precision(once)[0]) for name, found in ranked.items()}
    drawn = {name: resampled(found.average_precision, copies) for name, found in ranked.items()}
    best = max(judged, key=lambda name: values[name])
    standings = []
    for name in log_odds:
        if name not in judged:
            standings.append(Standing(name, words=missing))
            continue
        bearing = ranked[name].days_with_frauds
        bounds = interval(values[name], ranked[name].average_precision, copies, days_that_count=bearing)
        standings.append(
            Standing(
                name,
                values[name],
                bounds.lower if bounds else None,
                bounds.upper if bounds else None,
                values[best] - values[name],
                float(np.nanstd(drawn[best] - drawn[name], ddof=1)),
            )
        )
    winner = next((standing.name for standing in standings if standing.is_within_noise), best)
    return Comparison(winner, tuple(standings), int(shared.sum()), int(truth.sum()), days)
