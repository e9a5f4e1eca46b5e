"""Card numbers: tokens, recognition, masking."""

import hashlib
import hmac

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_pipelines.raw.tokens import (
    MASK,
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


@pytest.mark.parametrize("written", ["4111 1111 1111 1111", "4111-1111-1111-1111"])
def test_spaces_and_dashes_do_not_matter(written):
    assert tokenize_card(written, KEY) == tokenize_card(VISA, KEY)


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
     "4222222222222", "é" + VISA],
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
     "550e8400-e29b-41d4-a716-446655440000", "", "4111 1111"],
)  # fmt: skip
def test_other_text_is_no_card_number(text):
    assert not contains_card_number(text)
    assert mask_card_numbers(text) == text


def test_long_digits_are_masked_whatever_they_are():
    assert mask_long_digits("a,4111 1111-1111 1112,12.50,20180401") == "a,[digits],12.50,[digits]"
