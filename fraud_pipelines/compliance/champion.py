"""The facts of a moment's champion: where documents meet ledger, registry and warehouse."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.compliance.facts import ModelFacts, ReportFacts, gather_facts
from fraud_pipelines.compliance.known import champion_of, known_promotions
from fraud_pipelines.errors import MissingPartition, NoChampion
from fraud_pipelines.evidence import Evidence
from fraud_pipelines.models.splits import TRAIN, VALIDATION, parse_as_of
from fraud_pipelines.warehouse.interface import Session, Warehouse

if TYPE_CHECKING:
    from fraud_pipelines.ledger import Ledger
    from fraud_pipelines.models.bundle import Bundle
    from fraud_pipelines.models.registry import Registry


def champion_facts(
    warehouse: Warehouse,
    ledger: "Ledger",
    registry: "Registry",
    *,
    as_of: str | None,
    materialized: Mapping[str, Evidence],
) -> ReportFacts:
    """Facts as of a moment, of the champion at that moment (see `known_promotions`); else as `gather_facts`.

    Raises:
        NoChampion: no version had been promoted by then.
    """
    ingestions, promotions = ledger.ingestions(), ledger.promotions()
    with warehouse.session() as session:
        moment = moment_of(session, as_of)
        version = champion_of(known_promotions(promotions, ingestions, moment))
        if version is None:
            raise NoChampion(
                f"No model version had been promoted as of {moment:%Y-%m-%d %H:%M}, so there is nothing to report on. "
                "Run: fraud train, or choose a later moment: fraud report --as-of MOMENT"
            )
        bundle = registry.load(version)
        return gather_facts(
            session,
            model=model_facts(bundle, version),
            features=bundle.spec,
            ingestions=ingestions,
            promotions=promotions,
            as_of=moment,
            materialized=materialized,
        )


def model_facts(bundle: "Bundle", version: str) -> ModelFacts:
    """What documents print of a bundle."""
    return ModelFacts(
        version=version,
        bundle_digest=bundle.digest,
        spec_hash=bundle.spec_hash,
        review_threshold=bundle.thresholds.review,
        block_threshold=bundle.thresholds.block,
        trained_since=bundle.split.train_since,
        trained_until=bundle.split.train_until,
        training_rows=_learnt_from(bundle, "rows"),
        training_frauds=_learnt_from(bundle, "frauds"),
        training_data_hash=bundle.data_hash,
        policy=bundle.policy,
        contender=bundle.contender,
        comparison=bundle.comparison,
    )


def _learnt_from(bundle: "Bundle", kind: str) -> int | None:
    """The last fit sees the validation days, too."""
    counts = [bundle.row_counts.get(f"{part}_{kind}") for part in (TRAIN, VALIDATION)]
    return sum(count for count in counts if count is not None) if any(count is not None for count in counts) else None


def moment_of(session: Session, as_of: str | None) -> datetime:
    """The moment of a document: an ISO time, or the midnight that ends the last day of transactions.

    Raises:
        MissingPartition: there is no transaction to take the default from.
        SettingInvalid: the text is no ISO date or time.
    """
    last = session.query(f"select max(event_time) as last_event from {tables.TRANSACTIONS.name}")["last_event"].iloc[0]
    if pd.isna(last):
        raise MissingPartition(
            f"{tables.TRANSACTIONS.name} is empty, so there is nothing to report on. "
            "Run: fraud ingest FILE --mapping NAME"
        )
    return parse_as_of(as_of, last_event=pd.Timestamp(last).to_pydatetime())
