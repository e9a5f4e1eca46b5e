"""Card numbers: replaced by keyed tokens, recognised where they do not belong, masked (rule 10)."""

import hmac
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

TOKEN = re.compile(r"tok_[0-9a-f]{32}")
MASK = "[card number]"

# What people and programs put between the digits of one number: spaces of every width, dashes, dots, underscores,
# slashes, or several of them. Letters end a number, which is why an identifier with a letter in it is none.
_SEPARATORS = re.compile(r"[^0-9A-Za-z]+")
_CHAIN = re.compile(r"[0-9]+(?:[^0-9A-Za-z]+[0-9]+)*")
_DIGITS = re.compile(r"[0-9]+")
_SHORTEST, _LONGEST = 13, 19
# Groups on cards hold four digits or more, but for the last (4-4-4-4, 4-6-5, 4-4-4-4-3, 6-10): shorter ones are dates,
# times and running numbers, as in 260101-7-00148867. Ones, twos or threes count when all groups are alike.
_SHORTEST_GROUP = 4
_WORD = re.compile(r"[0-9A-Za-z]+")
_HEX_DIGEST = re.compile(r"(?=.*[A-Fa-f])[0-9A-Fa-f]{20,}")
_UUID = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
# 20260131-00004711 or 20260131 235959: no network has issued numbers that begin with 20 since 1992.
_DATE = re.compile(r"20[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
# A line of a file: what separates its columns does not hold one number together.
_LONG_DIGITS = re.compile(r"[0-9](?:[^0-9A-Za-z,;|\t]*[0-9]){7,}")

# A cheap superset of the card numbers in RE2: 13 digits with nothing but separators between them.
SUSPICIOUS_SQL = "[2-6](?:[^0-9A-Za-z]*[0-9]){12}"


def tokenize_card(value: str, key: bytes) -> str:
    """Token of a card number: `tok_` and 32 hex digits, the first 16 bytes of HMAC-SHA256 under `key`.

    However a card number is grouped, the token is that of its digits. A value that is a token already is returned
    unchanged, so a service can send either. Different keys give unrelated tokens.
    """
    if TOKEN.fullmatch(value):
        return value
    return f"tok_{hmac.digest(key, _plain_number(value).encode(), 'sha256')[:16].hex()}"


def tokenize_column(values: "pa.ChunkedArray", key: bytes) -> "pa.Array":
    """Tokens of a text column, shape kept, null stays null. Each distinct value is hashed once per call."""
    # Here, because whoever sends one payment to the service has no columns.
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = values.combine_chunks().dictionary_encode()
    tokens = pa.array([tokenize_card(value, key) for value in encoded.dictionary.to_pylist()], pa.string())
    return pc.take(tokens, encoded.indices)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn, US patent 2950048)."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        digit = int(character)
        if position % 2:
            digit = digit * 2 - 9 if digit > 4 else digit * 2
        total += digit
    return total % 10 == 0


def contains_card_number(text: str) -> bool:
    """Whether a card number (13 to 19 digits in any usual grouping, valid check digit) stands in `text`."""
    return len(text) >= _SHORTEST and next(_card_numbers(text), None) is not None


def mask_card_numbers(text: str) -> str:
    """`text` with every card number replaced by a fixed mask; nothing of the number stays."""
    masked, end = [], 0
    for start, stop in _merged(_card_numbers(text)):
        masked += [text[end:start], MASK]
        end = stop
    return "".join([*masked, text[end:]])


def mask_long_digits(text: str) -> str:
    """`text` with every run of 8 or more digits masked: for rows whose columns cannot be told apart."""
    return _LONG_DIGITS.sub("[digits]", text)


def _plain_number(value: str) -> str:
    """The digits of what may be a card number; of any other name, which is not to be mixed up, its characters without
    spaces and dashes."""
    digits = _SEPARATORS.sub("", value)
    if digits.isdecimal() and _SHORTEST - 1 <= len(digits) <= _LONGEST:
        return digits
    return value.replace(" ", "").replace("-", "")


def _card_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of every stretch of `text` that is a card number, in order of start; they may overlap."""
    names: list[tuple[int, int]] | None = None
    for chain in _CHAIN.finditer(text):
        if chain.end() - chain.start() < _SHORTEST:
            continue
        groups = [(group.start(), group.end()) for group in _DIGITS.finditer(text, *chain.span())]
        for first in range(len(groups)):
            digits, sizes = "", []
            for start, end in groups[first:]:
                digits += text[start:end]
                sizes.append(end - start)
                if len(digits) > _LONGEST:
                    break
                if not _reads_as_card_number(digits, sizes):
                    continue
                # A digest, token or UUID may hold a long run of digits by chance: it is one name, and not a number.
                names = _hexadecimal_names(text) if names is None else names
                if not any(name[0] <= groups[first][0] and end <= name[1] for name in names):
                    yield groups[first][0], end


def _reads_as_card_number(digits: str, sizes: list[int]) -> bool:
    # The first digit 2 to 6 is every payment network's (ISO/IEC 7812: 2 Mastercard and Mir, 3 Amex, Diners and JCB,
    # 4 Visa, 5 Mastercard and Maestro, 6 Discover, UnionPay and Maestro); without it one long numeric identifier in
    # ten would look like a card.
    if len(digits) < _SHORTEST or digits[0] not in "23456":
        return False
    *leading, last = sizes
    is_even = len(set(leading)) == 1 and last <= leading[0]
    if leading and min(leading) < _SHORTEST_GROUP and not is_even:
        return False
    if leading and leading[0] == 8 and _DATE.match(digits):
        return False
    return passes_luhn(digits)


def _hexadecimal_names(text: str) -> list[tuple[int, int]]:
    words = [word.span() for word in _WORD.finditer(text) if _HEX_DIGEST.fullmatch(word.group())]
    return words + [name.span() for name in _UUID.finditer(text)]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping spans, in order of start, as one each."""
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
