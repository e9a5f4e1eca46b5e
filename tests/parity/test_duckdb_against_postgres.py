"""The same history through a real dbt build on both warehouses: compiled engine on one, SQL on the other."""

from datetime import timedelta

import pandas as pd
import pytest

from fraud_pipelines.features.spec import load_spec
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.histories import START, simulated_history

SPEC = load_spec()
# Sines and cosines differ in their last bits between libraries.
OF_PLACES = [feature.name for feature in SPEC.features if feature.of in ("home_distance", "place")]
NEED_OPTIONAL = [
    *OF_PLACES,
    *(f.name for f in SPEC.features if f.of in ("is_online", "is_atm", "country", "device", "category")),
]


def built(urls, folder, history, command):
    """The feature tables, built by dbt on DuckDB and on PostgreSQL."""
    found = []
    for name, url in urls.items():
        warehouse = loaded_warehouse(url, *history)
        run = DbtRun(url, folder / name)
        run(*command)
        # A second time over a part of the range, so that replacing a window is part of the comparison.
        run("run", "--select", "features", since=START + timedelta(days=20), until=START + timedelta(days=35))
        found.append(feature_rows(warehouse))
    return found


@pytest.mark.parametrize("with_optional", [True, False], ids=["all columns", "a source without the optional columns"])
def test_every_feature_of_every_row_is_the_same_double(tmp_path, fresh_postgres_url, with_optional):
    urls = {"duckdb": f"duckdb:///{tmp_path / 'warehouse.duckdb'}", "postgres": fresh_postgres_url}
    history = simulated_history(payments=1_500, cards=20, with_optional=with_optional)
    # With `build`, unit tests of the project come first and data tests after it, on both engines.
    duckdb, postgres = built(urls, tmp_path, history, ["build"] if with_optional else ["run"])
    assert len(duckdb) == 1_500
    assert list(duckdb.columns) == list(postgres.columns)
    for name in SPEC.names:
        assert duckdb[name].dtype == postgres[name].dtype, name
    # check_exact: no tolerance. Missing values must be missing on both sides.
    exact = duckdb.columns.difference(OF_PLACES)
    pd.testing.assert_frame_equal(duckdb[exact], postgres[exact], check_exact=True)
    pd.testing.assert_frame_equal(duckdb[OF_PLACES], postgres[OF_PLACES], check_exact=False, rtol=1e-9, atol=0)
    # The comparison is about something: features vary, but for those that need what the source lacks.
    silent = [name for name in SPEC.names if duckdb[name].nunique() <= 1]
    assert silent == ([] if with_optional else [name for name in SPEC.names if name in NEED_OPTIONAL])
    assert duckdb[silent].isna().all(axis=None)
