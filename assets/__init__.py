"""Dagster assets: one short wrapper per table, model or document; the thinking lives in fraud_pipelines."""
