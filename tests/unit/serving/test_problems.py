"""Every error leaves in the one shape, whoever made it."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx
import pytest
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from serving.problems import OneErrorShape, Problem, RefusalsAreNotErrors, schema_problem
from serving.schemas import Transaction
from tests.served_models import CARD_NUMBER, payment


async def _echo(request: Request) -> Response:
    return Response(await request.body())


async def _answer(request: Request) -> Response:
    wanted = await request.json()
    if "raise" in wanted:
        reused = {"field": "transaction_id", "next_step": "Send another.", "headers": wanted.get("headers")}
        raise Problem(409, "reused", "The same again.", **reused)
    kind = JSONResponse if isinstance(wanted["body"], dict) else PlainTextResponse
    return kind(wanted["body"], status_code=wanted["status"])


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


APP = OneErrorShape(
    Starlette(
        routes=[Route("/echo", _echo, methods=["POST"]), Route("/answer", _answer, methods=["POST"])],
        exception_handlers={Problem: _problem},
    )
)


def call(method: str, path: str, **options) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=APP, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def test_a_good_answer_passes_as_it_is():
    response = call("POST", "/answer", json={"status": 200, "body": {"error": "a word in a good answer"}})
    assert response.status_code == 200
    assert response.json() == {"error": "a word in a good answer"}


def test_a_problem_keeps_its_code_field_and_next_step():
    response = call("POST", "/answer", json={"raise": True})
    assert response.status_code == 409
    assert response.json() == {
        "error": {"code": "reused", "message": "The same again.", "field": "transaction_id", "next": "Send another."}
    }


def test_a_problem_keeps_the_headers_that_tell_a_client_what_to_do():
    for name, value in {"Retry-After": "3", "WWW-Authenticate": "Bearer"}.items():
        response = call("POST", "/answer", json={"raise": True, "headers": {name: value}})
        assert (response.json()["error"]["code"], response.headers[name]) == ("reused", value)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, {"error": "An unexpected error has occurred"}, "internal_error"),
        (400, [{"error": "unreadable"}], "malformed_request"),
        (503, {"message": "busy"}, "not_ready"),
        (418, {}, "error"),
    ],
)
def test_the_errors_of_frameworks_are_rewritten(status, body, code):
    response = call("POST", "/answer", json={"status": status, "body": body if isinstance(body, dict) else {"x": body}})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_unknown_paths_and_methods_have_the_shape_too():
    assert call("GET", "/nothing").json()["error"]["code"] == "not_found"
    wrong_method = call("GET", "/echo")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")
    assert wrong_method.json()["error"]["code"] == "method_not_allowed"


def violations_of(body: object) -> list[dict]:
    with pytest.raises(ValidationError) as caught:
        Transaction.model_validate_json(json.dumps(body))
    return caught.value.errors(include_context=False, include_input=False)


def test_a_schema_violation_names_the_first_field_and_counts_the_rest():
    problem = schema_problem(violations_of({}))
    assert (problem.status, problem.code, problem.field) == (422, "invalid_transaction", "transaction_id")
    assert problem.message.endswith("; and 1 more")  # six are required, five are told


def test_a_rule_over_two_fields_names_the_field_to_change():
    problem = schema_problem(violations_of(payment(amount="30000000.01")))
    assert problem.field == "amount"
    assert "3000000000 minor units of EUR" in problem.message


def test_a_card_number_used_as_a_key_is_not_repeated():
    problem = schema_problem(violations_of(payment(**{f"card {CARD_NUMBER}": 1})))
    assert problem.field == "card [number]"
    assert CARD_NUMBER not in problem.message


def test_refused_requests_stay_out_of_the_log_and_failures_do_not():
    def record(error: Exception) -> logging.LogRecord:
        return logging.LogRecord("bentoml", logging.ERROR, "", 0, "Exception on /score", (), (type(error), error, None))

    with pytest.raises(ValidationError) as caught:
        Transaction.model_validate_json("{}")
    assert not RefusalsAreNotErrors().filter(record(caught.value))
    assert RefusalsAreNotErrors().filter(record(RuntimeError("broken")))
