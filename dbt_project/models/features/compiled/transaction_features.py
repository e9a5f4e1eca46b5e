"""One row per transaction: every feature of the spec, by the compiled engine. On other databases SQL does it."""

from fraud_pipelines.features.warehouse_build import dbt_model


def model(dbt, session):
    dbt.config(materialized="incremental")
    return dbt_model(dbt.ref("stg_transactions"), dbt.ref("stg_labels"), session)
