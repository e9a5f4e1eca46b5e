import json
import os

import dagster as dg
import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.orchestration.dbt import StageTranslator, manifest_path, target_of
from fraud_pipelines.settings import load_settings


def test_the_warehouse_url_chooses_the_target_and_its_connection(tmp_settings, monkeypatch):
    for name in [name for name in os.environ if name.startswith("FRAUD_DBT_")]:
        monkeypatch.delenv(name)
    assert target_of(tmp_settings) == "duckdb"
    assert os.environ["FRAUD_DBT_DUCKDB_PATH"] == str(tmp_settings.home / "warehouse.duckdb")
    url = "postgresql+psycopg2://ann:p%40ss@db.example:6543/warehouse"
    assert target_of(tmp_settings.model_copy(update={"warehouse_url": url})) == "postgres"
    found = {name: os.environ[f"FRAUD_DBT_PG_{name}"] for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE")}
    assert found == {
        "HOST": "db.example", "PORT": "6543", "USER": "ann", "PASSWORD": "p@ss", "DATABASE": "warehouse",
    }  # fmt: skip


def test_a_warehouse_without_a_target_is_refused(tmp_settings):
    with pytest.raises(SettingInvalid, match="no target for 'sqlite'"):
        target_of(tmp_settings.model_copy(update={"warehouse_url": "sqlite:///x"}))


@pytest.fixture(scope="module", params=["duckdb:///nothing", "postgresql+psycopg2://ann:pw@localhost/nothing"])
def schemas(request):
    """The table of columns that the catalogue shows, by model; parsing needs no warehouse."""
    settings = load_settings().model_copy(update={"warehouse_url": request.param})
    translator = StageTranslator()
    return {
        node["name"]: translator.get_metadata(node)["dagster/column_schema"]
        for node in json.loads(manifest_path(settings).read_text())["nodes"].values()
        if node["resource_type"] == "model"
    }


def test_the_catalogue_shows_every_column_of_the_feature_table(schemas):
    columns = {column.name: column for column in schemas["transaction_features"].columns}
    identity = ["transaction_id", "event_time", "card_id", "merchant_id", "amount_minor", "currency"]
    assert list(columns) == identity + list(load_spec().names)
    for column in columns.values():
        assert column.type in ("text", "timestamp", "bigint", "double precision"), column.name
        assert column.description, column.name
    for feature in load_spec().features:
        column = columns[feature.name]
        assert (column.type, column.description) == (feature.data_type, feature.meaning)
        assert column.tags["unit"] == feature.unit
        assert column.tags.get("window") == feature.window
        assert column.constraints.nullable is (feature.when_empty == "missing")


def test_a_column_of_the_catalogue_in_full(schemas):
    (column,) = [c for c in schemas["transaction_features"].columns if c.name == "card_label_count_30d"]
    assert column == dg.TableColumn(
        "card_label_count_30d",
        "bigint",
        "Labels of the card's transactions that became known in the last 30 days.",
        dg.TableColumnConstraints(nullable=False),
        {"measure": "count of labels", "window": "30d", "unit": "labels", "reason": "KNOWN_OUTCOMES_ON_CARD"},
    )


def test_other_models_keep_the_columns_of_their_schema_file(schemas):
    (column,) = [c for c in schemas["stg_labels"].columns if c.name == "counts_from_us"]
    assert column == dg.TableColumn("counts_from_us", "bigint", "The same moment in microseconds.")
