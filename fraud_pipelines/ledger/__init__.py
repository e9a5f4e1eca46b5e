"""The ledger: ingestions, decisions, feedback, promotions with their bundles, reports and API keys, as rows that stay.

SQLite in the embedded form, PostgreSQL in production; SQLAlchemy and Alembic on both.
"""

from fraud_pipelines.ledger.ledger import Ledger, open_ledger
from fraud_pipelines.ledger.records import (
    ApiKey,
    Arrival,
    CurrentChampion,
    Decision,
    DecisionRow,
    DecisionSummary,
    Feedback,
    Ingestion,
    Log,
    Promotion,
    Report,
)
from fraud_pipelines.verdicts import Verdict

__all__ = [
    "ApiKey",
    "Arrival",
    "CurrentChampion",
    "Decision",
    "DecisionRow",
    "DecisionSummary",
    "Feedback",
    "Ingestion",
    "Ledger",
    "Log",
    "Promotion",
    "Report",
    "Verdict",
    "open_ledger",
]
