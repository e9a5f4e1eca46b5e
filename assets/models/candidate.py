"""A newly trained model version, not yet judged."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dagster as dg
from pydantic import Field

from fraud_pipelines.evidence import code_version
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.contenders import CONTENDERS
from fraud_pipelines.models.members import LearnerParameters
from fraud_pipelines.models.plots import comparison_figure, importance_figure, precision_recall_figure, roc_figure
from fraud_pipelines.models.policy import CostMatrix, ReviewCapacity
from fraud_pipelines.models.registry import CHALLENGER
from fraud_pipelines.models.training import TrainingParameters, run_tags, train, validation_curves
from fraud_pipelines.models.training_set import read_training_set
from fraud_pipelines.models.tuned_parameters import read_tuned_parameters
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import RegistryResource, WarehouseResource
from fraud_pipelines.progress import report
from fraud_pipelines.settings import load_settings


class CandidateConfig(dg.Config):
    """Who competes, and settings of the learners in place of those tuned; the windows come from the training set."""

    contenders: list[str] = Field(
        list(CONTENDERS), min_length=1, description=f"Models that compete: some of {', '.join(CONTENDERS)}."
    )
    trees: int | None = Field(None, ge=1, description="Boosted trees; at least 1. None: as tuned, else the default.")
    forest_trees: int | None = Field(None, ge=1, description="Trees of the random forest; at least 1. None: likewise.")
    seed: int | None = Field(None, ge=0, description="Seed of every random choice; at least 0. None: likewise.")


@dg.asset(
    key=keys.CANDIDATE,
    group_name="models",
    deps=[keys.TRAINING_SET, keys.TUNING],
    kinds={"xgboost", "mlflow"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def candidate(
    config: CandidateConfig, warehouse: WarehouseResource, registry: RegistryResource
) -> dg.MaterializeResult:
    """One model version per distinct training: the contender that won, with its thresholds, registered as challenger.

    A single tree, a logistic regression, XGBoost and their stack with a random forest and an anomaly score compete on
    past weeks; of those within noise of the best, the simplest wins, and the comparison is kept with it. Thresholds are
    chosen on the validation days only, by the costs and the review capacity of the settings. The learners have the
    settings that a tuning of this moment or an earlier one chose, else the defaults. The same rows, settings, seed and
    code give the same bundle and so the version that exists already.
    Registered does not mean promoted: see evaluation and champion.
    """
    store, spec = warehouse.open(), load_spec()
    rows = read_training_set(store)
    rows.require_spec(spec, command="fraud train")
    with store.session() as session:
        tuned = read_tuned_parameters(session, spec.hash, as_of=rows.split.as_of, known_by=rows.split.test_since)
    given = {"trees": config.trees, "forest_trees": config.forest_trees, "seed": config.seed}
    learner = replace(
        tuned or LearnerParameters(), **{name: value for name, value in given.items() if value is not None}
    )
    settings, started = load_settings(), time.monotonic()
    trained = train(
        rows,
        spec,
        TrainingParameters(
            learner,
            tuple(config.contenders),
            costs=CostMatrix.parse(settings.costs),
            capacity=ReviewCapacity(settings.reviews_per_day),
        ),
        code_version=code_version(),
        progress=lambda done, total: report("fits", done, total),
    )
    seconds = time.monotonic() - started
    bundle = trained.bundle
    precision_recall, roc = validation_curves(trained)
    comparison = bundle.comparison
    models = registry.open()
    with tempfile.TemporaryDirectory(prefix="fraud-bundle-") as folder:
        version = models.register(
            bundle.save(Path(folder) / "bundle"),
            params=bundle.parameters,
            metrics={
                **{f"validation_{name}": value for name, value in bundle.metrics.items()},
                **{
                    f"contender_average_precision_{standing.name}": standing.average_precision
                    for standing in (comparison.standings if comparison else ())
                },
            },
            figures={
                "validation_precision_recall.png": precision_recall_figure({"candidate": precision_recall}),
                "validation_roc.png": roc_figure({"candidate": roc}),
                "importance.png": importance_figure(bundle.importance()),
                **({"comparison.png": comparison_figure(comparison)} if comparison else {}),
            },
            tags=run_tags(bundle),
        )
    models.set_alias(CHALLENGER, version)
    return dg.MaterializeResult(
        metadata={
            "model_version": version,
            "bundle_digest": bundle.digest,
            "data_hash": bundle.data_hash,
            "train_seconds": seconds,
            "review_threshold": bundle.thresholds.review,
            "block_threshold": bundle.thresholds.block,
            "contender": bundle.contender,
            "parameters": "tuned" if tuned else "defaults",
            **({"comparison": dg.MarkdownMetadataValue(comparison.markdown())} if comparison else {}),
            **{f"weight_{name}": value for name, value in bundle.weights.items()},
            **{f"validation_{name}": value for name, value in bundle.metrics.items() if value is not None},
        }
    )
