"""What a replay comes to: flips, money, reviews, group rates."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.models.policy import APPROVE, BLOCK, DECISIONS, REVIEW, CostMatrix, expected_cost
from fraud_pipelines.models.replay import Replay
from fraud_pipelines.monitoring.fairness import ATTRIBUTES, group_rates
from fraud_pipelines.warehouse import Warehouse

MINOR_PER_UNIT = 100


@dataclass(frozen=True)
class Flips:
    """Decisions a model made, recorded (rows) against replayed (columns), both in the order APPROVE, REVIEW, BLOCK.

    `fallbacks` counts recorded decisions that no model made; they are no flips, whatever a model says of them.
    `rescored` counts decisions scored again by the version that made them from the values it was served, `moved` how
    many of these got another probability: anything but 0 means that scoring is not repeatable.
    """

    counts: np.ndarray
    fallbacks: int
    rescored: int
    moved: int

    @property
    def decided(self) -> int:
        """Decisions compared."""
        return int(self.counts.sum())

    @property
    def flipped(self) -> int:
        """Decisions that came out differently."""
        return int(self.counts.sum() - np.trace(self.counts))


@dataclass(frozen=True)
class Money:
    """Amounts in units of the currency, on labelled transactions only; costs by the cost matrix of the policy.

    `saving_share` is the part of the cost of approving everything that is saved; None without frauds.
    """

    transactions: int
    frauds: int
    fraud_amount: float
    fraud_blocked: float
    fraud_reviewed: float
    fraud_missed: float
    genuine_blocked: float
    genuine_reviewed: float
    cost: float
    cost_per_1000: float | None
    saving_share: float | None


@dataclass(frozen=True)
class Reviews:
    """Payments sent to review per day of the range, days without any included, against the capacity."""

    mean_per_day: float
    most_on_a_day: int
    capacity_per_day: float
    days_above_capacity: int


@dataclass(frozen=True)
class Summary:
    """All of it. `recorded` and `replayed_decided` are about the same transactions, those with a recorded decision.

    `groups` has the columns of monitoring.fairness that speak of one group.
    """

    replay: Replay
    flips: Flips
    replayed: Money
    recorded: Money
    replayed_decided: Money
    reviews: Reviews
    unlabelled: int
    groups: pd.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        replay, flips = self.replay, self.flips
        return {
            "version": replay.version,
            "thresholds": {name: asdict(thresholds) for name, thresholds in replay.thresholds.items()},
            "since": replay.since.isoformat(),
            "until": replay.until.isoformat(),
            "labels_as_of": replay.as_of.isoformat(),
            "transactions": len(replay.rows),
            "from_served_features": int(replay.rows["is_served"].sum()),
            "unlabelled": self.unlabelled,
            "left_out": replay.left_out,
            "decided": flips.decided,
            "flipped": flips.flipped,
            "flips": {
                word: dict(zip(DECISIONS, row, strict=True))
                for word, row in zip(DECISIONS, flips.counts.tolist(), strict=True)
            },
            "fallbacks": flips.fallbacks,
            "rescored": flips.rescored,
            "rescored_probabilities_moved": flips.moved,
            "costs": asdict(replay.costs),
            "money": {
                "replayed": asdict(self.replayed),
                "recorded": asdict(self.recorded),
                "replayed_decided": asdict(self.replayed_decided),
            },
            "reviews": asdict(self.reviews),
            "groups": [
                {name: None if pd.isna(value) else value for name, value in row.items()}
                for row in self.groups.to_dict("records")
            ],
        }


def summarize(replay: Replay, warehouse: Warehouse) -> Summary:
    """Flips, money, reviews and group rates of a replay; customer attributes come from raw.customers."""
    rows = replay.rows
    labelled = rows[rows["is_fraud"].notna()]
    decided = labelled[labelled["recorded"].notna()]
    return Summary(
        replay=replay,
        flips=flips(rows),
        replayed=money(labelled, "replayed", replay.costs),
        recorded=money(decided, "recorded", replay.costs),
        replayed_decided=money(decided, "replayed", replay.costs),
        reviews=reviews(replay),
        unlabelled=len(rows) - len(labelled),
        groups=groups(replay, warehouse),
    )


def flips(rows: pd.DataFrame) -> Flips:
    """Recorded against replayed decisions of the rows of a replay."""
    recorded = rows[rows["recorded"].notna()]
    by_model = recorded[~recorded["is_fallback"]]
    again = by_model[by_model["is_served"] & (by_model["version"] == by_model["recorded_version"])]
    return Flips(
        counts=decision_counts(by_model["recorded"], by_model["replayed"]),
        fallbacks=len(recorded) - len(by_model),
        rescored=len(again),
        moved=int((again["fraud_probability"] != again["recorded_probability"]).sum()),
    )


def decision_counts(one: pd.Series, other: pd.Series) -> np.ndarray:
    """How often one decision stands beside another, shape (3, 3), both in the order APPROVE, REVIEW, BLOCK."""
    place = {word: number for number, word in enumerate(DECISIONS)}
    counts = np.zeros((len(DECISIONS), len(DECISIONS)), dtype=np.int64)
    np.add.at(counts, (one.map(place).to_numpy(int), other.map(place).to_numpy(int)), 1)
    return counts


def money(labelled: pd.DataFrame, column: str, costs: CostMatrix) -> Money:
    """What the decisions in `column` stopped, missed and cost.

    Args:
        labelled: rows of a replay with a label.
    """
    truth = labelled["is_fraud"].to_numpy(bool)
    amounts, decisions = labelled["amount_minor"].to_numpy(np.int64), labelled[column].to_numpy(object)
    cost = expected_cost(truth, amounts, decisions, costs)
    of_approving = expected_cost(truth, amounts, np.full(len(truth), APPROVE, dtype=object), costs)

    def total(chosen: np.ndarray) -> float:
        return int(amounts[chosen].sum()) / MINOR_PER_UNIT

    return Money(
        transactions=len(truth),
        frauds=int(truth.sum()),
        fraud_amount=total(truth),
        fraud_blocked=total(truth & (decisions == BLOCK)),
        fraud_reviewed=total(truth & (decisions == REVIEW)),
        fraud_missed=total(truth & (decisions == APPROVE)),
        genuine_blocked=total(~truth & (decisions == BLOCK)),
        genuine_reviewed=total(~truth & (decisions == REVIEW)),
        cost=cost,
        cost_per_1000=1000 * cost / len(truth) if len(truth) else None,
        saving_share=1 - cost / of_approving if of_approving else None,
    )


def reviews(replay: Replay) -> Reviews:
    """Reviews per day against the capacity, which as a share is one of the transactions replayed."""
    rows = replay.rows
    per_day = rows.loc[rows["replayed"] == REVIEW, "event_time"].dt.floor("D").value_counts()
    capacity = replay.capacity.reviews_per_day(len(rows), replay.days)
    return Reviews(
        mean_per_day=int(per_day.sum()) / replay.days,
        most_on_a_day=int(per_day.max()) if len(per_day) else 0,
        capacity_per_day=capacity,
        days_above_capacity=int((per_day > capacity).sum()),
    )


def groups(replay: Replay, warehouse: Warehouse) -> pd.DataFrame:
    """Rates of the replayed decisions per customer attribute and group, on labelled transactions."""
    rows = replay.rows[replay.rows["is_fraud"].notna()].drop(columns="recorded")
    customers = warehouse.read(tables.CUSTOMERS, columns=["customer_id", *ATTRIBUTES])
    judged = rows.rename(columns={"replayed": "decision"}).merge(customers, how="left", on="customer_id")
    rates = group_rates(judged, day=replay.since, model_version=replay.version)
    return rates.drop(columns=["day", "model_version"])
