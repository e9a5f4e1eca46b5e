"""Request bodies: what is read, what is refused, and with which status."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bodies import Disconnected, parse, read_body
from serving.problems import Problem
from tests.served_models import CARD_NUMBER


def refusal(body: bytes) -> tuple[int, str, str | None]:
    with pytest.raises(Problem) as caught:
        parse(body)
    assert caught.value.next_step
    assert caught.value.content.startswith(b'{"error":')
    return caught.value.status, caught.value.code, caught.value.field


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b'{"a": 1, "a": 1}', "a"),
        (b'{"a": 1, "b": {"c": 1, "d": 2, "c": 3}}', "c"),
        (b'{"transactions": [{"amount": 1}, {"amount": 1, "amount": 2}]}', "amount"),
        (b'{"transactions":[{"amount":1},{"amount":1,"amount":2}]}', "amount"),
        (b'{"a":"\\":","b":1,"b":2}', "b"),  # a pair of quotation mark and colon that ends no key
        (b'{"a":1,"a" :2}', "a"),  # a key that ends without such a pair
        (b'{"a":1,"a"\t\n:2,"b":"\\":"}', "a"),
        (b'{"a": 1, "\\u0061": 2}', "a"),  # the same key, written in another way
        (b'{"\\ud800": 1, "\\ud800": 2}', "?"),
        (f'{{"{CARD_NUMBER}": 1, "{CARD_NUMBER}": 2}}'.encode(), "[number]"),
    ],
)
def test_a_key_that_stands_twice_could_mean_either(body, key):
    assert refusal(body) == (400, "duplicate_key", key)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{nonsense",
        b"{} {}",
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'\xef\xbb\xbf{"a": 1}',  # a byte order mark
        b'{"a": "\xff\xfe"}',  # not UTF-8
        b'{"a": "\xed\xa0\x80"}',  # half a pair of UTF-16, encoded as if it were a character
        b'{"a": "\\ud800"}',  # the same, escaped
        b'{"\\udfff": 1}',
        b'{"a": {"b": ["x", "\\uD83D"]}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"9" * 5_000 + b"}",  # Python reads no more than 4,300 digits
    ],
)
def test_what_is_no_json_is_refused(body):
    assert refusal(body) == (400, "malformed_json", None)


def test_what_is_odd_and_json_is_read():
    assert parse(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}  # a whole pair
    assert parse(b'{"a": "\\\\ud800"}') == {"a": "\\ud800"}  # six characters, no escape
    assert parse(b'{"a": 1e999}') == {"a": float("inf")}  # the schema refuses it, with the field
    assert parse(b'{"a": 123456789012345678901234567890}') == {"a": 123456789012345678901234567890}
    assert parse(b'[{"a": 1}, {"a": 1}]') == [{"a": 1}, {"a": 1}]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    st.booleans(),
)
def test_every_document_is_read_as_it_was_written(document, is_ascii):
    assert parse(json.dumps(document, ensure_ascii=is_ascii).encode()) == document


texts = st.text(st.sampled_from('ab":, \\\n'), max_size=4)
rows = st.lists(st.tuples(st.sampled_from(["a", "b", "c", '"', ":"]), texts | st.integers()), max_size=4)


@given(st.lists(rows, max_size=3), st.sampled_from([":", ": ", " :", "\t: "]), st.sampled_from([",", ", ", "\n,"]))
def test_no_key_stands_twice_however_a_batch_is_written(batch, colon, comma):
    objects = ["{" + comma.join(f"{json.dumps(k)}{colon}{json.dumps(v)}" for k, v in row) + "}" for row in batch]
    body = f'{{"transactions"{colon}[{comma.join(objects)}]}}'.encode()
    if all(len({key for key, _ in row}) == len(row) for row in batch):
        assert parse(body) == {"transactions": [dict(row) for row in batch]}
    else:
        assert refusal(body)[1] == "duplicate_key"


def read(headers: dict[str, str], *parts: bytes, largest: int = 10, ends: bool = True) -> bytes:
    messages = [
        {"type": "http.request", "body": part, "more_body": n + 1 < len(parts) or not ends}
        for n, part in enumerate(parts)
    ]
    messages.append({"type": "http.disconnect"})
    waiting = iter(messages)

    async def receive() -> dict:
        return next(waiting)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return asyncio.run(read_body(pairs, receive, largest))


def test_a_body_at_the_limit_passes_and_one_byte_more_does_not():
    assert read({"content-length": "10"}, b"0123456789") == b"0123456789"
    assert read({}, b"01234", b"", b"56789") == b"0123456789"
    for headers, parts in (
        ({"content-length": "11"}, ()),  # refused before a byte of it is read
        ({"content-length": "9" * 30}, ()),
        ({"content-length": "-1"}, ()),
        ({"content-length": "١"}, ()),
        ({}, (b"0123456789", b"a")),  # in chunks, without a length to be believed or not
        ({"content-length": "3"}, (b"01234567890",)),
    ):
        with pytest.raises(Problem) as caught:
            read(headers, *parts)
        assert (caught.value.status, caught.value.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/vnd.bentoml+pickle"},  # BentoML's own: unpickling runs code
        {"content-type": "text/json"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-encoding": "br"},
    ],
)
def test_only_plain_json_is_taken(headers):
    with pytest.raises(Problem) as caught:
        read(headers, b"{}")
    assert (caught.value.status, caught.value.code) == (415, "media_type_not_supported")


@pytest.mark.parametrize(
    "headers", [{}, {"content-type": "application/json; charset=utf-8"}, {"content-encoding": "identity"}]
)
def test_plain_json_is_taken_however_it_is_announced(headers):
    assert read(headers, b"{}") == b"{}"


def test_a_caller_that_goes_away_in_the_middle_has_sent_nothing():
    with pytest.raises(Disconnected):
        read({}, b"{", ends=False)
