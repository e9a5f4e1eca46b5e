"""The contract of a row: what is read, what is refused, and that nothing with a card number is kept."""

import json
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from fraud_pipelines import limits
from fraud_pipelines.raw.cleaning import Cleaner
from fraud_pipelines.raw.contract import TimeBounds, resolve
from fraud_pipelines.raw.mapping import load_mapping, parse_mapping
from fraud_pipelines.raw.source import Batch
from fraud_pipelines.raw.tokens import tokenize_card

KEY = b"k" * 32
VISA = "4111111111111111"
MAPPING = {
    "columns": {
        "transaction_id": "id", "card_id": "pan", "merchant_id": "mid", "amount": "amt", "currency": "ccy",
        "channel": "ch", "country": "ctry", "device_id": "dev", "home_latitude": "lat", "category": "cat",
    },
    "event_time": "ts",
    "label": {"column": "fraud", "delay_days": 7},
}  # fmt: skip
GOOD = {
    "id": "t1", "pan": VISA, "mid": "m1", "amt": "12.50", "ccy": "EUR", "ch": "pos", "ctry": "DE", "dev": None,
    "lat": "52.5", "cat": "grocery", "ts": "2026-06-01 12:00:00", "fraud": "0",
}  # fmt: skip


def clean(rows, mapping=MAPPING, bounds=None, currency=None):
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
    mapping = mapping if not isinstance(mapping, dict) else parse_mapping(mapping, "test.yml")
    columns = resolve(mapping, table.column_names, "a.csv")
    numbers = pa.array(range(1, table.num_rows + 1), pa.int64())
    with Cleaner(mapping, columns, "a.csv", KEY, bounds or TimeBounds(), currency) as cleaner:
        return cleaner.clean(Batch(table.select(columns.all), numbers))


def only_row(change, mapping=MAPPING):
    cleaned = clean([GOOD | change], mapping)
    assert cleaned.quarantine.to_pylist() == []
    return cleaned.rows.to_pylist()[0]


def only_reason(change, mapping=MAPPING):
    cleaned = clean([GOOD | change, GOOD], mapping)
    assert cleaned.rows["source_row"].to_pylist() == [2], "the good row goes on"
    (row,) = cleaned.quarantine.to_pylist()
    assert (row["source_file"], row["source_row"]) == ("a.csv", 1)
    return row["reason"]


def test_a_good_row_in_canonical_form():
    row = only_row({})
    assert row["card_id"] == tokenize_card(VISA, KEY)
    assert (row["transaction_id"], row["merchant_id"], row["amount_minor"], row["currency"]) == (
        "t1",
        "m1",
        1250,
        "EUR",
    )
    assert row["event_time"] == datetime(2026, 6, 1, 12)
    assert row["known_at"] == datetime(2026, 6, 8, 12)
    assert row["is_fraud"] is False
    assert row["label_source"] == "file"
    assert (row["home_latitude"], row["home_longitude"], row["device_id"]) == (52.5, None, None)


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [("12.345", "EUR", 1235), ("12.344", "EUR", 1234), ("0.005", "EUR", 1), ("57.160000000000004", "EUR", 5716),
     ("1.005", "EUR", 101), ("1e2", "EUR", 10000),
     ("0", "EUR", 0), (" 3 ", "eur", 300), ("30000000.00", "EUR", 3_000_000_000)],
)  # fmt: skip
def test_amounts_become_minor_units_half_away_from_zero(amount, currency, minor):
    assert only_row({"amt": amount, "ccy": currency})["amount_minor"] == minor


def test_a_float_and_its_text_give_the_same_amount():
    values = [57.16, 1.005, 0.29, 1234567.89, 57.160000000000004]
    as_float = clean(pa.Table.from_pylist([GOOD | {"id": str(n), "amt": value} for n, value in enumerate(values)]))
    as_text = clean(pa.Table.from_pylist([GOOD | {"id": str(n), "amt": repr(value)} for n, value in enumerate(values)]))
    assert as_float.rows["amount_minor"].to_pylist() == [5716, 101, 29, 123456789, 5716]
    assert as_text.rows.equals(as_float.rows)


def test_amounts_that_are_minor_units_already():
    assert only_row({"amt": "1250"}, MAPPING | {"amount_unit": "minor"})["amount_minor"] == 1250


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "transaction_id: expected a value, found nothing"),
        ({"id": "  "}, "transaction_id: expected a value, found nothing"),
        ({"pan": None}, "card_id: expected a value, found nothing"),
        ({"pan": "4.11111E+15"}, "card_id: expected every digit, found an exponent"),
        ({"amt": "abc"}, "amount: expected a number from 0 to 3000000000 minor units, found 'abc'"),
        ({"amt": "-0.01"}, "amount: expected a number from 0 to 3000000000 minor units, found '-0.01'"),
        ({"amt": "30000000.01"}, "amount: expected a number from 0 to 3000000000 minor units, found '30000000.01'"),
        ({"amt": "inf"}, "amount: expected a number from 0 to 3000000000 minor units, found 'inf'"),
        ({"amt": "1" * 40}, "amount: expected a number from 0 to 3000000000 minor units, found '" + "1" * 40 + "'"),
        ({"ccy": "XXX"}, "currency: expected an ISO 4217 code, found 'XXX'"),
        ({"ccy": "JPY"}, "currency: expected one with 2 decimals; convert amounts before ingesting, found 'JPY'"),
        ({"ccy": "kwd"}, "currency: expected one with 2 decimals; convert amounts before ingesting, found 'kwd'"),
        ({"ts": "soon"}, "event_time: expected a time from 1990-01-01 to 2100-01-01, found 'soon'"),
        ({"ts": "1970-01-01"}, "event_time: expected a time from 1990-01-01 to 2100-01-01, found '1970-01-01'"),
        ({"ts": "2026-02-30"}, "event_time: expected a time from 1990-01-01 to 2100-01-01, found '2026-02-30'"),
        ({"ch": "phone"}, "channel: expected pos or online or atm, found 'phone'"),
        ({"ctry": "Germany"}, "country: expected an ISO 3166 code of two letters, found 'Germany'"),
        ({"lat": "90.1"}, "home_latitude: expected degrees from -90 to 90, found '90.1'"),
        ({"fraud": "maybe"}, "label: expected 0 or 1, found 'maybe'"),
        ({"mid": "caf\ufffd"}, "merchant_id: expected readable UTF-8 text, found damaged characters"),
        ({"mid": "a\x00b"}, "merchant_id: expected readable UTF-8 text, found damaged characters"),
        ({"cat": "x" * 201}, "category: expected at most 200 characters, found more"),
    ],
)
def test_a_broken_row_says_what_was_expected_and_found(change, reason):
    assert only_reason(change) == reason


def test_every_reason_is_given():
    assert only_reason({"amt": None, "ccy": "E"}).split("; ") == [
        "amount: expected a value, found nothing",
        "currency: expected an ISO 4217 code, found 'E'",
    ]


@pytest.mark.parametrize("column", ["id", "mid", "dev", "cat", "ch", "ctry", "amt", "ts", "fraud", "lat", "ccy"])
@pytest.mark.parametrize(
    "written",
    [VISA, "4111 1111 1111 1111", f"paid with {VISA} today", "x" * 50 + VISA, "4111.1111.1111.1111",
     "4111_1111_1111_1111", "4111/1111/1111/1111", "4111\N{NO-BREAK SPACE}1111-1111.1111", "411111 1111111111",
     "x" * 50 + "4111.1111.1111.1111"],
)  # fmt: skip
def test_no_card_number_survives_in_any_other_column(column, written):
    cleaned = clean([GOOD | {column: written}])
    kept = json.dumps([cleaned.rows.to_pylist(), cleaned.quarantine.to_pylist()], default=str)
    assert cleaned.rows.num_rows == 0
    assert "1111" not in kept
    assert tokenize_card(VISA, KEY) in cleaned.quarantine["row_json"][0].as_py()


def test_rows_in_another_currency_than_the_warehouse_are_set_aside():
    cleaned = clean([GOOD, GOOD | {"ccy": "usd"}, GOOD | {"ccy": "JPY"}, GOOD | {"ccy": "?"}], currency="EUR")
    assert cleaned.rows["currency"].to_pylist() == ["EUR"]
    expected = "currency: expected EUR, the currency of the warehouse; convert amounts before ingesting, found "
    assert cleaned.quarantine["reason"].to_pylist() == [
        expected + "'usd'",
        expected + "'JPY'",
        "currency: expected an ISO 4217 code, found '?'",
    ]


def test_a_card_number_has_one_token_however_it_is_grouped():
    written = [VISA, "4111.1111.1111.1111", "4111_1111_1111_1111", "4111 1111/1111-1111", "411111-1111111111"]
    cleaned = clean([GOOD | {"id": str(number), "pan": pan} for number, pan in enumerate(written)])
    assert set(cleaned.rows["card_id"].to_pylist()) == {tokenize_card(VISA, KEY)}


def test_a_stray_card_number_is_named():
    assert only_reason({"mid": VISA}) == "merchant_id: expected no card number, found one"


def test_a_digest_full_of_digits_is_no_card_number():
    identifier = "a" + VISA + "bcdef0123456789"  # 32 hex digits
    assert only_row({"id": identifier})["transaction_id"] == identifier


def test_whole_numbers_have_no_decimal_point_whatever_their_type():
    columns = {name: [value] for name, value in GOOD.items()}
    floats = clean(pa.table(columns | {"id": [17.0], "pan": [596.0], "mid": [3156.0]}))
    integers = clean(pa.table(columns | {"id": [17], "pan": [596], "mid": [3156]}))
    texts = clean(pa.table(columns | {"id": ["17.0"], "pan": ["596.0"], "mid": ["3156"]}))
    assert floats.rows.equals(integers.rows)
    assert texts.rows.equals(integers.rows)
    assert integers.rows["transaction_id"].to_pylist() == ["17"]
    assert integers.rows["card_id"].to_pylist() == [tokenize_card("596", KEY)]


def test_unicode_identifiers_survive():
    assert only_row({"id": "тx-日本-ß", "mid": "Müller & Söhne"})["transaction_id"] == "тx-日本-ß"


@pytest.mark.parametrize(
    ("event_time", "written", "timezone", "expected"),
    [
        ("ts", "2026-06-01T12:00:00Z", "UTC", datetime(2026, 6, 1, 12)),
        ("ts", "2026-06-01 12:00:00+02:00", "UTC", datetime(2026, 6, 1, 10)),
        ("ts", "2026-06-01 12:00:00.123456", "UTC", datetime(2026, 6, 1, 12, 0, 0, 123456)),
        ("ts", "2026-06-01 12:00:00", "Europe/Berlin", datetime(2026, 6, 1, 10)),
        ("ts", "2026-12-01 12:00:00", "Europe/Berlin", datetime(2026, 12, 1, 11)),
        ("ts", "2026-06-01 12:00:00Z", "Europe/Berlin", datetime(2026, 6, 1, 12)),
        ({"column": "ts", "format": "unix_seconds"}, "1780315200", "Europe/Berlin", datetime(2026, 6, 1, 12)),
        ({"column": "ts", "format": "unix_seconds"}, "1780315200.25", "UTC", datetime(2026, 6, 1, 12, 0, 0, 250000)),
        (
            {"column": "ts", "format": "unix_milliseconds"},
            "1780315200250",
            "UTC",
            datetime(2026, 6, 1, 12, 0, 0, 250000),
        ),
        ({"column": "ts", "format": "%d/%m/%Y %H:%M"}, "01/06/2026 12:00", "UTC", datetime(2026, 6, 1, 12)),
        ({"column": "ts", "format": "%d/%m/%Y %H:%M"}, "01/06/2026 12:00", "Europe/Berlin", datetime(2026, 6, 1, 10)),
        (
            {"column": "ts", "format": "%d/%m/%Y %H:%M %z"},
            "01/06/2026 12:00 +0300",
            "Europe/Berlin",
            datetime(2026, 6, 1, 9),
        ),
        ({"column": "ts", "format": ["iso", "%d.%m.%Y"]}, "01.06.2026", "UTC", datetime(2026, 6, 1)),
    ],
)
def test_times_become_naive_utc(event_time, written, timezone, expected):
    mapping = MAPPING | {"event_time": event_time, "timezone": timezone}
    row = only_row({"ts": written}, mapping)
    assert row["event_time"] == expected
    assert row["known_at"] == expected + timedelta(days=7)


def test_typed_times_of_a_parquet_file():
    moment = datetime(2026, 6, 1, 12)
    columns = {name: [value] for name, value in GOOD.items()}
    naive = pa.table(columns | {"ts": pa.array([moment], pa.timestamp("ns"))})
    zoned = pa.table(columns | {"ts": pa.array([moment], pa.timestamp("ms", "Europe/Berlin"))})
    assert clean(naive).rows["event_time"].to_pylist() == [moment]
    assert clean(zoned).rows["event_time"].to_pylist() == [moment]  # Arrow stores UTC
    berlin = clean(naive, MAPPING | {"timezone": "Europe/Berlin"})
    assert berlin.rows["event_time"].to_pylist() == [moment - timedelta(hours=2)]


def test_a_time_far_from_its_file_is_refused():
    bounds = TimeBounds(datetime(2016, 6, 1), datetime(2036, 6, 1))
    cleaned = clean([GOOD, GOOD | {"ts": "2062-06-01"}], bounds=bounds)
    assert cleaned.rows.num_rows == 1
    assert "from 2016-06-01 to 2036-06-01, found '2062-06-01'" in cleaned.quarantine["reason"][0].as_py()


def test_a_missing_label_is_no_label_yet():
    row = only_row({"fraud": None})
    assert row["is_fraud"] is None


@pytest.mark.parametrize(
    ("written", "meaning"), [("1", True), ("1.0", True), ("True", True), ("yes", True), ("0.0", False), ("F", False)]
)
def test_labels_are_read_from_many_words(written, meaning):
    assert only_row({"fraud": written})["is_fraud"] is meaning


def test_a_label_known_before_its_transaction_is_refused():
    mapping = MAPPING | {"label": {"column": "fraud", "known_at": "seen"}}
    assert only_row({"seen": "2026-06-01 12:00:00"}, mapping)["known_at"] == datetime(2026, 6, 1, 12)
    cleaned = clean([GOOD | {"seen": "2026-06-01 11:59:59"}, GOOD | {"seen": None}], mapping)
    assert cleaned.quarantine["reason"].to_pylist() == [
        "known_at: expected no time before event_time, found '2026-06-01 11:59:59'",
        "known_at: expected a time with every label, found nothing",
    ]


def test_the_delay_stands_in_for_a_missing_known_at():
    mapping = MAPPING | {"label": {"column": "fraud", "known_at": "seen", "delay_days": 2}}
    cleaned = clean([GOOD | {"seen": "2026-06-02"}, GOOD | {"seen": None}], mapping)
    assert cleaned.rows["known_at"].to_pylist() == [datetime(2026, 6, 2), datetime(2026, 6, 3, 12)]


def test_words_are_translated():
    mapping = MAPPING | {"values": {"channel": {"ECOM": "online"}}}
    assert only_row({"ch": "ECOM"}, mapping)["channel"] == "online"


def test_columns_may_be_named_like_anything():
    mapping = MAPPING | {"columns": MAPPING["columns"] | {"category": "SOURCE_ROW", "merchant_id": 'the "mid"'}}
    row = only_row({"SOURCE_ROW": "x", 'the "mid"': "m2", "source_row": "y"}, mapping)
    assert (row["category"], row["merchant_id"], row["source_row"]) == ("x", "m2", 1)


def test_sparkov_rows():
    base = {
        "trans_date_trans_time": "2019-01-01 00:00:18", "cc_num": 2703186189652095, "merchant": "fraud_Rippin, Kub",
        "category": "misc_net", "amt": 4.97, "gender": "F", "state": "NC", "lat": 36.0788, "long": -81.1781,
        "dob": "1988-03-09", "trans_num": "0b242abb623afc578575680df30655b9", "unix_time": 1325376018,
        "merch_lat": 36.011293, "merch_long": -82.048315, "is_fraud": 0,
    }  # fmt: skip
    cleaned = clean([base], load_mapping("sparkov"))
    (row,) = cleaned.rows.to_pylist()
    token = tokenize_card("2703186189652095", KEY)
    assert (row["card_id"], row["customer_id"]) == (token, token)
    assert row["event_time"] == datetime(2019, 1, 1, 0, 0, 18)
    assert row["known_at"] == datetime(2019, 1, 8, 0, 0, 18)
    assert (row["amount_minor"], row["currency"], row["merchant_longitude"]) == (497, "USD", -82.048315)
    # Born 1988-03-09: 30 on New Year's Day 2019.
    assert (row["customer_age_band"], row["customer_gender"], row["customer_region"]) == ("25-34", "F", "NC")
    del base["trans_date_trans_time"]
    (row,) = clean([base], load_mapping("sparkov")).rows.to_pylist()
    assert row["event_time"] == datetime(2012, 1, 1, 0, 0, 18)


def test_the_largest_amount_can_be_squared():
    assert limits.LARGEST_AMOUNT_MINOR**2 < 2**63
