import os

import pytest

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.orchestration.dbt import target_of


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
