"""Checks of the models stage: label time, tuning, plausibility, policy, and that ledger and registry agree."""

import dagster as dg

from fraud_pipelines import limits
from fraud_pipelines.errors import BundleCorrupt, NoChampion, UnknownVersion
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.models.bento import bento_of
from fraud_pipelines.models.evaluation import AVERAGE_PRECISION, read_evaluation
from fraud_pipelines.models.policy import APPROVE
from fraud_pipelines.models.registry import CHALLENGER, CHAMPION
from fraud_pipelines.models.splits import PARTS, TEST
from fraud_pipelines.models.training_data import broken_facts, judged_window
from fraud_pipelines.models.training_set import read_split, read_training_set
from fraud_pipelines.models.tuned_parameters import faults_of_choice, read_last_tuning
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.resources import LedgerResource, RegistryResource, WarehouseResource
from fraud_pipelines.settings import load_settings


@dg.asset_check(asset=keys.TRAINING_SET, blocking=True, pool="warehouse")
def no_training_label_was_known_too_late(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A label from the future is in the training set: every metric after it is too good, and the model is worthless.

    The ML engineer looks at the join of labels in the training set before anything is trained.
    """
    rows = read_training_set(warehouse.open())
    late = {part: int((rows.part(part)["label_known_at"] > rows.split.labels_known_by(part)).sum()) for part in PARTS}
    return dg.AssetCheckResult(
        passed=sum(late.values()) == 0,
        metadata={
            "late_labels": sum(late.values()),
            "limit": 0,
            **{f"{part}_late_labels": count for part, count in late.items()},
        },
    )


@dg.asset_check(asset=keys.TRAINING_SET, blocking=True, pool="warehouse")
def the_days_trained_on_are_sound(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A file that failed its own check lies in the days the model learns from: it would learn what is not true.

    Judges every day of the windows and of what their features look back on, whichever run brought it. The data engineer
    mends or deletes the rows of the fact named, materializes features of their days and trains again.
    """
    with warehouse.open().session() as session:
        split, spec = read_split(session), load_spec()
        facts = broken_facts(session, split, spec)
    since, until = judged_window(split, spec)
    broken = {name: count for name, count in facts.items() if count}
    return dg.AssetCheckResult(
        passed=not broken,
        metadata={
            "broken": ", ".join(f"{name}: {count}" for name, count in broken.items()) or "none",
            "limit": 0,
            "since": since.isoformat(),
            "until": until.isoformat(),
            **facts,
        },
    )


@dg.asset_check(asset=keys.TRAINING_SET, blocking=True, pool="warehouse")
def training_ends_a_label_delay_before_the_test(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """A test row is younger than the last training row by less than the label delay: the test is no test.

    The ML engineer corrects the split; nothing trained on it may be promoted.
    """
    rows = read_training_set(warehouse.open())
    is_test = rows.frame["part"] == TEST
    gap = rows.frame.loc[is_test, "event_time"].min() - rows.frame.loc[~is_test, "event_time"].max()
    twice = int(rows.frame["transaction_id"].duplicated().sum())
    gap_days = gap.total_seconds() / 86_400
    return dg.AssetCheckResult(
        passed=gap_days > 0 and gap_days >= rows.split.label_delay_days and twice == 0,
        metadata={"gap_days": gap_days, "limit_days": rows.split.label_delay_days, "transactions_twice": twice},
    )


@dg.asset_check(asset=keys.TRAINING_SET, pool="warehouse")
def labels_stand_for_their_window(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Many transactions have no label yet, and frauds get theirs first: the labelled rows show too much fraud.

    The data engineer looks for labels that did not arrive; the ML engineer raises label_delay_days meanwhile.
    """
    rows = read_training_set(warehouse.open())
    shares = {part: share for part in PARTS if (share := rows.unlabelled_share(part)) is not None}
    return dg.AssetCheckResult(
        passed=max(shares.values()) <= limits.UNLABELLED_SHARE,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "largest_unlabelled_share": max(shares.values()),
            "limit": limits.UNLABELLED_SHARE,
            **{f"{part}_unlabelled_share": share for part, share in shares.items()},
        },
    )


@dg.asset_check(asset=keys.TUNING, pool="warehouse")
def tuning_kept_every_trial(warehouse: WarehouseResource, registry: RegistryResource) -> dg.AssetCheckResult:
    """A trial is missing in MLflow or in the warehouse: nobody can tell what the chosen settings were the best of.

    The ML engineer runs `fraud tune` again; the same rows, seed and trials find the same.
    """
    with warehouse.open().session() as session:
        last = read_last_tuning(session)
    begun = int(last.row["trials"]) if last else 0
    kept = sorted(f"trial-{number:04d}" for number in last.trials["trial"]) if last else []
    logged = registry.open().trial_names(str(last.row["mlflow_run_id"])) if last else []
    return dg.AssetCheckResult(
        passed=begun > 0 and len(kept) == begun and logged == kept,
        metadata={
            "tuning_id": str(last.row["tuning_id"]) if last else "none",
            "trials": begun,
            "trials_in_the_warehouse": len(kept),
            "trials_in_mlflow": len(logged),
        },
    )


@dg.asset_check(asset=keys.TUNING, pool="warehouse")
def tuned_parameters_are_no_worse_than_before(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """What the last tuning chose ranks worse than what was used before, or its gain is no more than chance explains.

    Judged from the trials on record. The ML engineer runs `fraud tune` again before anything is trained with it.
    """
    with warehouse.open().session() as session:
        last = read_last_tuning(session)
    faults = faults_of_choice(last) if last else ["no tuning is on record"]
    return dg.AssetCheckResult(
        passed=not faults,
        metadata={
            "problem": "; ".join(faults) or "none",
            "p_value_limit": limits.TUNING_P_VALUE,
            **({"chosen_trial": int(last.row["chosen_trial"]), "gain": float(last.row["gain"])} if last else {}),
        },
    )


@dg.asset_check(asset=keys.CANDIDATE, blocking=True)
def candidate_bundle_is_sound(registry: RegistryResource) -> dg.AssetCheckResult:
    """The registered files are not those that were trained: damaged or exchanged in the store.

    On call keeps the present champion; the ML engineer trains again and looks at who can write to the store.
    """
    return _bundle_is_sound(registry, CHALLENGER)


@dg.asset_check(asset=keys.EVALUATION, pool="warehouse")
def average_precision_is_plausible(warehouse: WarehouseResource, registry: RegistryResource) -> dg.AssetCheckResult:
    """The candidate is too bad to use, or too good to be true: with late labels, nobody sees that much.

    The ML engineer looks for a feature or label from the future before believing the number.
    """
    version = registry.open().version_of(CHALLENGER)
    with warehouse.open().session() as session:
        result = read_evaluation(session, version, read_split(session).as_of) if version else None
    value = result.metrics.get(AVERAGE_PRECISION) if result else None
    return dg.AssetCheckResult(
        passed=value is not None and limits.AVERAGE_PRECISION_FLOOR <= value <= limits.AVERAGE_PRECISION_ALARM,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "model_version": version or "none",
            "average_precision": value if value is not None else "undefined",
            "floor": limits.AVERAGE_PRECISION_FLOOR,
            "alarm": limits.AVERAGE_PRECISION_ALARM,
        },
    )


@dg.asset_check(asset=keys.EVALUATION, pool="warehouse")
def flagging_beats_chance(warehouse: WarehouseResource, registry: RegistryResource) -> dg.AssetCheckResult:
    """REVIEW and BLOCK catch hardly more fraud than flagging at random: the thresholds do not fit the scores.

    The ML engineer looks at the validation window the thresholds were chosen on.
    """
    models = registry.open()
    version = models.version_of(CHALLENGER)
    with warehouse.open().session() as session:
        result = read_evaluation(session, version, read_split(session).as_of) if version else None
    lift, flagged_share = None, 0.0
    if version and result and result.fraud_count:
        decisions = models.load(version).thresholds.decide(result.scores["fraud_probability"].to_numpy(float))
        flagged = decisions != APPROVE
        flagged_share = float(flagged.mean())
        if flagged_share:
            lift = float(result.scores["is_fraud"].to_numpy(bool)[flagged].sum() / result.fraud_count / flagged_share)
    return dg.AssetCheckResult(
        passed=lift is not None and lift >= limits.FLAGGED_LIFT,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "model_version": version or "none",
            "lift": lift if lift is not None else "undefined: nothing was flagged, or there was no fraud",
            "limit": limits.FLAGGED_LIFT,
            "flagged_share": flagged_share,
        },
    )


@dg.asset_check(asset=keys.CHAMPION, blocking=True)
def champion_matches_ledger(registry: RegistryResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    """The registry's alias and the ledger name different champions: somebody moved the alias by hand.

    On call runs any `fraud promote` or `fraud rollback` (each restores the alias from the ledger) and asks who did it.
    """
    alias, recorded = registry.open().version_of(CHAMPION), ledger.open().champion_at()
    return dg.AssetCheckResult(
        passed=recorded is not None and alias == recorded,
        metadata={"alias": alias or "none", "ledger": recorded or "none"},
    )


@dg.asset_check(asset=keys.CHAMPION, blocking=True)
def champion_bundle_is_sound(registry: RegistryResource) -> dg.AssetCheckResult:
    """The champion's files are not those that were promoted: damaged or exchanged in the store.

    On call rolls back (`fraud rollback`) and looks at who can write to the store.
    """
    return _bundle_is_sound(registry, CHAMPION)


@dg.asset_check(asset=keys.BENTO)
def bento_serves_the_champion(registry: RegistryResource, ledger: LedgerResource) -> dg.AssetCheckResult:
    """`fraud serve` would start another model than the promoted one, or one whose files were changed since.

    On call materializes models/bento again and restarts the service; if files were changed, asks who can write there.
    """
    version = ledger.open().champion_at()
    problem, tag, digest = "no version was promoted", "none", ""
    if version is not None:
        try:
            built = bento_of(version, bentoml_home=load_settings().bentoml_home)
            tag, problem = built.tag, ""
            digest = built.verified_bundle(digest=registry.open().load(version).digest).digest
        except (NoChampion, BundleCorrupt, UnknownVersion) as error:
            problem = str(error)
    return dg.AssetCheckResult(
        passed=not problem,
        metadata={"champion": version or "none", "tag": tag, "bundle_digest": digest, "problem": problem or "none"},
    )


def _bundle_is_sound(registry: RegistryResource, alias: str) -> dg.AssetCheckResult:
    models = registry.open()
    version = models.version_of(alias)
    problem = "" if version else f"no version has the alias {alias}"
    digest = ""
    if version:
        try:
            digest = models.load(version).digest
        except (BundleCorrupt, UnknownVersion) as error:
            problem = str(error)
    return dg.AssetCheckResult(
        passed=not problem,
        metadata={"model_version": version or "none", "bundle_digest": digest, "problem": problem or "none"},
    )
