"""The HTTP surface: which path takes what and answers what. What a decision is, is in scoring.py.

Plain ASGI in front of BentoML's own application: its routing, tracing and metrics cost as much as a decision, so our
paths never reach it. It keeps the rest: lifespan, its pages and its schema for BentoML clients.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import orjson
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from fraud_pipelines import __version__
from fraud_pipelines.errors import JournalFull, JournalUnavailable
from fraud_pipelines.features.online import ScoredTransaction
from serving import openapi
from serving.access import Principal
from serving.answers import Answer, took
from serving.bodies import Disconnected, parse, read_body
from serving.groups import not_durable
from serving.headers import HEADERS
from serving.judging import stage
from serving.lane import BATCH_PIECE
from serving.metrics import latency_of, metrics, requests_of
from serving.problems import Problem, schema_problem
from serving.reading import read_rows
from serving.runtime import Runtime
from serving.schemas import BatchRequest, ById, FeedbackRequest, Transaction

# A transaction with every field at its longest takes under 2 KiB.
LARGEST_BODY_BYTES = 64 * 1024
MOST_BATCH_ROWS = 10_000
LARGEST_BATCH_BYTES = 8 * 2**20
# Longer than SQLite waits for another writer, so that a busy store still ends in a decision.
DECISION_WITHIN_SECONDS = 45.0
# Some are decided together, and as many are read meanwhile; see lane.py.
_PIECES_AT_ONCE = 8
# What takes longer to read than a decision is read in a thread.
_LARGE_BODY_BYTES = 256 * 1024

_HEADERS = [(b"content-type", b"application/json"), *((k.encode(), v.encode()) for k, v in HEADERS.items())]

logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose sender may send it. `argument` is the part of the path that is one."""

    principal: Principal
    body: bytes
    argument: str
    started: float


Model = TypeVar("Model", bound=BaseModel)
Handler = Callable[[Request], Awaitable[bytes]]


class Endpoints:
    """The paths of one worker. An answer is bytes of JSON; a refusal is a Problem."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._routes: dict[str, tuple[str, Handler, int]] = {
            "/score": ("POST", self.score, LARGEST_BODY_BYTES),
            "/score_batch": ("POST", self.score_batch, LARGEST_BATCH_BYTES),
            "/score_by_id": ("POST", self.score_by_id, LARGEST_BODY_BYTES),
            "/explain": ("POST", self.explain, LARGEST_BODY_BYTES),
            "/feedback": ("POST", self.feedback, LARGEST_BODY_BYTES),
            "/decisions/": ("GET", self.decision, 0),
            "/model": ("GET", self.model, 0),
            "/health": ("GET", self.health, 0),
            "/readyz": ("GET", self.readyz, 0),
            "/docs.json": ("GET", self.docs, 0),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send, others: ASGIApp) -> None:
        """Answer a request, or pass on what is not ours."""
        started = time.perf_counter()
        path, argument = scope["path"], ""
        if path.startswith("/decisions/"):
            path, argument = "/decisions/", path[11:]  # unquoted already, by the server
        route = self._routes.get(path)
        status, headers = 200, _HEADERS
        try:
            method = scope["method"]
            if route is None:
                self._runtime.access.authorize(scope["headers"], method, scope["path"])
                raise _NotOurs
            expected, handler, largest = route
            if method != expected and (method, expected) != ("HEAD", "GET"):
                raise Problem(
                    *(405, "method_not_allowed", f"This path takes {expected}."),
                    next_step="See /docs.json for what there is.",
                    headers={"Allow": expected},
                )
            # An identifier may hold a slash; whose it is makes no difference to who may ask.
            asked = f"{path}-" if argument else path
            principal = self._runtime.access.authorize(scope["headers"], method, asked)
            body = await read_body(scope["headers"], receive, largest) if largest else b""
            content = await handler(Request(principal, body, argument, started))
        except _NotOurs:
            await others(scope, receive, send)
            return
        except Disconnected:
            return
        except Exception as error:
            problem = _problem_of(error, path if route else "A page")
            status, content, headers = problem.status, problem.content, [*_HEADERS, *problem.header_pairs]
            _count_refusal(scope["path"], problem)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", str(len(content)).encode())],
            }
        )
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})

    # Deciding

    async def score(self, request: Request) -> bytes:
        """Decide on one payment."""
        with stage("parse"):
            transaction = _read(Transaction, parse(request.body)).scored(self._runtime.token_key)
        return await self._decided(transaction, request.started)

    async def score_by_id(self, request: Request) -> bytes:
        """Decide on a payment that the online store holds."""
        id_ = _read(ById, parse(request.body)).transaction_id
        transaction = await self._ask(self._runtime.stored_transaction, id_)
        if transaction is None:
            raise _unknown("Neither the warehouse's last push nor a caller brought a payment of this identifier.")
        return await self._decided(transaction, request.started)

    async def score_batch(self, request: Request) -> bytes:
        """Decide on many payments; each is answered for itself."""
        is_large = len(request.body) > _LARGE_BODY_BYTES
        content = await self._ask(parse, request.body) if is_large else parse(request.body)
        rows = _read(BatchRequest, content).transactions
        if len(rows) > MOST_BATCH_ROWS:
            raise Problem(
                *(
                    413,
                    "too_many_transactions",
                    f"A batch holds at most {MOST_BATCH_ROWS} payments; these are {len(rows)}.",
                ),
                field="transactions",
                next_step="Send several batches.",
            )
        self._runtime.access.charge(request.principal, len(rows) - 1)
        pieces = [range(start, min(start + BATCH_PIECE, len(rows))) for start in range(0, len(rows), BATCH_PIECE)]
        results: list[bytes] = []
        refused = 0
        # While some pieces are decided the next ones are read.
        waiting: deque[asyncio.Task[tuple[bytes, int]]] = deque()
        try:
            for piece in pieces:
                while len(waiting) >= _PIECES_AT_ONCE:
                    refused += _joined(results, await waiting.popleft())
                waiting.append(asyncio.create_task(self._decided_piece(rows, piece, request.started)))
                await asyncio.sleep(0)
            while waiting:
                refused += _joined(results, await waiting.popleft())
        finally:
            for task in waiting:
                task.cancel()
        return b'{"results":[%b],"decided":%d,"refused":%d}' % (b",".join(results), len(rows) - refused, refused)

    async def _decided_piece(self, rows: list[Any], piece: range, started: float) -> tuple[bytes, int]:
        """Results of some rows of a batch, separated by commas, and how many of them are refusals."""
        read = read_rows(rows[piece.start : piece.stop], self._runtime.token_key)
        transactions = [row for row in read if not isinstance(row, ValidationError)]
        decided = await self._in_time(self._runtime.lane.decide_piece(transactions)) if transactions else []
        results: list[Answer | Problem] = decided
        if len(decided) < len(read):
            in_order = iter(decided)
            results = [
                schema_problem(_violations(row)) if isinstance(row, ValidationError) else next(in_order) for row in read
            ]
        answers = [result for result in results if isinstance(result, Answer)]
        problems = [result for result in results if isinstance(result, Problem)]
        for outcome, count in Counter([answer.outcome for answer in answers]).items():
            requests_of(*outcome, "200").inc(count)
        for (status, code), count in Counter((str(problem.status), problem.code) for problem in problems).items():
            metrics().refused.labels(status, code).inc(count)
            requests_of("none", "none", status).inc(count)
        end = took(time.perf_counter() - started)
        if not problems:
            return (end + b",").join([answer.content[:-1] for answer in answers]) + end, 0
        parts = [
            b'{"index":%d,%b' % (index, result.content[1:])
            if isinstance(result, Problem)
            else result.content[:-1] + end
            for index, result in zip(piece, results, strict=True)
        ]
        return b",".join(parts), len(problems)

    async def _decided(self, transaction: ScoredTransaction, started: float) -> bytes:
        result = await self._in_time(self._runtime.lane.decide(transaction))
        if isinstance(result, Problem):
            raise result
        seconds = time.perf_counter() - started
        requests_of(*result.outcome, "200").inc()
        latency_of("total").observe(seconds)
        return result.content[:-1] + took(seconds)

    # Looking back

    async def decision(self, request: Request) -> bytes:
        """What was decided on a payment, from which values, and what analysts said of it."""
        stored = await self._ask(self._runtime.find, request.argument) if request.argument.isprintable() else None
        if stored is None:
            raise _unknown("There is no decision on this transaction_id.")
        feedback = await self._ask(self._runtime.feedback_on, request.argument)
        said = None
        if feedback is not None:
            said = [
                {
                    "feedback_id": f.feedback_id,
                    "verdict": f.verdict,
                    "actor": f.actor,
                    "note": f.note,
                    "known_at": f"{f.known_at.isoformat()}Z",
                }
                for f in feedback
            ]
        return orjson.dumps(
            {"answer": stored.answer, "request": stored.request, "features": stored.features, "feedback": said}
        )

    async def explain(self, request: Request) -> bytes:
        """A decision taken apart, and what would have been approved."""
        id_ = _read(ById, parse(request.body)).transaction_id
        stored = await self._ask(self._runtime.find, id_)
        if stored is None:
            raise _unknown("There is no decision on this transaction_id.")
        explained = await self._ask(self._runtime.explain, stored)
        rationale = await self._runtime.rationale.write(explained.facts)
        content = {**explained.content, "rationale": rationale.text, "rationale_source": rationale.source}
        return orjson.dumps({**content, "template_because": rationale.template_because})

    async def feedback(self, request: Request) -> bytes:
        """Take an analyst's verdict; it is durable when answered."""
        given = _read(FeedbackRequest, parse(request.body))
        actor = request.principal.name
        taken = await self._ask(
            self._runtime.take_feedback, given.transaction_id, given.verdict, actor, given.note, given.feedback_id
        )
        return orjson.dumps(
            {
                "feedback_id": taken.feedback_id,
                "transaction_id": taken.transaction_id,
                "verdict": taken.verdict,
                "known_at": f"{taken.known_at.isoformat()}Z",
            }
        )

    # The service itself

    async def model(self, request: Request) -> bytes:
        """What decides now, and the code it runs on."""
        loaded = self._runtime.watch.current
        champion = loaded.champion
        content: dict[str, object] = {
            "service_version": __version__,
            "fallback": self._runtime.scorer.cause(loaded),
            "model": None,
            "challenger": None,
        }
        challenger = self._runtime.challenger()
        if challenger["model_version"] is not None:
            content["challenger"] = {
                "version": challenger["model_version"],
                **{name: challenger[name] for name in ("bundle_digest", "canary_percent", "is_compared", "obstacle")},
            }
        if champion:
            bundle = champion.bundle
            content["model"] = {
                "name": champion.name,
                "version": champion.version,
                "bundle_digest": champion.digest,
                "feature_spec_hash": champion.spec_hash,
                "features": list(bundle.feature_names),
                "thresholds": {"review": bundle.thresholds.review, "block": bundle.thresholds.block},
                "trained_on": bundle.split.as_dict(),
                "data_hash": bundle.data_hash,
                "validation_metrics": bundle.metrics,
                "expires_at": f"{loaded.expires_at.isoformat()}Z" if loaded.expires_at else None,
            }
        return orjson.dumps(content)

    async def health(self, request: Request) -> bytes:
        """The service and what it depends on."""
        probes = asyncio.get_running_loop().run_in_executor(self._runtime.probes, self._runtime.health)
        return orjson.dumps(await self._in_time(probes))

    async def readyz(self, request: Request) -> bytes:
        """Whether a payment would get a decision now, the model's or the fallback's."""
        if not self._runtime.is_ready:
            raise Problem.common(503)
        return b'{"status":"ready"}'

    async def docs(self, request: Request) -> bytes:
        """The OpenAPI document."""
        return openapi.document_bytes()

    async def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await self._in_time(loop.run_in_executor(self._runtime.threads, question, *arguments))

    async def _in_time(self, answer: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(DECISION_WITHIN_SECONDS):
                return await answer
        except TimeoutError:
            raise Problem.common(504) from None


class _NotOurs(Exception):
    """A path for BentoML's own application."""


class OwnPaths:
    """ASGI middleware: hands requests to the worker's Endpoints, which hand back what is not theirs."""

    endpoints: Endpoints | None = None

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and OwnPaths.endpoints is not None:
            await OwnPaths.endpoints(scope, receive, send, self._app)
        else:
            await self._app(scope, receive, send)


def _problem_of(error: Exception, what: str) -> Problem:
    if isinstance(error, Problem):
        return error
    if isinstance(error, JournalFull | JournalUnavailable):
        logger.warning("Journal: %s", error)
        return not_durable(error)
    # Nothing of the request goes to the log but its route: a body or an identifier may hold a card number.
    logger.error("%s failed", what, exc_info=error)
    return Problem.common(500)


def _read(model: type[Model], value: Any) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise schema_problem(_violations(error)) from None


def _violations(error: ValidationError) -> Sequence[dict[str, Any]]:
    return cast(Sequence[dict[str, Any]], error.errors(include_url=False, include_context=False, include_input=False))


def _joined(results: list[bytes], piece: tuple[bytes, int]) -> int:
    results.append(piece[0])
    return piece[1]


def _unknown(message: str) -> Problem:
    return Problem(
        *(404, "transaction_unknown", message),
        field="transaction_id",
        next_step="Check the identifier, or send the whole payment to /score.",
    )


def _count_refusal(path: str, problem: Problem) -> None:
    metrics().refused.labels(str(problem.status), problem.code).inc()
    if path.startswith("/score"):
        requests_of("none", "none", str(problem.status)).inc()
