"""From a probability to a decision: two thresholds of least expected cost, chosen on validation rows and stored with
the model, beside the cost matrix, the review capacity and the rows they were chosen with.

What a decision costs, in units of the currency (EUR, not cents):

    decision    on a fraud of amount a                                  on a genuine payment
    APPROVE     a * missed_share + chargeback_fee                       0
    REVIEW      review_cost + (1 - review_catches) * cost of APPROVE    review_cost + review_friction
    BLOCK       0                                                       block_friction
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, overload

import numpy as np

from fraud_pipelines import limits
from fraud_pipelines.errors import ContractBroken, SettingInvalid
from fraud_pipelines.models.metrics import count_by_threshold

APPROVE, REVIEW, BLOCK = "APPROVE", "REVIEW", "BLOCK"
DECISIONS = (APPROVE, REVIEW, BLOCK)

# With fewer frauds a validation sample says too little, and DEFAULT_THRESHOLDS are used instead.
FEWEST_FRAUDS = 20

# Costs are summed as integers of a hundredth of a minor unit (0.0001 EUR), so that a tie is a tie on every machine;
# ten million rows of the largest amount still fit 64 bits.
_STEPS_PER_MINOR, _MINOR_PER_UNIT = 100, 100
_STEPS_PER_UNIT = _STEPS_PER_MINOR * _MINOR_PER_UNIT


@dataclass(frozen=True)
class Thresholds:
    """APPROVE below `review`, REVIEW from `review` to below `block`, BLOCK from `block` on.

    Raises:
        ContractBroken: not 0 <= review <= block <= 1.
    """

    review: float
    block: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.review <= self.block <= 1.0:
            raise ContractBroken(
                f"Thresholds: expected 0 <= review <= block <= 1, found review {self.review}, block {self.block}."
            )

    @overload
    def decide(self, probability: float) -> str: ...
    @overload
    def decide(self, probability: np.ndarray) -> np.ndarray: ...
    def decide(self, probability: float | np.ndarray) -> str | np.ndarray:
        """The decision word for one probability, or an object array of words for many.

        Raises:
            ContractBroken: a probability is NaN; it would compare as APPROVE.
        """
        values = np.asarray(probability, dtype=np.float64)
        if np.isnan(values).any():
            raise ContractBroken("Thresholds.decide: a fraud probability is NaN; a decision needs a number in [0, 1].")
        words = np.array(DECISIONS, dtype=object)[(values >= self.review).astype(int) + (values >= self.block)]
        return str(words) if values.ndim == 0 else words


# Source: the APPROVE < 0.3 <= REVIEW < 0.7 <= BLOCK convention of published scoring services; used when there are
# too few validation frauds to choose from.
DEFAULT_THRESHOLDS = Thresholds(review=0.30, block=0.70)


@dataclass(frozen=True)
class CostMatrix:
    """What right and wrong decisions cost, in units of the warehouse's currency; see the table above.

    Args:
        missed_share: share of a missed fraud's amount that is lost, in [0, 1] (a bank may recover the rest).
        chargeback_fee: fee of a missed fraud on top of its amount, at least 0.
        review_cost: an analyst's time for one review, at least 0.
        review_catches: share of the frauds sent to review that the analyst stops, in [0, 1].
        block_friction: a genuine payment blocked: the call, the lost sale, the angry customer; at least 0.
        review_friction: a genuine payment held for review, on top of the review's own cost; at least 0.
    Raises:
        SettingInvalid: a value is out of its range or not finite.
    """

    missed_share: float = limits.MISSED_FRAUD_SHARE
    chargeback_fee: float = limits.CHARGEBACK_FEE
    review_cost: float = limits.REVIEW_COST
    review_catches: float = limits.REVIEW_CATCHES
    block_friction: float = limits.BLOCK_FRICTION
    review_friction: float = limits.REVIEW_FRICTION

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name in ("missed_share", "review_catches") else limits.LARGEST_COST
            if not 0.0 <= value <= most:
                raise SettingInvalid(f"CostMatrix: expected {name} from 0 to {most:,.0f}, found {value}.")

    @classmethod
    def parse(cls, text: str) -> "CostMatrix":
        """The default costs, changed as a text such as `review_cost=4, block_friction=30` says.

        Raises:
            SettingInvalid: a part is no name and number, a name is unknown, or a value is out of range.
        """
        changes: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = (word.strip() for word in part.partition("="))
            if name not in cls.__dataclass_fields__:
                raise SettingInvalid(
                    f"FRAUD_COSTS: expected names among {list(cls.__dataclass_fields__)}, found {part!r}."
                )
            try:
                changes[name] = float(value)
            except ValueError:
                raise SettingInvalid(f"FRAUD_COSTS: expected a number such as {name}=5, found {part!r}.") from None
        return cls(**changes)


@dataclass(frozen=True)
class ReviewCapacity:
    """How many payments a day people can review: a number of their own, or a share of the daily volume.

    The capacity holds for the mean of the days. On a day that brings more, every one of them still goes to REVIEW: the
    queue is longer that day and shorter on another, and nothing is approved because people are busy.

    Args:
        per_day: reviews per day, at least 0; None means `share` of the mean daily volume.
        share: in [0, 1].
    Raises:
        SettingInvalid: a value is out of its range.
    """

    per_day: float | None = None
    share: float = limits.REVIEW_SHARE

    def __post_init__(self) -> None:
        if (self.per_day is not None and not 0.0 <= self.per_day < np.inf) or not 0.0 <= self.share <= 1.0:
            raise SettingInvalid(
                "ReviewCapacity: expected per_day of at least 0 or none, and share from 0 to 1; "
                f"found {self.per_day}, {self.share}."
            )

    def reviews_per_day(self, rows: int, days: int) -> float:
        """Reviews per day over `rows` payments of `days` whole days (at least 1)."""
        return float(self.per_day) if self.per_day is not None else self.share * rows / days


@dataclass(frozen=True)
class PolicyBasis:
    """What the thresholds of a model were chosen with; kept in its bundle.

    `reviews_per_day` is the capacity as it came out for the validation window [since, until). With fewer frauds than
    FEWEST_FRAUDS the thresholds are DEFAULT_THRESHOLDS, whatever the costs.
    """

    costs: CostMatrix
    capacity: ReviewCapacity
    reviews_per_day: float
    since: datetime
    until: datetime
    rows: int
    fraud_count: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "since": self.since.isoformat(), "until": self.until.isoformat()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PolicyBasis":
        """The basis that `as_dict` describes."""
        return cls(
            costs=CostMatrix(**values["costs"]),
            capacity=ReviewCapacity(**values["capacity"]),
            reviews_per_day=values["reviews_per_day"],
            since=datetime.fromisoformat(values["since"]),
            until=datetime.fromisoformat(values["until"]),
            rows=values["rows"],
            fraud_count=values["fraud_count"],
        )


def choose_thresholds(
    is_fraud: np.ndarray,
    probabilities: np.ndarray,
    amounts_minor: np.ndarray,
    *,
    days: int,
    costs: CostMatrix,
    reviews_per_day: float,
) -> Thresholds:
    """The two thresholds of least total cost on one validation sample, at most `reviews_per_day` reviews in the mean.

    Exact: no pair of thresholds, whatever its values, costs less on this sample within the capacity. Of several pairs
    that cost the same, the one that stops fewest payments is taken, then the one that blocks fewest. Each threshold is
    the lowest score it stops; where nothing is to be blocked, `block` lies above every score seen and at or above the
    default. With fewer than FEWEST_FRAUDS frauds the answer is DEFAULT_THRESHOLDS.

    Args:
        is_fraud, probabilities, amounts_minor: shape (n,), validation rows only, never test rows; probabilities in
            [0, 1], amounts in minor units.
        days: whole days the rows come from, at least 1.
    Raises:
        ContractBroken: a probability is not in [0, 1].
    """
    truth, scores = np.asarray(is_fraud, dtype=bool), np.asarray(probabilities, dtype=np.float64)
    if not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise ContractBroken("choose_thresholds: expected every fraud probability in [0, 1], found one outside.")
    if truth.sum() < FEWEST_FRAUDS:
        return DEFAULT_THRESHOLDS
    counts = count_by_threshold(truth, scores)
    # Entry i is about the i most suspicious groups of equal scores, i = 0 ... m: how many rows, and their total costs.
    flagged = np.append(0, counts.true_positives + counts.false_positives)
    order = np.argsort(-scores, kind="stable")
    steps = _steps(truth[order], np.asarray(amounts_minor)[order], costs)
    approve, review, block = (np.append(0, np.cumsum(row))[flagged] for row in steps)
    # A score of 1 lies above no threshold: it can only be blocked.
    first = 1 if counts.thresholds[0] >= 1.0 else 0
    # A share of the volume comes back as a hair less than the whole number it stands for.
    most_reviews = int(days * reviews_per_day + 1e-6)
    blocked, stopped = _cheapest(block - review, review - approve, flagged, most_reviews, first)
    highest = float(counts.thresholds[0])
    above = min(1.0, max(DEFAULT_THRESHOLDS.block, float(np.nextafter(highest, 2.0))))
    block_from = float(counts.thresholds[blocked - 1]) if blocked else above
    review_from = float(counts.thresholds[stopped - 1]) if stopped > blocked else block_from
    return Thresholds(review=review_from, block=block_from)


def _cheapest(
    by_blocked: np.ndarray, by_stopped: np.ndarray, flagged: np.ndarray, most_reviews: int, first: int
) -> tuple[int, int]:
    """Positions b <= s of the least by_blocked[b] + by_stopped[s] with flagged[s] - flagged[b] <= most_reviews.

    As s grows, so does the smallest b that the capacity allows: the least by_blocked of a sliding window, which a
    double-ended queue gives in linear time. Ties go to the smallest s, then the smallest b.

    Args:
        by_blocked, by_stopped, flagged: shape (m + 1,); `flagged` ascends strictly.
        first: smallest b allowed.
    """
    lowest = np.searchsorted(flagged, flagged - most_reviews, side="left")
    window: deque[int] = deque()
    best, answer = None, (first, first)
    blocked_costs, stopped_costs = by_blocked.tolist(), by_stopped.tolist()
    for stopped, bound in enumerate(lowest.tolist()):
        while window and blocked_costs[window[-1]] > blocked_costs[stopped]:
            window.pop()
        if stopped >= first:
            window.append(stopped)
        while window and window[0] < bound:
            window.popleft()
        if window and (best is None or blocked_costs[window[0]] + stopped_costs[stopped] < best):
            best, answer = blocked_costs[window[0]] + stopped_costs[stopped], (window[0], stopped)
    return answer


def expected_cost(is_fraud: np.ndarray, amounts_minor: np.ndarray, decisions: np.ndarray, costs: CostMatrix) -> float:
    """What decisions cost in total, in units of the currency; of a reviewed fraud, the expected part that slips by.

    Args:
        is_fraud, amounts_minor, decisions: shape (n,); amounts in minor units, decisions APPROVE, REVIEW or BLOCK.
    """
    steps = _steps(np.asarray(is_fraud, dtype=bool), np.asarray(amounts_minor), costs)
    total = sum(int(row[decisions == word].sum()) for word, row in zip(DECISIONS, steps, strict=True))
    return total / _STEPS_PER_UNIT


def _steps(is_fraud: np.ndarray, amounts_minor: np.ndarray, costs: CostMatrix) -> np.ndarray:
    """Cost of each decision (rows: APPROVE, REVIEW, BLOCK) on each payment, int64 of shape (3, n), in steps."""
    unit = _STEPS_PER_UNIT
    lost = amounts_minor * (costs.missed_share * _STEPS_PER_MINOR) + costs.chargeback_fee * unit
    missed = np.where(is_fraud, lost, 0.0)
    friction = np.where(is_fraud, 0.0, costs.review_friction * unit)
    reviewed = costs.review_cost * unit + friction + (1.0 - costs.review_catches) * missed
    blocked = np.where(is_fraud, 0.0, costs.block_friction * unit)
    return np.rint(np.stack([missed, reviewed, blocked])).astype(np.int64)
