"""One shape for every error of the service: {"error": {"code", "message", "field"?, "next"?}}.

BentoML, Starlette and pydantic each have their own; a middleware around them all rewrites what they answer. It also
refuses a body that is too large or not JSON before anything reads it. BentoML answers a schema violation with 400;
here it is 422, so that 400 keeps its meaning of "not even JSON".
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import metrics

# A transaction with every field at its longest takes under 2 KiB.
LARGEST_BODY_BYTES = 64 * 1024

# status -> code, message and next step, where the framework gives no better ones
_COMMON = {
    400: ("malformed_request", "The request cannot be read.", "Send one JSON object."),
    404: ("not_found", "There is nothing at this path.", "See /docs.json for what there is."),
    405: ("method_not_allowed", "This path does not take this method.", "See /docs.json for what it takes."),
    413: ("body_too_large", f"The body is larger than {LARGEST_BODY_BYTES} bytes.", "Send one transaction."),
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

    def response(self) -> Response:
        """The problem in the one shape."""
        error = {"code": self.code, "message": self.message}
        if self.field:
            error["field"] = self.field
        if self.next_step:
            error["next"] = self.next_step
        return JSONResponse({"error": error}, status_code=self.status, headers=self.headers)


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
    """ASGI middleware: bounds and buffers the body, and puts every answer from 400 up into the one shape."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] in ("POST", "PUT", "PATCH"):
            problem, receive = await _bounded_body(scope, receive)
            if problem:
                _count(scope, problem.status)
                await problem.response()(scope, receive, send)
                return
        await self.app(scope, receive, _Reshaper(scope, receive, send))


async def _bounded_body(scope: Scope, receive: Receive) -> tuple[Problem | None, Receive]:
    headers = {name.lower(): value for name, value in scope["headers"]}
    media_type = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    if media_type != b"application/json" or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return Problem.common(415), receive
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > LARGEST_BODY_BYTES:
        return Problem.common(413), receive
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LARGEST_BODY_BYTES:
            return Problem.common(413), receive
        more = message.get("more_body", False)
    pending: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return None, replay


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
                _count(self.scope, response.status_code)
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


def _count(scope: Scope, status: int) -> None:
    if scope["path"].rstrip("/").endswith("/score"):
        metrics().requests.labels("none", "none", str(status)).inc()


class RefusalsAreNotErrors(logging.Filter):
    """Keeps refused requests out of the log.

    BentoML logs each with a stack trace, at the caller's will, and the text may repeat what the caller sent. The
    counter fraud_score_requests_total{status="422"} tells of them instead.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """False for the trace of a request that broke the schema."""
        from pydantic import ValidationError

        return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))
