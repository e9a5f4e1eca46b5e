"""Feedback with one identifier is one feedback, whichever worker takes it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from fraud_pipelines.errors import JournalUnavailable
from fraud_pipelines.ledger import Feedback
from serving.taken_feedback import TakenFeedback


def said(minute: int, verdict: str = "CONFIRMED_FRAUD") -> Feedback:
    return Feedback("f-1", "t-1", verdict, "ann", datetime(2026, 3, 1, 12, minute), "a note")


def test_the_first_one_counts_for_every_worker_and_after_a_restart(tmp_path: Path):
    one, other = (TakenFeedback(tmp_path / "deep" / "feedback.sqlite") for _ in range(2))
    assert one.take(said(0)) == said(0)
    assert other.take(said(1)) == said(0)
    assert other.take(said(2, "FALSE_POSITIVE")) == said(0)
    assert TakenFeedback(tmp_path / "deep" / "feedback.sqlite").take(said(3)) == said(0)


def test_a_file_that_cannot_be_used_takes_nothing(tmp_path: Path):
    (tmp_path / "feedback.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalUnavailable, match=r"feedback\.sqlite"):
        TakenFeedback(tmp_path / "feedback.sqlite").take(said(0))
