"""The ledger: ingestions, decisions, promotions and reports, as rows that stay.

SQLite in the embedded form, PostgreSQL in production; SQLAlchemy and Alembic on both.
"""

from fraud_pipelines.ledger.ledger import Ledger, open_ledger
from fraud_pipelines.ledger.records import CurrentChampion, Decision, Ingestion, Promotion, Report

__all__ = ["CurrentChampion", "Decision", "Ingestion", "Ledger", "Promotion", "Report", "open_ledger"]
