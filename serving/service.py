"""The HTTP surface: endpoints, readiness, errors. What a decision is, is in scoring.py."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, cast

import bentoml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fraud_pipelines import __version__
from fraud_pipelines.settings import PROJECT_ROOT, load_settings
from serving.headers import OwnOriginOnly
from serving.openapi import corrected
from serving.problems import OneErrorShape, Problem, RefusalsAreNotErrors
from serving.schemas import Answer, Transaction

if TYPE_CHECKING:
    from serving.champion import Loaded

# Longer than SQLite waits for another writer, so that a busy store still ends in a decision.
DECISION_WITHIN_SECONDS = 45.0

# Below BentoML's own logger, whose handlers and format it shares.
logger = logging.getLogger("bentoml.fraud_scorer")
pages = Starlette()


@bentoml.asgi_app(pages, path="/")
@bentoml.service(
    name="fraud-scorer",
    workers=1,
    # Ours ends first, with an answer in the one error shape.
    traffic={"timeout": DECISION_WITHIN_SECONDS + 15},
    logging={"access": {"enabled": False}},
)
class FraudScorer:
    """Answers APPROVE, REVIEW or BLOCK for one card transaction, with probability, reasons and model version."""

    def __init__(self) -> None:
        from fraud_pipelines.ledger import open_ledger
        from fraud_pipelines.online_store import open_online_store
        from serving.champion import load_champion
        from serving.champion_watch import ChampionWatch
        from serving.metrics import metrics
        from serving.scoring import Scorer

        settings = load_settings()
        self.watch = ChampionWatch(
            partial(open_ledger, settings.ledger_url),
            settings.home / "serving" / "champions",
            bento=load_champion(),
            review_days=settings.model_review_days,
            on_change=self._use,
        )
        loaded = self.watch.current
        spec = loaded.champion.bundle.spec if loaded.champion else None
        logging.getLogger("bentoml._internal.server.http_app").addFilter(RefusalsAreNotErrors())
        self._metrics = metrics()
        self.scorer = Scorer(
            loaded,
            partial(open_ledger, settings.ledger_url),
            partial(open_online_store, settings.online_store_url, spec=spec),
            settings.card_token_key(),
        )
        self.scorer.open_stores()
        self._use(loaded)
        self.watch.start()
        logger.info("Code of %s, settings of %s", PROJECT_ROOT, settings.home)
        # One thread: decisions are made one after the other, so the second of two payments with one card sees the
        # first, and the event loop stays free to answer probes. Throughput comes from workers.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decisions")
        pages.state.service = self

    @bentoml.api(route="/score")
    async def score(self, transaction: Transaction, /) -> Answer:
        """Decide on one raw transaction. Its features come from the online store; sending it again is harmless."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DECISION_WITHIN_SECONDS):
                answer = await loop.run_in_executor(self._thread, self.scorer.score, transaction)
        except TimeoutError:
            problem = Problem.common(504)
        except Problem as error:
            problem = error
        else:
            version = answer.model.version if answer.model else "none"
            self._metrics.requests.labels(answer.decision, version, "200").inc()
            return answer
        # BentoML passes a Response on as it is; the annotation is the schema of a success.
        return cast(Answer, problem.response())

    def _use(self, loaded: "Loaded") -> None:
        before = self.scorer.loaded.champion
        self.scorer.loaded = loaded
        if before:
            self._metrics.model.labels(before.version, before.digest).set(0)
        if loaded.champion:
            self._metrics.model.labels(loaded.champion.version, loaded.champion.digest).set(1)

    async def __is_ready__(self) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, self.scorer.is_ready)

    @bentoml.on_shutdown
    def finish(self) -> None:
        """Let the decision being made end before the process does."""
        self._thread.shutdown(wait=True)
        self.watch.stop()


async def model(request: Request) -> JSONResponse:
    """GET /model: what decides now, and the code it runs on."""
    loaded = request.app.state.service.scorer.loaded
    champion = loaded.champion
    content: dict[str, object] = {
        "service_version": __version__,
        "fallback": loaded.cause,
        "model": None,
    }
    if champion:
        content["model"] = {
            "name": champion.name,
            "version": champion.version,
            "bundle_digest": champion.digest,
            "feature_spec_hash": champion.spec_hash,
            "features": list(champion.bundle.feature_names),
            "thresholds": {"review": champion.bundle.thresholds.review, "block": champion.bundle.thresholds.block},
            "trained_on": champion.bundle.split.as_dict(),
            "data_hash": champion.bundle.data_hash,
            "validation_metrics": champion.bundle.metrics,
        }
    return JSONResponse(content)


async def openapi(_: Request) -> JSONResponse:
    """GET /docs.json: the OpenAPI document, in place of BentoML's own."""
    return JSONResponse(corrected(FraudScorer.openapi_spec.asdict(), description=FraudScorer.inner.__doc__))  # type: ignore[attr-defined]


pages.router.routes += [Route("/model", model, methods=["GET"]), Route("/docs.json", openapi, methods=["GET"])]
FraudScorer.add_asgi_middleware(OwnOriginOnly)  # type: ignore[attr-defined]  # the decorator made it a Service
FraudScorer.add_asgi_middleware(OneErrorShape)  # type: ignore[attr-defined]  # the decorator made it a Service
