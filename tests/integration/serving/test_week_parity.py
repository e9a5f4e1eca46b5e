"""A week over HTTP is served from the warehouse's own feature values; a service that errs is caught at it.

The warehouse is built by the project's own ingestion and dbt run, the online store filled as of the week's start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.features import online
from fraud_pipelines.features.entity_state import Entities
from fraud_pipelines.features.online import Context, LabelArrival, ScoredTransaction, TransactionColumns
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.ledger import Decision, open_ledger
from fraud_pipelines.models.bento import BuiltBento
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.models.serve import running_service
from fraud_pipelines.monitoring.parity import compare_served
from fraud_pipelines.online_store import OnlineStore, open_online_store
from fraud_pipelines.online_store.following import Entry, Outcome
from fraud_pipelines.online_store.recent_state import RecentState
from fraud_pipelines.online_store.state import OPTIONAL, to_us
from fraud_pipelines.online_store.warehouse_state import read_state
from fraud_pipelines.raw.ingestion import ingest
from fraud_pipelines.raw.simulator import SimulationConfig, simulate, write
from fraud_pipelines.settings import Settings
from fraud_pipelines.warehouse import Warehouse, open_warehouse
from serving import scoring
from serving.champion import ready_to_decide
from serving.delivery import Delivery, FeatureNames
from serving.judging import Validity
from serving.scoring import Scorer
from tests.dbt_runs import DbtRun
from tests.integration.serving.conftest import TOKEN_KEY

SPEC = load_spec()
# Longer than any window, so that the week sees whole ones.
WEEK = datetime(2026, 3, 5)
LAST_DAY, END = WEEK + timedelta(days=6), WEEK + timedelta(days=7)
CARD, MERCHANT = "4000001234567899", "M-edges"
HOUR_US = 3_600_000_000
BATCH = 128
COUNTS = {f.name for f in SPEC.features if (f.entity, f.measure, f.of) == ("card", "count", "transactions")}


@dataclass(frozen=True)
class World:
    """The warehouse, and of the week its payments in order of time, as callers send them, and its label arrivals."""

    warehouse: Warehouse
    features: pd.DataFrame
    payments: list[ScoredTransaction]
    bodies: list[dict[str, Any]]
    labels: list[LabelArrival]


def at_the_edges(like: pd.Series) -> pd.DataFrame:
    """Payments of one card at one merchant that lie exactly a window apart, and two of the same microsecond."""
    noon = LAST_DAY + timedelta(hours=12, microseconds=123_457)
    ages = [timedelta(0), timedelta(0), *(timedelta(hours=hours) for hours in (1, 6, 24, 3 * 24, 7 * 24, 30 * 24))]
    changes = [
        {"transaction_id": f"edge-{number}", "occurred_at": noon - age, "card_number": CARD, "merchant": MERCHANT,
         "amount": 10.0 + number, "label_known_at": noon - age + timedelta(days=1), "is_fraud": number % 2 == 0}
        for number, age in enumerate(ages)
    ]  # fmt: skip
    return pd.DataFrame([{**like.to_dict(), **change} for change in changes])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("week")
    simulated = simulate(SimulationConfig(start=date(2026, 2, 1), days=39, cards=500, merchants=100))
    rows = simulated.transactions
    edges = at_the_edges(rows.iloc[0]).astype(rows.dtypes.to_dict())
    rows = pd.concat([rows, edges]).sort_values(["occurred_at", "transaction_id"], ignore_index=True)
    write(replace(simulated, transactions=rows), folder / "files")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    warehouse = open_warehouse(url)
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    ingest(folder / "files", "simulator", warehouse=warehouse, ledger=ledger, token_key=TOKEN_KEY.encode())
    DbtRun(url, folder)("run")
    features = warehouse.read(tables.TRANSACTION_FEATURES, since=WEEK, until=END)
    columns = ["transaction_id", "event_time", "card_id", "merchant_id", "amount_minor", "currency", *OPTIONAL]
    found = warehouse.query_arrow(
        f"select {', '.join(columns)} from {tables.TRANSACTIONS.name} "
        "where event_time >= :since and event_time < :until order by event_time, transaction_id",
        since=WEEK,
        until=END,
    ).to_pylist()
    numbers = rows.set_index("transaction_id")["card_number"].to_dict()
    labels = warehouse.query_arrow(
        "select l.transaction_id, t.event_time, l.known_at, l.is_fraud, t.card_id, t.merchant_id, t.amount_minor "
        f"from {tables.LABELS.name} l join {tables.TRANSACTIONS.name} t on t.transaction_id = l.transaction_id "
        "where l.known_at >= :since and l.known_at < :until order by l.known_at",
        since=WEEK,
        until=END,
    ).to_pylist()
    return World(
        warehouse,
        features,
        [ScoredTransaction(event_time_us=to_us(row.pop("event_time")), **row) for row in map(dict, found)],
        [_body(row, numbers[row["transaction_id"]]) for row in found],
        [
            LabelArrival(
                event_time_us=to_us(row.pop("event_time")), known_at_us=to_us(row.pop("known_at")), **row
            )
            for row in labels
        ],
    )  # fmt: skip


def _body(row: dict[str, Any], card_number: str) -> dict[str, Any]:
    """The payment as its caller sends it: with the card's number, and without what is unknown."""
    return {
        "transaction_id": row["transaction_id"],
        "event_time": row["event_time"].isoformat() + "Z",
        "card_id": card_number,
        "merchant_id": row["merchant_id"],
        "amount": f"{row['amount_minor'] / 100:.2f}",
        "currency": row["currency"],
        **{name: row[name] for name in OPTIONAL if row[name] is not None and name != "currency"},
    }


def mismatches(decisions: Sequence[Decision], world: World) -> dict[str, int]:
    """Features with values that differ from the warehouse's, and how many; every decision was compared for each."""
    rows = compare_served(decisions, world.features, SPEC.names)
    compared = rows.groupby("feature")[["compared_count", "absent_count"]].sum()
    assert set(compared.index) == set(SPEC.names)
    assert set(compared["compared_count"]) == {len(decisions)}
    assert set(compared["absent_count"]) == {0}
    counts = rows.groupby("feature")["mismatch_count"].sum()
    return {str(name): int(count) for name, count in counts.items() if count}


def test_a_week_over_http_is_served_the_warehouses_features(
    world: World, service_settings: Settings, built: BuiltBento, tmp_path: Path
):
    settings = service_settings.model_copy(
        update={
            "home": tmp_path,
            "ledger_url": f"sqlite:///{tmp_path / 'ledger.sqlite'}",
            "online_store_url": f"sqlite:///{tmp_path / 'online.sqlite'}",
            "features_max_age_hours": 8 * 24.0,
        }
    )
    store = open_online_store(settings.online_store_url)
    store.rebuild(*read_state(world.warehouse, SPEC, WEEK), WEEK)
    labels = iter([*world.labels, None])
    label = next(labels)
    with running_service(settings, bento=built) as url, httpx.Client(base_url=url, timeout=60) as client:
        for start in range(0, len(world.bodies), BATCH):
            # Known to the store as the batch is sent, and to each payment of it only from its own moment on.
            while label is not None and label.known_at_us <= world.payments[start : start + BATCH][-1].event_time_us:
                store.record_label(label)
                label = next(labels)
            answer = client.post("/score_batch", json={"transactions": world.bodies[start : start + BATCH]}).json()
            assert answer["refused"] == 0
            assert {row["fallback"] for row in answer["results"]} == {None}
    store.close()
    decisions = open_ledger(settings.ledger_url).decisions(WEEK, END)
    assert len(decisions) == len(world.payments) > 2_800
    assert {decision.transaction_id for decision in decisions} == {t.transaction_id for t in world.payments}
    assert mismatches(decisions, world) == {}


# The same comparison on the last day, in this process, where the service can be made to err.


@pytest.fixture(scope="module")
def day(world: World) -> list[ScoredTransaction]:
    return [t for t in world.payments if t.event_time_us >= to_us(LAST_DAY)]


@pytest.fixture
def last_day_store(world: World, tmp_path: Path) -> Iterator[OnlineStore]:
    store = open_online_store(f"sqlite:///{tmp_path / 'online.sqlite'}")
    store.rebuild(*read_state(world.warehouse, SPEC, LAST_DAY), LAST_DAY)
    for label in world.labels:
        if label.known_at_us >= to_us(LAST_DAY):
            store.record_label(label)
    yield store
    store.close()


@pytest.fixture
def served(
    last_day_store: OnlineStore, bundle_folder: Path, tmp_path: Path
) -> Callable[[Sequence[ScoredTransaction]], list[Decision]]:
    """Decide one payment after the other, and read what was served out of the decision records."""
    bundle = Bundle.load(bundle_folder)

    def serve(payments: Sequence[ScoredTransaction]) -> list[Decision]:
        loaded = ready_to_decide("fraud-scorer", "7", bundle.digest, "test", lambda: bundle)
        records: list[bytes] = []
        scorer = Scorer(
            lambda: loaded,
            lambda spec: last_day_store,
            partial(open_ledger, f"sqlite:///{tmp_path / 'ledger.sqlite'}"),
            SimpleNamespace(append=records.extend),
            Validity(features_max_age=timedelta(days=8)),
        )
        for payment in payments:
            scorer.make_durable([scorer.decide([payment])])
        names = FeatureNames(tmp_path / "names")
        names.remember(bundle.spec_hash, bundle.feature_names)
        ledger = open_ledger(f"sqlite:///{tempfile.mkdtemp(dir=tmp_path)}/ledger.sqlite")
        Delivery(lambda: ledger, names)(records)
        decided = ledger.decisions_on([payment.transaction_id for payment in payments])
        return [decided[payment.transaction_id] for payment in payments]

    return serve


def test_the_last_day_in_this_process_is_served_the_warehouses_features(world: World, day, served):
    assert mismatches(served(day), world) == {}


def test_a_window_that_includes_its_far_edge_is_caught(world: World, day, served, monkeypatch):
    made = online.EntityEngine.__init__

    def wider(engine: Any, *given: Any) -> None:  # age <= w instead of age < w
        made(engine, *given)
        engine._widths = engine._widths + 1

    monkeypatch.setattr(online.EntityEngine, "__init__", wider)
    found = mismatches(served(day), world)
    assert {found.get(name) for name in COUNTS} == {2}  # both payments of the one moment
    assert all(SPEC.feature(name).window_us for name in found)


def test_a_window_that_includes_the_present_is_caught(world: World, day, served, monkeypatch):
    asked = online._asked
    # age >= 0 instead of age > 0
    monkeypatch.setattr(online, "_asked", lambda *given: replace(now := asked(*given), time_us=now.time_us + 1))
    found = mismatches(served(day), world)
    assert {name: found.get(name) for name in COUNTS} == dict.fromkeys(COUNTS, len(day))


def test_event_times_of_another_time_zone_are_caught(world: World, day, served):
    decisions = served([replace(payment, event_time_us=payment.event_time_us + HOUR_US) for payment in day])
    found = mismatches(decisions, world)
    assert found["hour_of_day"] == len(day)
    assert set(found) & COUNTS


def test_a_payment_recorded_after_later_ones_is_caught(world: World, day, served):
    edges = [t for t in day if t.merchant_id == MERCHANT]
    late = edges[0]
    assert late.event_time_us < edges[1].event_time_us
    found = mismatches(served([*(t for t in day if t is not late), late]), world)
    # Every later payment of the card that day lacks it, and the late one itself lacks nothing.
    within = {f.name for f in SPEC.features if f.name in COUNTS and f.window_us >= 24 * HOUR_US}
    assert {found[name] for name in within} == {len(edges) - 1}


class TiesCount(RecentState):
    """Lets a payment count from its own moment on, instead of after it; only not for itself."""

    def include(self, transactions: TransactionColumns) -> Context:
        cards, merchants = self._cards.find(transactions.card_ids), self._merchants.find(transactions.merchant_ids)
        return Context(transactions, Entities(self._cards, cards), Entities(self._merchants, merchants))

    def append(self, entries: Sequence[Entry]) -> Outcome:
        outcome = super().append(entries)
        super().include(TransactionColumns.of([replace(t, event_time_us=t.event_time_us - 1) for t, _ in entries]))
        return outcome


def test_payments_of_one_moment_that_count_for_each_other_are_caught(world: World, day, served, monkeypatch):
    moments = [(t.card_id, t.event_time_us) for t in day]
    assert len(moments) - len(set(moments)) == 1
    monkeypatch.setattr(scoring, "RecentState", TiesCount)
    found = mismatches(served(day), world)
    assert {found[name] for name in COUNTS if "unlabelled" not in name} == {1}  # the second of the two
