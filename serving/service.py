"""The BentoML service: a worker's runtime behind the HTTP surface of endpoints.py, and as an object."""

import asyncio
import logging
from typing import Any

import bentoml
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fraud_pipelines.settings import load_settings
from serving.answer_schemas import Answer
from serving.answers import took
from serving.endpoints import DECISION_WITHIN_SECONDS, Endpoints, OwnPaths
from serving.headers import OwnOriginOnly
from serving.problems import OneErrorShape, Problem, RefusalsAreNotErrors
from serving.schemas import Transaction

pages = Starlette()


@bentoml.asgi_app(pages, path="/")
@bentoml.service(
    name="fraud-scorer",
    workers=load_settings().serving_workers,
    # Ours ends first, with an answer in the one error shape.
    traffic={"timeout": DECISION_WITHIN_SECONDS + 15},
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
