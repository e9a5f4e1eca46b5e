"""The same history through a real dbt build on both warehouses: the same rows, to the last bit."""

from datetime import timedelta

import pandas as pd

from fraud_pipelines.features.spec import load_spec
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.histories import START, simulated_history


def test_every_feature_of_every_row_is_the_same_double(tmp_path, fresh_postgres_url):
    duckdb_url = f"duckdb:///{tmp_path / 'warehouse.duckdb'}"
    history = simulated_history(payments=2_000)
    found = {}
    for name, url in (("duckdb", duckdb_url), ("postgres", fresh_postgres_url)):
        warehouse = loaded_warehouse(url, *history)
        run = DbtRun(url, tmp_path / name)
        # Unit tests of the project first and data tests after it, on this engine too.
        run("build")
        # A second time over a part of the range, so that replacing a window is part of the comparison.
        run("run", since=START + timedelta(days=20), until=START + timedelta(days=35))
        found[name] = feature_rows(warehouse)
    duckdb, postgres = found["duckdb"], found["postgres"]
    assert len(duckdb) == 2_000
    assert list(duckdb.columns) == list(postgres.columns)
    for name in load_spec().names:
        assert duckdb[name].dtype == postgres[name].dtype, name
    # check_exact: no tolerance. Missing values must be missing on both sides.
    pd.testing.assert_frame_equal(duckdb, postgres, check_exact=True)
    # The comparison is about something: no feature is constant here.
    assert [name for name in load_spec().names if duckdb[name].nunique() <= 1] == []
