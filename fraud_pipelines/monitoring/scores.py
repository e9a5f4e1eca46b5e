"""Batch scoring: the champion's probability and decision for every transaction of a window."""

import json
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, MissingPartition, NoChampion
from fraud_pipelines.features.vector import to_matrix
from fraud_pipelines.models.explanation import top_reasons
from fraud_pipelines.models.policy import APPROVE
from fraud_pipelines.warehouse.interface import Session

if TYPE_CHECKING:
    from fraud_pipelines.ledger import Ledger
    from fraud_pipelines.models.bundle import Bundle
    from fraud_pipelines.models.registry import Registry

CHUNK_ROWS = 200_000  # bounds the memory of one prediction call


def load_champion(ledger: "Ledger", registry: "Registry") -> tuple[str, "Bundle"]:
    """Version and bundle of the present champion, as the ledger has it.

    Raises:
        NoChampion: no version has been promoted yet.
    """
    version = ledger.champion_at()
    if version is None:
        raise NoChampion("No model version has been promoted, so there is nothing to monitor. Run: fraud train")
    return version, registry.load(version)


def score_frame(features: pd.DataFrame, bundle: "Bundle", *, model_version: str) -> pd.DataFrame:
    """SCORES rows of `features`, one per row and in its order, at the bundle's thresholds, with top reasons.

    Args:
        features: one row per transaction with `transaction_id`, `event_time` and the bundle's features.
    """
    chunks = [
        _scored(features.iloc[start : start + CHUNK_ROWS], bundle, model_version)
        for start in range(0, max(len(features), 1), CHUNK_ROWS)
    ]
    return pd.concat(chunks, ignore_index=True)


def _scored(features: pd.DataFrame, bundle: "Bundle", model_version: str) -> pd.DataFrame:
    matrix = to_matrix(features, bundle.feature_names)
    probability = bundle.predict(matrix)
    decision = bundle.thresholds.decide(probability)
    anomaly = bundle.model.anomaly_score(matrix)
    reasons = np.full(len(features), None, dtype=object)
    # An approval owes nobody an explanation, as in serving.
    flagged = np.flatnonzero(decision != APPROVE)
    for position, contributions in zip(flagged, bundle.contributions(matrix[flagged]), strict=True):
        found = top_reasons(contributions, {}, bundle.spec)
        reasons[position] = json.dumps([{key: reason[key] for key in ("code", "contribution")} for reason in found])
    return pd.DataFrame(
        {
            "transaction_id": features["transaction_id"].to_numpy(object),
            "event_time": features["event_time"].to_numpy("datetime64[us]"),
            "model_version": np.full(len(features), model_version, dtype=object),
            "fraud_probability": probability,
            "decision": decision,
            "anomaly_score": np.full(len(features), np.nan) if anomaly is None else anomaly,
            "reasons": reasons,
        }
    )


def read_features(session: Session, names: tuple[str, ...], *, since: datetime, until: datetime) -> pd.DataFrame:
    """Feature rows of [since, until), one for each raw transaction; errors as `require_features`."""
    require_features(session, since=since, until=until)
    columns = ["transaction_id", "event_time", *names]
    return session.read(tables.TRANSACTION_FEATURES, columns=columns, since=since, until=until)


def require_features_of(
    session: Session, bundle: "Bundle", *, since: datetime, until: datetime, name: str, otherwise: str
) -> None:
    """Stop where transactions of [since, until) have no features, or not all of those that a model reads.

    Args:
        name: what the message calls the model, such as `version 7`.
        otherwise: what to do where the columns cannot come back; the end of the message.
    Raises:
        MissingPartition: as `require_features`.
        ContractBroken: the warehouse lacks features of the model.
    """
    require_features(session, since=since, until=until)
    present = session.query(f"select * from {tables.TRANSACTION_FEATURES} limit 0").columns
    lacking = [feature for feature in bundle.feature_names if feature not in present]
    if lacking:
        raise ContractBroken(
            f"{tables.TRANSACTION_FEATURES} lacks the features {lacking} of {name} (spec {bundle.spec_hash[:12]}). "
            f"Put them back into the feature spec and materialize again, or {otherwise}"
        )


def require_features(session: Session, *, since: datetime, until: datetime) -> None:
    """Stop where transactions of [since, until) have no features.

    Raises:
        MissingPartition: the window has no transactions, or a day's transactions have no features.
    """
    window = f"[{since:%Y-%m-%d}, {until:%Y-%m-%d})"
    if not session.exists(tables.TRANSACTION_FEATURES):
        raise MissingPartition(
            f"{tables.TRANSACTION_FEATURES} does not exist yet, needed to score {window}. "
            "Run: fraud ingest FILE --mapping NAME, then: fraud materialize features"
        )
    counts = session.query(
        "select cast(t.event_time as date) as day, count(*) as rows, count(f.transaction_id) as featured "
        f"from {tables.TRANSACTIONS.name} t "
        f"left join {tables.TRANSACTION_FEATURES} f on f.transaction_id = t.transaction_id "
        "where t.event_time >= :since and t.event_time < :until group by 1 order by 1",
        since=since,
        until=until,
    )
    if counts.empty:
        raise MissingPartition(
            f"{tables.TRANSACTIONS.name} has no rows in {window}, nothing to score. "
            "Run: fraud ingest FILE --mapping NAME"
        )
    lacking = counts[counts["featured"] < counts["rows"]]
    if len(lacking):
        first, last = (pd.Timestamp(lacking["day"].iloc[i]) for i in (0, -1))
        raise MissingPartition(
            f"{tables.TRANSACTION_FEATURES} lacks {int((lacking['rows'] - lacking['featured']).sum())} transactions of "
            f"{first:%Y-%m-%d} to {last:%Y-%m-%d}, needed to score {window}. "
            f"Run: fraud materialize features/transaction_features --from {first:%Y-%m-%d} --to {last:%Y-%m-%d}"
        )
