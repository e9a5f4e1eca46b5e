"""Running dbt inside this process: starting it anew for each run would cost ten times the work itself.

The manifest is parsed once and kept; every run passes its window as variables.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings
from sqlalchemy.engine import make_url

from fraud_pipelines.errors import ContractBroken, SettingInvalid
from fraud_pipelines.features.spec import Feature, load_spec
from fraud_pipelines.orchestration import keys
from fraud_pipelines.orchestration.partitions import Window
from fraud_pipelines.settings import PROJECT_ROOT, Settings, load_settings
from fraud_pipelines.tables import TRANSACTION_FEATURES
from fraud_pipelines.warehouse import open_warehouse

PROJECT = PROJECT_ROOT / "dbt_project"


def target_of(settings: Settings) -> str:
    """The dbt target that matches the warehouse URL; its connection goes into dbt's environment variables."""
    url = make_url(settings.warehouse_url)
    match url.get_backend_name():
        case "duckdb":
            os.environ["FRAUD_DBT_DUCKDB_PATH"] = str(url.database)
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
            return "duckdb"
        case "postgresql":
            os.environ |= {
                "FRAUD_DBT_PG_HOST": url.host or "localhost",
                "FRAUD_DBT_PG_PORT": str(url.port or 5432),
                "FRAUD_DBT_PG_USER": url.username or "",
                "FRAUD_DBT_PG_PASSWORD": url.password or "",
                "FRAUD_DBT_PG_DATABASE": url.database or "",
            }
            return "postgres"
        case other:
            raise SettingInvalid(f"FRAUD_WAREHOUSE_URL: dbt has no target for {other!r}.")


def _arguments(settings: Settings) -> list[str]:
    target = target_of(settings)
    folder = settings.dbt_target / target
    return [
        "--project-dir", str(PROJECT),
        "--profiles-dir", str(PROJECT),
        "--target", target,
        "--target-path", str(folder),
        "--log-path", str(folder / "logs"),
    ]  # fmt: skip


@cache
def parsed_project(settings: Settings) -> Any:
    """dbt's manifest object of the project, parsed once per process.

    Raises:
        ContractBroken: dbt cannot parse the project; the message is dbt's own.
    """
    from dbt.cli.main import dbtRunner

    outcome = dbtRunner().invoke(["--quiet", "parse", *_arguments(settings)])
    if not outcome.success:
        raise ContractBroken(f"dbt cannot parse {PROJECT.name}: {outcome.exception}. Run: fraud doctor")
    return outcome.result


def manifest_path(settings: Settings | None = None) -> Path:
    """Path of manifest.json, written anew when a file of the project is younger than it."""
    settings = settings or load_settings()
    path = settings.dbt_target / target_of(settings) / "manifest.json"
    sources = [file for file in PROJECT.rglob("*") if file.suffix in {".sql", ".yml", ".yaml"}]
    if not path.exists() or path.stat().st_mtime <= max(file.stat().st_mtime for file in sources):
        parsed_project(settings)
    return path


class StageTranslator(DagsterDbtTranslator):
    """A dbt model's folder is its stage: group and first part of its key, with no exception for any model."""

    def __init__(self) -> None:
        super().__init__(DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_source_tests_as_checks=True))

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        if dbt_resource_props["resource_type"] == "source":
            return dg.AssetKey([dbt_resource_props["source_name"], dbt_resource_props["name"]])
        return dg.AssetKey([dbt_resource_props["fqn"][1], dbt_resource_props["name"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props["fqn"][1])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        return ["team:fraud-models"]

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        """dagster-dbt's own; in the table of columns, each feature with what the spec says of it."""
        metadata = dict(super().get_metadata(dbt_resource_props))
        if self.get_asset_key(dbt_resource_props) == keys.TRANSACTION_FEATURES:
            features = {feature.name: feature for feature in load_spec().features}
            documented = metadata["dagster/column_schema"].columns
            metadata["dagster/column_schema"] = dg.TableSchema(
                [_column_of(features[c.name]) if c.name in features else c for c in documented]
            )
        return metadata


def _column_of(feature: Feature) -> dg.TableColumn:
    tags = {
        "measure": f"{feature.measure} of {feature.of}",
        "window": feature.window or "",
        "unit": feature.unit,
        "reason": feature.reason,
    }
    return dg.TableColumn(
        feature.name,
        feature.data_type,
        feature.meaning,
        dg.TableColumnConstraints(nullable=feature.when_empty == "missing"),
        {name: value for name, value in tags.items() if value},
    )


def build(
    context: dg.AssetExecutionContext, window: Window, *, settings: Settings
) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    """Build the selected models for a window and run their tests; yields each model's output and each test's result.

    Raises:
        dg.Failure: a model could not be built; the message is the database's own.
    """
    from dbt.cli.main import dbtRunner

    variables = {"since": f"{window.since:%Y-%m-%d %H:%M:%S}", "until": f"{window.until:%Y-%m-%d %H:%M:%S}"}
    selected = sorted(key.path[-1] for key in context.selected_asset_keys)
    runner = dbtRunner(manifest=parsed_project(settings))
    try:
        outcome = runner.invoke(
            ["--quiet", "build", *_arguments(settings), "--vars", json.dumps(variables)]
            + ["--exclude-resource-type", "unit_test", "--select", *selected]
        )
    finally:
        _release_warehouse(settings)
    if outcome.exception is not None:
        raise dg.Failure(f"dbt stopped: {outcome.exception}", allow_retries=False)
    yield from _events(context, outcome.result, window, settings)


def _release_warehouse(settings: Settings) -> None:
    """Let go of the database: dbt-duckdb keeps its file open, locked against every other process, until told."""
    if target_of(settings) == "duckdb":
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        environment = DuckDBConnectionManager._ENV
        DuckDBConnectionManager.close_all_connections()
        # What that forgets is closed only when nothing refers to it any more, which may take a garbage collection.
        if environment is not None:
            environment.close()


def _evidence(window: Window, settings: Settings) -> dict[str, int | str]:
    """Rows and hash of the table everything downstream reads."""
    with open_warehouse(settings.warehouse_url).session() as session:
        count = session.query(
            f"select count(*) as n from {TRANSACTION_FEATURES} where event_time >= :since and event_time < :until",
            since=window.since,
            until=window.until,
        )["n"][0]
        data_hash = session.hash_window(TRANSACTION_FEATURES, since=window.since, until=window.until)
    return {"dagster/row_count": int(count), "data_hash": data_hash}


def _events(
    context: dg.AssetExecutionContext,
    result: Any,
    window: Window,
    settings: Settings,
) -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    translator = StageTranslator()
    failures = []
    broken_rules = [
        f"{item.node.name}: {item.message}"
        for item in result.results
        if item.node.resource_type.value == "test" and str(item.status) in ("fail", "error")
    ]
    for item in result.results:
        kind, status = item.node.resource_type.value, str(item.status)
        if kind == "model":
            key = translator.get_asset_key(item.node.to_dict())
            if status != "success":
                # dbt says nothing of a model it skipped; the rules broken by what it reads are why.
                reason = item.message or f"skipped, {' and '.join(broken_rules) or 'what it reads was not built'}"
                failures.append(f"{key.to_user_string()} for {window}: {reason}")
                continue
            metadata: dict[str, Any] = {"execution_seconds": item.execution_time, "window": str(window)}
            if key == keys.TRANSACTION_FEATURES:
                metadata |= _evidence(window, settings)
            yield dg.Output(None, context.assets_def.get_output_name_for_asset_key(key), metadata=metadata)
        elif kind == "test":
            if status == "skipped":  # its model was not built, which is the failure to report
                continue
            attached = _tested_key(item.node, context)
            if attached is None and status not in ("pass", "warn"):
                failures.append(f"test {item.node.name} for {window}: {item.message}")
            elif attached is not None:
                yield dg.AssetCheckResult(
                    check_name=item.node.name,
                    asset_key=attached,
                    passed=status == "pass",
                    severity=dg.AssetCheckSeverity.WARN if status == "warn" else dg.AssetCheckSeverity.ERROR,
                    metadata={"status": status, "failing_rows": item.failures or 0, "message": item.message or ""},
                )
    if failures:
        raise dg.Failure("dbt could not build " + "; ".join(failures), allow_retries=False)


def _tested_key(node: Any, context: dg.AssetExecutionContext) -> dg.AssetKey | None:
    """The asset whose check a dbt test is; None for a test that is no check of any."""
    return next((spec.asset_key for spec in context.assets_def.check_specs if spec.name == node.name), None)
