"""What dbt documents: every feature with its type, meaning and definition, in its catalogue and in the database."""

import json

import pytest

from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.warehouse import open_warehouse
from tests.dbt_runs import DbtRun, loaded_warehouse
from tests.histories import simulated_history

NODE = "model.fraud.transaction_features"


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_every_feature_is_documented_in_the_catalogue_and_in_the_database(dialect, request, tmp_path):
    url = f"duckdb:///{tmp_path / 'w.duckdb'}" if dialect == "duckdb" else request.getfixturevalue("fresh_postgres_url")
    loaded_warehouse(url, *simulated_history(payments=50, days=5))
    run = DbtRun(url, tmp_path)
    run("run")
    run("docs", "generate")
    catalog, manifest = (
        json.loads((tmp_path / "dbt-target" / f"{name}.json").read_text())["nodes"][NODE]["columns"]
        for name in ("catalog", "manifest")
    )
    comments = dict(open_warehouse(url).query(COMMENTS[dialect]).itertuples(index=False))
    for feature in load_spec().features:
        assert catalog[feature.name]["type"].lower() in (feature.data_type, feature.data_type.split()[0])
        documented = manifest[feature.name]
        assert documented["description"] == feature.meaning
        assert documented["config"]["meta"]["unit"] == feature.unit
        assert documented["config"]["meta"].get("window") == feature.window
        assert comments[feature.name] == feature.meaning


COMMENTS = {
    "duckdb": "select column_name, comment from duckdb_columns() where table_name = 'transaction_features'",
    "postgres": "select attname, col_description(attrelid, attnum) from pg_attribute "
    "where attrelid = 'features.transaction_features'::regclass and attnum > 0",
}
