"""Which labels count at which moment, by hand."""

from datetime import datetime, timedelta

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import MissingPartition
from fraud_pipelines.monitoring.windows import days, mature_bounds, mature_windows, require_scores, scored_with_labels
from fraud_pipelines.warehouse import open_warehouse

END = datetime(2026, 3, 1)


def scored(*rows: tuple[str, datetime, datetime | None, bool | None], version: str = "1") -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["transaction_id", "event_time", "known_at", "is_fraud"])
    frame = frame.astype({"event_time": "datetime64[us]", "known_at": "datetime64[us]"})
    return frame.assign(model_version=version)


def test_the_window_is_28_days_and_ends_7_days_before_the_end():
    assert mature_bounds(END) == (datetime(2026, 1, 25), datetime(2026, 2, 22))


def test_days_are_half_open():
    assert list(days(datetime(2026, 2, 27), END)) == [datetime(2026, 2, 27), datetime(2026, 2, 28)]


def test_the_latest_label_known_by_the_end_counts_and_a_later_one_never_does():
    event = datetime(2026, 2, 1)
    frame = scored(
        ("a", event, event + timedelta(days=7), False),
        ("a", event, END, True),  # arrives exactly at the end: known by then
        ("b", event, event + timedelta(days=7), False),
        ("b", event, END + timedelta(microseconds=1), True),  # one microsecond too late
        ("c", event, END + timedelta(days=1), True),  # its only label is too late: left out
        ("d", event, None, None),
    )
    (window,) = mature_windows(frame, [END])
    assert dict(zip(window.labelled["transaction_id"], window.labelled["is_fraud"], strict=True)) == {
        "a": True,
        "b": False,
    }
    assert window.unlabelled_rows == 2


def test_transactions_at_the_edges_of_the_window():
    since, until = mature_bounds(END)
    edges = [since - timedelta(microseconds=1), since, until - timedelta(microseconds=1), until]
    frame = scored(*((f"t{index}", moment, moment + timedelta(days=1), False) for index, moment in enumerate(edges)))
    (window,) = mature_windows(frame, [END])
    assert list(window.labelled["transaction_id"]) == ["t1", "t2"]


def test_one_frame_serves_several_ends_like_one_frame_each():
    start = datetime(2026, 1, 20)
    moments = [start + timedelta(hours=7 * index) for index in range(120)]
    frame = scored(*((f"t{i:03d}", at, at + timedelta(days=5 + i % 6), i % 9 == 0) for i, at in enumerate(moments)))
    ends = [END + timedelta(days=offset) for offset in range(3)]
    for window, end in zip(mature_windows(frame, ends), ends, strict=True):
        since, until = mature_bounds(end)
        inside = frame[(frame["event_time"] >= since) & (frame["event_time"] < until)]
        assert list(window.labelled["transaction_id"]) == list(inside.loc[inside["known_at"] <= end, "transaction_id"])
        assert window.unlabelled_rows == int((inside["known_at"] > end).sum())


def test_each_version_is_judged_on_what_it_scored():
    """Version 1 until 20 February, then version 2, whose last transaction is too young to be judged at the end."""
    old, new, young = datetime(2026, 2, 10), datetime(2026, 2, 21), datetime(2026, 2, 27)
    week = timedelta(days=7)
    frame = pd.concat(
        [
            scored(("a", old, old + week, True), ("b", old, END + week, False), version="1"),
            scored(("c", new, new + week, False), ("d", young, None, None), version="2"),
        ]
    )
    first, second = mature_windows(frame, [END])
    assert (first.model_version, list(first.labelled["transaction_id"]), first.unlabelled_rows) == ("1", ["a"], 1)
    assert (second.model_version, list(second.labelled["transaction_id"]), second.unlabelled_rows) == ("2", ["c"], 0)


def test_a_version_whose_transactions_are_too_young_has_an_empty_window():
    (window,) = mature_windows(scored(("a", datetime(2026, 2, 27), None, None), version="2"), [END])
    assert (window.model_version, len(window.labelled), window.unlabelled_rows) == ("2", 0, 0)


def test_nothing_scored_is_an_error_with_a_next_command(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'w.duckdb'}")
    with warehouse.session() as session, pytest.raises(MissingPartition, match="fraud ingest FILE"):
        scored_with_labels(session, since=datetime(2026, 2, 1), until=END, known_by=END)


def test_missing_scores_name_the_days_and_the_command(tmp_path):
    warehouse = open_warehouse(f"duckdb:///{tmp_path / 'w.duckdb'}")
    moments = [datetime(2026, 2, 3, 12), datetime(2026, 2, 5, 12)]
    transactions = pd.DataFrame(
        {
            "transaction_id": ["a", "b"],
            "event_time": pd.Series(moments, dtype="datetime64[us]"),
            "card_id": "tok_1",
            "merchant_id": "m",
            "amount_minor": 100,
            "currency": "EUR",
            "source": "test",
            "ingestion_id": "i",
        }
    )
    with warehouse.session() as session:
        session.insert_new(tables.TRANSACTIONS, transactions)
        with pytest.raises(MissingPartition) as caught:
            require_scores(session, since=datetime(2026, 2, 1), until=END)
        require_scores(session, since=datetime(2026, 2, 6), until=END)  # no transactions, nothing missing
    assert "fraud materialize monitoring/scores --from 2026-02-03 --to 2026-02-05" in str(caught.value)
    assert "2 transactions of 2 days" in str(caught.value)
