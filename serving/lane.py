"""One thread that decides, fed by the event loop: what waits while it works becomes its next group.

Under load groups grow by themselves and each costs little more than one request; a lone request never waits for
company. Requests of single payments go first; a batch comes in pieces between them.
"""

import asyncio
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fraud_pipelines.features.online import ScoredTransaction
from serving.problems import Problem

# Single payments decided together, and the rows of a batch that go between two such groups.
MOST_IN_GROUP = 64
BATCH_PIECE = 256
# Payments that may wait: a few seconds' worth. Who comes later is told to come back.
MOST_WAITING = 4_096

Result = bytes | Problem
logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(slots=True)
class _Job:
    transactions: Sequence[ScoredTransaction]
    future: "asyncio.Future[list[Result]]"
    loop: asyncio.AbstractEventLoop = field(repr=False)


class DecisionLane:
    """Runs `decide` in its own thread, one group after the other.

    Args:
        decide: one result per transaction, in order; see Scorer.decide.
    """

    def __init__(self, decide: Callable[[Sequence[ScoredTransaction]], list[Result]]) -> None:
        self._decide = decide
        self._singles: deque[_Job] = deque()
        self._pieces: deque[_Job] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    @property
    def waiting(self) -> int:
        """Single payments that wait for a decision."""
        return len(self._singles)

    def start(self) -> None:
        """Begin to decide."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Decide on what waits already, within some seconds, and end."""
        self._is_stopping = True
        self._wake.put(True)
        if self._thread.is_alive():
            self._thread.join(seconds)
        if not self._thread.is_alive():
            # Who came in the very moment of the end must not wait in vain.
            for jobs in (self._singles, self._pieces):
                while jobs:
                    job = jobs.popleft()
                    _give(job.loop, [(job.future, [_refusal(is_stopping=True)] * len(job.transactions))])

    async def decide(self, transaction: ScoredTransaction) -> Result:
        """The result of one payment.

        Raises:
            Problem: 503 with Retry-After when too many wait, or the service is about to end.
        """
        self._require_room()
        return (await self._submit(self._singles, [transaction]))[0]

    async def decide_piece(self, transactions: Sequence[ScoredTransaction]) -> list[Result]:
        """Results of up to BATCH_PIECE payments of a batch.

        Raises:
            Problem: 503, see `decide`.
        """
        self._require_room()
        return await self._submit(self._pieces, transactions)

    def _require_room(self) -> None:
        pieces = len(self._pieces) * BATCH_PIECE
        if self._is_stopping or len(self._singles) >= MOST_WAITING or pieces >= MOST_WAITING:
            raise _refusal(is_stopping=self._is_stopping)

    def _submit(self, jobs: deque[_Job], transactions: Sequence[ScoredTransaction]) -> "asyncio.Future[list[Result]]":
        loop = asyncio.get_running_loop()
        job = _Job(transactions, loop.create_future(), loop)
        jobs.append(job)
        self._wake.put(True)
        return job.future

    def _run(self) -> None:
        while True:
            self._wake.get()
            if self._singles:
                jobs = [self._singles.popleft() for _ in range(min(len(self._singles), MOST_IN_GROUP))]
                self._work(jobs)
            # One piece after each group: neither waits for the other for long.
            if self._pieces:
                piece = self._pieces.popleft()
                if not piece.future.done():  # else its caller has gone, or was told that it took too long
                    self._work([piece])
            if self._is_stopping and not self._singles and not self._pieces:
                return
            if self._is_stopping or ((self._singles or self._pieces) and self._wake.empty()):
                self._wake.put(True)

    def _work(self, jobs: list[_Job]) -> None:
        transactions = [transaction for job in jobs for transaction in job.transactions]
        try:
            results = self._decide(transactions)
        except Exception:
            logger.exception("A group of %d payments could not be decided", len(transactions))
            results = [Problem.common(500)] * len(transactions)
        finished: dict[asyncio.AbstractEventLoop, list[_Finished]] = {}
        start = 0
        for job in jobs:
            finished.setdefault(job.loop, []).append((job.future, results[start : start + len(job.transactions)]))
            start += len(job.transactions)
        for loop, futures in finished.items():
            _give(loop, futures)


_Finished = tuple["asyncio.Future[list[Result]]", list[Result]]


def _give(loop: asyncio.AbstractEventLoop, finished: list[_Finished]) -> None:
    try:
        loop.call_soon_threadsafe(_finish, finished)
    except RuntimeError:  # the event loop ended first: nobody waits any more, and what was decided is durable
        logger.warning("The service ended before %d answers could be given", len(finished))


def _finish(finished: list[_Finished]) -> None:
    for future, results in finished:
        if not future.done():  # the caller may have gone
            future.set_result(results)


def _refusal(*, is_stopping: bool) -> Problem:
    return Problem(
        503,
        "overloaded",
        "This replica is about to end."
        if is_stopping
        else "More payments wait for a decision than can be answered in time.",
        next_step="Send it again after the seconds in Retry-After; until then apply your own fallback.",
        headers={"Retry-After": "1"},
    )
