"""What an analyst can say of a payment."""

from typing import Literal

Verdict = Literal["CONFIRMED_FRAUD", "FALSE_POSITIVE", "PENDING", "ESCALATED"]
"""The first two become labels (fraud_pipelines/raw/feedback.py); the others say where the case stands."""
