"""However the transactions are dealt into buckets and batches, the feature table is the same."""

from datetime import timedelta

import duckdb
import pytest

from fraud_pipelines.features import warehouse_build
from fraud_pipelines.features.spec import load_spec
from tests.histories import START, labels_frame, simulated_history, transactions_frame

TRANSACTIONS = "select *, epoch_us(event_time) as event_time_us from transactions"
LABELS = (
    "select *, greatest(known_at, event_time + interval 1 microsecond) as counts_from, "
    "greatest(epoch_us(known_at), epoch_us(event_time) + 1) as counts_from_us from labels"
)


@pytest.fixture(scope="module")
def database():
    payments, verdicts = simulated_history(payments=900, cards=15, days=60)
    with duckdb.connect() as connection:
        for name, frame in (
            ("transactions", transactions_frame(payments)),
            ("labels", labels_frame(payments, verdicts)),
        ):
            connection.register("given", frame)
            connection.execute(f"create table {name} as select * from given")
        yield connection


def rows_of(database, since=None, until=None):
    reader = warehouse_build.feature_table(database.cursor(), TRANSACTIONS, LABELS, load_spec(), since, until)
    return reader.read_all().sort_by("transaction_id").to_pylist()


@pytest.mark.parametrize("days", [None, (40, 41)], ids=["everything", "one day"])
@pytest.mark.parametrize(("rows_at_once", "batch_rows"), [(10_000, 50), (200, 10_000), (40, 1)])
def test_buckets_and_batches_do_not_show(database, monkeypatch, days, rows_at_once, batch_rows):
    window = (None, None) if days is None else tuple(START + timedelta(days=day) for day in days)
    whole = rows_of(database, *window)
    assert len(whole) == 900 if days is None else len(whole) > 5
    monkeypatch.setattr(warehouse_build, "most_rows_at_once", lambda: rows_at_once)
    monkeypatch.setattr(warehouse_build, "BATCH_ROWS", batch_rows)
    assert rows_of(database, *window) == whole


def test_what_is_read_at_once_fits_half_of_the_machine(monkeypatch):
    sizes = {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 4096}  # 16 GiB
    monkeypatch.setattr(warehouse_build.os, "sysconf", sizes.get)
    assert warehouse_build.most_rows_at_once() == 12_271_335  # 700 bytes each
    sizes["SC_PHYS_PAGES"] = 1024
    assert warehouse_build.most_rows_at_once() == 1_000_000
