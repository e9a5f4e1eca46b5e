"""Rows read by columns and rows read by the model: the same transactions, the same refusals."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.raw.tokens import tokenize_card
from serving import reading
from serving.lane import BATCH_PIECE
from serving.reading import read_rows
from serving.schemas import Transaction
from tests.served_models import CARD_NUMBER, payment

KEY = b"k" * 32
TOKEN = tokenize_card(CARD_NUMBER, KEY)
UUID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


def outcome(read: ScoredTransaction | ValidationError) -> str:
    """Everything of it that can be seen: repr tells 1 from 1.0 and 0.0 from -0.0."""
    return json.dumps(read.errors(include_url=False), default=repr) if isinstance(read, ValidationError) else repr(read)


def of_model(row: Any) -> ScoredTransaction | ValidationError:
    try:
        return Transaction.model_validate(row).scored(KEY)
    except ValidationError as error:
        return error


# What differs from a plain value in one respect each, and plain values of every notation.
TEXTS = [
    "m-1", "a", "x" * 200, "x" * 201, "", " ", " m", "m ", "two words", "Bäckerei Groß", "店", "😀", "a\u0301", "a\nb",
    "a\x00b", "\ud800", "a\u00a0b", "\u2003m", "\u200b", "\x7f", "tab\t", "\u2028", CARD_NUMBER, f"card {CARD_NUMBER}",
    "4000.0012.3456.7899", "400000_1234567899", "4000\u20130012\u20133456\u20137899", "4000001234567890", "4" * 12,
    UUID, UUID.replace("-", ""), "m" + "4" * 20, "２０００", 7, 0.5, True, [], {}, ["m"],
]  # fmt: skip
MOMENTS = [
    "2025-03-01T12:00:00Z", "2025-03-01 12:00:00Z", "2025-03-01T12:00:00", "2025-03-01 12:00", "2025-03-01T12:00Z",
    "2025-03-01T12:00:00.5Z", "2025-03-01T12:00:00.000001Z", "2025-03-01T12:00:00.0000001Z", "2025-03-01T12:00:00z",
    "2025-03-01T13:30:00+01:30", "2025-03-01T13:30:00+0130", "2025-03-01T12:00:00-00:00", "2025-03-01T12:00:00+24:00",
    "2025-02-29T12:00:00Z", "2024-02-29T12:00:00Z", "2025-13-01T12:00:00Z", "2025-03-01T24:00:00Z",
    "2025-03-01T12:60:00Z", "2025-03-01T23:59:60Z", "1989-12-31T23:59:59Z", "1990-01-01T00:00:00Z",
    "1990-01-01T00:00:00+00:01", "2099-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "2099-12-31T23:59:59-00:01",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0000-01-01T00:00:00Z", "2025-03-01", "20250301T120000Z",
    "2025-W09-6T12:00:00Z", "2025-03-01T12:00:00 Z", " 2025-03-01T12:00:00Z", "2025-03-01T12:00:00Z\n", "",
    "２０２５-03-01T12:00:00Z", "2025-03-01\u00a012:00:00Z", 1_740_830_400, 1e9, True, "1740830400",
]  # fmt: skip
CARDS = [
    CARD_NUMBER, "4000 0012 3456 7899", "4000-0012-3456-7899", TOKEN, TOKEN[:-1], TOKEN + "0", TOKEN.upper(), "tok_",
    "tok_" + "0" * 32, "0" + TOKEN[:-1], " " + TOKEN[1:], " ", " - ", "", "x", "x" * 64, "x" * 65, "4000\n1", "店",
    "\x00", 4000, True, [CARD_NUMBER],
]  # fmt: skip
AMOUNTS = [
    "12.34", "12.3", "12", "012.34", "0", "0.00", "0.005", "12.345", "12.344999", "57.160000000000004", "99999999.99",
    "30000000", "30000000.00", "30000000.004", "30000000.01", "1e3", "1E-7", "+1", "-1", "-0", ".5", "5.", "1_000",
    " 1", "1 ", "1\n", "1,00", "", "NaN", "Infinity", "١٢", "1" * 16, "0" * 15 + "1", "0" * 16 + "1", "0." + "1" * 20,
    "0." + "1" * 21,
    12.34, 12, 0, 0.0, -0.0, -1, -0.01, 0.1, 0.1 + 0.2, 1.005, 2.675, 1e-7, 1e-21, 0.005, 0.015, 12.345, 1e5, 3e7,
    30000000.01, 30000000.005, 30000000.0049, 1e8, 1e16, 1e308, float("inf"), float("nan"), 2**53 + 1, 2**64,
    10**30, True, False, [1], {}, "0.0049999999996", 57.160000000000004, 4.35, 1.1, 29999999.99, 1000000.015,
]  # fmt: skip
CURRENCIES = ["EUR", "USD", "eur", "EURO", "EU", "", "JPY", "KWD", "XXX", "EUR\n", " EUR", "ＥＵＲ", 978, True, ["EUR"]]
CHANNELS = ["pos", "online", "atm", "POS", "telepathy", "", 1, True, ["pos"]]
COUNTRIES = ["DE", "de", "dE", "DEU", "D", "", "D\n", "DE\n", "ﬁ", "ıi", "ſs", "12", 49, True, ["DE"]]
DEGREES = [
    52.5, -52.5, 52, 0, 0.0, -0.0, 90, 90.0, -90, 90.1, 90.00000000000001, -91, 180, 180.0, 180.1, -180, -180.1,
    float("inf"), float("nan"), 1e308, 2**64, 10**400, True, False, "52.5", "x", "", [], {}, 5e-324,
]  # fmt: skip

_text = st.sampled_from(TEXTS) | st.text(max_size=8) | st.text(st.sampled_from("0123456789 -.x"), max_size=24)
_moment = (
    st.sampled_from(MOMENTS)
    | st.datetimes(timezones=st.none() | st.timezones()).map(str)
    | st.from_regex(
        r"(19[89]|20[019])[0-9]-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-5][0-9](:[0-6][0-9])?Z?", fullmatch=True
    )
)
_amount = (
    st.sampled_from(AMOUNTS)
    | st.floats(-1, 40_000_000)
    | st.integers(-100, 4_000_000_000)
    | st.integers(0, 4_000_000_000).map(lambda minor: minor / 100)
    | st.decimals(0, 40_000_000, places=3).map(str)
    | st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,4})?", fullmatch=True)
)
_degrees = st.sampled_from(DEGREES) | st.floats(-200, 200)
VALUES = {
    "transaction_id": _text,
    "event_time": _moment,
    "card_id": st.sampled_from(CARDS) | st.text(max_size=20),
    "merchant_id": _text,
    "amount": _amount,
    "currency": st.sampled_from(CURRENCIES),
    "customer_id": _text,
    "category": _text,
    "channel": st.sampled_from(CHANNELS),
    "country": st.sampled_from(COUNTRIES),
    "device_id": _text,
    "home_latitude": _degrees,
    "home_longitude": _degrees,
    "merchant_latitude": _degrees,
    "merchant_longitude": _degrees,
    "another": st.just("x"),
}
# A valid value of each field, so that one of the others decides.
PLAIN: dict[str, Any] = {
    **payment(card_id=TOKEN), "customer_id": "c-1", "category": "grocery", "channel": "pos", "country": "de",
    "device_id": UUID, "home_latitude": 52.5, "home_longitude": 13.4, "merchant_latitude": -0.5,
    "merchant_longitude": 13,
}  # fmt: skip


@st.composite
def rows(draw: st.DrawFn) -> Any:
    """A payment of some of its fields, of which a few are odd, null or missing."""
    optional = draw(st.sets(st.sampled_from([name for name in PLAIN if name not in payment()])))
    row = {name: value for name, value in PLAIN.items() if name in payment() or name in optional}
    for name in draw(st.lists(st.sampled_from([*VALUES]), max_size=2)):
        row[name] = draw(st.none() | VALUES[name])
    for name in draw(st.sets(st.sampled_from([*row]), max_size=1)) if draw(st.integers(0, 9)) == 0 else ():
        del row[name]
    return row


@given(st.lists(rows() | st.sampled_from([None, 7, "x", [], {}, [1]]), max_size=12))
@settings(max_examples=200)
def test_rows_are_read_as_the_model_reads_them(found):
    read = read_rows(found, KEY)
    assert [outcome(one) for one in read] == [outcome(of_model(row)) for row in found]


CASES = {
    "transaction_id": TEXTS, "event_time": MOMENTS, "card_id": CARDS, "merchant_id": TEXTS, "amount": AMOUNTS,
    "currency": CURRENCIES, "customer_id": TEXTS, "category": TEXTS, "channel": CHANNELS, "country": COUNTRIES,
    "device_id": TEXTS, "home_latitude": DEGREES, "home_longitude": DEGREES, "merchant_latitude": DEGREES,
    "merchant_longitude": DEGREES, "another": ["x", None],
}  # fmt: skip


@pytest.mark.parametrize("field", CASES)
def test_a_column_is_plain_only_where_the_model_takes_each_of_its_values(field):
    """Every value by itself, thrice, so that a column holds nothing else; and beside a valid one."""
    for value in [*CASES[field], None]:
        row = {**PLAIN, field: value}
        expected = outcome(of_model(row))
        assert [outcome(read) for read in read_rows([row] * 3, KEY)] == [expected] * 3, repr(value)
        mixed = [PLAIN, row, PLAIN, PLAIN]
        assert [outcome(read) for read in read_rows(mixed, KEY)] == [outcome(of_model(r)) for r in mixed], repr(value)


@pytest.mark.parametrize("field", PLAIN)
def test_a_field_may_be_missing_of_all_rows_or_of_one(field):
    without = {name: value for name, value in PLAIN.items() if name != field}
    for found in ([without] * 3, [PLAIN, without, PLAIN]):
        assert [outcome(read) for read in read_rows(found, KEY)] == [outcome(of_model(row)) for row in found]


def test_moments_that_look_alike_only_end_to_end_are_read_one_by_one():
    moment = "2025-03-01T12:00:00Z"
    found = [PLAIN | {"event_time": text} for text in (moment, moment[:16], moment[16:] + moment)]
    assert [outcome(read) for read in read_rows(found, KEY)] == [outcome(of_model(row)) for row in found]


def test_plain_rows_never_reach_the_model(monkeypatch):
    """Else the property above would compare the model with itself."""
    monkeypatch.setattr(reading, "_of_model", None)
    plain = [
        *(payment(transaction_id=f"t-{n}", amount=f"{n}.5") for n in range(50)),
        *(PLAIN | {"amount": n / 100, "merchant_id": f"Bäckerei {n}", "card_id": TOKEN} for n in range(50)),
        *(PLAIN | {"home_latitude": n, "home_longitude": 2 * n, "merchant_longitude": -2.0 * n} for n in range(91)),
        *(PLAIN | {"event_time": moment, "country": None} for moment in MOMENTS[:7]),
    ]
    assert [asdict(read)["transaction_id"] for read in read_rows(plain, KEY)] == [
        row["transaction_id"] for row in plain
    ]


def test_a_refused_row_of_a_piece_leaves_most_of_the_others_to_be_read_by_columns(monkeypatch):
    found = [payment(transaction_id=f"t-{n}") for n in range(BATCH_PIECE)]
    found[100]["amount"] = "-1"
    by_model = []
    alone = reading._of_model
    monkeypatch.setattr(reading, "_of_model", lambda row, key: (by_model.append(row), alone(row, key))[1])
    read = read_rows(found, KEY)
    assert [n for n, one in enumerate(read) if isinstance(one, ValidationError)] == [100]
    assert len(by_model) <= 16
