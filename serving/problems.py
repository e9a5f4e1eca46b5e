"""One shape for every error of the service: {"error": {"code", "message", "field"?, "next"?}}.

BentoML, Starlette and pydantic each have their own; a middleware around them all rewrites what they answer. BentoML
answers a schema violation with 400; here it is 422, so that 400 keeps its meaning of "not even JSON".
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# status -> code, message and next step, where the framework gives no better ones
_COMMON = {
    400: ("malformed_request", "The request cannot be read.", "Send one JSON object."),
    404: ("not_found", "There is nothing at this path.", "See /docs.json for what there is."),
    405: ("method_not_allowed", "This path does not take this method.", "See /docs.json for what it takes."),
    413: ("body_too_large", "The body is too large.", "Send less at once."),
    415: ("media_type_not_supported", "The body is not JSON.", "Send Content-Type: application/json, not compressed."),
    500: (
        "internal_error",
        "The service failed; nothing was decided.",
        "Send it again; the service's log has the cause.",
    ),
    503: ("not_ready", "The service cannot answer now.", "Try again shortly."),
    504: ("timeout", "The decision took too long.", "Send it again: a decision already made is returned."),
}
_LONG_NUMBER = re.compile(r"\d[\d -]{6,}\d")


class Problem(Exception):
    """An error the caller is told about; everything in it is safe to show."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        next_step: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.message, self.field, self.next_step = status, code, message, field, next_step
        self.headers = headers

    @classmethod
    def common(cls, status: int) -> "Problem":
        """The problem a bare status code stands for."""
        code, message, next_step = _COMMON.get(status, ("error", f"The request failed with status {status}.", None))
        return cls(status, code, message, next_step=next_step)

    @property
    def content(self) -> bytes:
        """The problem in the one shape."""
        error = {"code": self.code, "message": self.message}
        if self.field:
            error["field"] = self.field
        if self.next_step:
            error["next"] = self.next_step
        return orjson.dumps({"error": error})

    @property
    def header_pairs(self) -> list[tuple[bytes, bytes]]:
        """Its own headers, as ASGI has them."""
        return [(name.lower().encode(), value.encode()) for name, value in (self.headers or {}).items()]

    def response(self) -> Response:
        """The problem as an answer."""
        return Response(self.content, status_code=self.status, headers=self.headers, media_type="application/json")


def schema_problem(violations: Iterable[dict[str, Any]]) -> Problem:
    """Pydantic's violations (`type`, `loc`, `msg`; no inputs) as one problem naming the first field."""
    found = []
    for violation in violations:
        if violation["type"] == "json_invalid":
            return Problem(400, "malformed_json", "The body is not valid JSON.", next_step="Send one JSON object.")
        # An unknown key is the caller's own text: shortened, and with anything like a card number taken out.
        place = _LONG_NUMBER.sub("[number]", ".".join(str(part) for part in violation["loc"]))[:64]
        text = str(violation["msg"]).removeprefix("Value error, ")
        if not place and ": " in text:  # a rule over several fields names its own
            place, text = text.split(": ", 1)
        found.append((place, text))
    message = "; ".join(f"{place}: {text}" if place else text for place, text in found[:5])
    if len(found) > 5:
        message += f"; and {len(found) - 5} more"
    return Problem(
        422,
        "invalid_transaction",
        message,
        field=found[0][0] if found else None,
        next_step="See the schema and example of /score in /docs.json.",
    )


class OneErrorShape:
    """ASGI middleware: puts every answer from 400 up into the one shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.app(scope, receive, _Reshaper(scope, receive, send))
        else:
            await self.app(scope, receive, send)


class _Reshaper:
    """A `send` that lets answers below 400 pass and holds the others back until they can be rewritten."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.start: Message | None = None
        self.body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self.start = message
        elif self.start is None:
            await self.send(message)
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                response = self._reshaped(self.start)
                await response(self.scope, self.receive, self.send)

    def _reshaped(self, start: Message) -> Response:
        status = start["status"]
        try:
            content = json.loads(self.body)
        except ValueError:
            content = None
        if isinstance(content, dict) and isinstance(content.get("error"), dict):
            response = Response(bytes(self.body), status_code=status, media_type="application/json")
        elif isinstance(content, dict) and isinstance(content.get("detail"), list):
            response = schema_problem(content["detail"]).response()
        else:
            response = Problem.common(status).response()
        for name, value in start.get("headers", ()):
            if name.lower() in (b"allow", b"retry-after", b"www-authenticate"):
                response.headers[name.decode()] = value.decode()
        return response


class RefusalsAreNotErrors(logging.Filter):
    """Keeps refused requests out of the log.

    BentoML logs each with a stack trace, at the caller's will, and the text may repeat what the caller sent. The
    counter fraud_score_requests_total{status="422"} tells of them instead.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """False for the trace of a request that broke the schema."""
        from pydantic import ValidationError

        return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))
