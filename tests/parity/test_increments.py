"""A full run equals any split into ranges of days, and running a range again changes nothing."""

from datetime import datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest

from fraud_pipelines import tables
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.histories import START, simulated_history

DAYS = 80
END = START + timedelta(days=DAYS)


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A warehouse, dbt bound to it, and the rows of one run over everything."""
    folder = tmp_path_factory.mktemp("increments")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    warehouse = loaded_warehouse(url, *simulated_history(payments=2_500, days=70))
    run = DbtRun(url, folder)
    run("run")
    return warehouse, run, feature_rows(warehouse)


def emptied(warehouse):
    for table in ("card_windows", "merchant_windows", "transaction_features"):
        warehouse.execute(f"delete from features.{table}")


@pytest.mark.parametrize(
    "cuts",
    [(1,), (33, 34, 35), (7, 14, 21, 28, 35, 42, 49, 56, 63), (69,)],
    ids=["after the first day", "single days", "weeks", "before the last day"],
)
def test_any_split_gives_the_rows_of_one_full_run(full_run, cuts):
    warehouse, run, expected = full_run
    emptied(warehouse)
    bounds = [0, *cuts, DAYS]
    for first, last in pairwise(bounds):
        run("run", "--select", "features", since=START + timedelta(days=first), until=START + timedelta(days=last))
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


def test_the_order_of_the_ranges_does_not_matter(full_run):
    warehouse, run, expected = full_run
    emptied(warehouse)
    for first, last in ((40, DAYS), (0, 20), (20, 40)):
        run("run", "--select", "features", since=START + timedelta(days=first), until=START + timedelta(days=last))
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


def test_running_a_range_again_changes_nothing(full_run):
    warehouse, run, expected = full_run
    for _ in range(2):
        run("run", "--select", "features", since=START + timedelta(days=30), until=START + timedelta(days=32))
        pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


def test_a_label_known_later_changes_no_earlier_feature(full_run):
    warehouse, run, expected = full_run
    known_at = START + timedelta(days=50, hours=7)
    victim = expected[expected["event_time"] < START + timedelta(days=45)].index[0]
    label = warehouse.query(
        "select transaction_id, event_time from raw.transactions where transaction_id = :id", id=victim
    ).assign(
        known_at=pd.Series([known_at], dtype="datetime64[us]"), is_fraud=True, label_source="analyst", ingestion_id="i2"
    )
    warehouse.upsert(tables.LABELS, label)
    try:
        run("run", "--select", "features")
        found = feature_rows(warehouse)
        before = expected["event_time"] < known_at
        pd.testing.assert_frame_equal(found[before], expected[before], check_exact=True)
        assert not found[~before].equals(expected[~before])
    finally:
        warehouse.execute("delete from raw.labels where ingestion_id = 'i2'")
        run("run", "--select", "features")


def test_a_range_that_lost_its_transactions_loses_its_rows(full_run):
    warehouse, run, expected = full_run
    since, until = START + timedelta(days=69), datetime(2026, 5, 30)
    last_day = warehouse.read(tables.TRANSACTIONS, since=since, until=until)
    assert len(last_day) > 0
    warehouse.execute("delete from raw.transactions where event_time >= :since", since=since)
    try:
        run("run", "--select", "features", since=since, until=until)
        found = feature_rows(warehouse)
        pd.testing.assert_frame_equal(found, expected[expected["event_time"] < since], check_exact=True)
    finally:
        warehouse.insert_new(tables.TRANSACTIONS, last_day)
        run("run", "--select", "features", since=since, until=until)


@pytest.mark.parametrize(
    "change",
    [
        "delete from {table} where transaction_id = (select min(transaction_id) from {table})",
        "insert into {table} select * from {table} limit 1",
        "insert into {table} select * replace ('nobody' as transaction_id) from {table} limit 1",
    ],
    ids=["a row is missing", "a row is there twice", "a row is of no transaction"],
)
def test_dbt_notices_rows_that_do_not_match_their_transactions(full_run, change):
    warehouse, run, expected = full_run
    one_row = ("test", "--select", "every_transaction_has_one_feature_row")
    run(*one_row)
    warehouse.execute(change.format(table=tables.TRANSACTION_FEATURES))
    try:
        with pytest.raises(AssertionError, match="every_transaction_has_one_feature_row: fail"):
            run(*one_row)
    finally:
        emptied(warehouse)
        run("run", "--select", "features")
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


def test_an_empty_window_is_refused(full_run):
    _, run, _ = full_run
    with pytest.raises(AssertionError, match="window is empty"):
        run("run", "--select", "features", since=START, until=START)
