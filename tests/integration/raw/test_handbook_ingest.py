"""The Fraud Detection Handbook's simulated data, whole: counts as published, in well under a minute.

Source: github.com/Fraud-Detection-Handbook/simulated-data-raw, 1,754,155 transactions, 14,681 frauds.
"""

import time
from datetime import date
from pathlib import Path

import pytest

from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.raw.ingestion import days_in, ingest
from fraud_pipelines.settings import PROJECT_ROOT
from fraud_pipelines.warehouse import open_warehouse

HANDBOOK = PROJECT_ROOT.parent / "shared" / "data" / "handbook" / "transactions.parquet"


@pytest.fixture(scope="module")
def handbook() -> Path:
    if not HANDBOOK.exists():
        pytest.skip("../shared/data/handbook is absent: reference data, not part of the product")
    return HANDBOOK


@pytest.fixture(scope="module")
def loaded(handbook, tmp_path_factory):
    home = tmp_path_factory.mktemp("handbook")
    warehouse = open_warehouse(f"duckdb:///{home / 'w.duckdb'}")
    ledger = open_ledger(f"sqlite:///{home / 'l.sqlite'}")
    began = time.process_time()
    result = ingest(handbook, "handbook", warehouse=warehouse, ledger=ledger, token_key=b"k" * 32)
    return warehouse, result, time.process_time() - began


def test_its_days_with_the_labels_of_the_last_week(handbook):
    assert days_in(handbook, "handbook") == (date(2018, 4, 1), date(2018, 10, 7))


def test_every_transaction_and_label_is_there(loaded):
    warehouse, result, cpu_seconds = loaded
    assert (result.new_transactions, result.new_labels) == (1_754_155, 1_754_155)
    assert result.ingestion.rows_quarantined == 0
    assert cpu_seconds < 40  # about 11 on a quiet machine
    totals = warehouse.query(
        """
        select count(*) as rows, count(distinct card_id) as cards, count(distinct merchant_id) as merchants,
            (select count(*) from raw.labels where is_fraud) as frauds,
            (select count(*) from raw.labels where known_at <> event_time + interval '7 days') as other_delays
        from raw.transactions
        """
    ).iloc[0]
    assert totals.to_dict() == {
        "rows": 1_754_155, "cards": 4_990, "merchants": 10_000, "frauds": 14_681, "other_delays": 0
    }  # fmt: skip


def test_amounts_are_the_cents_of_the_file(handbook, loaded):
    """An independent route: pyarrow and whole-number rounding in numpy, not DuckDB's decimals."""
    import numpy as np
    import pyarrow.parquet as pq

    amounts = pq.read_table(handbook, columns=["TX_AMOUNT"])["TX_AMOUNT"].to_numpy()
    cents = np.floor(amounts * 100 + 0.5).astype(np.int64)
    stored = loaded[0].query("select sum(amount_minor) as total, max(amount_minor) as largest from raw.transactions")
    assert int(stored["total"].iloc[0]) == int(cents.sum())
    assert int(stored["largest"].iloc[0]) == int(cents.max())
