"""Card numbers: tokens, recognition, masking."""

import hashlib
import hmac

import duckdb
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fraud_pipelines.raw.tokens import (
    MASK,
    SUSPICIOUS_SQL,
    contains_card_number,
    mask_card_numbers,
    mask_long_digits,
    passes_luhn,
    tokenize_card,
    tokenize_column,
)

KEY = b"k" * 32
VISA, AMEX, MAESTRO_19 = "4111111111111111", "378282246310005", "6304000000000000000"


def test_a_token_is_half_an_hmac_sha256():
    expected = hmac.new(KEY, VISA.encode(), hashlib.sha256).hexdigest()[:32]
    assert tokenize_card(VISA, KEY) == f"tok_{expected}"


GROUPED = [
    "4111 1111 1111 1111", "4111-1111-1111-1111", "4111.1111.1111.1111", "4111_1111_1111_1111", "4111/1111/1111/1111",
    "4111\N{NO-BREAK SPACE}1111\N{NO-BREAK SPACE}1111\N{NO-BREAK SPACE}1111", "4111 1111-1111.1111",
    "4111 - 1111 - 1111 - 1111", "411111 1111111111", "411111-1111-111111", "41111111 11111111",
    "4111\N{EN DASH}1111\N{EN DASH}1111\N{EN DASH}1111", "41 11 11 11 11 11 11 11", "411 111 111 111 111 1",
    "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
]  # fmt: skip


@pytest.mark.parametrize("written", GROUPED)
def test_the_grouping_does_not_matter(written):
    assert tokenize_card(written, KEY) == tokenize_card(VISA, KEY)


def test_names_that_are_no_card_number_keep_their_own_tokens():
    # All of them would be 112 or 20260101712 without what separates them.
    names = ["1.12", "11.2", "112", "2026.01.01/712", "2026.010.1/712"]
    assert len({tokenize_card(name, KEY) for name in names}) == 5
    assert tokenize_card("c 1-2", KEY) == tokenize_card("c12", KEY)


@given(st.text(min_size=1), st.binary(min_size=1))
def test_a_token_stays_what_it_is(value, key):
    token = tokenize_card(value, key)
    assert tokenize_card(token, key) == token
    assert tokenize_card(token, b"another key") == token


def test_another_key_gives_another_token():
    assert tokenize_card(VISA, KEY) != tokenize_card(VISA, b"q" * 32)


def test_a_column_keeps_its_nulls_and_its_order():
    column = pa.chunked_array([[VISA, None], [AMEX, VISA]])
    tokens = tokenize_column(column, KEY).to_pylist()
    assert tokens == [tokenize_card(VISA, KEY), None, tokenize_card(AMEX, KEY), tokenize_card(VISA, KEY)]


@pytest.mark.parametrize(("digits", "valid"), [("79927398713", True), ("79927398710", False), (VISA, True)])
def test_luhn(digits, valid):
    assert passes_luhn(digits) is valid


@pytest.mark.parametrize(
    "text",
    [VISA, "4111 1111 1111 1111", "4111-1111-1111-1111", f"card {VISA}.", f"x{VISA}", AMEX, "3782 822463 10005",
     "4222222222222", "é" + VISA, f"m_{VISA}_1", f"room 12, {VISA}", "12, 4111 1111 1111 1111; 0815", *GROUPED],
)  # fmt: skip
def test_card_numbers_are_recognised(text):
    assert contains_card_number(text)
    assert MASK in mask_card_numbers(text)
    assert not contains_card_number(mask_card_numbers(text))


@pytest.mark.parametrize(
    "text",
    ["4111111111111112",  # wrong check digit
     "411111111111",  # twelve digits
     "41111111111111111111",  # twenty
     "1543234567890",  # milliseconds since 1970
     "d41d8cd98f00b4111111111111111e9800998ecf",  # a digest
     "tok_" + "4111111111111111" * 2,  # digits only, but a token has 32
     "550e8400-e29b-41d4-a716-446655440000", "", "4111 1111",
     "a4111111-1111-4102-8111-1111111111ab",  # a UUID; 4111111 1111 4102 has a valid check digit
     "2026-01-31 23:59:59.000007", "20260131 235901", "20260131-00004711",  # so have the last two
     "260101-7-00148867", "4.111e15", "255.255.255.255", "22:11:33:44:55:66", "411-1111-1111-11-111"],
)  # fmt: skip
def test_other_text_is_no_card_number(text):
    assert not contains_card_number(text)
    assert mask_card_numbers(text) == text


# Six and nine digits, and the check digit that makes each of these valid: 15 digits that begin with 2.
@pytest.mark.parametrize("seed", range(10))
def test_a_date_a_seed_and_a_number_are_never_a_card_number(seed):
    for number in range(1000):
        assert not contains_card_number(f"260101-{seed}-{number:08d}")


def test_a_card_number_that_overlaps_a_chance_one_goes_with_it():
    # Of 16 digits every other one is doubled, 9 subtracted above 9: 4008 gives 8 + 0 + 0 + 8, 4111 gives 8 + 1 + 2 + 1,
    # 1111 gives 6. 4008 4111 1111 1111 sums to 40, 4111 1111 1111 1111 to 30: both are valid.
    text = "4008 4111 1111 1111 1111"
    assert mask_card_numbers(text) == MASK


def with_check_digit(digits):
    return next(f"{digits}{last}" for last in range(10) if passes_luhn(f"{digits}{last}"))


card_numbers = st.builds(
    lambda first, rest: with_check_digit(first + rest),
    st.sampled_from("23456"),
    st.from_regex("[0-9]{11,17}", fullmatch=True),
)
separators = st.text(
    st.characters(exclude_categories=["Cs"]).filter(lambda c: not (c.isascii() and c.isalnum())), min_size=1, max_size=3
)


@given(
    card_numbers,
    st.sampled_from([(4, 4, 4), (6,), (4, 6), (8,), (4, 4, 4, 4)]),
    st.lists(separators, min_size=4, max_size=4),
)
def test_every_grouping_of_every_number_is_found_masked_and_gives_its_token(number, sizes, between):
    assume(not number.startswith("20"))
    written, rest = "", number
    for size, separator in zip(sizes, between, strict=False):
        if len(rest) > size:
            written, rest = written + rest[:size] + separator, rest[size:]
    written += rest
    assert contains_card_number(written)
    assert not any(character.isdecimal() and character.isascii() for character in mask_card_numbers(written))
    assert tokenize_card(written, KEY) == tokenize_card(number, KEY)


texts = st.lists(
    st.one_of(card_numbers, st.from_regex("[0-9]{1,6}", fullmatch=True), separators, st.text(max_size=4),
              st.sampled_from(GROUPED)), max_size=8,
).map("".join)  # fmt: skip


@given(st.lists(texts, min_size=1, max_size=30))
def test_the_prefilter_of_the_database_misses_nothing(found):
    # NUL ends a text for some readers; cleaning quarantines it under a rule of its own.
    values = [text.replace("\x00", "") for text in found]
    with duckdb.connect() as connection:
        connection.register("texts", pa.table({"text": values}))
        suspicious = connection.execute("select regexp_matches(text, ?) from texts", [SUSPICIOUS_SQL]).fetchall()
    for text, (is_suspicious,) in zip(values, suspicious, strict=True):
        assert is_suspicious or not contains_card_number(text)


@given(texts)
def test_nothing_is_left_after_masking(text):
    assert not contains_card_number(mask_card_numbers(text))


def test_long_digits_are_masked_whatever_they_are():
    assert mask_long_digits("a,4111 1111-1111 1112,12.50,20180401") == "a,[digits],12.50,[digits]"
