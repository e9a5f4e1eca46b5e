"""The BentoML service: a worker's runtime behind the HTTP surface of endpoints.py, and as an object."""

import asyncio
import logging
from typing import Any

import bentoml
import orjson
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from fraud_pipelines.settings import load_settings
from serving.answer_schemas import Answer
from serving.answers import took
from serving.endpoints import Endpoints, OwnPaths
from serving.headers import OwnOriginOnly
from serving.problems import OneErrorShape, Problem, RefusalsAreNotErrors
from serving.schemas import Transaction

pages = Starlette()


async def _without_timer(limit: TimeoutMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
    await limit.app(scope, receive, send)


# BentoML's own limit leaves a timer behind for each request until the limit is over, a kilobyte and ten objects: at a
# thousand payments a second a hundred megabytes, through which the garbage collector looks again and again. Requests
# have a limit of their own (endpoints.py), which answers in the one error shape. No setting turns BentoML's off.
TimeoutMiddleware.__call__ = _without_timer  # type: ignore[method-assign]


@bentoml.asgi_app(pages, path="/")
@bentoml.service(
    name="fraud-scorer",
    workers=load_settings().serving_workers,
    # Each costs part of a millisecond a request: ours are counted in metrics.py, and nothing collects traces.
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
    logging={"access": {"enabled": False}},
)
class FraudScorer:
    """Answers APPROVE, REVIEW or BLOCK for payments by card, with probability, reasons and model version."""

    def __init__(self) -> None:
        # BentoML says where the workers of a service share their metrics, and must have before the first is made.
        from bentoml._internal.container import BentoMLContainer

        self._metrics_client = BentoMLContainer.metrics_client.get()
        _ = self._metrics_client.prometheus_client
        from serving.runtime import Runtime

        logging.getLogger("bentoml._internal.server.http_app").addFilter(RefusalsAreNotErrors())
        self.runtime = Runtime(load_settings())
        self.runtime.start()
        OwnPaths.endpoints = Endpoints(self.runtime)
        pages.state.metrics_client = self._metrics_client

    @bentoml.api(route="/score")
    async def score(self, transaction: Transaction, /) -> Answer:
        """Decide on one payment: as POST /score does, for callers in this process.

        Raises:
            Problem: why there is no decision.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        result = await self.runtime.lane.decide(transaction.scored(self.runtime.token_key))
        if isinstance(result, Problem):
            raise result
        return Answer.model_validate(orjson.loads(result.content[:-1] + took(loop.time() - started)))

    async def __is_ready__(self) -> bool:
        return self.runtime.is_ready

    @bentoml.on_shutdown
    def finish(self) -> None:
        """Let the decisions being made end before the process does."""
        OwnPaths.endpoints = None
        self.runtime.stop()


async def metrics(request: Request) -> Response:
    """GET /metrics, of all workers together, in the Prometheus text format."""
    client: Any = request.app.state.metrics_client
    return Response(client.generate_latest(), media_type=client.CONTENT_TYPE_LATEST)


pages.router.routes.append(Route("/metrics", metrics, methods=["GET"]))
# The first is the outermost.
for middleware in (OwnPaths, OwnOriginOnly, OneErrorShape):
    FraudScorer.add_asgi_middleware(middleware)  # type: ignore[attr-defined]  # the decorator made it a Service
