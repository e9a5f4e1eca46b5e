"""The composition root: every asset, check, job, schedule, sensor and resource in one code location."""

from types import ModuleType

import dagster as dg

import assets.compliance
import assets.features
import assets.models
import assets.monitoring
import assets.operations
import assets.raw
import checks
from fraud_pipelines.orchestration.environments import executor_of
from fraud_pipelines.orchestration.evidence import stage_code_version
from fraud_pipelines.orchestration.jobs import JOBS
from fraud_pipelines.orchestration.resources import all_resources
from fraud_pipelines.orchestration.schedules import build_schedules
from fraud_pipelines.orchestration.sensors import build_sensors
from fraud_pipelines.settings import Settings, load_settings

# In the order data flows. One word per stage: folder, package, group, key prefix and schema.
STAGES: dict[str, ModuleType] = {
    "raw": assets.raw,
    "features": assets.features,
    "models": assets.models,
    "monitoring": assets.monitoring,
    "compliance": assets.compliance,
    "operations": assets.operations,
}


def build_definitions(settings: Settings, *, resources: dict[str, object] | None = None) -> dg.Definitions:
    """The whole system for one installation; `resources` replaces those that follow from the settings."""
    definitions = dg.Definitions(
        assets=[asset for package in STAGES.values() for asset in dg.load_assets_from_package_module(package)],
        asset_checks=dg.load_asset_checks_from_package_module(checks),
        jobs=JOBS,
        schedules=build_schedules(settings),
        sensors=build_sensors(settings),
        resources=resources or all_resources(),
        executor=executor_of(settings),
    )
    return definitions.map_asset_specs(
        func=lambda spec: (
            spec.replace_attributes(code_version=stage_code_version(spec.key.path[0])) if spec.group_name else spec
        )
    )


defs = build_definitions(load_settings())
