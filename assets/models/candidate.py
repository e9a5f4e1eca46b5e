"""A newly trained model version, not yet judged."""

import tempfile
import time
from pathlib import Path

import dagster as dg
from pydantic import Field

from fraud_pipelines.errors import ContractBroken
from fraud_pipelines.evidence import code_version
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.plots import importance_figure, precision_recall_figure, roc_figure
from fraud_pipelines.models.policy import CostMatrix, ReviewCapacity
from fraud_pipelines.models.registry import CHALLENGER
from fraud_pipelines.models.training import TrainingParameters, run_tags, train, validation_curves
from fraud_pipelines.models.training_set import read_training_set
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import RegistryResource, WarehouseResource
from fraud_pipelines.progress import report
from fraud_pipelines.settings import load_settings


class CandidateConfig(dg.Config):
    """Settings of the fit; the windows come from the training set."""

    trees: int = Field(TrainingParameters.trees, ge=1, description="Boosted trees; at least 1.")
    seed: int = Field(TrainingParameters.seed, ge=0, description="Seed of every random choice; at least 0.")


@dg.asset(
    key=keys.CANDIDATE,
    group_name="models",
    deps=[keys.TRAINING_SET],
    kinds={"xgboost", "mlflow"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def candidate(
    config: CandidateConfig, warehouse: WarehouseResource, registry: RegistryResource
) -> dg.MaterializeResult:
    """One model version per distinct training: XGBoost, calibration and thresholds, registered as challenger.

    Thresholds and calibration are chosen on the validation days only, by the costs and the review capacity of the
    settings. The same rows, settings, seed and code give the same bundle and so the version that exists already.
    Registered does not mean promoted: see evaluation and champion.
    """
    rows, spec = read_training_set(warehouse.open()), load_spec()
    if rows.spec_hash != spec.hash:
        raise ContractBroken(
            f"models.training_set was built with feature spec {rows.spec_hash[:12]}, the spec now is {spec.hash[:12]}. "
            "Run: fraud train (it builds the training set again)"
        )
    settings, started = load_settings(), time.monotonic()
    trained = train(
        rows,
        spec,
        TrainingParameters(
            trees=config.trees,
            seed=config.seed,
            costs=CostMatrix.parse(settings.costs),
            capacity=ReviewCapacity(settings.reviews_per_day),
        ),
        code_version=code_version(),
        progress=lambda done, total: report("trees", done, total),
    )
    seconds = time.monotonic() - started
    bundle = trained.bundle
    precision_recall, roc = validation_curves(trained)
    store = registry.open()
    with tempfile.TemporaryDirectory(prefix="fraud-bundle-") as folder:
        version = store.register(
            bundle.save(Path(folder) / "bundle"),
            params=bundle.parameters,
            metrics={f"validation_{name}": value for name, value in bundle.metrics.items()},
            figures={
                "validation_precision_recall.png": precision_recall_figure({"candidate": precision_recall}),
                "validation_roc.png": roc_figure({"candidate": roc}),
                "importance.png": importance_figure(bundle.importance()),
            },
            tags=run_tags(bundle),
        )
    store.set_alias(CHALLENGER, version)
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "bundle_digest": bundle.digest,
            "data_hash": bundle.data_hash,
            "train_seconds": seconds,
            "review_threshold": bundle.thresholds.review,
            "block_threshold": bundle.thresholds.block,
            "calibration_slope": bundle.calibration.slope,
            "calibration_intercept": bundle.calibration.intercept,
            **{f"validation_{name}": value for name, value in bundle.metrics.items() if value is not None},
        }
    )
