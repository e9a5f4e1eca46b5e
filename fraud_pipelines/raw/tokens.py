"""Card numbers: replaced by keyed tokens, recognised where they do not belong, masked (rule 10)."""

import hmac
import re

import pyarrow as pa
import pyarrow.compute as pc

TOKEN = re.compile(r"tok_[0-9a-f]{32}")
MASK = "[card number]"

# 13 to 19 digits, plain or in the groups printed on cards (4-4-4-4, 4-6-5, 4-6-4, 4-4-4-4-3). The first digit 2 to 6 is
# every payment network's (ISO/IEC 7812: 2 Mastercard and Mir, 3 Amex, Diners and JCB, 4 Visa, 5 Mastercard and
# Maestro, 6 Discover, UnionPay and Maestro); without it one long numeric identifier in ten would look like a card.
_CANDIDATE = re.compile(
    r"(?<![0-9])[2-6](?:[0-9]{12,18}|[0-9]{3}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?"
    r"|[0-9]{3}[ -][0-9]{6}[ -][0-9]{4,5})(?![0-9])"
)
_WORD = re.compile(r"[0-9A-Za-z]+")
_HEX_DIGEST = re.compile(r"(?=.*[A-Fa-f])[0-9A-Fa-f]{20,}")
_LONG_DIGITS = re.compile(r"[0-9](?:[ -]?[0-9]){7,}")

# A cheap superset of the candidates in RE2, which has no look-behind: what is worth a second look.
SUSPICIOUS_SQL = "[2-6][0-9]{3}[ -]?[0-9]{2}"


def tokenize_card(value: str, key: bytes) -> str:
    """Token of a card number: `tok_` and 32 hex digits, the first 16 bytes of HMAC-SHA256 under `key`.

    Spaces and dashes do not matter. A value that is a token already is returned unchanged, so a service can send
    either. Different keys give unrelated tokens.
    """
    if TOKEN.fullmatch(value):
        return value
    digits = value.replace(" ", "").replace("-", "")
    return f"tok_{hmac.digest(key, digits.encode(), 'sha256')[:16].hex()}"


def tokenize_column(values: pa.ChunkedArray, key: bytes) -> pa.Array:
    """Tokens of a text column, shape kept, null stays null. Each distinct value is hashed once per call."""
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
    """Whether a card number (13 to 19 digits, valid check digit) stands in `text`."""
    return any(_is_card_number(match) for match in _CANDIDATE.finditer(text))


def mask_card_numbers(text: str) -> str:
    """`text` with every card number replaced by a fixed mask; nothing of the number stays."""
    return _CANDIDATE.sub(lambda match: MASK if _is_card_number(match) else match.group(), text)


def mask_long_digits(text: str) -> str:
    """`text` with every run of 8 or more digits masked: for rows whose columns cannot be told apart."""
    return _LONG_DIGITS.sub("[digits]", text)


def _is_card_number(match: re.Match[str]) -> bool:
    digits = match.group().replace(" ", "").replace("-", "")
    if not 13 <= len(digits) <= 19 or not passes_luhn(digits):
        return False
    # A digest or token in hex may hold a long run of digits by chance: it is one word, and not a number.
    return not any(
        word.start() <= match.start() and match.end() <= word.end() and _HEX_DIGEST.fullmatch(word.group())
        for word in _WORD.finditer(match.string)
    )
