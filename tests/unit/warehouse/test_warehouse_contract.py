"""One behavioural suite for every warehouse: what holds on DuckDB holds on a real PostgreSQL."""

import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, SettingInvalid, WarehouseUnavailable
from fraud_pipelines.warehouse import Warehouse, open_warehouse

DAY_1, DAY_2, DAY_3 = datetime(2026, 1, 1), datetime(2026, 1, 2), datetime(2026, 1, 3)


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Warehouse:
    if request.param == "duckdb":
        return open_warehouse(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    return open_warehouse(request.getfixturevalue("fresh_postgres_url"))


def scores(*rows: tuple[str, datetime, float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "transaction_id": [row[0] for row in rows],
            "event_time": pd.Series([row[1] for row in rows], dtype="datetime64[us]"),
            "model_version": "1",
            "fraud_probability": [row[2] for row in rows],
            "decision": "APPROVE",
        }
    )


def stored(warehouse: Warehouse) -> list[tuple[str, float]]:
    frame = warehouse.read(tables.SCORES)
    return list(zip(frame["transaction_id"], frame["fraud_probability"], strict=True))


def test_a_window_is_half_open_and_its_replacement_leaves_the_rest(warehouse):
    noon = datetime(2026, 1, 1, 12)
    warehouse.replace_window(tables.SCORES, scores(("a", DAY_1, 0.1), ("b", noon, 0.2)), since=DAY_1, until=DAY_2)
    warehouse.replace_window(tables.SCORES, scores(("c", DAY_2, 0.3)), since=DAY_2, until=DAY_3)
    warehouse.replace_window(tables.SCORES, scores(("d", noon, 0.4)), since=DAY_1, until=DAY_2)
    assert stored(warehouse) == [("d", 0.4), ("c", 0.3)]
    assert list(warehouse.read(tables.SCORES, since=DAY_1, until=DAY_2)["transaction_id"]) == ["d"]


def test_an_empty_replacement_empties_its_window(warehouse):
    warehouse.replace_window(tables.SCORES, scores(("a", DAY_1, 0.1)), since=DAY_1, until=DAY_2)
    warehouse.replace_window(tables.SCORES, scores(), since=DAY_1, until=DAY_2)
    assert stored(warehouse) == []


def test_a_row_outside_its_window_is_refused_and_nothing_changes(warehouse):
    warehouse.replace_window(tables.SCORES, scores(("a", DAY_1, 0.1)), since=DAY_1, until=DAY_2)
    with pytest.raises(ContractBroken, match="do not lie within"):
        warehouse.replace_window(tables.SCORES, scores(("z", DAY_2, 0.9)), since=DAY_1, until=DAY_2)
    assert stored(warehouse) == [("a", 0.1)]


def test_insert_new_keeps_what_was_there_and_returns_it(warehouse):
    assert warehouse.insert_new(tables.SCORES, scores(("a", DAY_1, 0.1))).num_rows == 0
    known = warehouse.insert_new(tables.SCORES, scores(("a", DAY_2, 0.9), ("b", DAY_2, 0.2)))
    assert known.to_pylist()[0]["fraud_probability"] == 0.1
    assert stored(warehouse) == [("a", 0.1), ("b", 0.2)]


def test_upsert_replaces_by_key(warehouse):
    warehouse.upsert(tables.SCORES, scores(("a", DAY_1, 0.1), ("b", DAY_1, 0.2)))
    warehouse.upsert(tables.SCORES, scores(("b", DAY_1, 0.7)))
    assert stored(warehouse) == [("a", 0.1), ("b", 0.7)]


def test_a_table_made_before_it_gained_a_column_gains_it_and_keeps_its_rows(warehouse):
    warehouse.execute("create schema if not exists models")
    warehouse.execute("drop table if exists models.evaluations")
    before = {name: column for name, column in tables.EVALUATIONS.columns.items() if name not in ("lower", "upper")}
    warehouse.execute(f"create table models.evaluations ({', '.join(f'{n} {c.type}' for n, c in before.items())})")
    warehouse.execute(
        "insert into models.evaluations values ('1', :day, 'roc_auc', 0.9, 10, 1, :day, :day)", day=datetime(2026, 1, 1)
    )
    row = open_warehouse(warehouse.url).read(tables.EVALUATIONS).iloc[0]
    assert (row["model_version"], row["value"], row["rows"]) == ("1", 0.9, 10)
    assert pd.isna(row["lower"]) and pd.isna(row["upper"])


def test_an_exception_rolls_the_whole_session_back(warehouse):
    warehouse.upsert(tables.SCORES, scores(("a", DAY_1, 0.1)))
    with pytest.raises(RuntimeError, match="half way"), warehouse.session() as session:
        session.upsert(tables.SCORES, scores(("b", DAY_1, 0.2)))
        session.execute("delete from monitoring.scores where transaction_id = :id", id="a")
        raise RuntimeError("half way")
    assert stored(warehouse) == [("a", 0.1)]


def test_parameters_are_values_never_sql(warehouse):
    hostile = "a'; drop table monitoring.scores; --"
    warehouse.upsert(tables.SCORES, scores((hostile, DAY_1, 0.1)))
    found = warehouse.query("select count(*) as n from monitoring.scores where transaction_id = :id", id=hostile)
    assert found["n"][0] == 1


def test_types_survive_the_round_trip(warehouse):
    microsecond = datetime(2026, 1, 1, 23, 59, 59, 999999)
    warehouse.upsert(tables.SCORES, scores(("ünïcødé-🛒", microsecond, 0.1 + 0.2)))
    row = warehouse.read(tables.SCORES).iloc[0]
    assert row["transaction_id"] == "ünïcødé-🛒"
    assert row["event_time"].to_pydatetime() == microsecond
    assert row["fraud_probability"] == 0.1 + 0.2


def test_nulls_and_absent_optional_columns_come_back_as_missing(warehouse):
    labels = pd.DataFrame(
        {
            "day": pd.Series([DAY_1], dtype="datetime64[us]"),
            "feature": "amount",
            "compared_count": 1,
            "mismatch_count": 0,
            "absent_count": 0,
        }
    )
    warehouse.upsert(tables.PARITY, labels)
    assert pd.isna(warehouse.read(tables.PARITY)["largest_difference"][0])


def test_overwrite_takes_whatever_columns_come(warehouse):
    warehouse.overwrite(tables.TRAINING_SET, pd.DataFrame({"transaction_id": ["a", "b"], "amount": [1.0, None]}))
    warehouse.overwrite(tables.TRAINING_SET, pd.DataFrame({"transaction_id": ["c"], "is_night": [True]}))
    frame = warehouse.query(f"select * from {tables.TRAINING_SET}")
    assert list(frame.columns) == ["transaction_id", "is_night"]
    assert list(frame["transaction_id"]) == ["c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="decision"), r"missing columns \['decision'\]"),
        (lambda frame: frame.assign(colour="red"), r"unknown columns \['colour'\]"),
        (lambda frame: frame.assign(decision=None), "1 nulls in a required column"),
        (lambda frame: frame.assign(fraud_probability="high"), "expected double precision"),
    ],
)
def test_rows_that_do_not_fit_the_table_are_refused_by_name(warehouse, change, message):
    with pytest.raises(ContractBroken, match=message):
        warehouse.upsert(tables.SCORES, change(scores(("a", DAY_1, 0.1))))


def test_a_parameter_that_is_not_in_the_statement_is_refused(warehouse):
    with pytest.raises(ContractBroken, match="do not match"):
        warehouse.query("select 1 as one", id="a")


def test_an_unknown_scheme_names_the_setting():
    with pytest.raises(SettingInvalid, match="FRAUD_WAREHOUSE_URL"):
        open_warehouse("mysql://somewhere")


def test_a_server_that_is_away_is_a_retryable_error():
    with pytest.raises(WarehouseUnavailable, match=r"127\.0\.0\.1:1/none"):
        open_warehouse("postgresql+psycopg2://u:secret@127.0.0.1:1/none").query("select 1 as one")


def test_a_file_held_by_another_process_says_so_and_is_free_afterwards(tmp_path, monkeypatch):
    path = tmp_path / "warehouse.duckdb"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import duckdb, sys
            connection = duckdb.connect({str(path)!r})
            print("held", flush=True)
            sys.stdin.read()
        """)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr("fraud_pipelines.warehouse.duckdb_backend.LOCK_WAIT_SECONDS", 0.3)
        with pytest.raises(WarehouseUnavailable, match="held by another process"):
            open_warehouse(f"duckdb:///{path}").query("select 1 as one")
    finally:
        holder.communicate()
    assert open_warehouse(f"duckdb:///{path}").query("select 1 as one")["one"][0] == 1
