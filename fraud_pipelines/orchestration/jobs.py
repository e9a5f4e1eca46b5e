"""Jobs: named selections of the one graph, each a verb and what it does."""

import dagster as dg

from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import daily_partitions

# Whatever models dbt has on this warehouse.
FEATURES = dg.AssetSelection.groups("staging", "features")

ingest_job = dg.define_asset_job(
    "ingest_job",
    selection=dg.AssetSelection.assets(keys.TRANSACTIONS, keys.LABELS, keys.CUSTOMERS) | FEATURES,
    partitions_def=daily_partitions,
    description="Load one source, check it, and build the features of its days.",
)

daily_job = dg.define_asset_job(
    "daily_job",
    selection=FEATURES
    # What analysts said of the day must be labels before features count them.
    | dg.AssetSelection.assets(keys.DECISIONS, keys.FEEDBACK, keys.LABELS)
    | dg.AssetSelection.assets(
        keys.SCORES, keys.DRIFT, keys.PERFORMANCE, keys.FAIRNESS, keys.PARITY, keys.ONLINE_STATE
    ),
    partitions_def=daily_partitions,
    description="A day's decisions and feedback, features, scores, drift, performance, fairness, parity; its labels "
    "reach the online store.",
)

retrain_job = dg.define_asset_job(
    "retrain_job",
    selection=dg.AssetSelection.assets(keys.TRAINING_SET, keys.CANDIDATE, keys.EVALUATION, keys.CHAMPION, keys.BENTO),
    description="Train a candidate as of a moment, evaluate it beside the champion, promote it if the gates allow.",
)

tune_job = dg.define_asset_job(
    "tune_job",
    selection=dg.AssetSelection.assets(keys.TRAINING_SET, keys.TUNING),
    description="Search the learners' settings as of a moment; what is trained afterwards uses what was chosen.",
)

publish_compliance_job = dg.define_asset_job(
    "publish_compliance_job",
    selection=dg.AssetSelection.groups("compliance"),
    description="Model card, compliance PDF and evidence index of the champion.",
)

online_state_job = dg.define_asset_job(
    "online_state_job",
    selection=dg.AssetSelection.assets(keys.ONLINE_STATE),
    description="Push warehouse history into the online store that serving reads.",
)

JOBS = (ingest_job, daily_job, retrain_job, tune_job, publish_compliance_job, online_state_job)
