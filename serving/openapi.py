"""The OpenAPI document of the HTTP surface: every path, what it takes, what it answers, and how it refuses."""

from functools import cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from fraud_pipelines import __version__
from serving.access import PUBLIC
from serving.answer_schemas import (
    Answer,
    BatchAnswer,
    DecisionRecord,
    Explanation,
    FeedbackReceipt,
    Health,
    ModelDescription,
    ProblemAnswer,
    Ready,
)
from serving.examples import EXAMPLES, REFUSALS
from serving.schemas import BatchRequest, ById, FeedbackRequest, Transaction

# status -> when a caller meets it
PROBLEMS = {
    400: "The body is not JSON, or a key stands in it twice.",
    401: "There is no valid API key.",
    403: "The key has not the role for this path.",
    404: "Nothing has this identifier.",
    405: "The path does not take this method.",
    409: "The transaction_id or feedback_id belongs to something else.",
    413: "The body is too large, or holds too many payments.",
    415: "The body is not plain application/json.",
    422: "A field is missing, unknown, of the wrong type or out of range; `field` names the first.",
    429: "The key sends more than it may; Retry-After says when there is room again.",
    500: "The service failed; nothing was decided.",
    503: "Nothing can be decided or stored durably now; Retry-After may say when to come back.",
    504: "It took too long. A decision that was made is returned when it is sent again.",
}
_KEY = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
_OF_BODIES = (400, 413, 415, 422)
_OF_ALL = (405, 500, 503, 504)
_OF_KEYS = (401, 403, 429)
# status -> the header that comes with it
_HEADERS = {
    401: ("WWW-Authenticate", "Bearer", {"type": "string"}),
    405: ("Allow", "The method this path takes.", {"type": "string"}),
    429: ("Retry-After", "Whole seconds until the request would pass.", {"type": "integer", "minimum": 1}),
}
# method, path, request, answer, further refusals, words
_PATHS: tuple[tuple[str, str, type[BaseModel] | None, type[BaseModel], tuple[int, ...], str], ...] = (
    ("post", "/score", Transaction, Answer, (*_OF_BODIES, 409),
     "Decide on one payment. Its features come from the online store; sending it again returns the stored decision."),
    ("post", "/score_batch", BatchRequest, BatchAnswer, _OF_BODIES,
     "Decide on up to 10,000 payments. Each is answered for itself: a row that is refused says why, the others go on."),
    ("post", "/score_by_id", ById, Answer, (*_OF_BODIES, 404, 409),
     "Decide on a payment that the online store holds."),
    ("post", "/explain", ById, Explanation, (*_OF_BODIES, 404),
     "Take a decision apart: exact SHAP values, every reason, what would have been approved, and a text to read out."),
    ("post", "/feedback", FeedbackRequest, FeedbackReceipt, (*_OF_BODIES, 404, 409),
     "What an analyst found. CONFIRMED_FRAUD and FALSE_POSITIVE become labels, known from now on."),
    ("get", "/decisions/{transaction_id}", None, DecisionRecord, (404,),
     "What was decided on a payment, from which values, and what analysts said of it."),
    ("get", "/model", None, ModelDescription, (), "Which model decides, or why none does."),
    ("get", "/health", None, Health, (), "The service and what it depends on."),
    ("get", "/readyz", None, Ready, (), "Whether a payment would get a decision now, the model's or the fallback's."),
)  # fmt: skip
_DESCRIPTION = """APPROVE, REVIEW or BLOCK for payments by card, with probability, reasons and model version.

A decision is durable before it is answered, and sending a payment again returns it. Without a usable model or history
the answer is the fallback's, with its cause in `fallback`; it never approves. Every refusal has one shape."""


@cache
def document_bytes() -> bytes:
    """The document as JSON."""
    return orjson.dumps(document())


def document() -> dict[str, Any]:
    """The document as plain values."""
    models = {model for _, _, taken, given, _, _ in _PATHS for model in (taken, given) if model} | {ProblemAnswer}
    ordered = sorted(models, key=lambda model: model.__name__)
    # Requests as they are read, answers as they are written.
    requests = {taken for _, _, taken, _, _, _ in _PATHS if taken}
    _, schemas = models_json_schema(
        [(model, "validation" if model in requests else "serialization") for model in ordered],
        ref_template="#/components/schemas/{model}",
    )
    found = schemas["$defs"]
    # A row is read for itself, but this is what a caller should send.
    found["BatchRequest"]["properties"]["transactions"]["items"] = _reference(Transaction)
    found["BatchRequest"]["properties"]["transactions"]["maxItems"] = 10_000
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fraud-scorer",
            "version": __version__,
            "description": _DESCRIPTION,
            "contact": {"name": "The team that runs this service"},
        },
        "security": [{"apiKey": []}, {"bearer": []}],
        "paths": {
            path: {method: _operation(path, taken, given, refusals, words)}
            for method, path, taken, given, refusals, words in _PATHS
        }
        | {
            "/livez": {"get": _plain("livez", "Whether the process lives.", "text/plain", {"type": "string"})},
            "/metrics": {
                "get": _plain(
                    "metrics",
                    "Metrics in the Prometheus text format, of all workers.",
                    "text/plain",
                    {"type": "string"},
                )
            },
            "/docs.json": {"get": _plain("docs", "This document.", "application/json", {"type": "object"})},
        },
        "components": {"schemas": found, "securitySchemes": _KEY},
    }


def _operation(
    path: str, taken: type[BaseModel] | None, given: type[BaseModel], refusals: tuple[int, ...], words: str
) -> dict[str, Any]:
    name = path.strip("/").split("/")[0]
    is_public = path in PUBLIC
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": words.split(". ")[0].rstrip("."),
        "description": words,
        "responses": {
            "200": {"description": (given.__doc__ or "").split("\n")[0], "content": _json(given)},
            **{
                str(status): _refusal(status)
                for status in sorted({*refusals, *_OF_ALL, *(() if is_public else _OF_KEYS)})
            },
        },
    }
    if is_public:
        operation["security"] = []
    if taken is not None:
        operation["requestBody"] = {"required": True, "content": _json(taken)}
    if "{" in path:
        operation["parameters"] = [
            {
                "name": "transaction_id",
                "in": "path",
                "required": True,
                "description": "Text given by the caller of /score.",
                "schema": {"type": "string", "minLength": 1},
                "example": "t-000001",
            }
        ]
    return operation


def _plain(name: str, words: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": words.rstrip("."),
        "security": [],
        "responses": {"200": {"description": words, "content": {media_type: {"schema": schema}}}},
    }


def _refusal(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _reference(ProblemAnswer), "example": {"error": REFUSALS[status]}}}
    response: dict[str, Any] = {"description": PROBLEMS[status], "content": content}
    if status in _HEADERS:
        name, words, schema = _HEADERS[status]
        response["headers"] = {name: {"description": words, "schema": schema}}
    return response


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(model), "example": EXAMPLES[model]}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
