"""The ledger's logs in the warehouse: each row once, in its own day, however late and in whatever order it arrives."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from fraud_pipelines import tables
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.raw import decisions as module
from fraud_pipelines.raw.decisions import load_log
from fraud_pipelines.warehouse import open_warehouse
from tests.builders import said, served

DAY = datetime(2026, 6, 3)


@pytest.fixture
def warehouse(tmp_path):
    return open_warehouse(f"duckdb:///{tmp_path / 'w.duckdb'}")


@pytest.fixture
def ledger(tmp_path):
    ledger = open_ledger(f"sqlite:///{tmp_path / 'l.sqlite'}")
    yield ledger
    ledger.close()


def load(warehouse, ledger, *days, log="decisions"):
    with warehouse.session() as session:
        return load_log(session, ledger, log, [datetime(2026, 6, day) for day in days]).late


def loaded(warehouse, table=tables.DECISIONS):
    return warehouse.read(table)[table.key[0]].tolist()


def test_a_decision_becomes_one_row_without_its_feature_values(warehouse, ledger):
    fallback = {"fraud_probability": None, "model_version": None, "bundle_digest": None, "thresholds": {}}
    ledger.record_decisions(
        [
            served("a", "2026-06-03 12:00:01"),
            served("b", "2026-06-03 12:00:02", **fallback, fallback="model_failed", reasons=[]),
        ]
    )
    load(warehouse, ledger, 3)
    a, b = warehouse.query_arrow("select * from raw.decisions order by transaction_id").to_pylist()
    assert a == {
        "transaction_id": "a",
        "event_time": datetime(2026, 6, 3, 12),
        "decided_at": datetime(2026, 6, 3, 12, 0, 1),
        "decision": "REVIEW",
        "fraud_probability": 0.5,
        "model_version": "1",
        "bundle_digest": "d" * 64,
        "fallback": None,
        "review_threshold": 0.25,
        "block_threshold": 0.75,
        "reason_codes": "AMOUNT_HIGH, NEW_DEVICE",
        "card_id": "tok_" + "0a" * 16,
        "merchant_id": "m1",
        "amount_minor": 2000,
        "currency": "EUR",
        "position": 1,
    }
    absent = ("fraud_probability", "model_version", "bundle_digest", "review_threshold", "block_threshold")
    assert [b[name] for name in (*absent, "reason_codes")] == [None] * 6
    assert b["fallback"] == "model_failed"


def test_feedback_becomes_one_row_without_its_note(warehouse, ledger):
    ledger.record_feedback([said("f1", "a", "2026-06-03 12:00:00", "ESCALATED")])
    load(warehouse, ledger, 3, log="feedback")
    assert warehouse.query_arrow("select * from raw.feedback").to_pylist() == [
        {
            "feedback_id": "f1", "transaction_id": "a", "verdict": "ESCALATED", "actor": "ann",
            "known_at": datetime(2026, 6, 3, 12), "position": 1,
        }
    ]  # fmt: skip


def test_a_late_decision_is_brought_into_its_own_day_by_a_run_of_another(warehouse, ledger):
    ledger.record_decisions([served("a", "2026-06-03 23:59:59.999999"), served("b", "2026-06-04 00:00:00")])
    assert load(warehouse, ledger, 3) == {datetime(2026, 6, 4): 1}
    ledger.record_decisions([served("late", "2026-06-03 12:00:00"), served("c", "2026-06-05 12:00:00")])
    assert load(warehouse, ledger, 5) == {DAY: 1}
    assert loaded(warehouse) == ["late", "a", "b", "c"]
    assert load(warehouse, ledger, 6) == {}


def test_a_run_of_its_day_picks_a_late_decision_up(warehouse, ledger):
    ledger.record_decisions([served("a", "2026-06-03 12:00:00")])
    load(warehouse, ledger, 3)
    ledger.record_decisions([served("late", "2026-06-03 06:00:00")])
    assert load(warehouse, ledger, 3) == {}
    assert loaded(warehouse) == ["late", "a"]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_rows_are_compared_page_by_page(warehouse, ledger, monkeypatch, page):
    monkeypatch.setattr(module, "PAGE_ROWS", page)
    ledger.record_decisions([served(name, f"2026-06-{day:02d} 12:00:00") for day, name in enumerate("abcdefg", 1)])
    assert len(load(warehouse, ledger, 4)) == 6
    assert loaded(warehouse) == list("abcdefg")


def test_a_row_that_becomes_visible_after_later_ones_is_found(warehouse, fresh_postgres_url):
    """On PostgreSQL positions are given when a row is written, and seen when its transaction commits."""
    ledger = open_ledger(fresh_postgres_url)
    ledger.record_decisions([served("a", "2026-06-03 12:00:00")])
    with create_engine(fresh_postgres_url).connect() as slow:
        slow.execute(
            text(
                "insert into decisions (transaction_id, event_time, card_id, merchant_id, decision, thresholds, "
                "reasons, features, request, decided_at) select 'slow', event_time, card_id, merchant_id, decision, "
                "thresholds, reasons, features, request, decided_at from decisions"
            )
        )
        ledger.record_decisions([served("fast", "2026-06-04 12:00:00")])
        load(warehouse, ledger, 3, 4)
        assert loaded(warehouse) == ["a", "fast"]
        slow.commit()
    load(warehouse, ledger, 5)
    assert loaded(warehouse) == ["a", "slow", "fast"]
    rows = warehouse.read(tables.DECISIONS).set_index("transaction_id")
    assert rows.loc["slow", "position"] < rows.loc["fast", "position"]
    ledger.close()


def test_a_restored_ledger_that_is_behind_the_warehouse_is_read_again(warehouse, ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAFETY_MARGIN", 2)
    ledger.record_decisions([served(name, "2026-06-03 12:00:00") for name in "abcdefgh"])
    load(warehouse, ledger, 3)
    restored = open_ledger(f"sqlite:///{tmp_path / 'restored.sqlite'}")
    restored.record_decisions([served("b", "2026-06-03 12:00:00"), served("a", "2026-06-03 12:00:00")])
    restored.record_decisions([served("new", "2026-06-02 12:00:00")])
    assert load(warehouse, restored, 3) == {datetime(2026, 6, 2): 1}
    assert loaded(warehouse) == ["new", "a", "b"]
    restored.close()


@pytest.mark.parametrize("log", ["decisions", "feedback"])
def test_both_warehouses_hold_the_same_rows(warehouse, ledger, fresh_postgres_url, log):
    ledger.record_decisions([served(name, f"2026-06-0{day} 12:00:00") for day, name in enumerate("abc", 1)])
    ledger.record_feedback([said(name, "a", f"2026-06-0{day} 12:00:00") for day, name in enumerate("def", 1)])
    postgres, table = open_warehouse(fresh_postgres_url), module.TABLE_OF[log]
    assert load(warehouse, ledger, 2, log=log) == load(postgres, ledger, 2, log=log)
    window = {"since": datetime(2026, 6, 1), "until": datetime(2026, 6, 9)}
    hashes = []
    for store in (warehouse, postgres):
        with store.session() as session:
            hashes.append(session.hash_window(table, **window))
    assert hashes[0] == hashes[1]
    assert load(postgres, ledger, 2, log=log) == {}
    assert len(loaded(postgres, table)) == 3


# A delivery is a batch of (transaction, day it was decided, hour); the same transaction may come with another moment.
DELIVERIES = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), st.integers(0, 23)), min_size=1, max_size=6),
        st.integers(1, 5),  # a run of this day
    ),
    max_size=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=DELIVERIES)
def test_whatever_arrives_and_runs_in_whatever_order_each_decision_is_there_once(warehouse, ledger, steps):
    first: dict[str, datetime] = {}
    with ledger._engine.begin() as connection:
        connection.execute(text("delete from decisions"))
    with warehouse.session() as session:  # one for all runs: opening the file is what takes time
        session.execute("delete from raw.decisions")
        for step in [*steps, 1]:
            if isinstance(step, list):
                batch = {f"t{name:02d}": datetime(2026, 6, day, hour) for name, day, hour in reversed(step)}
                ledger.record_decisions([served(name, str(moment)) for name, moment in batch.items()])
                first = batch | first
                continue
            load_log(session, ledger, "decisions", [datetime(2026, 6, step)])
            held = session.query_arrow("select transaction_id, decided_at from raw.decisions").to_pylist()
            assert sorted(tuple(row.values()) for row in held) == sorted(first.items())
        before = session.read(tables.DECISIONS)
        assert load_log(session, ledger, "decisions", [datetime(2026, 6, 6)]).late == {}
        load_log(session, ledger, "decisions", [datetime(2026, 6, day) for day in range(1, 6)])
        assert session.read(tables.DECISIONS).equals(before)


def test_many_days_are_loaded_at_once_when_the_warehouse_is_new(warehouse, ledger):
    moments = [DAY + timedelta(days=number) for number in range(30)]
    ledger.record_decisions([served(f"t{moment:%m%d}", str(moment)) for moment in moments])
    late = load(warehouse, ledger, 3)
    assert [day.date() for day in late] == [date(2026, 6, 3) + timedelta(days=number) for number in range(1, 30)]
    assert len(loaded(warehouse)) == 30
