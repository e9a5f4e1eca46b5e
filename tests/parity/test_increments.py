"""A full run equals any split into ranges of days, and running a range again changes nothing: with either engine."""

from datetime import datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fraud_pipelines import tables
from tests.dbt_runs import DbtRun, feature_rows, loaded_warehouse
from tests.histories import START, simulated_history

DAYS = 80
END = START + timedelta(days=DAYS)


@pytest.fixture(scope="module", params=["compiled", "sql"])
def full_run(request, tmp_path_factory):
    """A warehouse, dbt bound to it with one of the two engines, and the rows of one run over everything."""
    folder = tmp_path_factory.mktemp("increments")
    url = f"duckdb:///{folder / 'warehouse.duckdb'}"
    warehouse = loaded_warehouse(url, *simulated_history(payments=1_500, cards=15, merchants=8, days=70))
    run = DbtRun(url, folder, engine=request.param)
    run("run")
    return warehouse, run, feature_rows(warehouse)


def emptied(warehouse):
    for table in ("card_features", "merchant_features", "transaction_features"):
        if warehouse.exists(f"features.{table}"):
            warehouse.execute(f"delete from features.{table}")


@st.composite
def splits(draw):
    """Ranges of days that make up all of them, in any order."""
    cuts = sorted(draw(st.sets(st.integers(1, DAYS - 1), min_size=1, max_size=2)))
    return draw(st.permutations(list(pairwise([0, *cuts, DAYS]))))


# The ranges themselves are drawn in plenty in test_engines_against_reference.py; here dbt replaces rows by them.
@settings(max_examples=1)
@given(ranges=splits())
@example(ranges=[(34, DAYS), (0, 33), (33, 34)])
def test_any_split_gives_the_rows_of_one_full_run(full_run, ranges):
    warehouse, run, expected = full_run
    emptied(warehouse)
    for first, last in ranges:
        run("run", "--select", "features", since=START + timedelta(days=first), until=START + timedelta(days=last))
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


def test_running_a_range_again_changes_nothing(full_run):
    warehouse, run, expected = full_run
    run("run", "--select", "features", since=START + timedelta(days=30), until=START + timedelta(days=32))
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


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
    pd.testing.assert_frame_equal(feature_rows(warehouse), expected, check_exact=True)


# Which engine filled the table is nothing to a test of its rows.
@pytest.mark.parametrize("full_run", ["compiled"], indirect=True)
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
    warehouse, run, _ = full_run
    table = tables.TRANSACTION_FEATURES
    warehouse.execute(f"create or replace table features.kept as select * from {table}")
    warehouse.execute(change.format(table=table))
    try:
        with pytest.raises(AssertionError, match="every_transaction_has_one_feature_row: fail"):
            run("test", "--select", "every_transaction_has_one_feature_row")
    finally:
        warehouse.execute(f"delete from {table}")
        warehouse.execute(f"insert into {table} select * from features.kept")
    run("test", "--select", "every_transaction_has_one_feature_row")


def test_an_empty_window_is_refused(full_run):
    _, run, _ = full_run
    with pytest.raises(AssertionError, match="window is empty"):
        run("run", "--select", "features", since=START, until=START)
