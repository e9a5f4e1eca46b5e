"""What the service counts, for GET /metrics. Labels are few: never a card, a merchant or a transaction."""

import threading
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from prometheus_client import Counter, Gauge, Histogram, Summary

# Milliseconds around the time a decision takes; BentoML's own start at 5 ms, where most decisions are already made.
LATENCY_BUCKETS_SECONDS = tuple(ms / 1000 for ms in (0.5, 1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 250))
SCORE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


class Metrics(NamedTuple):
    """Every metric of the service."""

    requests: Counter
    latency: Histogram
    score: Histogram
    amount: Summary
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
        # A summary, because its sum is fraud_decision_amount_sum; a counter's name would end in _total.
        amount=Summary(
            "fraud_decision_amount", "Amounts decided on, in units of the currency.", ["decision", "currency"]
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


# Looking up a metric's labels costs more than counting; these are few and stay.


@cache
def latency_of(stage: str) -> Histogram:
    """Time of one stage."""
    return metrics().latency.labels(stage)


@cache
def requests_of(decision: str, model: str, status: str) -> Counter:
    """Payments answered so."""
    return metrics().requests.labels(decision, model, status)


@cache
def amount_of(decision: str, currency: str) -> Summary:
    """Amounts decided so."""
    return metrics().amount.labels(decision, currency)


@cache
def fallback_of(cause: str) -> Counter:
    """Decisions of the fallback for this cause."""
    return metrics().fallback.labels(cause)


class Missing:
    """Counts missing values of served features. Dozens may be missing of each payment, so they are added up here and
    published now and then, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], np.ndarray] = {}

    def add(self, names: tuple[str, ...], vectors: Sequence[np.ndarray]) -> None:
        """Count the missing values of feature vectors, each in the order of `names`."""
        missing = np.isnan(vectors).sum(axis=0)
        with self._lock:
            self._counts[names] = missing + self._counts.get(names, 0)

    def publish(self) -> None:
        """Add what was counted to fraud_feature_missing_total."""
        with self._lock:
            counts, self._counts = self._counts, {}
        for names, missing in counts.items():
            for position in np.flatnonzero(missing):
                metrics().missing.labels(names[position]).inc(int(missing[position]))


def observe_all(metric: Histogram, values: Sequence[float]) -> None:
    """What `metric.observe` does for each value, for the price of about one."""
    if values:
        numbers = np.array(values, np.float64)
        counts = np.bincount(np.searchsorted(metric._upper_bounds, numbers), minlength=len(metric._buckets))
        for bucket in np.flatnonzero(counts).tolist():
            metric._buckets[bucket].inc(int(counts[bucket]))
        metric._sum.inc(float(numbers.sum()))


def observe_sum(metric: Summary, count: int, total: float) -> None:
    """What `metric.observe` does for each of so many values with this sum."""
    metric._count.inc(count)
    metric._sum.inc(total)
