"""The ledger: ingestions, decisions, feedback, promotions, challenges, bundles, reports, API keys; rows that stay.

SQLite in the embedded form, PostgreSQL in production; SQLAlchemy and Alembic on both.
"""

from fraud_pipelines.ledger.ledger import Ledger, open_ledger
from fraud_pipelines.ledger.records import (
    ApiKey,
    Arrival,
    Challenge,
    CurrentChallenger,
    CurrentChampion,
    Decision,
    DecisionRow,
    DecisionSummary,
    Feedback,
    Ingestion,
    Log,
    Promotion,
    Report,
    ShadowDecision,
)
from fraud_pipelines.verdicts import Verdict

__all__ = [
    "ApiKey",
    "Arrival",
    "Challenge",
    "CurrentChallenger",
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
    "ShadowDecision",
    "Verdict",
    "open_ledger",
]
