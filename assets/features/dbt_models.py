"""The dbt project as assets: every model, every test. The SQL itself lives in dbt_project/."""

from collections.abc import Iterator

import dagster as dg
from dagster_dbt import dbt_assets

from fraud_pipelines.orchestration.dbt import StageTranslator, build, manifest_path
from fraud_pipelines.orchestration.partitions import daily_partitions, window_of
from fraud_pipelines.settings import load_settings


@dbt_assets(
    manifest=manifest_path(),
    dagster_dbt_translator=StageTranslator(),
    partitions_def=daily_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="warehouse",
)
def dbt_models(context: dg.AssetExecutionContext) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    """Staging and feature tables, built for the days of the run."""
    yield from build(context, window_of(context), settings=load_settings())
