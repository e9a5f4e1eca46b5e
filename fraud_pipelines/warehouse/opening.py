"""From one URL to the backend it names."""

from fraud_pipelines.errors import SettingInvalid
from fraud_pipelines.warehouse.interface import Warehouse


def open_warehouse(url: str) -> Warehouse:
    """The warehouse at `url`: duckdb:///path/to/file or postgresql+psycopg2://user:password@host:port/database.

    Nothing is opened until the first call.

    Raises:
        SettingInvalid: the URL names no known warehouse.
    """
    scheme = url.split("://", 1)[0]
    if scheme == "duckdb":
        from fraud_pipelines.warehouse.duckdb_backend import DuckDBWarehouse

        return DuckDBWarehouse(url)
    if scheme in ("postgresql", "postgresql+psycopg2"):
        from fraud_pipelines.warehouse.postgres_backend import PostgresWarehouse

        return PostgresWarehouse(url)
    raise SettingInvalid(
        f"FRAUD_WAREHOUSE_URL: expected duckdb:///path or postgresql+psycopg2://..., found scheme {scheme!r}."
    )
