"""The OpenAPI document: BentoML's own, with the errors as they really are and the endpoint it does not know of."""

from typing import Any

# status -> when a caller meets it
PROBLEMS = {
    400: "The body is not JSON.",
    409: "The transaction_id was decided for another transaction.",
    413: "The body is too large.",
    415: "The body is not plain application/json.",
    422: "A field is missing, unknown, of the wrong type or out of range; `field` names the first.",
    500: "The service failed; nothing was decided.",
    503: "The decision cannot be stored now, so none is given.",
    504: "The decision took too long.",
}
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "The one shape of every error.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "Stable word for programs."},
                "message": {"type": "string", "description": "What was expected and what is wrong, for people."},
                "field": {"type": "string", "description": "The first field concerned."},
                "next": {"type": "string", "description": "What to do about it."},
            },
        }
    },
    "example": {
        "error": {
            "code": "invalid_transaction",
            "message": "currency: expected an active ISO 4217 currency",
            "field": "currency",
            "next": "See the schema and example of /score in /docs.json.",
        }
    },
}
_PROBLEM = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
# What BentoML claims its errors look like, and a task interface that this service does not have.
_NOT_OURS = ("InvalidArgument", "NotFound", "InternalServerError", "TaskStatusResponse")


def corrected(document: dict[str, Any], *, description: str) -> dict[str, Any]:
    """BentoML's document (changed in place) with this service's errors, description and GET /model."""
    schemas = document["components"]["schemas"]
    for name in _NOT_OURS:
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM_SCHEMA
    document["info"].update(description=description, contact={"name": "The team that runs this service"})
    score = document["paths"]["/score"]["post"]
    score["responses"] = {"200": _by_status(score["responses"], 200)} | {
        str(status): {"description": meaning, "content": _PROBLEM} for status, meaning in PROBLEMS.items()
    }
    document["paths"]["/model"] = {
        "get": {
            "tags": score["tags"],
            "description": "Which model decides: version, digest, features, thresholds; or why none does.",
            "operationId": "fraud-scorer__model",
            "responses": {"200": {"description": "The model.", "content": {"application/json": {"schema": _OBJECT}}}},
        }
    }
    return document


_OBJECT = {"type": "object", "required": ["service_version", "fallback", "model"]}


def _by_status(responses: dict[Any, Any], status: int) -> Any:
    # BentoML's document has integers where the JSON will have strings.
    return responses[status] if status in responses else responses[str(status)]
