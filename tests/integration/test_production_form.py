"""The same lineage with every store, and Dagster's own, on PostgreSQL: nothing changes but the URLs."""

import re

import pytest
from sqlalchemy import create_engine, text

from fraud_pipelines import tables
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.warehouse import open_warehouse
from tests.installation import ROOT, Installation, free_port


@pytest.fixture(scope="module")
def production(postgres_server, tmp_path_factory) -> Installation:
    home = tmp_path_factory.mktemp("production")
    urls = {store: postgres_server.create_database() for store in ("warehouse", "ledger", "online_store", "registry")}
    dagster = postgres_server.create_database()
    (home / "dagster").mkdir()
    # The instance file that the image ships, pointed at this server.
    instance = (ROOT / "deploy" / "dagster.yaml").read_text().replace("port: 5432", f"port: {postgres_server.port}")
    (home / "dagster" / "dagster.yaml").write_text(instance)
    variables = {f"FRAUD_{store.upper()}_URL": url for store, url in urls.items()} | {
        "FRAUD_TOKEN_KEY": "production-form-0123456789abcdef0123456789",
        "DAGSTER_HOME": str(home / "dagster"),
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_USER": "postgres",
        "DAGSTER_PG_PASSWORD": "postgres",
        "DAGSTER_PG_DB": dagster.rsplit("/", 1)[1],
    }
    installation = Installation(home, variables)
    output = installation.run("demo", "--days", "45", "--port", str(free_port()))
    return Installation(home, variables | {"dagster": dagster}, output)


def test_the_whole_lineage_runs_and_serves(production):
    assert "champion: version 1" in production.output
    assert "served features that differ from the warehouse: 0" in production.output
    assert re.search(r"compliance PDF: .+\.pdf", production.output)


def test_the_rows_are_in_postgresql_and_no_embedded_store_was_made(production):
    warehouse = open_warehouse(production.settings.warehouse_url)
    assert warehouse.dialect == "postgres"
    features = warehouse.query(f"select count(*) as n from {tables.TRANSACTION_FEATURES}")["n"][0]
    transactions = warehouse.query(f"select count(*) as n from {tables.TRANSACTIONS.name}")["n"][0]
    assert features == transactions > 50_000
    assert open_ledger(production.settings.ledger_url).champion_at() == "1"
    # Each host of the service keeps what it could not deliver; that is no store.
    own = production.home / "serving"
    found = [path for path in production.home.rglob("*") if path.suffix in {".duckdb", ".sqlite"}]
    embedded = [path.name for path in found if own not in path.parents]
    assert embedded == []


def test_dagster_kept_its_runs_in_postgresql(production):
    with create_engine(production.variables["dagster"]).connect() as connection:
        runs = connection.execute(text("select status, count(*) from runs group by status")).all()
    assert {status for status, _ in runs} == {"SUCCESS"}
