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
    fallback: Counter
    state_behind: Counter
    model: Gauge


@cache
def metrics() -> Metrics:
    """The metrics of this process.

    Created on first use, in the worker: prometheus_client decides at creation whether it shares its numbers with the
    other workers, and BentoML tells it so only there.
    """
    return Metrics(
        Counter("fraud_score_requests_total", "Requests to /score.", ["decision", "model", "status"]),
        Histogram(
            "fraud_score_latency_seconds", "Time of one decision, by stage.", ["stage"], buckets=LATENCY_BUCKETS_SECONDS
        ),
        Histogram("fraud_score_value", "Fraud probabilities answered.", buckets=SCORE_BUCKETS),
        Counter("fraud_fallback_total", "Decisions made by a rule instead of the model.", ["cause"]),
        Counter("fraud_state_behind_total", "Decided transactions the online store could not take."),
        Gauge(
            "fraud_model_info",
            "1 for the model that decides.",
            ["version", "digest"],
            multiprocess_mode="livemostrecent",
        ),
    )
