"""HTTP to the scoring service: a request is sent until it is answered, refused, or out of time.

Whatever the service takes may be sent twice (a payment by its transaction_id, a verdict by its feedback_id), so an
attempt whose answer was lost is repeated. The typed client is serving/client.py.
"""

import json
import random
import time
from typing import Self

import httpx

from fraud_pipelines.errors import ScoringError, ScoringRefused, ScoringUnavailable

# A host that does not take a connection within this is down: the next attempt may meet another one.
CONNECT_WITHIN_SECONDS = 2.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 5.0
# Too many requests, a proxy without its service, not ready, too slow. After 500 the service says that it failed, and
# the same request would most likely make it fail again.
_MAY_PASS = {429, 502, 503, 504}


class ScoringConnection:
    """Connections to one scoring service, kept open between requests; threads may share it."""

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, retries: int = 4) -> None:
        """Connect on the first request.

        Args:
            base_url: such as https://scoring.example.
            api_key: fk_<id>_<secret>, where the service asks for one.
            timeout: seconds until a request has an answer or an error, all attempts and waits together.
            retries: further attempts after the first.
        """
        self._base_url, self._timeout, self._retries = base_url, timeout, retries
        self._http = httpx.Client(base_url=base_url, headers=headers(api_key))

    def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """What the service answers.

        Raises:
            ScoringRefused: it does not take this request.
            ScoringUnavailable: it did not answer in time.
        """
        attempts = Attempts(self._base_url, self._timeout, self._retries)
        while True:
            try:
                return answer_of(self._http.request(method, path, content=body, timeout=attempts.timeout()))
            except (httpx.TransportError, ScoringUnavailable) as error:
                time.sleep(attempts.wait_after(error))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncScoringConnection:
    """The same for asyncio."""

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, retries: int = 4) -> None:
        """As ScoringConnection."""
        self._base_url, self._timeout, self._retries = base_url, timeout, retries
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers(api_key))

    async def send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """As ScoringConnection.send."""
        import asyncio

        attempts = Attempts(self._base_url, self._timeout, self._retries)
        while True:
            try:
                return answer_of(await self._http.request(method, path, content=body, timeout=attempts.timeout()))
            except (httpx.TransportError, ScoringUnavailable) as error:
                await asyncio.sleep(attempts.wait_after(error))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Attempts:
    """What one request may still try."""

    def __init__(self, base_url: str, timeout: float, retries: int) -> None:
        self._base_url, self._left, self._wait = base_url, retries, FIRST_WAIT_SECONDS
        self._until = time.monotonic() + timeout

    def timeout(self) -> httpx.Timeout:
        """What the next attempt may take."""
        left = max(self._until - time.monotonic(), 0.001)
        return httpx.Timeout(left, connect=min(left, CONNECT_WITHIN_SECONDS))

    def wait_after(self, error: httpx.TransportError | ScoringUnavailable) -> float:
        """Seconds until the next attempt: exponential with full jitter, after what the service asked for.

        Raises:
            ScoringUnavailable: there is no next attempt.
        """
        asked = 0.0
        if isinstance(error, ScoringUnavailable):
            failure, asked = error, error.retry_after or 0.0
            may_pass = error.status in _MAY_PASS
        else:
            # Its text may name the address, never what was sent.
            failure = ScoringUnavailable(
                "unreachable",
                f"No scoring service answers at {self._base_url}: {type(error).__name__} {error}.",
                next_step="Check the address and whether the service runs (fraud serve).",
            )
            may_pass = True
        # Jitter, so that clients which failed together do not come back together.
        wait = asked + random.uniform(0, self._wait)  # noqa: S311  # no secret depends on it
        if not may_pass or self._left <= 0 or time.monotonic() + wait >= self._until:
            raise failure from (error if failure is not error else None)
        self._left -= 1
        self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
        return wait


def headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request."""
    key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"Content-Type": "application/json", "Accept": "application/json", **key}


def answer_of(response: httpx.Response) -> bytes:
    """The body of an answer.

    Raises:
        ScoringRefused, ScoringUnavailable: it is none, by its status.
    """
    if response.is_success:
        return response.content
    status = response.status_code
    detail = _problem(response)
    code, message = detail.get("code", f"status_{status}"), detail.get("message", f"The answer has status {status}.")
    kind: type[ScoringError] = ScoringUnavailable if status >= 500 or status == 429 else ScoringRefused
    error = kind(code, message, field=detail.get("field"), next_step=detail.get("next"), status=status)
    if isinstance(error, ScoringUnavailable):
        asked = response.headers.get("retry-after", "")
        error.retry_after = float(asked) if asked.isdecimal() else None
    raise error


def _problem(response: httpx.Response) -> dict[str, str]:
    # A proxy may answer anything, and may repeat the request in it: only the one error shape is read.
    try:
        detail = json.loads(response.content)["error"]
        return {name: str(detail[name]) for name in ("code", "message", "field", "next") if detail.get(name)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
