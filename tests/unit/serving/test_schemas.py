"""What the service accepts, refuses, and makes of it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fraud_pipelines.raw.cleaning import Cleaner
from fraud_pipelines.raw.contract import TimeBounds, resolve
from fraud_pipelines.raw.mapping import parse_mapping
from fraud_pipelines.raw.source import Batch
from fraud_pipelines.raw.tokens import tokenize_card
from serving.schemas import FeedbackRequest, Transaction
from tests.served_models import CARD_NUMBER, payment

KEY = b"k" * 32


def read(**changes: object) -> Transaction:
    return Transaction.model_validate_json(json.dumps(payment(**changes)))


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("12.34", "EUR", 1234),
        (12.34, "EUR", 1234),
        (12, "EUR", 1200),
        ("12.345", "EUR", 1235),  # half away from zero, not to even (1234)
        (57.160000000000004, "EUR", 5716),  # float noise of a source that summed
        (0.1 + 0.2, "EUR", 30),
        ("1500", "USD", 150_000),
        ("0.00", "EUR", 0),
        (30_000_000, "EUR", 3_000_000_000),  # the largest there is
    ],
)
def test_amounts_become_minor_units_of_their_currency(amount, currency, minor):
    assert read(amount=amount, currency=currency).scored(KEY).amount_minor == minor


@given(st.decimals(0, 2_999_999, places=6), st.sampled_from(["EUR", "GBP", "USD"]))
def test_an_amount_is_the_nearest_minor_unit_and_a_half_goes_up(amount, currency):
    minor = read(amount=str(amount), currency=currency).scored(KEY).amount_minor
    exact = amount * 100
    assert -Decimal("0.5") < minor - exact <= Decimal("0.5")


@given(st.integers(0, 3_000_000_000))
def test_an_amount_sent_as_a_float_keeps_its_cents(minor):
    assert read(amount=minor / 100).scored(KEY).amount_minor == minor


@given(st.floats(0, 1_000_000))
def test_a_float_is_read_as_the_decimal_it_prints_as(amount):
    try:
        found = read(amount=amount).scored(KEY).amount_minor
    except ValidationError:  # more than 20 decimals: nobody pays 1e-15 EUR
        assert amount < 0.001
    else:
        nine_decimals = Decimal(repr(amount)).quantize(Decimal("1e-9"), ROUND_HALF_UP)
        assert found == int((nine_decimals * 100).quantize(Decimal(1), ROUND_HALF_UP))


@pytest.mark.parametrize(
    ("event_time", "microseconds"),
    [
        ("1990-01-01T00:00:00Z", 631_152_000_000_000),
        ("2025-03-01T12:00:00Z", 1_740_830_400_000_000),
        ("2025-03-01T12:00:00", 1_740_830_400_000_000),  # without an offset: UTC
        ("2025-03-01 12:00", 1_740_830_400_000_000),
        ("2025-03-01T13:30:00+01:30", 1_740_830_400_000_000),
        ("2025-03-01T12:00:00.000001Z", 1_740_830_400_000_001),
    ],
)
def test_times_become_utc_microseconds(event_time, microseconds):
    assert read(event_time=event_time).scored(KEY).event_time_us == microseconds


def test_the_card_leaves_as_a_token_however_it_was_written():
    expected = tokenize_card(CARD_NUMBER, KEY)
    for written in (CARD_NUMBER, "4000 0012 3456 7899", "4000-0012-3456-7899", expected):
        assert read(card_id=written).scored(KEY).card_id == expected


def test_the_card_number_shows_neither_in_the_model_nor_in_its_errors():
    assert CARD_NUMBER not in repr(read())
    with pytest.raises(ValidationError) as caught:
        read(card_id=CARD_NUMBER * 20, amount="x")
    assert CARD_NUMBER not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("transaction_id", ""),
        ("transaction_id", "x" * 201),
        ("transaction_id", 7),
        ("transaction_id", None),
        ("transaction_id", "a\nb"),
        ("merchant_id", " m"),
        ("merchant_id", CARD_NUMBER),
        ("device_id", f"card {CARD_NUMBER}"),
        ("card_id", ""),
        ("card_id", " - "),
        ("card_id", "4" * 65),
        ("card_id", "tok_123"),
        ("card_id", {"number": CARD_NUMBER}),
        ("amount", -0.01),
        ("amount", "-1"),
        ("amount", "1e3"),
        ("amount", "1,000.00"),
        ("amount", "١٢"),
        ("amount", ""),
        ("amount", True),
        ("amount", None),
        ("amount", [1]),
        ("amount", "9" * 100_000),
        ("amount", 1e308),
        ("amount", "NaN"),
        ("amount", "30000000.01"),
        ("currency", "eur"),
        ("currency", "XXX"),
        ("currency", "EURO"),
        ("currency", "JPY"),
        ("currency", "KWD"),
        ("merchant_id", "4000.0012.3456.7899"),
        ("merchant_id", "400000_1234567899"),
        ("category", "4000/0012/3456/7899"),
        ("event_time", 1_740_830_400),
        ("event_time", "1740830400"),
        ("event_time", "01.03.2025 12:00"),
        ("event_time", "2025-03-01"),
        ("event_time", "2025-02-29T12:00:00Z"),
        ("event_time", "1989-12-31T23:59:59Z"),
        ("event_time", "2100-01-01T00:00:00Z"),
        ("event_time", "0001-01-01T00:00:00+14:00"),
        ("event_time", "9999-12-31T23:59:59-14:00"),
        ("event_time", "2025-03-01T12:00:00.0000001Z"),
        ("channel", "telepathy"),
        ("country", "DEU"),
        ("home_latitude", 90.1),
        ("merchant_longitude", -180.1),
        ("home_latitude", "fifty-two"),
    ],
)
def test_what_cannot_be_meant_is_refused(field, value):
    with pytest.raises(ValidationError) as caught:
        read(**{field: value})
    assert field in str(caught.value)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["amount", "home_latitude"])
def test_numbers_that_are_none_are_refused(field, literal):
    body = json.dumps(payment(**{field: 0})).replace(f'"{field}": 0', f'"{field}": {literal}')
    with pytest.raises(ValidationError):
        Transaction.model_validate_json(body)


def test_a_currency_without_cents_is_refused_in_words():
    with pytest.raises(ValidationError, match=r"expected a currency with 2 decimals, found JPY with 0.*convert"):
        read(currency="JPY")


def test_unknown_and_missing_fields_are_refused():
    with pytest.raises(ValidationError, match="card_count_24h"):
        read(card_count_24h=0)
    for field in payment():
        incomplete = {name: value for name, value in payment().items() if name != field}
        with pytest.raises(ValidationError, match=field):
            Transaction.model_validate_json(json.dumps(incomplete))


def test_ingest_and_service_make_the_same_transaction_of_the_same_values():
    """The other route: the ingest contract, in DuckDB, over the same rows."""
    amounts = ["12.345", "0.005", "57.160000000000004", "0.0049999999996", "1.2345", "1500.5", "2999999.994999"]
    rows = [
        payment(
            transaction_id=f"t{number}", amount=amount, currency=currency, card_id=card, country="de", channel="online",
            event_time=moment, home_latitude=52.5, device_id="d-1",
        )
        for number, (amount, currency, card, moment) in enumerate(
            itertools.product(
                amounts,
                ["EUR", "GBP", "USD"],
                [CARD_NUMBER, "4000-0012-3456-7899", tokenize_card(CARD_NUMBER, KEY)],
                ["2025-03-01T12:00:00Z", "2025-03-01T13:30:00.000001+01:30", "2025-03-01 12:00"],
            )
        )
    ]  # fmt: skip
    table = pa.Table.from_pylist([{name: str(value) for name, value in row.items()} for row in rows])
    mapping = parse_mapping(
        {
            "name": "canonical",
            "columns": {name: name for name in rows[0] if name != "event_time"},
            "event_time": "event_time",
        },
        "this test",
    )
    columns = resolve(mapping, table.column_names, "this test")
    batch = Batch(table.select(columns.all), pa.array(range(1, len(rows) + 1)))
    with Cleaner(mapping, columns, "test.csv", KEY, TimeBounds()) as cleaner:
        cleaned = cleaner.clean(batch)
    assert cleaned.quarantine.num_rows == 0
    for ingested, row in zip(cleaned.rows.to_pylist(), rows, strict=True):
        served = asdict(Transaction.model_validate_json(json.dumps(row)).scored(KEY))
        event_time = ingested["event_time"] - datetime(1970, 1, 1)
        assert served.pop("event_time_us") == event_time // timedelta(microseconds=1)
        assert served == {name: ingested[name] for name in served}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from([*Transaction.model_fields, "another"]), _json)
def test_any_value_is_either_refused_or_sound(field, value):
    try:
        scored = read(**{field: value}).scored(KEY)
    except ValidationError:
        return
    assert 0 <= scored.amount_minor <= 3_000_000_000
    assert scored.card_id.startswith("tok_")
    assert len(scored.card_id) == 36
    assert json.loads(json.dumps(asdict(scored), allow_nan=False)) == asdict(scored)


def test_a_note_may_hold_anything_that_every_ledger_can_store():
    given = FeedbackRequest(transaction_id="t-1", verdict="PENDING", note="two\nlines, 😀 and a tab\t")
    assert given.note == "two\nlines, 😀 and a tab\t"
    with pytest.raises(ValidationError, match="NUL"):
        FeedbackRequest(transaction_id="t-1", verdict="PENDING", note="a\x00b")
