"""Rows of a request as the transactions that are decided on.

What a row may hold is said once, by the model `Transaction`, and every refusal is the model's. But it takes each value
of each row by itself, which costs as much as deciding. So rows are read column by column first, by checks that take
only what is plainly fine; rows in which something is not are left to the model, which takes or refuses them. That both
make the same transaction of a row is held by a property test (tests/unit/serving/test_reading.py).
"""

import re
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import chain, repeat
from typing import Any, get_args

from pydantic import ValidationError

from fraud_pipelines import limits
from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.raw.currencies import USABLE
from fraud_pipelines.raw.tokens import TOKEN, contains_card_number, tokenize_card
from serving.schemas import (
    EARLIEST,
    ISO_MOMENT,
    LATEST,
    LONGEST_CARD,
    Channel,
    Transaction,
    microseconds,
    minor_units,
    read_amount,
    read_moment,
    readable_card,
)

# The model's fields, in the order in which a ScoredTransaction takes what becomes of them.
_ORDER = tuple(Transaction.model_fields)
_PUT = tuple(getattr(ScoredTransaction, name).__set__ for name in ScoredTransaction.__dataclass_fields__)
_FIELDS = frozenset(_ORDER)
_REQUIRED = frozenset(name for name, field in Transaction.model_fields.items() if field.is_required())
_TEXTS = frozenset(("customer_id", "category", "device_id"))
_DEGREES = {"home_latitude": 90, "home_longitude": 180, "merchant_latitude": 90, "merchant_longitude": 180}
_CHANNELS = frozenset(get_args(Channel))
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_EARLIEST_US, _LATEST_US = microseconds(EARLIEST), microseconds(LATEST)
# An amount whose minor units a double gives exactly: ten digits of the fifteen that it holds.
_CENTS = re.compile(r"[0-9]{1,8}(\.[0-9]{1,2})?")
_ANY_DIGIT_AS_0 = bytes.maketrans(b"0123456789", b"0" * 10)
# What a card number can hold between its digits: all but digits and letters, in UTF-8; the line break separates texts.
_BETWEEN_DIGITS = bytes(code for code in range(256) if not (code < 128 and chr(code).isalnum()) and chr(code) != "\n")
_CARD_NUMBER_DIGITS = b"0" * 13
# Of rows that are not all plain, so many parts are tried: one bad row leaves the others cheap.
_PARTS = 16
# Fewer rows are read as fast by the model.
_FEWEST = 3


def read_rows(rows: Sequence[Any], token_key: bytes) -> list[ScoredTransaction | ValidationError]:
    """Each row as a transaction, its card as a token under the key, or why the schema refuses it; in order."""
    if len(rows) < _FEWEST:
        return [_of_model(row, token_key) for row in rows]
    try:
        return list(_plain(rows, token_key))
    except ValueError:
        size = -(-len(rows) // _PARTS)
        parts = (rows[start : start + size] for start in range(0, len(rows), size))
        return [read for part in parts for read in read_rows(part, token_key)]


def _of_model(row: Any, token_key: bytes) -> ScoredTransaction | ValidationError:
    try:
        return Transaction.model_validate(row).scored(token_key)
    except ValidationError as error:
        return error


class _NotPlain(ValueError):
    """Something in these rows is for the model to judge."""


def _plain(rows: Sequence[Any], token_key: bytes) -> Sequence[ScoredTransaction]:
    """Rows of which every value is plainly fine, as transactions.

    Raises:
        ValueError: one is not, perhaps.
    """
    _require(set(map(type, rows)) == {dict})
    names = set().union(*rows)
    _require(_REQUIRED <= names <= _FIELDS)
    column = {name: [row.get(name) for row in rows] for name in names}
    given = {name: [value for value in column[name] if value is not None] for name in names - _REQUIRED}

    _require_plain_texts(
        [*column["transaction_id"], *column["merchant_id"], *chain(*[given[name] for name in _TEXTS & names])]
    )
    _require(USABLE.issuperset(_texts(column["currency"])))
    column["event_time"] = _moments_us(_texts(column["event_time"]))
    column["card_id"] = _tokens(_texts(column["card_id"]), token_key)
    column["amount"] = _amounts_minor(column["amount"])
    if "channel" in names:
        _require(_CHANNELS.issuperset(_texts(given["channel"])))
    if "country" in names:
        _require(all(map(_COUNTRY.fullmatch, set(_texts(given["country"])))))
        column["country"] = [country and country.upper() for country in column["country"]]
    for name, most in _DEGREES.items():
        if name in names:
            column[name] = _degrees(column[name], given[name], most)
    # What ScoredTransaction(...) does, for half its price: a frozen class sets its values one by one through `object`.
    transactions = list(map(object.__new__, repeat(ScoredTransaction, len(rows))))
    nothing = [None] * len(rows)
    for name, put in zip(_ORDER, _PUT, strict=True):
        deque(map(put, transactions, column.get(name, nothing)), maxlen=0)
    return transactions


def _require(is_plain: bool) -> None:
    if not is_plain:
        raise _NotPlain


def _texts(values: list[Any]) -> list[str]:
    _require(set(map(type, values)) <= {str})
    return values


def _require_plain_texts(values: list[Any]) -> None:
    """What schemas.Text asks of each."""
    lengths = set(map(len, _texts(values)))
    _require(min(lengths) >= 1 and max(lengths) <= limits.LONGEST_TEXT)
    joined = "".join(values)
    # Of all spaces one alone is printable.
    _require(joined.isprintable() and (" " not in joined or list(map(str.strip, values)) == values))
    if max(lengths) >= len(_CARD_NUMBER_DIGITS):
        digits = "\n".join(values).encode().translate(_ANY_DIGIT_AS_0, _BETWEEN_DIGITS).split(b"\n")
        suspicious = [value for value, of in zip(values, digits, strict=True) if _CARD_NUMBER_DIGITS in of]
        _require(not any(map(contains_card_number, suspicious)))


def _moments_us(values: list[str]) -> list[int]:
    """Microseconds since 1970 of ISO 8601 moments."""
    one = values[0]
    # Callers write all their moments alike; where the digits stand in one, they stand in all.
    shape = one.encode().translate(_ANY_DIGIT_AS_0)
    are_alike = set(map(len, values)) == {len(one)} and (
        "".join(values).encode().translate(_ANY_DIGIT_AS_0) == shape * len(values)
    )
    if are_alike and one.endswith("Z") and ISO_MOMENT.fullmatch(one):
        moments_us = list(map(microseconds, map(datetime.fromisoformat, values)))
        _require(min(moments_us) >= _EARLIEST_US and max(moments_us) < _LATEST_US)
        return moments_us
    return [microseconds(read_moment(value)) for value in values]


def _tokens(values: list[str], token_key: bytes) -> list[str]:
    """Tokens of cards."""
    if all(map(TOKEN.fullmatch, values)):
        return values
    _require(all(1 <= len(value) <= LONGEST_CARD for value in values))
    return [tokenize_card(readable_card(value), token_key) for value in values]


def _amounts_minor(values: list[Any]) -> list[int]:
    """Minor units of amounts."""
    kinds = set(map(type, values))
    minor = None
    if kinds == {str} and all(map(_CENTS.fullmatch, values)):
        minor = [round(float(value) * 100) for value in values]
    elif kinds == {float} and min(values) > 0 and max(values) < 1e8:
        found = [round(value * 100) for value in values]
        # Else one has more decimals, or noise in the last of them.
        minor = found if [units / 100 for units in found] == values else None
    if minor is None:
        minor = [minor_units(read_amount(value)) for value in values]
    _require(max(minor) <= limits.LARGEST_AMOUNT_MINOR)
    return minor


def _degrees(values: list[Any], given: list[Any], most: int) -> list[float | None]:
    """Degrees of at most so many; `given` are those of the values that are not None."""
    kinds = set(map(type, given))
    _require(kinds <= {float, int} and all(-most <= value <= most for value in given))
    return [value if value is None else float(value) for value in values] if int in kinds else values
