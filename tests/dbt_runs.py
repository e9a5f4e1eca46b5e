"""The real dbt project, run in this process against a test's own warehouse."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy.engine import make_url

from fraud_pipelines import tables
from fraud_pipelines.features.reference import Payment, Verdict
from fraud_pipelines.settings import PROJECT_ROOT
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from tests.histories import labels_frame, transactions_frame

PROJECT = PROJECT_ROOT / "dbt_project"


class DbtRun:
    """dbt bound to one warehouse URL: parsed once, then run as often as wanted.

    `engine` computes the features on DuckDB: compiled or sql. `project` may be a changed copy of the dbt project.
    """

    def __init__(self, url: str, folder: Path, *, engine: str = "compiled", project: Path = PROJECT) -> None:
        parsed = make_url(url)
        is_duckdb = parsed.get_backend_name() == "duckdb"
        self.url = url
        self._environment = (
            {"FRAUD_DBT_DUCKDB_PATH": str(parsed.database)}
            if is_duckdb
            else {
                "FRAUD_DBT_PG_HOST": str(parsed.host),
                "FRAUD_DBT_PG_PORT": str(parsed.port),
                "FRAUD_DBT_PG_USER": str(parsed.username),
                "FRAUD_DBT_PG_PASSWORD": str(parsed.password),
                "FRAUD_DBT_PG_DATABASE": str(parsed.database),
            }
        )
        self._arguments = [
            *("--project-dir", str(project), "--profiles-dir", str(project)),
            *("--target", "duckdb" if is_duckdb else "postgres", "--target-path", str(folder / "dbt-target")),
            *("--log-path", str(folder / "dbt-logs")),
        ]
        # Which models there are depends on the engine, so parsing has to know it.
        self._variables = {"feature_engine": engine}
        self.manifest = self._invoke(None, ["parse", "--vars", json.dumps(self._variables)]).result

    def __call__(self, *command: str, since: datetime | None = None, until: datetime | None = None) -> Any:
        """Run a dbt command for the days [since, until), everything without them; its result.

        Raises:
            AssertionError: dbt failed; the message has each failed node and why.
        """
        variables = dict(self._variables)
        if since is not None and until is not None:
            variables |= {"since": f"{since:%Y-%m-%d %H:%M:%S}", "until": f"{until:%Y-%m-%d %H:%M:%S}"}
        return self._invoke(self.manifest, [*command, "--vars", json.dumps(variables)]).result

    def _invoke(self, manifest: Any, command: list[str]) -> Any:
        from dbt.cli.main import dbtRunner

        os.environ |= self._environment
        outcome = dbtRunner(manifest=manifest).invoke(["--quiet", *command, *self._arguments])
        failed = [
            f"{item.node.name}: {item.status}: {item.message}"
            for item in getattr(outcome.result, "results", [])
            if str(item.status) not in ("success", "pass", "no-op")
        ]
        assert not failed, f"dbt {' '.join(command)}: {failed}"
        assert outcome.success, f"dbt {' '.join(command)}: {outcome.exception}"
        return outcome


def loaded_warehouse(url: str, payments: list[Payment], verdicts: list[Verdict]) -> Warehouse:
    """A warehouse whose raw tables hold the history."""
    warehouse = open_warehouse(url)
    warehouse.insert_new(tables.TRANSACTIONS, transactions_frame(payments))
    warehouse.insert_new(tables.LABELS, labels_frame(payments, verdicts))
    return warehouse


def feature_rows(warehouse: Warehouse) -> pd.DataFrame:
    """The feature table by transaction id, ordered by it."""
    return warehouse.read(tables.TRANSACTION_FEATURES).set_index("transaction_id").sort_index()
