"""Candidate and champion on the same test rows."""

from functools import partial

import dagster as dg
import pandas as pd

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, NoChampion
from fraud_pipelines.evidence import hash_rows
from fraud_pipelines.models.evaluation import evaluate, metrics_table, write_evaluation
from fraud_pipelines.models.explanation import shap_summary
from fraud_pipelines.models.plots import precision_recall_figure, roc_figure
from fraud_pipelines.models.registry import CHALLENGER
from fraud_pipelines.models.splits import TEST
from fraud_pipelines.models.training_set import read_training_set
from fraud_pipelines.models.version_card import summary, version_card
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource


@dg.asset(
    key=keys.EVALUATION,
    group_name="models",
    deps=[keys.TRAINING_SET, keys.CANDIDATE],
    kinds={"python", "shap"},
    owners=["team:fraud-models"],
    pool="warehouse",
)
def evaluation(
    warehouse: WarehouseResource, registry: RegistryResource, ledger: LedgerResource
) -> dg.MaterializeResult:
    """One row per model version, moment and metric: the candidate, the champion, and baselines, on the same rows.

    Each metric has the 95 % interval of a bootstrap over whole days, where enough days bear on it.
    Only labels known at the training set's moment count. Cards already known as compromised when a day began are
    left out, as the Fraud Detection Handbook does; both kinds of omission are counted. Scores per transaction go to
    models.evaluation_scores, mean absolute SHAP values on the same rows to models.attributions.
    """
    rows, models = read_training_set(warehouse.open()), registry.open()
    version = models.version_of(CHALLENGER)
    if version is None:
        raise NoChampion("The registry has no challenger to evaluate. Run: fraud train")
    bundle = models.load(version)
    if bundle.data_hash != rows.data_hash:
        raise ContractBroken(
            f"Challenger {version} was trained on the training set {bundle.data_hash[:12]}, models.training_set now is "
            f"{rows.data_hash[:12]}: its test rows may be rows the challenger has seen. Run: fraud train"
        )
    test, split = rows.part(TEST), rows.split
    judge = partial(
        evaluate,
        test=test,
        since=split.test_since,
        until=split.test_until,
        as_of=split.as_of,
        unlabelled=rows.unlabelled[TEST],
    )
    judged = {version: judge(bundle)}
    champion = ledger.open().champion_at()
    if champion is not None and champion != version:
        judged[champion] = judge(models.load(champion))
    ours = judged[version]
    baselines = {name: judge(bundle, baseline=name) for name in bundle.baselines}
    summaries = {name: shap_summary(bundle if name == version else models.load(name), test) for name in judged}
    with warehouse.open().session() as session:
        for name, result in judged.items():
            write_evaluation(session, name, result)
            moment = pd.Timestamp(split.as_of).as_unit("us")
            session.upsert(tables.ATTRIBUTIONS, summaries[name].table(name).assign(as_of=moment))
        for name, result in baselines.items():
            session.upsert(tables.EVALUATIONS, result.table(f"{version}/{name}"))
    models.annotate(
        version,
        metrics={f"test_{name}": value for name, value in ours.metrics.items()},
        figures={
            "test_precision_recall.png": precision_recall_figure(
                {
                    **{f"version {name}": result.precision_recall for name, result in judged.items()},
                    **{name.replace("_", " "): result.precision_recall for name, result in baselines.items()},
                },
                fraud_share=ours.fraud_count / ours.rows,
            ),
            "test_roc.png": roc_figure(
                {
                    **{f"version {name}": result.roc for name, result in judged.items()},
                    **{name.replace("_", " "): result.roc for name, result in baselines.items()},
                }
            ),
            "shap.png": summaries[version].figure,
        },
    )
    models.describe(version, version_card(bundle, version, judged, baselines), summary=summary(bundle, ours))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": ours.rows,
            "data_hash": hash_rows(ours.scores),
            "model_version": version,
            "fraud_count": ours.fraud_count,
            "metrics": dg.MarkdownMetadataValue(metrics_table({**judged, **baselines})),
            **{name: value for name, value in ours.metrics.items() if value is not None},
            **{f"left_out_{name}": count for name, count in ours.excluded.items()},
            **(
                {f"champion_{name}": value for name, value in judged[champion].metrics.items() if value is not None}
                if champion in judged and champion != version
                else {}
            ),
        }
    )
