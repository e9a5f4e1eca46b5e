"""A month replayed through the online store in time order gives the warehouse's features, to the last bit."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud_pipelines.features.online import OnlineEngine
from fraud_pipelines.features.spec import load_spec
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.warehouse_state import read_state
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.histories import DAY, START, arrival, histories, online_history, scored, simulated_history

SPEC = load_spec()
ENGINE = OnlineEngine(SPEC)
AS_OF = START + timedelta(days=40)
END = AS_OF + timedelta(days=30)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """History, warehouse and the feature rows dbt made."""
    folder = tmp_path_factory.mktemp("online")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    payments, verdicts = simulated_history(payments=2_500, days=70, seed=3)
    warehouse = loaded_warehouse(url, payments, verdicts)
    DbtRun(url, folder)("run")
    rows = feature_rows(warehouse)
    return payments, verdicts, warehouse, rows


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'online.sqlite'}"
    else:
        url = request.getfixturevalue(f"fresh_{request.param}_url")
    opened = open_online_store(url)
    yield opened
    opened.close()


def vector_of(store, payment):
    transaction = scored(payment)
    history = store.history(payment.card_id, payment.merchant_id, transaction.event_time_us)
    return ENGINE.vector(transaction, history)


def expected_vector(rows, payment):
    row = rows.loc[payment.transaction_id]
    return {name: None if row[name] != row[name] else float(row[name]) for name in SPEC.names}


def mismatches(store, rows, payments):
    return [p.transaction_id for p in payments if vector_of(store, p) != expected_vector(rows, p)]


def test_a_month_replayed_in_time_order(world, store):
    payments, verdicts, warehouse, rows = world
    store.rebuild(*read_state(warehouse, SPEC, AS_OF), AS_OF)
    events = [(p.event_time, 1, p) for p in payments if AS_OF <= p.event_time < END]
    # A label known at the very moment of a transaction comes first: it counts from age 0.
    events += [(v.known_at, 0, v) for v in verdicts if AS_OF <= v.known_at < END]
    differing, replayed = [], 0
    for _, is_payment, event in sorted(events, key=lambda item: item[:2]):
        if is_payment:
            differing += mismatches(store, rows, [event])
            store.record_transaction(scored(event))
            replayed += 1
        else:
            store.record_label(arrival(payments, event))
    assert replayed > 900
    assert differing == []


def test_a_store_rebuilt_at_the_end_answers_for_the_last_days(world, store):
    payments, _, warehouse, rows = world
    store.rebuild(*read_state(warehouse, SPEC, END), END)
    last = [p for p in payments if p.event_time >= END - timedelta(days=2)]
    assert len(last) > 30
    assert mismatches(store, rows, last) == []


def test_late_and_repeated_events_leave_the_same_state(world, store):
    payments, verdicts, warehouse, rows = world
    first = END - timedelta(days=2)
    store.rebuild(*read_state(warehouse, SPEC, first), first)
    rest = [p for p in payments if p.event_time >= first]
    for payment in [*reversed(rest), *rest]:
        store.record_transaction(scored(payment))
    for verdict in reversed([v for v in verdicts if first <= v.known_at < END]):
        store.record_label(arrival(payments, verdict))
    assert mismatches(store, rows, rest) == []


@settings(max_examples=25)
@given(history=histories(), order=st.randoms(use_true_random=False))
def test_whatever_order_events_arrive_in_the_last_days_have_their_whole_history(tmp_path_factory, history, order):
    payments, verdicts = history
    store = open_online_store(f"sqlite:///{tmp_path_factory.mktemp('online') / 'online.sqlite'}")
    events = [(store.record_transaction, scored(p)) for p in payments]
    known = {p.transaction_id for p in payments}
    events += [(store.record_label, arrival(payments, v)) for v in verdicts if v.transaction_id in known]
    order.shuffle(events)
    for record, event in events:
        record(event)
    newest = max([*(p.event_time for p in payments), *(v.known_at for v in verdicts)])
    for payment in payments:
        if payment.event_time > newest - 2 * DAY:  # what the store promises of late events
            expected = ENGINE.vector(scored(payment), online_history(payments, verdicts, payment))
            assert vector_of(store, payment) == expected
    store.close()
