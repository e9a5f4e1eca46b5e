"""Champion and challenger on the same live payments: flips, money, and the paired test that the gates use.

Both scored each payment from the same feature values when it was decided, so nothing is scored again here. Labels count
as known by an explicit moment; no clock is read.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample, UnknownVersion
from fraud_pipelines.models.intervals import Gain, RankedDays, average_precision_gain, day_numbers, draw_days
from fraud_pipelines.models.metrics import average_precision
from fraud_pipelines.models.policy import DECISIONS, CostMatrix
from fraud_pipelines.models.replay_summary import Money, decision_counts, money
from fraud_pipelines.warehouse import Session, Warehouse

if TYPE_CHECKING:
    from fraud_pipelines.ledger import Ledger
    from fraud_pipelines.models.bundle import Bundle

_COLUMNS: dict[str, Any] = {
    "transaction_id": object,
    "event_time": "datetime64[us]",
    "amount_minor": np.int64,
    "champion_version": object,
    "champion_probability": np.float64,
    "champion_decision": object,
    "challenger_probability": np.float64,
    "challenger_decision": object,
    "is_canary": bool,
}


@dataclass(frozen=True)
class SideBySide:
    """What a challenger decided beside the champions of [since, until).

    `counts` has the champion's decision in its rows and the challenger's in its columns, both in the order APPROVE,
    REVIEW, BLOCK, of all `rows`. Money, average precisions and their paired test are of the `labelled`: mature payments
    with a label known by `as_of`. `gain` is the challenger's over the champion's; the rest is None without frauds.
    """

    version: str
    digest: str
    champions: tuple[str, ...]
    since: datetime
    until: datetime
    as_of: datetime
    rows: int
    canary_rows: int
    immature: int
    unlabelled: int
    counts: np.ndarray = field(repr=False)
    costs: CostMatrix
    champion_money: Money
    challenger_money: Money
    champion_average_precision: float | None
    challenger_average_precision: float | None
    gain: Gain

    @property
    def flipped(self) -> int:
        """Payments on which the two decided differently."""
        return int(self.counts.sum() - np.trace(self.counts))

    @property
    def labelled(self) -> int:
        """Payments that count in the comparison."""
        return self.champion_money.transactions

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "version": self.version,
            "bundle_digest": self.digest,
            "champions": list(self.champions),
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "labels_as_of": self.as_of.isoformat(),
            "transactions": self.rows,
            "decided_by_challenger": self.canary_rows,
            "flipped": self.flipped,
            "flips": {
                word: dict(zip(DECISIONS, row, strict=True))
                for word, row in zip(DECISIONS, self.counts.tolist(), strict=True)
            },
            "left_out": {"label_not_mature": self.immature, "unlabelled": self.unlabelled},
            "costs": asdict(self.costs),
            "money": {"champion": asdict(self.champion_money), "challenger": asdict(self.challenger_money)},
            "average_precision": {
                "champion": self.champion_average_precision,
                "challenger": self.challenger_average_precision,
                "gain": asdict(self.gain),
            },
        }


def side_by_side(
    warehouse: Warehouse,
    ledger: "Ledger",
    load: Callable[[str], "Bundle"],
    *,
    version: str,
    since: datetime,
    until: datetime,
    as_of: datetime | None = None,
) -> SideBySide:
    """Compare a challenger with the champions beside it on the payments of [since, until), by event time.

    Mature is what lies the challenger's label delay before `as_of`: before that, hardly any but frauds have labels.

    Args:
        load: gives the bundle of a version, such as `Registry.load`, for its costs and label delay.
        since, until: midnights, naive UTC.
        as_of: only labels known by then count; None is the label delay after `until`.
    Raises:
        UnknownVersion: the version never was challenger.
        ContractBroken: the range is empty, or the registry's version is not the bundle that was compared.
        EmptySample: nothing of the range was compared.
    """
    if not since < until:
        raise ContractBroken(
            f"A comparison needs a first day and a last day not before it; found [{since:%Y-%m-%d}, "
            f"{until:%Y-%m-%d}). Run: fraud shadow {version} --from DAY --to DAY"
        )
    digest = next((row.bundle_digest for row in reversed(ledger.challenges()) if row.model_version == version), None)
    if digest is None:
        raise UnknownVersion(
            f"Version {version} never was challenger, so nothing was scored with it beside the champion. "
            f"Run: fraud challenge {version} --reason 'WHY', or decide past payments again: fraud replay --version "
            f"{version} --from DAY --to DAY"
        )
    bundle = load(version)
    if bundle.digest != digest:
        raise ContractBroken(
            f"Version {version} was compared as bundle {digest}; the registry's version {version} is bundle "
            f"{bundle.digest}. Ledger and registry are not of one installation: check FRAUD_LEDGER_URL and "
            "FRAUD_REGISTRY_URL with: fraud doctor"
        )
    delay = timedelta(days=bundle.label_delay_days)
    moment = as_of or until + delay
    found, days = [], (until - since).days
    with warehouse.session() as session:
        for day in (since + timedelta(days=number) for number in range(days)):
            compared = ledger.shadow_decisions(digest, day, day + timedelta(days=1))
            frame = pd.DataFrame([[getattr(row, name) for name in _COLUMNS] for row in compared], columns=[*_COLUMNS])
            labels = _labels(session, day, day + timedelta(days=1), moment)
            found.append(frame.astype(_COLUMNS).merge(labels, how="left", on="transaction_id"))
    rows = pd.concat(found, ignore_index=True)
    if rows.empty:
        raise EmptySample(
            f"No payment of [{since:%Y-%m-%d}, {until:%Y-%m-%d}) was scored with challenger {version} beside the "
            "champion. Was the service running, and what does GET /health say of the challenger? Choose other days: "
            f"fraud shadow {version} --from DAY --to DAY"
        )
    is_mature = rows["event_time"] < pd.Timestamp(moment - delay)
    labelled = rows[is_mature & rows["is_fraud"].notna()]
    costs = bundle.policy.costs if bundle.policy else CostMatrix()
    champion, challenger, gain = _paired(labelled)
    return SideBySide(
        version=version,
        digest=digest,
        champions=tuple(dict.fromkeys(rows["champion_version"])),
        since=since,
        until=until,
        as_of=moment,
        rows=len(rows),
        canary_rows=int(rows["is_canary"].sum()),
        immature=int((~is_mature).sum()),
        unlabelled=int((is_mature & rows["is_fraud"].isna()).sum()),
        counts=decision_counts(rows["champion_decision"], rows["challenger_decision"]),
        costs=costs,
        champion_money=money(labelled, "champion_decision", costs),
        challenger_money=money(labelled, "challenger_decision", costs),
        champion_average_precision=champion,
        challenger_average_precision=challenger,
        gain=gain,
    )


def _paired(labelled: pd.DataFrame) -> tuple[float | None, float | None, Gain]:
    """Average precision of champion and challenger, and the paired test of the gain on the same days."""
    truth = labelled["is_fraud"].to_numpy(bool)
    scores = [labelled[f"{name}_probability"].to_numpy(np.float64) for name in ("champion", "challenger")]
    if not truth.any():
        return None, None, Gain(None, None, None, 0)
    day = day_numbers(labelled["event_time"])
    theirs, ours = (RankedDays(truth, values, day) for values in scores)
    gain = average_precision_gain(ours, theirs, draw_days(len(ours.frauds)))
    return average_precision(truth, scores[0]), average_precision(truth, scores[1]), gain


def _labels(session: Session, since: datetime, until: datetime, as_of: datetime) -> pd.DataFrame:
    """The latest label known by `as_of` of each payment of [since, until)."""
    labels = session.query(
        "select transaction_id, is_fraud from ("
        "select transaction_id, is_fraud, "
        "row_number() over (partition by transaction_id order by known_at desc) as newest "
        f"from {tables.LABELS.name} where known_at <= :as_of and event_time >= :since and event_time < :until"
        ") l where newest = 1",
        since=since,
        until=until,
        as_of=as_of,
    )
    return labels.astype({"transaction_id": object, "is_fraud": "boolean"})
