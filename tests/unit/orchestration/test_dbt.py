import json
import os

import dagster as dg
import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.orchestration.dbt import StageTranslator, feature_columns, manifest_path, target_of


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


@pytest.fixture(scope="module")
def schemas():
    """The table of columns that the catalogue shows, by model."""
    manifest = json.loads(manifest_path().read_text())
    translator = StageTranslator()
    return {
        node["name"]: translator.get_metadata(node).get("dagster/column_schema")
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model"
    }


@pytest.mark.parametrize(
    ("model", "identity", "entities"),
    [
        (
            "transaction_features",
            ["transaction_id", "event_time", "card_id", "merchant_id", "amount_minor", "currency"],
            ("transaction", "card", "merchant"),
        ),
        ("card_features", ["transaction_id", "event_time", "card_id"], ("card",)),
        ("merchant_features", ["transaction_id", "event_time", "merchant_id"], ("merchant",)),
    ],
)
def test_the_catalogue_shows_every_column_of_a_feature_table(schemas, model, identity, entities):
    features = [feature for feature in load_spec().features if feature.entity in entities]
    columns = {column.name: column for column in schemas[model].columns}
    assert list(columns) == identity + [feature.name for feature in features]
    for column in columns.values():
        assert column.type not in ("", "?"), column.name
        assert column.description, column.name
    for feature in features:
        column = columns[feature.name]
        assert (column.type, column.description) == (feature.data_type, feature.meaning)
        assert column.tags["unit"] == feature.unit
        assert column.tags.get("window") == feature.window
        assert column.constraints.nullable is (feature.when_empty == "missing")


def test_a_column_of_the_catalogue_in_full(schemas):
    (column,) = [column for column in schemas["card_features"].columns if column.name == "card_label_count_30d"]
    assert column == dg.TableColumn(
        "card_label_count_30d",
        "bigint",
        "Labels of the card's transactions that became known in the last 30 days.",
        dg.TableColumnConstraints(nullable=False),
        {"measure": "count of labels", "window": "30d", "unit": "labels"},
    )


def test_other_models_keep_the_columns_of_their_schema_file(schemas):
    assert feature_columns("stg_labels", {"is_fraud": {}}, load_spec()) == []
    assert "counts_from_us" in [column.name for column in schemas["stg_labels"].columns]
