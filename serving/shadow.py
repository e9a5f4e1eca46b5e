"""Champion and challenger side by side: what was decided is scored by the other one too, off the way to the answer.

    a decided group -> queue -> the other model, on the very feature values of the answer -> journal -> ledger

In a thread of its own, which waits a moment so that answers go first and several groups make one call. Decisions never
wait for it: what does not fit into the queue, or into its half of the journal, is dropped and counted.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby, islice
from typing import Protocol

import numpy as np

from fraud_pipelines.features.online import ScoredTransaction
from fraud_pipelines.ledger import ShadowDecision
from fraud_pipelines.ledger.records import utc_now
from serving.answers import Verdict, shadow_record
from serving.champion import Champion
from serving.metrics import metrics
from serving.segments import LINE_OVERHEAD_BYTES

# One sync of the journal a second is not felt by those that decisions wait for.
LINGER_SECONDS = 1.0
# Payments that may wait: some seconds' worth, 15 MB of feature values.
MOST_WAITING = 16_384
# Scored in one call, and kept in one append.
MOST_IN_CALL, MOST_IN_APPEND = 128, 2_048
# The rest of the journal is for decisions, which are refused when it is full.
LARGEST_SHARE_OF_JOURNAL = 0.5
_EPOCH = datetime(1970, 1, 1)

logger = logging.getLogger("bentoml.fraud_scorer")


class ShadowLog(Protocol):
    """Where what both said becomes durable: serving.journal.Journal."""

    limit_bytes: int

    @property
    def pending_bytes(self) -> int: ...
    def append(self, records: Sequence[bytes]) -> None: ...


@dataclass(frozen=True)
class Compared:
    """A group that one of two models decided on, payment by payment; the other one is asked later.

    A verdict with `model` is the challenger's, the others are the champion's.
    """

    champion: Champion
    challenger: Champion
    transactions: Sequence[ScoredTransaction]
    verdicts: Sequence[Verdict]


@dataclass(frozen=True, slots=True)
class _Waiting:
    champion: Champion
    challenger: Champion
    transaction: ScoredTransaction
    verdict: Verdict
    decided_at: datetime

    @property
    def is_canary(self) -> bool:
        return self.verdict.model is not None

    @property
    def other(self) -> Champion:
        """The model that was not asked yet."""
        return self.champion if self.is_canary else self.challenger


class Shadow:
    """Scores decided payments with the other model, in its own thread.

    Args:
        journal: takes the records; the same one that decisions go to.
        linger_seconds: how long payments gather before they are scored.
    """

    def __init__(self, journal: ShadowLog, *, linger_seconds: float = LINGER_SECONDS) -> None:
        self._journal, self._linger_seconds = journal, linger_seconds
        self._queue: deque[_Waiting] = deque()
        self._is_failing = False
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._stop_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    @property
    def waiting(self) -> int:
        """Payments that wait to be scored."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Score what waits already, within some seconds, and end."""
        self._stop_at = time.monotonic() + seconds
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def offer(self, group: Compared, answered: Container[str]) -> None:
        """Take over the payments of a group that were answered with its verdicts. Never waits.

        What a rule decided is left out: there is nothing to compare. Used from one thread.
        """
        now = utc_now()
        rows = [
            _Waiting(group.champion, group.challenger, transaction, verdict, now)
            for transaction, verdict in zip(group.transactions, group.verdicts, strict=True)
            if verdict.fallback is None and transaction.transaction_id in answered
        ]
        # The other thread only takes away, so there is at least this much room.
        room = max(0, MOST_WAITING - len(self._queue))
        _count("dropped", len(rows[room:]))
        self._queue.extend(rows[:room])
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            self._stopping.wait(self._linger_seconds)
            while self._queue:
                if time.monotonic() >= self._stop_at:
                    _count("dropped", len(self._queue))
                    return
                self._work([self._queue.popleft() for _ in range(min(len(self._queue), MOST_IN_APPEND))])
            if self._stopping.is_set():
                return

    def _work(self, rows: list[_Waiting]) -> None:
        records: list[bytes] = []
        for _, of_pair in groupby(rows, key=lambda row: (id(row.champion), id(row.challenger), row.is_canary)):
            while some := list(islice(of_pair, MOST_IN_CALL)):
                if time.monotonic() >= self._stop_at:
                    _count("dropped", len(some))
                    continue
                try:
                    records += self._compared(some)
                except Exception:
                    _count("failed", len(some))
                    logger.exception("%d payments could not be compared", len(some))
        self._keep(records)

    def _compared(self, rows: list[_Waiting]) -> list[bytes]:
        """Records of payments decided by one of the same two models; those the other cannot score are counted."""
        probabilities = self._probabilities(rows[0].other, np.array([row.verdict.features for row in rows]))
        records = []
        for row, probability in zip(rows, probabilities.tolist(), strict=True):
            if np.isnan(probability):
                _count("failed")
                continue
            decision = str(row.other.bundle.thresholds.decide(probability))
            _count("agree" if decision == row.verdict.decision else "flip")
            said = [(float(row.verdict.probability or 0.0), row.verdict.decision), (probability, decision)]
            champions, challengers = reversed(said) if row.is_canary else said
            records.append(
                shadow_record(
                    ShadowDecision(
                        transaction_id=row.transaction.transaction_id,
                        event_time=_EPOCH + timedelta(microseconds=row.transaction.event_time_us),
                        amount_minor=row.transaction.amount_minor,
                        champion_version=row.champion.version,
                        champion_digest=row.champion.digest,
                        champion_probability=champions[0],
                        champion_decision=champions[1],
                        challenger_version=row.challenger.version,
                        challenger_digest=row.challenger.digest,
                        challenger_probability=challengers[0],
                        challenger_decision=challengers[1],
                        is_canary=row.is_canary,
                        decided_at=row.decided_at,
                    )
                )
            )
        return records

    def _probabilities(self, model: Champion, features: np.ndarray) -> np.ndarray:
        """Fraud probabilities, shape (n,); NaN where the model fails."""
        try:
            found = np.asarray(model.bundle.scores(features.astype(np.float32))[0], np.float64)
        except Exception:
            if len(features) > 1:  # one that cannot be scored must not take the others with it
                return np.concatenate([self._probabilities(model, row) for row in features[:, np.newaxis]])
            if not self._is_failing:
                logger.exception("Version %s cannot score beside the other; said once until it can", model.version)
            self._is_failing = True
            return np.array([np.nan])
        self._is_failing = False
        return found

    def _keep(self, records: list[bytes]) -> None:
        size = sum(map(len, records)) + LINE_OVERHEAD_BYTES * len(records)
        if self._journal.pending_bytes + size > LARGEST_SHARE_OF_JOURNAL * self._journal.limit_bytes:
            _count("dropped", len(records))
            return
        try:
            self._journal.append(records)
        except Exception as error:
            logger.warning("Journal: %s", error)
            _count("dropped", len(records))


def _count(outcome: str, payments: int = 1) -> None:
    if payments:
        metrics().shadow.labels(outcome).inc(payments)
