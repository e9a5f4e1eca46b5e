"""Verdicts become labels: which, when, and each once."""

from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import date, datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud_pipelines import tables
from fraud_pipelines.ledger import DecisionSummary, open_ledger
from fraud_pipelines.raw.decisions import decision_rows, feedback_rows
from fraud_pipelines.raw.feedback import load_verdicts, pending_verdicts
from fraud_pipelines.warehouse import Session, Warehouse, open_warehouse
from tests.builders import label, payment, said, served

NOON = datetime(2026, 6, 3, 12)


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def warehouse(request, tmp_path_factory) -> Iterator[Warehouse]:
    if request.param == "duckdb":
        yield open_warehouse(f"duckdb:///{tmp_path_factory.mktemp('feedback') / 'w.duckdb'}")
        return
    server = request.getfixturevalue("postgres_server")
    url = server.create_database()
    yield open_warehouse(url)
    server.drop_database(url)


@pytest.fixture
def session(warehouse) -> Iterator[Session]:
    with warehouse.session() as session:
        empty(session)
        yield session


def empty(session: Session) -> None:
    for table in (tables.FEEDBACK, tables.TRANSACTIONS, tables.DECISIONS, tables.LABELS):
        session.execute(f"delete from {table.name}")


def put(session: Session, *feedback, paid=(), decided=()) -> None:
    rows = [replace(item, position=position) for position, item in enumerate(feedback, 1)]
    session.upsert(tables.FEEDBACK, feedback_rows(rows))
    if paid:
        session.upsert(tables.TRANSACTIONS, pd.DataFrame([payment(name, time) for name, time in paid]))
    for name, time in decided:
        decision = vars(served(name, "2026-06-03 12:00:00", event_time=datetime.fromisoformat(time)))
        summary = {item.name: decision.get(item.name) for item in fields(DecisionSummary)}
        session.upsert(tables.DECISIONS, decision_rows([DecisionSummary(**summary | {"position": 1})]))


def labels(session: Session) -> list[tuple]:
    rows = session.query_arrow(
        "select transaction_id, event_time, known_at, is_fraud, label_source, ingestion_id from raw.labels "
        "order by known_at, transaction_id"
    ).to_pylist()
    return [tuple(row.values()) for row in rows]


def test_a_verdict_is_a_label_known_when_it_was_given_and_a_status_is_none(session):
    put(
        session,
        said("f1", "a", "2026-06-04 09:00:00", "PENDING"),
        said("f2", "a", "2026-06-04 10:00:00", "ESCALATED"),
        said("f3", "a", "2026-06-04 11:00:00", "CONFIRMED_FRAUD"),
        said("f4", "b", "2026-06-04 12:00:00", "FALSE_POSITIVE"),
        paid=[("a", "2026-06-03 12:00:00"), ("b", "2026-06-03 13:00:00")],
    )
    load = load_verdicts(session)
    assert (load.loaded, load.waiting, load.too_early, load.first_day) == (2, 0, 0, date(2026, 6, 4))
    expected = [
        ("a", NOON, datetime(2026, 6, 4, 11), True, "analyst", "f3"),
        ("b", NOON + timedelta(hours=1), datetime(2026, 6, 4, 12), False, "analyst", "f4"),
    ]
    assert labels(session) == expected
    assert (load_verdicts(session).loaded, labels(session)) == (0, expected)


def test_a_corrected_verdict_is_a_second_arrival(session):
    first = said("f1", "a", "2026-06-04 09:00:00", "CONFIRMED_FRAUD")
    put(session, first, paid=[("a", "2026-06-03 12:00:00")])
    assert load_verdicts(session).loaded == 1
    corrected = said("f2", "a", "2026-06-05 09:00:00", "FALSE_POSITIVE")
    put(session, first, corrected, said("f3", "a", "2026-06-06 09:00:00", "PENDING"))
    assert load_verdicts(session).loaded == 1
    assert [(row[2].day, row[3]) for row in labels(session)] == [(4, True), (5, False)]


def test_a_verdict_waits_for_its_transaction_and_keeps_its_moment(session):
    put(session, said("f1", "a", "2026-06-04 09:00:00"))
    assert (load_verdicts(session).waiting, labels(session)) == (1, [])
    put(session, paid=[("a", "2026-06-03 12:00:00")])
    load = load_verdicts(session)
    assert (load.loaded, load.waiting) == (1, 0)
    assert labels(session)[0][2] == datetime(2026, 6, 4, 9)


def test_a_decision_is_enough_to_know_when_the_transaction_happened_and_a_source_knows_better(session):
    put(
        session,
        said("f1", "a", "2026-06-04 09:00:00"),
        said("f2", "b", "2026-06-04 09:00:00"),
        decided=[("a", "2026-06-03 12:00:00.000001"), ("b", "2026-06-03 12:00:00.000001")],
        paid=[("b", "2026-06-03 12:00:00")],
    )
    assert load_verdicts(session).loaded == 2
    assert [row[1].microsecond for row in labels(session)] == [1, 0]
    # No transaction is made up from it.
    assert session.read(tables.TRANSACTIONS)["transaction_id"].tolist() == ["b"]


def test_a_verdict_before_its_payment_is_no_label_but_is_counted(session):
    put(
        session,
        said("f1", "a", "2026-06-03 11:59:59.999999"),
        said("f2", "b", "2026-06-03 12:00:00"),
        paid=[("a", "2026-06-03 12:00:00"), ("b", "2026-06-03 12:00:00")],
    )
    load = load_verdicts(session)
    assert (load.loaded, load.too_early) == (1, 1)
    assert [row[0] for row in labels(session)] == ["b"]
    assert pending_verdicts(session).too_early == 1


def test_of_two_verdicts_in_one_microsecond_fraud_stands(session):
    moment = "2026-06-04 09:00:00.000001"
    put(
        session,
        said("f1", "a", moment, "FALSE_POSITIVE"),
        said("f2", "a", moment, "CONFIRMED_FRAUD"),
        paid=[("a", "2026-06-03 12:00:00")],
    )
    load_verdicts(session)
    assert [(row[3], row[5]) for row in labels(session)] == [(True, "f2")]
    assert pending_verdicts(session).loadable == 0


def test_labels_that_are_there_stay_as_they_are(session):
    session.upsert(
        tables.LABELS, pd.DataFrame([label("a", "2026-06-03 12:00:00", "2026-06-10 12:00:00", label_source="file")])
    )
    put(session, said("f1", "a", "2026-06-04 09:00:00"), paid=[("a", "2026-06-03 12:00:00")])
    load_verdicts(session)
    assert [(row[2].day, row[3], row[4]) for row in labels(session)] == [(4, True, "analyst"), (10, False, "file")]


VERDICTS = st.lists(
    st.tuples(
        st.integers(0, 4),  # transaction
        st.integers(-2, 30),  # hours after noon
        st.sampled_from(["CONFIRMED_FRAUD", "FALSE_POSITIVE", "PENDING", "ESCALATED"]),
    ),
    max_size=12,
    unique_by=lambda item: item[:2],
)


@pytest.mark.parametrize("warehouse", ["duckdb"], indirect=True)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(verdicts=VERDICTS, arrives=st.permutations(range(5)), loads_between=st.booleans())
def test_labels_follow_from_what_is_known_not_from_the_order_it_came(session, verdicts, arrives, loads_between):
    empty(session)
    # Transaction 4 never comes.
    coming = [number for number in arrives if number != 4]
    put(session, *(said(f"f{n}", f"t{t}", str(NOON + timedelta(hours=h)), v) for n, (t, h, v) in enumerate(verdicts)))
    for number in coming:
        put(session, paid=[(f"t{number}", str(NOON))])
        if loads_between:
            load_verdicts(session)
    load = load_verdicts(session)
    verdicts = [item for item in verdicts if item[2] in ("CONFIRMED_FRAUD", "FALSE_POSITIVE")]
    assert load.waiting == sum(t == 4 for t, _, _ in verdicts)
    assert load.too_early == sum(t != 4 and h < 0 for t, h, _ in verdicts)
    expected = {
        (f"t{t}", NOON + timedelta(hours=h), v == "CONFIRMED_FRAUD") for t, h, v in verdicts if t != 4 and h >= 0
    }
    assert {(row[0], row[2], row[3]) for row in labels(session)} == expected
    assert len(labels(session)) == len(expected)


def test_feedback_delivered_twice_is_one_label(session, tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'l.sqlite'}")
    ledger.record_feedback([said("f1", "a", "2026-06-04 09:00:00")])
    ledger.record_feedback([said("f1", "a", "2026-06-09 09:00:00")])
    session.upsert(tables.TRANSACTIONS, pd.DataFrame([payment("a", "2026-06-03 12:00:00")]))
    for _ in range(2):
        session.upsert(tables.FEEDBACK, feedback_rows(ledger.feedback(NOON, NOON + timedelta(days=30))))
        load_verdicts(session)
    assert [row[2] for row in labels(session)] == [datetime(2026, 6, 4, 9)]
    ledger.close()
