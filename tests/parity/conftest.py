"""What several parity tests need: the project's SQL, compiled once."""

from __future__ import annotations

import pytest

from fraud_pipelines.features.spec import load_spec
from tests.compiled_sql import CompiledSql


@pytest.fixture(scope="session")
def compiled_project(tmp_path_factory: pytest.TempPathFactory) -> CompiledSql:
    """The SQL on DuckDB for the project's own spec."""
    folder = tmp_path_factory.mktemp("compiled")
    return CompiledSql(f"duckdb:///{folder / 'warehouse.duckdb'}", folder, load_spec())
