"""What a probability was worth: bands of it with the fraud rate that was observed in each on the validation days.

A probability of 0.2 is a claim; that 14 to 23 % of the payments with such a score turned out to be fraud is evidence.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fraud_pipelines.errors import ContractBroken

# Finer where most payments are, and where thresholds lie.
EDGES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Band:
    """Probabilities of [low, high), 1 included in the last; how many validation rows had one, and how many frauds."""

    low: float
    high: float
    transactions: int
    frauds: int

    @property
    def observed_rate(self) -> float | None:
        """Share of frauds; None without rows."""
        return self.frauds / self.transactions if self.transactions else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the rate; None without rows. Source: Wilson 1927, without continuity correction."""
        n = self.transactions
        if not n:
            return None
        rate, z2 = self.frauds / n, _NORMAL_95**2
        center = (rate + z2 / (2 * n)) / (1 + z2 / n)
        half = _NORMAL_95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
        return max(center - half, 0.0), min(center + half, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)


def observed_bands(is_fraud: np.ndarray, probabilities: np.ndarray) -> tuple[Band, ...]:
    """The bands of EDGES over rows, shape (n,) each; empty ones, too.

    Raises:
        ContractBroken: a probability is not in [0, 1].
    """
    values = np.asarray(probabilities, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ContractBroken("Bands: expected probabilities in [0, 1].")
    band_of = _positions(values)
    rows = np.bincount(band_of, minlength=len(EDGES) - 1)
    frauds = np.bincount(band_of, weights=np.asarray(is_fraud, np.float64), minlength=len(EDGES) - 1)
    return tuple(
        Band(low, high, int(n), int(positive))
        for low, high, n, positive in zip(EDGES[:-1], EDGES[1:], rows, frauds, strict=True)
    )


def _positions(values: np.ndarray) -> np.ndarray:
    return np.minimum(np.searchsorted(EDGES, values, side="right") - 1, len(EDGES) - 2)
