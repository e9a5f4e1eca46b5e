"""What the service counts, for GET /metrics. Labels are few: never a card, a merchant or a transaction."""

from functools import cache
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

# Milliseconds around the time a decision takes; BentoML's own start at 5 ms, where most decisions are already made.
LATENCY_BUCKETS_SECONDS = tuple(ms / 1000 for ms in (0.5, 1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 250))
SCORE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Metrics(NamedTuple):
    """Every metric of the service."""

    requests: Counter
    latency: Histogram
    score: Histogram
    amount: Counter
    fallback: Counter
    missing: Counter
    state_behind: Counter
    state_conflicts: Counter
    feature_age: Gauge
    model: Gauge
    review_due: Gauge
    journal_records: Gauge
    journal_bytes: Gauge
    journal_oldest: Gauge
    dead_letters: Counter
    feedback: Counter
    refused: Counter
    shadow: Counter


@cache
def metrics() -> Metrics:
    """The metrics of this process.

    Created on first use, in the worker: prometheus_client decides at creation whether it shares its numbers with the
    other workers, and BentoML tells it so only there.
    """
    return Metrics(
        requests=Counter(
            "fraud_score_requests_total",
            "Payments asked about, by what they were answered.",
            ["decision", "model", "status"],
        ),
        latency=Histogram(
            "fraud_score_latency_seconds",
            "Time to decide, by stage: total of each request, the others of each group of concurrent requests.",
            ["stage"],
            buckets=LATENCY_BUCKETS_SECONDS,
        ),
        score=Histogram("fraud_score_value", "Fraud probabilities answered.", buckets=SCORE_BUCKETS),
        amount=Counter(
            "fraud_decision_amount_sum", "Amounts decided on, in units of the currency.", ["decision", "currency"]
        ),
        fallback=Counter("fraud_fallback_total", "Decisions made by a rule instead of the model.", ["cause"]),
        missing=Counter("fraud_feature_missing_total", "Served feature values that were missing.", ["feature"]),
        state_behind=Counter("fraud_state_behind_total", "Decided transactions the online store could not take."),
        state_conflicts=Counter("fraud_state_conflicts_total", "Groups decided again: another process was first."),
        feature_age=Gauge(
            "fraud_feature_age_seconds",
            "Time between the last payment and the moment the online store was filled up to.",
            multiprocess_mode="livemostrecent",
        ),
        model=Gauge(
            "fraud_model_info", "1 for the model that decides.", ["version", "digest"], multiprocess_mode="livemax"
        ),
        review_due=Gauge(
            "fraud_model_review_due_seconds",
            "Seconds until the model must have been reviewed; negative when that is overdue.",
            multiprocess_mode="livemostrecent",
        ),
        journal_records=Gauge(
            "fraud_decision_log_pending_records", "Records that wait for the ledger.", multiprocess_mode="livesum"
        ),
        journal_bytes=Gauge("fraud_decision_log_pending_bytes", "Their bytes.", multiprocess_mode="livesum"),
        journal_oldest=Gauge(
            "fraud_decision_log_oldest_seconds", "How long the first of them has waited.", multiprocess_mode="livemax"
        ),
        dead_letters=Counter("fraud_decision_log_dead_letters_total", "Records that the ledger can never take."),
        feedback=Counter("fraud_feedback_total", "Verdicts of analysts.", ["verdict"]),
        refused=Counter("fraud_requests_refused_total", "Requests refused before a decision.", ["status", "code"]),
        shadow=Counter(
            "fraud_shadow_total",
            "Decided payments that champion and challenger agreed on or not (flip), or that were not compared.",
            ["outcome"],
        ),
    )
