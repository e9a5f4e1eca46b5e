"""How often the gate `improves_on_champion` promotes a candidate that is no better, and one that is, by simulation.

    python benchmarks/promotion.py             # 200 pairs of models per size: under a minute
    python benchmarks/promotion.py --trials 1000
    python benchmarks/promotion.py --quick     # a few pairs: does it work, not how often

Two models score the same simulated payments. Days differ in their number of frauds and in how hard those are to see,
for both models alike; on top, each model has good and bad days of its own, and noise of its own on each payment. In an
A/A trial both have the same quality, so that every promotion is a mistake; in the other trials the candidate sees
frauds better. Each trial asks the gate that guards promotions (fraud_pipelines/models/gates.py) at its default limits.

Prints progress on stderr and one JSON object on stdout:

  trials               pairs of equal models per size, and as many with a real gain
  promoted_share       largest share of A/A trials that promoted, over the sizes; promised: at most 0.05
  sizes                per test window: days, rows a day, fraud share in the middle, and
    promoted_share       share of A/A trials promoted
    margin_alone_share   share that the 2 % margin would have promoted without the paired test
    power                share of trials with a real gain that promoted
    real_gain            mean relative gain of average precision in these
  seconds              what all this took
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines.models.evaluation import AVERAGE_PRECISION, Evaluation
from fraud_pipelines.models.gates import Gate, promotion_gates
from fraud_pipelines.models.metrics import average_precision

TRIALS, QUICK = 200, 8
SINCE = datetime(2026, 1, 1)
# In standard deviations of a payment's latent risk. With these, two equal models differ by 2 % or more in about a
# third of the trials, which is where a margin alone goes wrong.
DAY_HARDNESS, DAYS_OF_ITS_OWN, NOISE_OF_ITS_OWN, SEPARATION = 0.4, 0.15, 0.35, 3.0
REAL_GAIN = 0.25


@dataclass(frozen=True)
class Size:
    """A test window."""

    days: int
    rows_per_day: int
    fraud_share: float


SIZES = (Size(5, 2_000, 0.01), Size(7, 4_000, 0.007), Size(14, 2_000, 0.007), Size(28, 1_000, 0.01))


def main(given: list[str] | None = None) -> dict[str, Any]:
    """Simulate, and print the figures; see the head of this file."""
    arguments = _arguments(given)
    trials = QUICK if arguments.quick else arguments.trials
    started = time.monotonic()
    sizes = [_of_size(size, trials, started) for size in (SIZES[1:2] if arguments.quick else SIZES)]
    figures = {
        "trials": trials,
        "promoted_share": max(size["promoted_share"] for size in sizes),
        "sizes": sizes,
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(figures, indent=2))
    return figures


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"pairs of models per size (default: {TRIALS})")
    parser.add_argument("--quick", action="store_true", help=f"one size, {QUICK} pairs")
    return parser.parse_args(given)


def _of_size(size: Size, trials: int, started: float) -> dict[str, Any]:
    rng = np.random.default_rng(size.days)
    print(f"{time.monotonic() - started:6.0f} s  {size}: {trials} A/A trials", file=sys.stderr, flush=True)
    equal = [improvement(*pair(rng, size)) for _ in range(trials)]
    print(f"{time.monotonic() - started:6.0f} s  {size}: {trials} with a real gain", file=sys.stderr, flush=True)
    better = [improvement(*pair(rng, size, gain=REAL_GAIN)) for _ in range(trials)]
    return {
        "days": size.days,
        "rows_per_day": size.rows_per_day,
        "fraud_share": size.fraud_share,
        "promoted_share": float(np.mean([gate.passed for gate in equal])),
        "margin_alone_share": float(np.mean([gate.value >= gate.limit for gate in equal])),
        "power": float(np.mean([gate.passed for gate in better])),
        "real_gain": round(float(np.mean([gate.value for gate in better])), 3),
    }


def pair(rng: np.random.Generator, size: Size, *, gain: float = 0.0) -> tuple[Evaluation, Evaluation]:
    """Evaluations of candidate and champion on the same payments; `gain` is the candidate's additional separation."""
    day = np.repeat(np.arange(size.days), size.rows_per_day)
    shares = size.fraud_share * rng.lognormal(0.0, 0.4, size.days)
    is_fraud = rng.random(len(day)) < shares[day]
    risk = rng.normal(size=len(day)) + rng.normal(0, DAY_HARDNESS, size.days)[day] * is_fraud
    found = []
    for separation in (SEPARATION + gain, SEPARATION):
        own = separation + rng.normal(0, DAYS_OF_ITS_OWN, size.days)
        latent = risk + own[day] * is_fraud + rng.normal(0, NOISE_OF_ITS_OWN, len(day))
        found.append(_evaluation(day, is_fraud, 1 / (1 + np.exp(4 - latent)), size))
    return found[0], found[1]


def improvement(candidate: Evaluation, champion: Evaluation) -> Gate:
    """The gate under test, as a promotion sees it."""
    return next(gate for gate in promotion_gates(candidate, champion) if gate.name == "improves_on_champion")


def _evaluation(day: np.ndarray, is_fraud: np.ndarray, probability: np.ndarray, size: Size) -> Evaluation:
    scores = pd.DataFrame(
        {
            "transaction_id": np.arange(len(day)),
            "event_time": np.datetime64(SINCE, "us") + day * np.timedelta64(1, "D"),
            "is_fraud": is_fraud,
            "fraud_probability": probability,
        }
    )
    return Evaluation(
        metrics={AVERAGE_PRECISION: average_precision(is_fraud, probability)},
        rows=len(day),
        fraud_count=int(is_fraud.sum()),
        since=SINCE,
        until=SINCE + timedelta(days=size.days),
        as_of=SINCE + timedelta(days=size.days),
        scores=scores,
        excluded={},
        precision_recall=[],
        roc=[],
    )


if __name__ == "__main__":
    main()
