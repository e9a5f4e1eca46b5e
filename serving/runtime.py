"""One worker of the service: its stores, its journal, its model and its threads, put together and taken apart again."""

import gc
import logging
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

from fraud_pipelines.errors import FraudPipelinesError, OnlineStateTooShort, RetryableError
from fraud_pipelines.features.online import LabelArrival, ScoredTransaction
from fraud_pipelines.ledger import Feedback, Ledger, open_ledger
from fraud_pipelines.ledger.records import utc_now
from fraud_pipelines.online_store import open_online_store
from fraud_pipelines.online_store.state import to_us
from fraud_pipelines.settings import PROJECT_ROOT, Settings
from serving import pace
from serving.access import Access
from serving.answers import StoredDecision, feedback_record
from serving.challenge import IS_CHAMPION, NO_CHALLENGER, NOBODY, Challenge
from serving.champion import Champion, Loaded, load_champion
from serving.champion_watch import CHALLENGER, ChampionWatch
from serving.delivery import Delivery, FeatureNames
from serving.explaining import Explained, explain
from serving.forwarding import Forwarder
from serving.journal import Journal
from serving.judging import Validity
from serving.lane import DecisionLane
from serving.metrics import metrics
from serving.patience import Patience
from serving.problems import Problem
from serving.rate_limits import RateLimits
from serving.rationale import RationaleWriter
from serving.scoring import Scorer
from serving.shadow import Shadow
from serving.taken_feedback import TakenFeedback
from serving.unrecorded import Unrecorded

FILL_ONLINE_STORE = "fraud materialize operations/online_state"
IS_FRAUD = {"CONFIRMED_FRAUD": True, "FALSE_POSITIVE": False}
"""Verdicts that are labels; the others only say where the case stands."""
# A decision is in the ledger this much later at most, while the ledger is there.
LINGER_SECONDS = 0.25
_STOP_SECONDS = 10.0
# Verdicts by the identifier that their senders gave: until long after the ledger has them.

logger = logging.getLogger("bentoml.fraud_scorer")


class Runtime:
    """Everything a worker holds. `start` begins, `stop` ends with everything on disk."""

    def __init__(self, settings: Settings) -> None:
        folder = settings.home / "serving"
        self._described: Champion | None = None
        self.token_key = settings.card_token_key()
        self._open_ledger = partial(open_ledger, settings.ledger_url)
        self.watch = ChampionWatch(
            self._open_ledger,
            folder / "champions",
            bento=load_champion(),
            review_days=settings.model_review_days,
            on_change=self._describe,
        )
        self.challenger_watch = ChampionWatch(
            self._open_ledger,
            folder / "challengers",
            bento=NOBODY,
            review_days=settings.model_review_days,
            role=CHALLENGER,
        )
        self.challenge = Challenge(lambda: self.challenger_watch.current)
        self.journal = Journal(folder / "journal", limit_bytes=settings.decision_log_bytes)
        names = FeatureNames(folder / "feature_names")
        self.forwarder = Forwarder(self.journal, Delivery(self._open_ledger, names), linger_seconds=LINGER_SECONDS)
        self.shadow = Shadow(self.journal)
        self.scorer = Scorer(
            lambda: self.watch.current,
            lambda spec: open_online_store(settings.online_store_url, spec=spec),
            self._open_ledger,
            self.journal,
            Validity(settings.fallback, timedelta(hours=settings.features_max_age_hours)),
            unrecorded=Unrecorded(folder / "unrecorded.sqlite"),
            rival_of=self.challenge.rival_of,
            offer=self.shadow.offer,
            remember_names=names.remember,
        )
        self.lane = DecisionLane(self.scorer.decide, self.scorer.make_durable)
        self.access = Access(
            lambda: self._open_ledger().api_keys(),
            keys_required=settings.env == "production",
            snapshot=folder / "api_keys.json",
            limits=RateLimits(folder / "rate_limits"),
        )
        self._dead_letters = 0
        self._taken = TakenFeedback(folder / "feedback.sqlite")
        self._ledger_patience = Patience("Ledger", time.monotonic)
        self.rationale = RationaleWriter.of(settings)
        # Anybody may ask for the health, as often as they like: that must not keep analysts waiting.
        self.probes = ThreadPoolExecutor(max_workers=1, thread_name_prefix="probes")
        # Whatever asks a store and is no decision: looking up, explaining, probing.
        self.threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="questions")
        self._is_stopping = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeping", daemon=True)
        logger.info("Code of %s, settings of %s", PROJECT_ROOT, settings.home)

    def start(self) -> None:
        """Open what can be opened, and begin to decide."""
        pace.hurry()
        # What is held in memory has no cycles, and is so much that looking for some among all of it stops every thread
        # for a third of a second. The young are looked through as ever.
        gc.collect()
        gc.freeze()
        self._describe(self.watch.current)
        self.watch.start()
        self.challenger_watch.start()
        try:
            if self.scorer.online_store().as_of() is None:
                logger.warning(
                    "The online store was never filled: until it is, a rule decides. Run: %s", FILL_ONLINE_STORE
                )
        except RetryableError as error:
            logger.warning("Starting without the online store: %s", error)
        self.forwarder.start()
        self.shadow.start()
        self.lane.start()
        self._housekeeper.start()

    def stop(self) -> None:
        """Answer what waits, deliver what can be delivered; the rest stays on disk for the next process."""
        self.lane.stop(_STOP_SECONDS)
        self._is_stopping.set()
        self.watch.stop()
        self.publish_counts()
        self.challenger_watch.stop()
        self.shadow.stop(_STOP_SECONDS)
        self.forwarder.stop(_STOP_SECONDS)
        self.journal.close()
        for threads in (self.threads, self.probes):
            threads.shutdown(wait=False, cancel_futures=True)

    def publish_counts(self) -> None:
        """Bring into the metrics what is added up apart from them."""
        self.scorer.missing.publish()
        before, self._dead_letters = self._dead_letters, self.forwarder.dead_letters
        metrics().dead_letters.inc(self._dead_letters - before)

    # Questions; each blocks, and is asked in a thread of `threads`

    def find(self, transaction_id: str) -> StoredDecision | None:
        """The decision on one transaction.

        Raises:
            Problem: 503 when it cannot be known now.
        """
        try:
            return self.scorer.find(transaction_id)
        except FraudPipelinesError as error:
            logger.warning("Ledger: %s", error)
            raise Problem(
                *(503, "ledger_unavailable", "Whether there is such a decision cannot be known now."),
                next_step="Ask again shortly.",
            ) from None

    def stored_transaction(self, transaction_id: str) -> ScoredTransaction | None:
        """A transaction of the online store or, once that let go of it, of its decision.

        Raises:
            Problem: 503 when the store, or the ledger behind it, cannot be asked.
        """
        try:
            found = self.scorer.online_store().transaction(transaction_id)
        except FraudPipelinesError as error:
            logger.warning("Online store: %s", error)
            raise Problem(
                *(503, "online_store_unavailable", "The stored transaction cannot be read now."),
                next_step="Send it again shortly, or send the whole transaction to /score.",
            ) from None
        if found is None:
            decided = self.find(transaction_id)
            return decided.transaction if decided else None
        return found

    def feedback_on(self, transaction_id: str) -> list[Feedback] | None:
        """What analysts said of a transaction; None while the ledger is away."""
        try:
            return self.ledger.feedback_on(transaction_id)
        except FraudPipelinesError as error:
            logger.warning("Ledger: %s", error)
            return None

    def explain(self, stored: StoredDecision) -> Explained:
        """A decision taken apart.

        Raises:
            Problem: 503 when the model that decided is in the ledger alone, and that is away.
        """
        try:
            return explain(stored, self._model_of, self.scorer.online_store)
        except FraudPipelinesError as error:
            logger.warning("Ledger: %s", error)
            raise Problem(
                *(503, "ledger_unavailable", "The model that decided cannot be read now."),
                next_step="Ask again shortly.",
            ) from None

    def take_feedback(
        self, transaction_id: str, verdict: str, actor: str, note: str | None, feedback_id: str | None
    ) -> Feedback:
        """Make a verdict durable and, where it is a label, let it count for the next payments at once.

        Raises:
            Problem: 404 for a transaction that is known nowhere, 409 for a feedback_id of another verdict.
            JournalFull, JournalUnavailable: it cannot be made durable now.
        """
        before = self._said_elsewhere(feedback_id, transaction_id) if feedback_id is not None else None
        transaction = self._known_transaction(transaction_id) if before is None else None
        feedback = before or self._taken.take(
            Feedback(feedback_id or str(uuid.uuid4()), transaction_id, verdict, actor, utc_now(), note)  # type: ignore[arg-type]
        )
        if (feedback.transaction_id, feedback.verdict) != (transaction_id, verdict):
            raise _reused(feedback.feedback_id)
        if before is not None:
            return before
        # Also of one that was taken before: its worker may have ended before it was durable. The ledger keeps one.
        self.journal.append([feedback_record(feedback)])
        metrics().feedback.labels(verdict).inc()
        if verdict in IS_FRAUD and transaction is not None:
            t = transaction
            try:
                self.scorer.online_store().record_label(
                    LabelArrival(
                        *(transaction_id, t.event_time_us, to_us(feedback.known_at), IS_FRAUD[verdict]),
                        *(t.card_id, t.merchant_id, t.amount_minor),
                    )
                )
            except FraudPipelinesError as error:
                # It is durable: the warehouse gets it, and the online store with the next rebuild.
                logger.warning("Online store: %s", error)
        return feedback

    def health(self) -> dict[str, Any]:
        """What the service depends on, and how each of it is."""
        loaded = self.watch.current
        cause = self.scorer.cause(loaded)
        store: dict[str, Any] = {"ok": True, "as_of": None}
        try:
            as_of = self.scorer.online_store().as_of()
            store["as_of"] = f"{as_of.isoformat()}Z" if as_of else None
            self.scorer.online_store().require_reach()
            if as_of is None:
                store |= {"ok": False, "problem": "OnlineStoreNeverFilled", "next": FILL_ONLINE_STORE}
        except OnlineStateTooShort as error:
            store = {"ok": False, "as_of": None, "problem": _kind(error), "next": FILL_ONLINE_STORE}
        except FraudPipelinesError as error:
            store = {"ok": False, "as_of": None, "problem": _kind(error)}
        ledger: dict[str, Any] = {"ok": True}
        try:
            self.ledger.decision("health probe")
        except FraudPipelinesError as error:
            ledger = {"ok": False, "problem": _kind(error)}
        log = {
            "ok": not self.journal.is_full and not self.forwarder.is_behind,
            "pending_records": self.journal.pending_records,
            "pending_bytes": self.journal.pending_bytes,
            "limit_bytes": self.journal.limit_bytes,
            "oldest_seconds": round(self.journal.oldest_pending_seconds, 3),
            "dead_letters": self.forwarder.dead_letters,
        }
        model = {"ok": cause is None and self.watch.pending is None, "fallback": cause, **self.watch.state()}
        parts = {"model": model, "online_store": store, "ledger": ledger, "decision_log": log}
        return {
            # A challenger that fails harms no payment, so it does not count.
            "status": "ok" if all(part["ok"] for part in parts.values()) else "degraded",
            "can_decide": self.is_ready,
            **parts,
            "challenger": self.challenger(),
        }

    def challenger(self) -> dict[str, Any]:
        """Which version is compared with the champion, which cards it decides on, and what is in the way."""
        loaded, watch = self.challenger_watch.current, self.challenger_watch
        obstacle = self.challenge.obstacle(self.watch.current.champion)
        return {
            "ok": watch.problem is None and obstacle in (None, NO_CHALLENGER, IS_CHAMPION),
            "is_compared": obstacle is None,
            "obstacle": obstacle,
            "canary_percent": loaded.canary_percent,
            "waiting": self.shadow.waiting,
            **watch.state(),
        }

    @property
    def is_ready(self) -> bool:
        """Whether a payment would get a decision now, the model's or the fallback's."""
        return not self.journal.is_full and self.access.are_keys_known

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened on first use."""
        return self._open_ledger()

    def _said_elsewhere(self, feedback_id: str, transaction_id: str) -> Feedback | None:
        """What the ledger has under this identifier on this transaction, taken on whatever host."""
        if self._ledger_patience.is_over:
            return None
        try:
            with self._ledger_patience.asking():
                said = self.ledger.feedback_on(transaction_id)
        except Exception as error:  # whatever a database driver raises while its server is away
            logger.warning("Ledger: %s", error)
            return None
        return next((feedback for feedback in said if feedback.feedback_id == feedback_id), None)

    def _known_transaction(self, transaction_id: str) -> ScoredTransaction | None:
        """The transaction a verdict is about; None while that cannot be known."""
        is_unknown = True
        try:
            found = self.scorer.online_store().transaction(transaction_id)
            if found is not None:
                return found
        except FraudPipelinesError as error:
            logger.warning("Online store: %s", error)
            is_unknown = False
        try:
            stored = self.scorer.find(transaction_id)
            if stored is not None:
                return stored.transaction
        except FraudPipelinesError as error:
            logger.warning("Ledger: %s", error)
            is_unknown = False
        if is_unknown:
            raise Problem(
                *(404, "transaction_unknown", "Neither a decision nor a stored transaction has this identifier."),
                field="transaction_id",
                next_step="Check the identifier; one older than the online store's history must have been decided.",
            )
        return None

    def _model_of(self, digest: str) -> Champion | None:
        challenger = self.challenger_watch.current.champion
        return challenger if challenger and challenger.digest == digest else self.watch.champion_of(digest)

    def _describe(self, loaded: Loaded) -> None:
        before, self._described = self._described, loaded.champion
        if before is not None:
            metrics().model.labels(before.version, before.digest).set(0)
        if loaded.champion is not None:
            metrics().model.labels(loaded.champion.version, loaded.champion.digest).set(1)

    def _keep_house(self) -> None:
        while not self._is_stopping.wait(1.0):
            try:
                self.access.refresh()
                self.publish_counts()
                numbers, loaded = metrics(), self.watch.current
                numbers.journal_records.set(self.journal.pending_records)
                numbers.journal_bytes.set(self.journal.pending_bytes)
                numbers.journal_oldest.set(self.journal.oldest_pending_seconds)
                if loaded.expires_at:
                    numbers.review_due.set((loaded.expires_at - utc_now()).total_seconds())
            except Exception:
                logger.exception("Housekeeping failed; it is tried again in a second")


def _reused(feedback_id: str) -> Problem:
    return Problem(
        *(409, "feedback_id_reused", "This feedback_id was given to another verdict or transaction."),
        field="feedback_id",
        next_step="Send a new feedback_id, or leave it out.",
    )


def _kind(error: FraudPipelinesError) -> str:
    # The message may name hosts and files: those are for the log.
    return type(error).__name__
