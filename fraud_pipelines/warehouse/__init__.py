"""The warehouse: raw, features, training sets, scores and monitoring tables, on DuckDB or PostgreSQL."""

from fraud_pipelines.warehouse.interface import Session, Warehouse
from fraud_pipelines.warehouse.opening import open_warehouse

__all__ = ["Session", "Warehouse", "open_warehouse"]
