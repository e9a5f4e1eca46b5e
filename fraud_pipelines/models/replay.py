"""Replaying a decision policy: what a model version and its thresholds decide on the transactions of a past range.

A transaction that was decided is scored from the feature values that were served with its decision, any other from the
warehouse's feature row. So the version that decided gives the same probability again, to the last bit, and at the same
thresholds the same decision. Labels count as known by an explicit moment; no clock is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, EmptySample, NoChampion
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.ledger.records import Decision
from fraud_pipelines.models.policy import CostMatrix, ReviewCapacity, Thresholds
from fraud_pipelines.monitoring.scores import require_features_of
from fraud_pipelines.progress import report
from fraud_pipelines.warehouse import Session, Warehouse

if TYPE_CHECKING:
    from fraud_pipelines.ledger import Ledger
    from fraud_pipelines.models.bundle import Bundle

# In place of a version: each decision by the version that made it.
LIVE = "live"
DAY = timedelta(days=1)

Policies = Callable[[str], tuple["Bundle", Thresholds]]


@dataclass(frozen=True)
class Replay:
    """Every replayed transaction of [since, until), and what to judge it by.

    `rows` has one row per transaction: transaction_id, event_time, amount_minor, customer_id, is_fraud (boolean, null
    where no label was known by `as_of`), version, fraud_probability (NaN where a fallback decided), replayed (decision
    word), is_served (scored from served feature values), recorded (decision word or null), recorded_version,
    recorded_probability, is_fallback. `thresholds` are those each version was replayed at. `left_out` counts
    transactions not replayed, by reason. Costs and capacity are those of the version that scored last.
    """

    version: str
    since: datetime
    until: datetime
    as_of: datetime
    thresholds: dict[str, Thresholds]
    costs: CostMatrix
    capacity: ReviewCapacity
    rows: pd.DataFrame = field(repr=False)
    left_out: dict[str, int]

    @property
    def days(self) -> int:
        """Length of the range in days."""
        return (self.until - self.since).days


def replay(
    warehouse: Warehouse,
    ledger: "Ledger",
    load: Callable[[str], "Bundle"],
    *,
    since: datetime,
    until: datetime,
    as_of: datetime | None = None,
    version: str | None = None,
    review: float | None = None,
    block: float | None = None,
) -> Replay:
    """Decide the transactions of [since, until) again; days are read one at a time, so memory holds no feature matrix.

    Args:
        load: gives the bundle of a version, such as `Registry.load`.
        since, until: midnights, naive UTC.
        as_of: only labels known by then count; None is `until`.
        version: a registered version; LIVE for the recorded decisions alone, each by the version that made it; None is
            the present champion.
        review, block: thresholds instead of each version's own.
    Raises:
        NoChampion: no version was given and none has been promoted.
        UnknownVersion: the registry does not have it.
        MissingPartition: transactions of the range have no features, or there are none.
        EmptySample: nothing was decided in the range (LIVE).
        ContractBroken: the range is empty or ends after `as_of`, thresholds are out of order, the warehouse lacks a
            feature of the version, or the registry's version is not the bundle that decided.
    """
    moment = as_of or until
    if not since < until <= moment:
        raise ContractBroken(
            f"A replay needs a first day, a last day not before it, and labels known by the end of it or later; "
            f"found [{since:%Y-%m-%d}, {until:%Y-%m-%d}) with labels as of {moment:%Y-%m-%d %H:%M}. "
            "Run: fraud replay --from DAY --to DAY --as-of MOMENT"
        )
    chosen = version or ledger.champion_at()
    if chosen is None:
        raise NoChampion(
            "No model version has been promoted, so there is no policy to replay. Run: fraud train, "
            "or name a version: fraud replay --version V --from DAY --to DAY"
        )
    loaded: dict[str, tuple[Bundle, Thresholds]] = {}

    def policy(name: str) -> tuple["Bundle", Thresholds]:
        if name not in loaded:
            bundle = load(name)
            given = {word: value for word, value in (("review", review), ("block", block)) if value is not None}
            loaded[name] = bundle, replace(bundle.thresholds, **given)
        return loaded[name]

    scored, last = [], chosen
    left_out = 0
    with warehouse.session() as session:
        if chosen != LIVE:
            require_features_of(
                session, policy(chosen)[0], since=since, until=until, name=f"version {chosen}",
                otherwise="replay a version of the present spec: fraud replay --version V --from DAY --to DAY",
            )  # fmt: skip
        days = [since + DAY * number for number in range((until - since).days)]
        for number, day in enumerate(days):
            decisions = ledger.decisions(day, day + DAY)
            if chosen == LIVE:
                verdicts = _by_their_own_version(decisions, policy)
                last = next((row.model_version for row in reversed(decisions) if row.model_version), last)
            else:
                verdicts = _by_one_version(session, decisions, chosen, policy, day)
            facts = _facts(session, decisions, day, moment)
            rows = facts.merge(verdicts, how="inner", on="transaction_id", validate="one_to_one")
            left_out += len(facts) - len(rows)
            scored.append(rows)
            report("days", number + 1, len(days))
    rows = pd.concat(scored, ignore_index=True)
    if rows.empty:
        raise EmptySample(
            f"The ledger has no decision on a transaction of [{since:%Y-%m-%d}, {until:%Y-%m-%d}), so the live policy "
            "has nothing to replay. Choose other days, or replay a version on the warehouse's features: "
            "fraud replay --version V --from DAY --to DAY"
        )
    basis = policy(last)[0].policy if last != LIVE else None
    return Replay(
        version=chosen,
        since=since,
        until=until,
        as_of=moment,
        thresholds={name: thresholds for name, (_, thresholds) in loaded.items()},
        costs=basis.costs if basis else CostMatrix(),
        capacity=basis.capacity if basis else ReviewCapacity(),
        rows=rows,
        left_out={"not decided" if chosen == LIVE else "without features": left_out},
    )


def _by_one_version(
    session: Session, decisions: Sequence[Decision], version: str, policy: Policies, day: datetime
) -> pd.DataFrame:
    """Verdicts of one version on every transaction of a day that has feature values."""
    bundle, thresholds = policy(version)
    # Values served for another feature spec may mean something else under the same name.
    served = [row for row in decisions if row.features and row.feature_spec_hash == bundle.spec_hash]
    columns = ["transaction_id", "event_time", *bundle.feature_names]
    stored = session.read(tables.TRANSACTION_FEATURES, columns=columns, since=day, until=day + DAY)
    stored = stored[~stored["transaction_id"].isin([row.transaction_id for row in served])]
    probability = np.concatenate(
        [
            bundle.predict(to_matrix([row.features for row in served], bundle.feature_names)),
            bundle.predict(to_matrix(stored, bundle.feature_names)),
        ]
    )
    return pd.DataFrame(
        {
            "transaction_id": [*(row.transaction_id for row in served), *stored["transaction_id"]],
            "version": version,
            "fraud_probability": probability.astype(np.float64),
            "replayed": thresholds.decide(probability),
            "is_served": np.arange(len(probability)) < len(served),
        }
    ).astype({"transaction_id": object, "version": object, "replayed": object})


def _by_their_own_version(decisions: Sequence[Decision], policy: Policies) -> pd.DataFrame:
    """Verdicts on decided transactions, each by the version that decided; what a fallback decided stays as it is."""
    probability = np.full(len(decisions), np.nan)
    words = np.array([row.decision for row in decisions], dtype=object)
    versions = np.array([row.model_version for row in decisions], dtype=object)
    for version in dict.fromkeys(name for name in versions if name is not None):
        bundle, thresholds = policy(version)
        own = versions == version
        made = [row for row in decisions if row.model_version == version]
        for row in made:
            if row.bundle_digest != bundle.digest:
                raise ContractBroken(
                    f"Transaction {row.transaction_id} was decided by version {version} with bundle "
                    f"{row.bundle_digest}; the registry's version {version} is bundle {bundle.digest}. Ledger and "
                    "registry are not of one installation: check FRAUD_LEDGER_URL and FRAUD_REGISTRY_URL with: "
                    "fraud doctor"
                )
        probability[own] = bundle.predict(to_matrix([row.features for row in made], bundle.feature_names))
        words[own] = thresholds.decide(probability[own])
    return pd.DataFrame(
        {
            "transaction_id": np.array([row.transaction_id for row in decisions], dtype=object),
            "version": versions,
            "fraud_probability": probability,
            "replayed": words,
            "is_served": ~np.isnan(probability),
        }
    )


def _facts(session: Session, decisions: Sequence[Decision], day: datetime, as_of: datetime) -> pd.DataFrame:
    """What is known of a day's transactions, those that were decided and have not reached the warehouse included."""
    stored = session.query(
        "select t.transaction_id, t.event_time, t.amount_minor, t.customer_id, l.is_fraud "
        f"from {tables.TRANSACTIONS.name} t left join ("
        "select transaction_id, is_fraud, "
        "row_number() over (partition by transaction_id order by known_at desc) as newest "
        f"from {tables.LABELS.name} where known_at <= :as_of and event_time >= :since and event_time < :until"
        ") l on l.transaction_id = t.transaction_id and l.newest = 1 "
        "where t.event_time >= :since and t.event_time < :until order by t.event_time, t.transaction_id",
        since=day,
        until=day + DAY,
        as_of=as_of,
    )
    recorded = pd.DataFrame(
        [
            (
                row.transaction_id,
                row.event_time,
                row.request["amount_minor"],
                row.request.get("customer_id"),
                row.decision,
                row.model_version,
                np.nan if row.fraud_probability is None else row.fraud_probability,
                row.fallback is not None,
            )
            for row in decisions
        ],
        columns=[
            "transaction_id", "event_time", "amount_minor", "customer_id",
            "recorded", "recorded_version", "recorded_probability", "is_fallback",
        ],
    )  # fmt: skip
    own = ["recorded", "recorded_version", "recorded_probability", "is_fallback"]
    absent = recorded[~recorded["transaction_id"].isin(stored["transaction_id"])].drop(columns=own)
    absent["is_fraud"] = None
    known = pd.concat([stored.astype(_TYPES_KNOWN), absent.astype(_TYPES_KNOWN)])
    facts = known.merge(recorded[["transaction_id", *own]].astype(_TYPES_RECORDED), how="left", on="transaction_id")
    return facts.assign(is_fallback=facts["is_fallback"].fillna(False).astype(bool))


_TYPES_KNOWN: dict[str, Any] = {
    "transaction_id": object,
    "event_time": "datetime64[us]",
    "amount_minor": np.int64,
    "customer_id": object,
    "is_fraud": "boolean",
}
_TYPES_RECORDED: dict[str, Any] = {
    "transaction_id": object,
    "recorded": object,
    "recorded_version": object,
    "recorded_probability": np.float64,
    "is_fallback": "boolean",
}
