"""The version that decides."""

import dagster as dg
from pydantic import Field

from fraud_pipelines import tables
from fraud_pipelines.errors import MissingPartition, NoChampion, PromotionRefused
from fraud_pipelines.models.evaluation import read_evaluation
from fraud_pipelines.models.gates import promotion_gates, served_parity, widest_gap
from fraud_pipelines.models.promotion import promote
from fraud_pipelines.models.registry import CHALLENGER
from fraud_pipelines.models.training_set import read_split
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.check_results import failing_blocking_checks
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource

# A model trained on data that a blocking check refuses is not promoted, whichever run found it.
GUARDED = (keys.TRANSACTIONS, keys.LABELS, keys.TRANSACTION_FEATURES, keys.TRAINING_SET)


class PromotionConfig(dg.Config):
    """Who asks for the promotion, and why; both are kept in the ledger."""

    actor: str = Field("pipeline", min_length=1, description="Name of a person or service.")
    reason: str = Field("retraining: decided by the gates", min_length=1, description="Plain words.")


@dg.asset(
    key=keys.CHAMPION,
    group_name="models",
    deps=[keys.EVALUATION, keys.CUSTOMERS],
    kinds={"python", "mlflow"},
    owners=["team:fraud-models"],
    tags={"pii": "true"},
    pool="warehouse",
)
def champion(
    context: dg.AssetExecutionContext,
    config: PromotionConfig,
    warehouse: WarehouseResource,
    registry: RegistryResource,
    ledger: LedgerResource,
) -> dg.MaterializeResult:
    """The one version that decides, as the ledger says; the registry's alias mirrors it.

    The challenger takes over when every gate passes; otherwise the refusal is recorded with its numbers and the
    champion stays. Either way one ledger row tells who asked, why, and which gates with which numbers.
    """
    models, rows = registry.open(), ledger.open()
    version = models.version_of(CHALLENGER)
    if version is None:
        raise NoChampion("The registry has no challenger to promote. Run: fraud train")
    present = rows.champion_at()
    with warehouse.open().session() as session:
        as_of = read_split(session).as_of
        challenger = read_evaluation(session, version, as_of)
        if challenger is None:
            raise MissingPartition(
                f"{tables.EVALUATIONS.name} has no row of challenger {version} as of {as_of}. Run: fraud train"
            )
        rival = read_evaluation(session, present, as_of) if present is not None and present != version else None
        served = served_parity(session, rows, as_of)
        unfairness = widest_gap(session, challenger, version, models.load(version).thresholds)
    if rival is None and present is not None and present != version:
        raise MissingPartition(
            f"{tables.EVALUATIONS.name} has no row of champion {present} as of {as_of}. Run: fraud train"
        )
    gates = promotion_gates(
        challenger,
        rival,
        unfairness=unfairness,
        served=served,
        failed_data_checks=failing_blocking_checks(context.instance, GUARDED),
    )
    row = promote(
        models,
        rows,
        version=version,
        gates=gates,
        actor=config.actor,
        reason=config.reason,
        as_of=as_of,
    )
    failing = [f"{gate.name}: {gate.words}" for gate in gates if not gate.passed] if row.kind == "refuse" else []
    now = rows.champion_at()
    if now is None:
        raise PromotionRefused(
            f"Version {version} was refused and there is no champion yet: {'; '.join(failing)}. "
            f"Train on more days, or promote it on record: fraud promote {version} --force --reason 'WHY'"
        )
    context.log.info("\n".join(f"{'pass' if gate.passed else 'FAIL'}  {gate.name}: {gate.words}" for gate in gates))
    return dg.MaterializeResult(
        metadata={
            "model_version": now,
            # The champion's manifest, which an auditor hashes again with `sha256sum manifest.json`.
            "data_hash": models.version(now).digest,
            "decision": "unchanged" if present == version else row.kind,
            "challenger": version,
            "previous_version": present or "none",
            "actor": row.actor,
            "reason": row.reason,
            "failing_gates": "; ".join(failing) or "none",
            "gates": dg.MarkdownMetadataValue(
                "| gate | passed | number |\n|---|---|---|\n"
                + "\n".join(f"| {gate.name} | {'yes' if gate.passed else 'NO'} | {gate.words} |" for gate in gates)
            ),
        }
    )
