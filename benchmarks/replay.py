"""A stretch of history replayed through the online store in the order in which it happened.

The store is rebuilt from the warehouse as of a moment. From then on each transaction is scored before it is recorded,
and each label is recorded when it became known, as in production. Every vector is compared with the warehouse's row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.comparison import Comparison
from fraud_pipelines import tables
from fraud_pipelines.features.online import LabelArrival, OnlineEngine, ScoredTransaction
from fraud_pipelines.features.spec import FeatureSpec
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import to_us
from fraud_pipelines.online_store.warehouse_state import read_state
from fraud_pipelines.warehouse import Warehouse

# Vectors held in memory before they are compared.
_BATCH = 20_000
_ATTRIBUTES = (
    *("customer_id", "category", "channel", "country", "device_id"),
    *("home_latitude", "home_longitude", "merchant_latitude", "merchant_longitude"),
)


def replay(
    warehouse: Warehouse,
    spec: FeatureSpec,
    store: Path,
    since: datetime,
    until: datetime,
    tolerances: dict[str, float],
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Replay [since, until) through a new SQLite store and compare every vector with the warehouse's features.

    Times are medians and 99th percentiles in microseconds of reading the history, computing the vector and recording
    the transaction; the process is this one, without HTTP.
    """  # fmt: skip
    online = open_online_store(f"sqlite:///{store}", spec=spec)
    started = time.monotonic()
    try:
        online.rebuild(*read_state(warehouse, spec, since), since)
        rebuilt = time.monotonic()
        engine, found = OnlineEngine(spec), Comparison(spec.names, tolerances)
        read_ns, vector_ns, record_ns = [], [], []
        batch: list[tuple[str, dict[str, float | None]]] = []
        expected = _Expected(warehouse, spec, since, until)
        labels = 0
        for event in _events(warehouse, since, until):
            if isinstance(event, LabelArrival):
                online.record_label(event)
                labels += 1
                continue
            begun = time.perf_counter_ns()
            history = online.history(event.card_id, event.merchant_id, event.event_time_us)
            read = time.perf_counter_ns()
            vector = engine.vector(event, history)
            computed = time.perf_counter_ns()
            online.record_transaction(event)
            recorded = time.perf_counter_ns()
            read_ns.append(read - begun)
            vector_ns.append(computed - read)
            record_ns.append(recorded - computed)
            batch.append((event.transaction_id, vector))
            if len(batch) == _BATCH:
                found.add(_table(batch, spec), expected.next(len(batch)))
                batch.clear()
                say(f"  {len(read_ns):,} transactions replayed, {found.mismatches} mismatches")
        found.add(_table(batch, spec), expected.rest())
    finally:
        online.close()
    return {
        "since": f"{since:%Y-%m-%d}",
        "until": f"{until:%Y-%m-%d}",
        "transactions": len(read_ns),
        "label_arrivals": labels,
        **found.report(),
        "history_us": _microseconds(read_ns),
        "vector_us": _microseconds(vector_ns),
        "record_us": _microseconds(record_ns),
        "rebuild_seconds": round(rebuilt - started, 1),
        "seconds": round(time.monotonic() - rebuilt, 1),
    }


def _events(warehouse: Warehouse, since: datetime, until: datetime) -> Iterator[ScoredTransaction | LabelArrival]:
    """Transactions and label arrivals in the order of the moments at which they became known.

    A label known at the very moment of a transaction comes first: it counts from age 0. One known before its own
    transaction counts from a microsecond after it, and so belongs to the replay even when it was known before.
    """
    day = since
    while day < until:
        end = min(day + timedelta(days=1), until)
        since_when = "l.known_at >= :first"
        if day == since:
            since_when = f"({since_when} or l.event_time + interval '1 microsecond' >= :first)"
        labels = warehouse.query_arrow(
            "select l.transaction_id, l.event_time, l.known_at, l.is_fraud, t.card_id, t.merchant_id, t.amount_minor "
            f"from {tables.LABELS.name} l "
            f"join {tables.TRANSACTIONS.name} t on t.transaction_id = l.transaction_id "
            f"where {since_when} and l.known_at < :end",
            first=day,
            end=end,
        ).to_pylist()
        transactions = warehouse.query_arrow(
            "select transaction_id, event_time, card_id, merchant_id, amount_minor, currency, "
            f"{', '.join(_ATTRIBUTES)} from {tables.TRANSACTIONS.name} "
            "where event_time >= :first and event_time < :end",
            first=day,
            end=end,
        ).to_pylist()
        events = [(row["known_at"], 0, row["transaction_id"], row) for row in labels]
        events += [(row["event_time"], 1, row["transaction_id"], row) for row in transactions]
        for _, is_transaction, _, row in sorted(events, key=lambda event: event[:3]):
            yield _transaction(row) if is_transaction else _arrival(row)
        day = end


def _transaction(row: dict[str, Any]) -> ScoredTransaction:
    return ScoredTransaction(
        row["transaction_id"], to_us(row["event_time"]), row["card_id"], row["merchant_id"], row["amount_minor"],
        row["currency"], **{name: row[name] for name in _ATTRIBUTES},
    )  # fmt: skip


def _arrival(row: dict[str, Any]) -> LabelArrival:
    return LabelArrival(
        row["transaction_id"], to_us(row["event_time"]), to_us(row["known_at"]), row["is_fraud"],
        row["card_id"], row["merchant_id"], row["amount_minor"],
    )  # fmt: skip


class _Expected:
    """The warehouse's feature rows of a stretch, handed out in the order of the replay."""

    def __init__(self, warehouse: Warehouse, spec: FeatureSpec, since: datetime, until: datetime) -> None:
        self._rows = warehouse.query_arrow(
            f"select transaction_id, {', '.join(spec.names)} from {tables.TRANSACTION_FEATURES} "
            "where event_time >= :since and event_time < :until order by event_time, transaction_id",
            since=since,
            until=until,
        )
        self._given = 0

    def next(self, rows: int) -> pa.Table:
        """The next rows."""
        self._given += rows
        return self._rows.slice(self._given - rows, rows)

    def rest(self) -> pa.Table:
        """Every row that was not handed out yet."""
        return self._rows.slice(self._given)


def _table(batch: list[tuple[str, dict[str, float | None]]], spec: FeatureSpec) -> pa.Table:
    types = {"bigint": pa.int64(), "double precision": pa.float64()}
    columns = {
        feature.name: pa.array([vector[feature.name] for _, vector in batch], pa.float64()).cast(
            types[feature.data_type]
        )
        for feature in spec.features
    }
    return pa.table({"transaction_id": pa.array([name for name, _ in batch], pa.string()), **columns})


def _microseconds(nanoseconds: list[int]) -> dict[str, float]:
    """Median and 99th percentile."""
    median, high = np.percentile(nanoseconds, [50, 99]) / 1000 if nanoseconds else (0.0, 0.0)
    return {"median": round(float(median), 1), "p99": round(float(high), 1)}
