"""A typed client of the scoring service, for payment services in Python. Imports nothing that the service runs on.

    with ScoringClient("https://scoring.example", api_key) as client:
        answer = client.score(Transaction(transaction_id="t-1", event_time=now, card_id=number, ...))
        if answer.decision == "BLOCK":
            ...

A payment is a Transaction, which is checked before it is sent and shows no card number, or a mapping with its fields,
which the service checks. Decimals and datetimes are sent exactly; a datetime without an offset is UTC.
Every call may be repeated without harm, and is, until the client's `timeout` (fraud_pipelines/scoring_connection.py).
Errors: ScoringRefused and ScoringUnavailable of fraud_pipelines/errors.py, both ScoringError.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr, ValidationError

from fraud_pipelines.errors import ScoringRefused
from fraud_pipelines.scoring_connection import AsyncScoringConnection, ScoringConnection
from fraud_pipelines.verdicts import Verdict
from serving.answer_schemas import (
    Answer,
    BatchAnswer,
    DecisionRecord,
    Explanation,
    FeedbackReceipt,
    Health,
    ModelDescription,
)
from serving.schemas import Transaction

Payment = Transaction | Mapping[str, Any]
Given = TypeVar("Given", bound=BaseModel)


@dataclass(frozen=True, slots=True, repr=False)
class _Call(Generic[Given]):
    """One request, and what an answer to it is. Its body may hold a card number, so it has no repr."""

    gives: type[Given]
    method: str
    path: str
    body: bytes | None = None

    def read(self, content: bytes) -> Given:
        """The typed answer.

        Raises:
            ScoringRefused: it is none.
        """
        try:
            return self.gives.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            raise ScoringRefused(
                "answer_unreadable",
                f"{self.method} {self.path} answered with what is no {self.gives.__name__}: {first['msg']}.",
                field=".".join(map(str, first["loc"])) or None,
                next_step="Check that the address is that of a scoring service, of a version this client knows.",
                status=200,
            ) from None


class ScoringClient:
    """Calls of one scoring service. Threads may share it; close it, or use it in a `with` block."""

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, retries: int = 4) -> None:
        """Connect on the first call.

        Args:
            base_url: such as https://scoring.example.
            api_key: fk_<id>_<secret>, where the service asks for one (docs/access.md).
            timeout: seconds until a call has an answer or an error, all attempts and waits together.
            retries: further attempts after the first.
        """
        self._connection = ScoringConnection(base_url, api_key, timeout=timeout, retries=retries)

    def score(self, transaction: Payment) -> Answer:
        """Decide on one payment; the decision is durable. Sent again, the answer is the same."""
        return self._send(_score(transaction))

    def score_batch(self, transactions: Iterable[Payment]) -> BatchAnswer:
        """Decide on 1 to 10,000 payments; each result is an Answer or a RefusedRow, in the order they were sent."""
        return self._send(_score_batch(transactions))

    def score_by_id(self, transaction_id: str) -> Answer:
        """Decide on a payment that the online store holds."""
        return self._send(_score_by_id(transaction_id))

    def explain(self, transaction_id: str) -> Explanation:
        """Take a decision apart."""
        return self._send(_explain(transaction_id))

    def feedback(
        self, transaction_id: str, verdict: Verdict, *, note: str | None = None, feedback_id: str | None = None
    ) -> FeedbackReceipt:
        """Say what came of a payment. Give a `feedback_id` where you may call again after an error: it counts once."""
        return self._send(_feedback(transaction_id, verdict, note, feedback_id))

    def decision(self, transaction_id: str) -> DecisionRecord:
        """What was decided on a payment, from which values, and what analysts said of it."""
        return self._send(_decision(transaction_id))

    def model(self) -> ModelDescription:
        """What decides now."""
        return self._send(_MODEL)

    def health(self) -> Health:
        """The service and what it depends on."""
        return self._send(_HEALTH)

    def _send(self, call: _Call[Given]) -> Given:
        return call.read(self._connection.send(call.method, call.path, call.body))

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncScoringClient:
    """ScoringClient for asyncio: the same calls, awaited."""

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, retries: int = 4) -> None:
        """As ScoringClient."""
        self._connection = AsyncScoringConnection(base_url, api_key, timeout=timeout, retries=retries)

    async def score(self, transaction: Payment) -> Answer:
        """As ScoringClient.score."""
        return await self._send(_score(transaction))

    async def score_batch(self, transactions: Iterable[Payment]) -> BatchAnswer:
        """As ScoringClient.score_batch."""
        return await self._send(_score_batch(transactions))

    async def score_by_id(self, transaction_id: str) -> Answer:
        """As ScoringClient.score_by_id."""
        return await self._send(_score_by_id(transaction_id))

    async def explain(self, transaction_id: str) -> Explanation:
        """As ScoringClient.explain."""
        return await self._send(_explain(transaction_id))

    async def feedback(
        self, transaction_id: str, verdict: Verdict, *, note: str | None = None, feedback_id: str | None = None
    ) -> FeedbackReceipt:
        """As ScoringClient.feedback."""
        return await self._send(_feedback(transaction_id, verdict, note, feedback_id))

    async def decision(self, transaction_id: str) -> DecisionRecord:
        """As ScoringClient.decision."""
        return await self._send(_decision(transaction_id))

    async def model(self) -> ModelDescription:
        """As ScoringClient.model."""
        return await self._send(_MODEL)

    async def health(self) -> Health:
        """As ScoringClient.health."""
        return await self._send(_HEALTH)

    async def _send(self, call: _Call[Given]) -> Given:
        return call.read(await self._connection.send(call.method, call.path, call.body))

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


_MODEL = _Call(ModelDescription, "GET", "/model")
_HEALTH = _Call(Health, "GET", "/health")


def _score(transaction: Payment) -> _Call[Answer]:
    return _Call(Answer, "POST", "/score", _json(_fields(transaction)))


def _score_batch(transactions: Iterable[Payment]) -> _Call[BatchAnswer]:
    return _Call(BatchAnswer, "POST", "/score_batch", _json({"transactions": [_fields(row) for row in transactions]}))


def _score_by_id(transaction_id: str) -> _Call[Answer]:
    return _Call(Answer, "POST", "/score_by_id", _json({"transaction_id": transaction_id}))


def _explain(transaction_id: str) -> _Call[Explanation]:
    return _Call(Explanation, "POST", "/explain", _json({"transaction_id": transaction_id}))


def _feedback(
    transaction_id: str, verdict: Verdict, note: str | None, feedback_id: str | None
) -> _Call[FeedbackReceipt]:
    # Made here, not by the service, so that an attempt whose answer was lost counts once with the next.
    body = {"feedback_id": feedback_id or str(uuid.uuid4()), "transaction_id": transaction_id, "verdict": verdict}
    return _Call(FeedbackReceipt, "POST", "/feedback", _json(body if note is None else {**body, "note": note}))


def _decision(transaction_id: str) -> _Call[DecisionRecord]:
    return _Call(DecisionRecord, "GET", f"/decisions/{quote(transaction_id, safe='')}")


def _fields(transaction: Payment) -> Mapping[str, Any]:
    if isinstance(transaction, Transaction):
        return {name: value for name, value in transaction if value is not None}
    return transaction


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, default=_plain, ensure_ascii=False, allow_nan=False).encode()


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).isoformat()
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise TypeError(f"A field is of type {type(value).__name__}, which has no JSON form here")
