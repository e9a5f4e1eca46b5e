"""From Dagster's event log to evidence: which run made the rows a number comes from, with which code.

No `from __future__ import annotations` here: Dagster reads the fields of configurations at run time.
"""

import hashlib
from functools import cache

import dagster as dg
from pydantic import Field

from fraud_pipelines.compliance.facts import LINEAGE
from fraud_pipelines.evidence import Evidence, code_version
from fraud_pipelines.settings import PROJECT_ROOT

# Folders whose content decides what a stage computes.
STAGE_SOURCES = {
    "raw": ("fraud_pipelines/raw", "assets/raw"),
    "staging": ("dbt_project/models", "dbt_project/macros"),
    "features": ("fraud_pipelines/features", "dbt_project/models", "dbt_project/macros", "assets/features"),
    "models": ("fraud_pipelines/models", "assets/models"),
    "monitoring": ("fraud_pipelines/monitoring", "assets/monitoring"),
    "compliance": ("fraud_pipelines/compliance", "assets/compliance"),
    "operations": ("fraud_pipelines/online_store", "assets/operations"),
}


class DocumentConfig(dg.Config):
    """Moment of a document."""

    as_of: str | None = Field(
        None,
        description="ISO time, UTC; only what was known by then is printed, about the champion of then. "
        "Default: end of the last day of data.",
    )


@cache
def stage_code_version(stage: str) -> str:
    """Hash of the source files that decide what a stage computes, 12 hex digits.

    Dagster marks an asset as outdated when it changes: a commit elsewhere does not, an uncommitted edit does.
    """
    digest = hashlib.sha256()
    for folder in STAGE_SOURCES[stage]:
        for path in sorted((PROJECT_ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".sql", ".yml"}:
                digest.update(path.relative_to(PROJECT_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def latest_evidence(context: dg.AssetExecutionContext, *keys: dg.AssetKey) -> dict[dg.AssetKey, Evidence]:
    """The latest materialization of each asset; an asset never materialized is absent from the answer."""
    found = {}
    for key in keys:
        record = context.instance.get_latest_materialization_event(key)
        materialization = record.asset_materialization if record else None
        if record is None or materialization is None:
            continue
        data_hash = materialization.metadata.get("data_hash")
        found[key] = Evidence(
            asset=key.to_user_string(),
            partition=materialization.partition,
            run_id=record.run_id,
            code_version=(materialization.tags or {}).get("dagster/code_version") or code_version(),
            data_hash=str(data_hash.value) if data_hash is not None else None,
        )
    return found


def lineage_evidence(context: dg.AssetExecutionContext) -> dict[str, Evidence]:
    """`latest_evidence` of the assets that documents speak about, by name such as "monitoring/drift"."""
    known = latest_evidence(context, *(dg.AssetKey(name.split("/")) for name in LINEAGE))
    return {evidence.asset: evidence for evidence in known.values()}
