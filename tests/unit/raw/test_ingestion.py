"""Whole loads: once, twice, overlapping, contradicting; and the days they touch."""

from dataclasses import replace
from datetime import date, datetime, timedelta

import pandas as pd
import pytest

from fraud_pipelines import tables
from fraud_pipelines.errors import ContractBroken, SourceInvalid
from fraud_pipelines.ledger import open_ledger
from fraud_pipelines.raw.ingestion import days_in, ingest
from fraud_pipelines.raw.mapping import parse_mapping
from fraud_pipelines.raw.tokens import tokenize_card
from fraud_pipelines.warehouse import open_warehouse

KEY = b"k" * 32
VISA = "4111111111111111"
MAPPING = parse_mapping(
    {
        "name": "acme",
        "columns": {
            "transaction_id": "id",
            "card_id": "pan",
            "customer_id": "who",
            "merchant_id": "mid",
            "amount": "amt",
        },
        "constants": {"currency": "EUR"},
        "event_time": "ts",
        "label": {"column": "fraud", "delay_days": 7},
        "customers": {"file": "people.csv", "columns": {"customer_id": "who", "birth_date": "born", "gender": "sex"}},
    },
    "acme.yml",
)
TABLES = ("raw.transactions", "raw.labels", "raw.customers", "raw.quarantine")


@pytest.fixture
def stores(tmp_path):
    home = tmp_path / "home"
    return open_warehouse(f"duckdb:///{home / 'w.duckdb'}"), open_ledger(f"sqlite:///{home / 'l.sqlite'}")


def payments(*changes, count=4):
    rows = [
        {"id": f"t{n}", "pan": f"{4000 + n}", "who": f"c{n % 2}", "mid": "m1", "amt": "10.00", "fraud": int(n == 1),
         "ts": f"2026-06-0{n + 1} 12:00:00"}
        for n in range(count)
    ]  # fmt: skip
    for number, change in changes:
        rows[number] |= change
    return pd.DataFrame(rows)


def load(stores, path, **options):
    return ingest(path, MAPPING, warehouse=stores[0], ledger=stores[1], token_key=KEY, **options)


def content(warehouse):
    return {name: warehouse.read(tables.TABLES[name]).to_csv() for name in TABLES}


def written(folder, name, rows):
    folder.mkdir(exist_ok=True)
    rows.to_csv(folder / name, index=False)
    return folder / name


def test_a_file_is_loaded_with_its_labels(stores, tmp_path):
    path = written(tmp_path / "in", "a.csv", payments())
    loaded = load(stores, path)
    assert (loaded.new_transactions, loaded.new_labels) == (4, 4)
    record = loaded.ingestion
    assert (record.rows_read, record.rows_loaded, record.rows_duplicate, record.rows_quarantined) == (4, 4, 0, 0)
    assert (record.first_day, record.last_day) == (date(2026, 6, 1), date(2026, 6, 11))
    rows = stores[0].read(tables.TRANSACTIONS)
    assert rows["card_id"].tolist() == [tokenize_card(f"{4000 + n}", KEY) for n in range(4)]
    assert rows["source"].unique().tolist() == ["acme"]
    labels = stores[0].read(tables.LABELS)
    assert labels["is_fraud"].tolist() == [False, True, False, False]
    assert ((labels["known_at"] - labels["event_time"]) == timedelta(days=7)).all()


def test_a_second_ingest_changes_nothing(stores, tmp_path):
    broken = payments((2, {"amt": "x"}), (3, {"id": "t0"}))
    path = written(tmp_path / "in", "a.csv", broken)
    first = load(stores, path)
    before = content(stores[0]), stores[1].ingestions()
    second = load(stores, path)
    assert (content(stores[0]), stores[1].ingestions()) == before
    assert second.ingestion.rows_loaded == first.ingestion.rows_loaded == 2
    assert (second.new_transactions, second.new_labels, second.new_customers) == (0, 0, 0)


def test_the_same_rows_as_parquet_are_the_same_rows(stores, tmp_path):
    load(stores, written(tmp_path / "in", "a.csv", payments()))
    before = stores[0].read(tables.TRANSACTIONS)
    typed = payments().assign(ts=lambda rows: pd.to_datetime(rows["ts"]), amt=10.0, pan=[4000, 4001, 4002, 4003])
    typed.to_parquet(tmp_path / "in" / "a.parquet")
    again = load(stores, tmp_path / "in" / "a.parquet")
    assert (again.new_transactions, again.new_labels, again.ingestion.rows_duplicate) == (0, 0, 4)
    pd.testing.assert_frame_equal(stores[0].read(tables.TRANSACTIONS), before)


@pytest.mark.parametrize("in_one_file", [True, False])
def test_of_two_rows_with_one_identifier_the_first_stays(stores, tmp_path, in_one_file):
    original = payments()
    other = payments((0, {"amt": "99.00", "mid": "m2"})).head(2)  # t0 contradicts, t1 is identical
    folder = tmp_path / "in"
    if in_one_file:
        loaded = load(stores, written(folder, "a.csv", pd.concat([original, other])))
        assert loaded.ingestion.rows_read == 6
    else:
        load(stores, written(folder, "a.csv", original))
        loaded = load(stores, written(folder, "b.csv", other))
    assert loaded.ingestion.rows_duplicate == 1
    assert loaded.ingestion.rows_quarantined == 1
    assert stores[0].read(tables.TRANSACTIONS)["amount_minor"].tolist() == [1000] * 4
    (row,) = stores[0].read(tables.QUARANTINE).to_dict("records")
    assert row["transaction_id"] == "t0"
    assert row["source_row"] == (5 if in_one_file else 1)
    assert row["reason"] == (
        "transaction_id: expected one row, found another with different merchant_id, amount_minor; the first stays"
    )


def test_a_contradicting_row_brings_no_label(stores, tmp_path):
    load(stores, written(tmp_path / "in", "a.csv", payments()))
    before = stores[0].read(tables.LABELS)
    # Another time of t0 would be another time at which its label is known: a second label.
    other = payments((0, {"amt": "99.00", "ts": "2026-06-02 12:00:00"})).head(2)
    later = load(stores, written(tmp_path / "in", "b.csv", other))
    assert (later.new_transactions, later.new_labels) == (0, 0)
    pd.testing.assert_frame_equal(stores[0].read(tables.LABELS), before)


def test_overlapping_files_keep_the_earlier_rows(stores, tmp_path):
    load(stores, written(tmp_path / "in", "a.csv", payments(count=3)))
    later = load(stores, written(tmp_path / "in", "b.csv", payments(count=4)))
    assert (later.new_transactions, later.ingestion.rows_duplicate) == (1, 3)
    rows = stores[0].read(tables.TRANSACTIONS)
    assert rows["ingestion_id"].nunique() == 2
    assert len(rows) == 4


def test_a_label_that_arrives_later_is_added(stores, tmp_path):
    load(stores, written(tmp_path / "in", "a.csv", payments((0, {"fraud": None}))))
    assert len(stores[0].read(tables.LABELS)) == 3
    later = load(stores, written(tmp_path / "in", "b.csv", payments()))
    assert (later.new_transactions, later.new_labels) == (0, 1)


def test_a_contradicting_label_goes_to_quarantine(stores, tmp_path):
    load(stores, written(tmp_path / "in", "a.csv", payments()))
    later = load(stores, written(tmp_path / "in", "b.csv", payments((0, {"fraud": 1}))))
    assert later.ingestion.rows_quarantined == 1
    assert "different is_fraud" in stores[0].read(tables.QUARANTINE)["reason"].iloc[0]
    assert stores[0].read(tables.LABELS)["is_fraud"].tolist() == [False, True, False, False]


def test_a_folder_with_customers(stores, tmp_path):
    folder = tmp_path / "in"
    written(folder, "1.csv", payments(count=2))
    written(folder, "2.csv", payments(count=4).tail(2))
    people = pd.DataFrame(
        {"who": ["c0", "c1", "c1", None], "born": ["2000-06-05", "1950-01-01", "1990-01-01", "1990-01-01"], "sex": "f"}
    )
    written(folder, "people.csv", people)
    loaded = load(stores, folder)
    assert (loaded.new_transactions, loaded.new_customers, loaded.ingestion.rows_quarantined) == (4, 2, 0)
    customers = stores[0].read(tables.CUSTOMERS)
    # The last event is on 2026-06-04: c0 turns 26 a day later, c1 is 76.
    assert customers[["customer_id", "age_band", "gender"]].values.tolist() == [
        ["c0", "25-34", "f"],
        ["c1", "65+", "f"],
    ]
    (row,) = stores[0].read(tables.QUARANTINE).to_dict("records")
    assert (row["source_file"], row["source_row"]) == ("people.csv", 4)


def test_no_card_number_of_a_customer_file_is_kept(stores, tmp_path):
    folder = tmp_path / "in"
    written(folder, "1.csv", payments(count=2))
    written(folder, "people.csv", pd.DataFrame({"who": ["c0", "c1"], "born": "1990-01-01", "sex": ["f", VISA]}))
    loaded = load(stores, folder)
    assert loaded.new_customers == 1
    assert stores[0].read(tables.CUSTOMERS)["customer_id"].tolist() == ["c0"]
    assert VISA not in str(content(stores[0]))


def test_a_card_number_that_names_the_customer_is_one_token_in_both_files(stores, tmp_path):
    mapping = replace(MAPPING, card_numbers=("card_id", "customer_id"))
    folder = tmp_path / "in"
    written(folder, "1.csv", payments((0, {"who": VISA}), count=1))
    written(folder, "people.csv", pd.DataFrame({"who": [VISA], "born": ["1990-01-01"], "sex": ["f"]}))
    ingest(folder, mapping, warehouse=stores[0], ledger=stores[1], token_key=KEY)
    token = tokenize_card(VISA, KEY)
    assert stores[0].read(tables.CUSTOMERS)["customer_id"].tolist() == [token]
    assert stores[0].read(tables.TRANSACTIONS)["customer_id"].tolist() == [token]
    assert VISA not in str(content(stores[0]))


def test_days_in_covers_the_arrivals_of_labels(tmp_path):
    path = written(tmp_path / "in", "a.csv", payments((0, {"ts": "2062-01-01"}), (1, {"ts": "never"})))
    # The typing error of 2062 is no day of this file.
    assert days_in(path, MAPPING) == (date(2026, 6, 3), date(2026, 6, 11))


def test_days_are_those_of_utc_whatever_the_time_zone_of_the_file(tmp_path):
    path = written(tmp_path / "in", "a.csv", payments((0, {"ts": "2026-06-01 00:30:00"}), count=1))
    # Half past midnight in Berlin's summer is half past ten of the evening before; the label comes 7 days later.
    berlin = replace(MAPPING, timezone="Europe/Berlin")
    assert days_in(path, berlin) == (date(2026, 5, 31), date(2026, 6, 7))
    assert days_in(path, MAPPING) == (date(2026, 6, 1), date(2026, 6, 8))


def test_days_that_were_not_asked_for_are_refused_before_anything_is_written(stores, tmp_path):
    path = written(tmp_path / "in", "a.csv", payments())
    with pytest.raises(SourceInvalid, match="2026-06-01 to 2026-06-04"):
        load(stores, path, within=(date(2026, 6, 2), date(2026, 6, 30)))
    assert len(stores[0].read(tables.TRANSACTIONS)) == 0
    load(stores, path, within=(date(2026, 6, 1), date(2026, 6, 4)))


def test_days_that_have_not_ended_are_told_apart(stores, tmp_path):
    times = ["2090-06-01", "2090-06-02 23:59:59", "2090-06-03 00:00:00", "2090-06-04"]
    path = written(tmp_path / "in", "a.csv", payments().assign(ts=times))
    with pytest.raises(SourceInvalid) as caught:
        load(stores, path, within=(date(2090, 1, 1), date(2090, 6, 2)))
    message = str(caught.value)
    assert "found 2090-06-01 to 2090-06-04. 2 rows are of days that have not ended yet (2090-06-03 or later" in message
    assert f"run on 2090-06-05 or later: fraud ingest {path} --mapping acme" in message
    assert "Choose these partitions" not in message


def in_currencies(*codes):
    return payments(count=len(codes)).assign(ccy=codes)


def load_currencies(stores, path):
    columns = {"transaction_id": "id", "card_id": "pan", "merchant_id": "mid", "amount": "amt", "currency": "ccy"}
    mapping = parse_mapping({"name": "acme", "columns": columns, "event_time": "ts"}, "acme.yml")
    return ingest(path, mapping, warehouse=stores[0], ledger=stores[1], token_key=KEY)


def test_the_most_frequent_currency_is_that_of_an_empty_warehouse(stores, tmp_path):
    # Three JPY are more, but no feature can take them.
    codes = ["JPY", "JPY", "JPY", "EUR", "usd", "USD"]
    path = written(tmp_path / "in", "a.csv", in_currencies(*codes))
    loaded = load_currencies(stores, path)
    assert (loaded.new_transactions, loaded.ingestion.rows_quarantined) == (2, 4)
    assert set(stores[0].read(tables.TRANSACTIONS)["currency"]) == {"USD"}
    before = content(stores[0])
    load_currencies(stores, path)
    assert content(stores[0]) == before


def test_the_currency_of_the_warehouse_is_kept(stores, tmp_path):
    load_currencies(stores, written(tmp_path / "in", "a.csv", in_currencies("EUR")))
    later = in_currencies("EUR", "USD", "USD", "USD")
    loaded = load_currencies(stores, written(tmp_path / "in", "b.csv", later))
    assert (loaded.new_transactions, loaded.ingestion.rows_duplicate, loaded.ingestion.rows_quarantined) == (0, 1, 3)
    assert set(stores[0].read(tables.QUARANTINE)["reason"]) == {
        "currency: expected EUR, the currency of the warehouse; convert amounts before ingesting, found 'USD'"
    }


def test_a_file_in_another_currency_says_so(stores, tmp_path):
    load_currencies(stores, written(tmp_path / "in", "a.csv", in_currencies("EUR")))
    with pytest.raises(ContractBroken, match="expected EUR, the currency of the warehouse; convert amounts"):
        load_currencies(stores, written(tmp_path / "in", "b.csv", in_currencies("GBP", "GBP")))


def test_a_file_without_rows_is_refused(stores, tmp_path):
    with pytest.raises(SourceInvalid, match="expected rows, found none"):
        load(stores, written(tmp_path / "in", "a.csv", payments().head(0)))


def test_the_wrong_mapping_says_what_it_misses(tmp_path):
    path = written(tmp_path / "in", "a.csv", payments())
    with pytest.raises(SourceInvalid, match=r"transaction_id .TRANSACTION_ID.*found id, pan"):
        days_in(path, "handbook")


def test_a_file_of_broken_rows_only_fails_and_keeps_the_reasons(stores, tmp_path):
    path = written(tmp_path / "in", "a.csv", payments().assign(amt="?"))
    with pytest.raises(ContractBroken, match=r"none of its 4 rows.*amount: expected a number"):
        load(stores, path)
    assert len(stores[0].read(tables.QUARANTINE)) == 4
    assert [item.rows_quarantined for item in stores[1].ingestions()] == [4]


def test_a_line_with_missing_columns_goes_to_quarantine(stores, tmp_path):
    path = written(tmp_path / "in", "a.csv", payments())
    path.write_text(path.read_text() + "t9,4009\n")
    record = load(stores, path).ingestion
    assert (record.rows_read, record.rows_loaded, record.rows_quarantined, record.rows_duplicate) == (5, 4, 1, 0)
    (row,) = stores[0].read(tables.QUARANTINE).to_dict("records")
    assert (row["source_row"], row["reason"]) == (5, "line: expected 7 columns, found 2")


def test_a_mended_mapping_leaves_no_old_reasons(stores, tmp_path):
    path = written(tmp_path / "in", "a.csv", payments().assign(amt="1.000,00", extra="5.00"))
    with pytest.raises(ContractBroken):
        load(stores, path)
    mended = parse_mapping(
        {"name": "acme", "columns": {"transaction_id": "id", "card_id": "pan", "merchant_id": "mid", "amount": "extra"},
         "constants": {"currency": "EUR"}, "event_time": "ts"}, "acme.yml",
    )  # fmt: skip
    ingest(path, mended, warehouse=stores[0], ledger=stores[1], token_key=KEY)
    assert len(stores[0].read(tables.QUARANTINE)) == 0
    assert stores[0].read(tables.TRANSACTIONS)["amount_minor"].tolist() == [500] * 4


def test_progress_reaches_the_end(stores, tmp_path):
    seen = []
    load(stores, written(tmp_path / "in", "a.csv", payments()), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_a_load_that_breaks_leaves_nothing(stores, tmp_path):
    folder = tmp_path / "in"
    written(folder, "1.csv", payments())

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(stores, folder, progress=stop)
    assert len(stores[0].read(tables.TRANSACTIONS)) == 0


def test_the_same_load_on_postgres(stores, tmp_path, fresh_postgres_url):
    folder = tmp_path / "in"
    written(folder, "a.csv", payments((2, {"amt": "x"}), (3, {"id": "t0"})))
    postgres = open_warehouse(fresh_postgres_url), open_ledger(fresh_postgres_url)
    ours, theirs = load(stores, folder), load(postgres, folder)
    assert content(postgres[0]) == content(stores[0])
    assert theirs.ingestion.rows_quarantined == ours.ingestion.rows_quarantined == 2
    assert load(postgres, folder).new_transactions == 0
    assert datetime(2026, 6, 1, 12) in postgres[0].read(tables.TRANSACTIONS)["event_time"].tolist()
