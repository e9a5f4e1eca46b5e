"""What nobody means, sent to a real service: refused in the one error shape, and the next payment is decided."""

from __future__ import annotations

import gzip
import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serving.client import ScoringClient
from tests.integration.serving.conftest import Service
from tests.served_models import payment

JSON = {"content-type": "application/json"}


def field(name: str, text: str) -> bytes:
    """A payment with JSON text as it stands in one of its fields."""
    return json.dumps(payment(**{name: "HERE"})).replace('"HERE"', text).encode()


def decides(service: Service) -> None:
    """The service still does what it is for."""
    response = service.score(payment(transaction_id=str(uuid.uuid4())))
    assert (response.status_code, response.json()["decision"]) == (200, "APPROVE")


def check_refusal(response: httpx.Response, status: int, code: str, *, of: str, document: dict[str, Any]) -> None:
    """It has this status, which the document knows, and the one error shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert error["code"] == code
    assert {"code", "message", "next"} <= set(error) <= {"code", "message", "next", "field"}
    assert len(response.content) < 2_000  # nothing of a huge request comes back
    (operation,) = document["paths"][of].values()
    assert str(status) in operation["responses"]


@pytest.fixture(scope="module")
def document(conforming: Service) -> dict[str, Any]:
    return conforming.client.get("/docs.json").json()


BODIES = {
    "nothing": (b"", 400, "malformed_json"),
    "a word": (b"payment", 400, "malformed_json"),
    "half of it": (json.dumps(payment()).encode()[:-1], 400, "malformed_json"),
    "two of them": (json.dumps(payment()).encode() * 2, 400, "malformed_json"),
    "UTF-16": (json.dumps(payment()).encode("utf-16"), 400, "malformed_json"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(payment()).encode(), 400, "malformed_json"),
    "invalid UTF-8": (field("merchant_id", '"\xff"').replace("ÿ".encode(), b"\xff"), 400, "malformed_json"),
    "an overlong slash": (field("merchant_id", '"x"').replace(b'"x"', b'"\xc0\xaf"'), 400, "malformed_json"),
    "a key twice": (b'{"amount":"1","amount":"1000"}', 400, "duplicate_key"),
    "a key twice, once escaped": (b'{"amount":"1","\\u0061mount":"1000"}', 400, "duplicate_key"),
    "a key twice, deep inside": (b'{"a":{"b":[{"c":1,"c":2}]}}', 400, "duplicate_key"),
    "lists in lists": (b"[" * 30_000 + b"]" * 30_000, 400, "malformed_json"),
    "objects in objects": (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, 400, "malformed_json"),
    "a list": (json.dumps([payment()]).encode(), 422, "invalid_transaction"),
    "a text": (b'"payment"', 422, "invalid_transaction"),
    "null": (b"null", 422, "invalid_transaction"),
    "a number": (b"1", 422, "invalid_transaction"),
    "NaN": (field("amount", "NaN"), 400, "malformed_json"),
    "Infinity": (field("amount", "Infinity"), 400, "malformed_json"),
    "minus Infinity": (field("home_latitude", "-Infinity"), 400, "malformed_json"),
    "a number beyond doubles": (field("amount", "1e999"), 422, "invalid_transaction"),
    "an exponent of a million": (field("amount", '"1e1000000"'), 422, "invalid_transaction"),
    "an integer of 5,000 digits": (field("amount", "9" * 5_000), 400, "malformed_json"),
    "a negative amount": (field("amount", "-0.01"), 422, "invalid_transaction"),
    "an amount of Arabic digits": (field("amount", '"١٢"'), 422, "invalid_transaction"),
    "an amount that is true": (field("amount", "true"), 422, "invalid_transaction"),
    "an amount in a list": (field("amount", "[12]"), 422, "invalid_transaction"),
    "NaN as text": (field("amount", '"NaN"'), 422, "invalid_transaction"),
    "a latitude beyond doubles": (field("home_latitude", "1e999"), 422, "invalid_transaction"),
    "the year 0001": (field("event_time", '"0001-01-01T00:00:00+14:00"'), 422, "invalid_transaction"),
    "the year 9999": (field("event_time", '"9999-12-31T23:59:59-14:00"'), 422, "invalid_transaction"),
    "the 30th of February": (field("event_time", '"2025-02-30T00:00:00Z"'), 422, "invalid_transaction"),
    "an offset of 99 hours": (field("event_time", '"2025-03-01T00:00:00+99:00"'), 422, "invalid_transaction"),
    "seconds since 1970": (field("event_time", "1740830400"), 422, "invalid_transaction"),
    "a lone surrogate": (field("merchant_id", '"\\ud800"'), 400, "malformed_json"),
    "a lone surrogate as card": (field("card_id", '"\\udfff1234"'), 400, "malformed_json"),
    "a lone surrogate as key": (b'{"\\ud800": 1}', 400, "malformed_json"),
    "a zero byte": (field("merchant_id", '"m\\u0000"'), 422, "invalid_transaction"),
    "letters from right to left": (field("merchant_id", '"\\u202em"'), 422, "invalid_transaction"),
    "a text of 60,000 characters": (field("merchant_id", '"' + "m" * 60_000 + '"'), 422, "invalid_transaction"),
    "a thousand unknown fields": (
        json.dumps({f"f{number}": 1 for number in range(1_000)}).encode(), 422, "invalid_transaction"),
    "a field of a megabyte": (field("merchant_id", '"' + "m" * 2**20 + '"'), 413, "body_too_large"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_payment_is_refused(conforming: Service, document, name):
    body, status, code = BODIES[name]
    response = conforming.client.post("/score", content=body, headers=JSON)
    check_refusal(response, status, code, of="/score", document=document)


@pytest.mark.parametrize("path", ["/score_batch", "/score_by_id", "/explain", "/feedback"])
@pytest.mark.parametrize("name", ["nothing", "invalid UTF-8", "a key twice", "lists in lists", "null", "a list"])
def test_every_path_that_takes_a_body_refuses_alike(conforming: Service, document, path, name):
    body, status, code = BODIES[name]
    response = conforming.client.post(path, content=body, headers=JSON)
    check_refusal(response, status, code, of=path, document=document)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/score_by_id", {"transaction_id": ""}, "invalid_transaction"),
        ("/explain", {"transaction_id": 7}, "invalid_transaction"),
        ("/feedback", {"transaction_id": "t", "verdict": "FRAUD"}, "invalid_transaction"),
        ("/feedback", {"transaction_id": "t", "verdict": "PENDING", "note": "n" * 2_001}, "invalid_transaction"),
        ("/score_batch", {"transactions": []}, "invalid_transaction"),
        ("/score_batch", {"transactions": payment()}, "invalid_transaction"),
    ],
)
def test_fields_of_the_other_paths(conforming: Service, document, path, body, code):
    response = conforming.client.post(path, content=json.dumps(body), headers=JSON)
    check_refusal(response, 422, code, of=path, document=document)


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({**JSON, "content-encoding": "gzip"}, gzip.compress(b" " * 2**27), 415, "media_type_not_supported"),
        ({**JSON, "content-encoding": "br, gzip"}, b"{}", 415, "media_type_not_supported"),
        ({"content-type": "text/plain"}, b"{}", 415, "media_type_not_supported"),
        ({"content-type": "application/json-patch+json"}, b"[]", 415, "media_type_not_supported"),
        ({"content-type": "multipart/form-data; boundary=b"}, b"--b--", 415, "media_type_not_supported"),
        ({"content-type": ""}, b"{}", 415, "media_type_not_supported"),
    ],
)
def test_what_is_not_plain_json_by_its_headers(conforming: Service, document, headers, body, status, code):
    response = conforming.client.post("/score", content=body, headers=headers)
    check_refusal(response, status, code, of="/score", document=document)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_another_method_is_refused_and_told_which_it_is(conforming: Service, document, method):
    response = conforming.client.request(method, "/score")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        check_refusal(response, 405, "method_not_allowed", of="/score", document=document)


@pytest.mark.parametrize(
    "path",
    [
        *("/decisions/", "/decisions/%ff", "/decisions/%00", "/decisions/%ED%A0%80", "/decisions/..%2f..%2fetc"),
        f"/decisions/{'x' * 5_000}",
    ],
)
def test_identifiers_that_nobody_has(conforming: Service, document, path):
    response = conforming.client.get(path)
    check_refusal(response, 404, "transaction_unknown", of="/decisions/{transaction_id}", document=document)


@pytest.mark.parametrize("identifier", ["a/b", "100%41", "?", "#", "ü 7", "a%2Fb"])
def test_every_identifier_that_is_taken_can_be_asked_for(conforming: Service, identifier):
    with ScoringClient(str(conforming.client.base_url)) as client:
        assert client.score(payment(transaction_id=identifier)).transaction_id == identifier
        assert client.decision(identifier).answer["transaction_id"] == identifier


def test_a_batch_of_10_001_is_refused_as_a_whole(conforming: Service, document):
    body = json.dumps({"transactions": [{}] * 10_001})
    response = conforming.client.post("/score_batch", content=body, headers=JSON)
    check_refusal(response, 413, "too_many_transactions", of="/score_batch", document=document)


def test_rows_that_are_no_payments_do_not_take_the_others_with_them(conforming: Service):
    good = [payment(transaction_id=str(uuid.uuid4())) for _ in range(2)]
    rows = [good[0], None, 7, "payment", [], {}, {"amount": {}}, payment(merchant_id=""), good[1]]
    response = conforming.client.post("/score_batch", content=json.dumps({"transactions": rows}), headers=JSON)
    answer = response.json()
    assert (response.status_code, answer["decided"], answer["refused"]) == (200, 2, 7)
    assert [result.get("index") for result in answer["results"]] == [None, 1, 2, 3, 4, 5, 6, 7, None]
    assert {result["error"]["code"] for result in answer["results"][1:-1]} == {"invalid_transaction"}


@contextmanager
def sent(service: Service, request: bytes) -> Iterator[socket.socket]:
    """A connection on which these bytes went to the service."""
    address = urlsplit(str(service.client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=5) as connection:
        connection.sendall(request)
        yield connection


def answered(service: Service, request: bytes) -> tuple[int, bytes]:
    """Status and body that come back for bytes as they are; the two may come one after the other."""
    with sent(service, request) as connection, HTTPResponse(connection) as response:
        response.begin()
        return response.status, response.read()


HEAD = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize("length", [b"65537", b"99999999999", b"9" * 19])
def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(conforming: Service, length):
    status, body = answered(conforming, HEAD + b"content-length: " + length + b"\r\n\r\n")
    assert (status, json.loads(body)["error"]["code"]) == (413, "body_too_large")


def test_chunks_without_end_are_cut_off_at_the_limit(conforming: Service):
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    status, _ = answered(conforming, HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk * 5)
    assert status == 413


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"content-length: 100\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n{\r\n",
        HEAD + b"content-length: 2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\x00" * 1_000,
    ],
)
def test_callers_that_give_up_or_speak_something_else_leave_no_trace(conforming: Service, request_):
    before = conforming.log.read_text()
    with sent(conforming, request_):
        pass
    decides(conforming)
    assert "Traceback" not in conforming.log.read_text()[len(before) :]


def test_after_all_of_it_the_service_decides_and_is_well(conforming: Service):
    decides(conforming)
    assert conforming.client.get("/health").json()["status"] == "ok"
    assert "failed" not in conforming.log.read_text()
