"""One thread that decides, fed by the event loop: what waits while it works becomes its next group.

Under load groups grow by themselves and each costs little more than one request; a lone request never waits for
company, unless others came while the group before it was decided (_BUSY_SECONDS). Requests of single payments go first;
a batch comes in pieces between them.

Another thread makes what was decided durable, all groups that wait for that at once: while the disk writes, the next
group is decided.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fraud_pipelines.features.online import ScoredTransaction
from serving import pace
from serving.answers import Answer
from serving.problems import Problem

# Single payments decided together, and the rows of a batch that go between two such groups.
MOST_IN_GROUP = 64
BATCH_PIECE = 256
# While no single payment has come for a while, so many pieces of batches go together.
_PIECES_TOGETHER = 4
_QUIET_SECONDS = 1.0
# A group costs a little by itself, however small. While payments come faster than groups of one can be decided, the
# next one begins so long after the one before, with whatever has come by then.
_BUSY_SECONDS = 0.007
# Groups that are decided and wait for the disk; then deciding waits for it, too.
_MOST_DECIDED = 4
# Payments that may wait: a few seconds' worth. Who comes later is told to come back. Of batches more may, all that
# eight callers send ahead at once (endpoints.py); they keep no single payment waiting.
MOST_WAITING = 4_096
MOST_PIECES_WAITING = 64

Result = Answer | Problem
Group = TypeVar("Group")
logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(slots=True)
class _Job:
    transactions: Sequence[ScoredTransaction]
    future: "asyncio.Future[list[Result]]"
    loop: asyncio.AbstractEventLoop = field(repr=False)


class DecisionLane(Generic[Group]):
    """Runs `decide` in its own thread, one group after the other, and `make_durable` in another.

    Args:
        decide: see Scorer.decide.
        make_durable: of some groups in the order they were decided, one result per transaction; see
            Scorer.make_durable.
    """

    def __init__(
        self,
        decide: Callable[[Sequence[ScoredTransaction]], Group],
        make_durable: Callable[[Sequence[Group]], list[list[Result]]],
    ) -> None:
        self._decide, self._make_durable = decide, make_durable
        self._singles: deque[_Job] = deque()
        self._pieces: deque[_Job] = deque()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_stopping = False
        self._decided: queue.Queue[tuple[list[_Job], Group] | None] = queue.Queue(_MOST_DECIDED)
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._recorder = threading.Thread(target=self._record, name="records", daemon=True)

    @property
    def waiting(self) -> int:
        """Single payments that wait for a decision."""
        return len(self._singles)

    def start(self) -> None:
        """Begin to decide."""
        self._thread.start()
        self._recorder.start()

    def stop(self, seconds: float) -> None:
        """Decide on what waits already, within some seconds, and end."""
        self._is_stopping = True
        self._wake.put(True)
        deadline = time.monotonic() + seconds
        for thread in (self._thread, self._recorder):
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        if not self._thread.is_alive():
            # Who came in the very moment of the end must not wait in vain.
            for jobs in (self._singles, self._pieces):
                while jobs:
                    job = jobs.popleft()
                    _give([job], [_refusal(is_stopping=True)] * len(job.transactions))

    async def decide(self, transaction: ScoredTransaction) -> Result:
        """The result of one payment.

        Raises:
            Problem: 503 with Retry-After when too many wait, or the service is about to end.
        """
        self._require(has_room=len(self._singles) < MOST_WAITING)
        return (await self._submit(self._singles, [transaction]))[0]

    async def decide_piece(self, transactions: Sequence[ScoredTransaction]) -> list[Result]:
        """Results of up to BATCH_PIECE payments of a batch.

        Raises:
            Problem: 503, see `decide`.
        """
        self._require(has_room=len(self._singles) < MOST_WAITING and len(self._pieces) < MOST_PIECES_WAITING)
        return await self._submit(self._pieces, transactions)

    def _require(self, *, has_room: bool) -> None:
        if self._is_stopping or not has_room:
            raise _refusal(is_stopping=self._is_stopping)

    def _submit(self, jobs: deque[_Job], transactions: Sequence[ScoredTransaction]) -> "asyncio.Future[list[Result]]":
        loop = asyncio.get_running_loop()
        job = _Job(transactions, loop.create_future(), loop)
        jobs.append(job)
        self._wake.put(True)
        return job.future

    def _run(self) -> None:
        began, is_busy = float("-inf"), False
        while True:
            self._wake.get()
            if self._singles:
                if is_busy and not self._pieces and not self._is_stopping:
                    time.sleep(max(0.0, began + _BUSY_SECONDS - time.monotonic()))
                began = time.monotonic()
                pace.hurry()
                jobs = [self._singles.popleft() for _ in range(min(len(self._singles), MOST_IN_GROUP))]
                self._work(jobs)
                is_busy = bool(self._singles)
            # One piece after each group: neither waits for the other for long.
            if self._pieces:
                most = 1
                if time.monotonic() - began > _QUIET_SECONDS:
                    most = _PIECES_TOGETHER
                    pace.relax()
                pieces = [self._pieces.popleft() for _ in range(min(len(self._pieces), most))]
                # Of the others the caller has gone, or was told that it took too long.
                pieces = [piece for piece in pieces if not piece.future.done()]
                if pieces:
                    self._work(pieces)
            if self._is_stopping and not self._singles and not self._pieces:
                self._decided.put(None)
                return
            if self._is_stopping or ((self._singles or self._pieces) and self._wake.empty()):
                self._wake.put(True)

    def _work(self, jobs: list[_Job]) -> None:
        transactions = [transaction for job in jobs for transaction in job.transactions]
        try:
            group = self._decide(transactions)
        except Exception:
            logger.exception("A group of %d payments could not be decided", len(transactions))
            _give(jobs, [Problem.common(500)] * len(transactions))
        else:
            self._decided.put((jobs, group))

    def _record(self) -> None:
        is_over = False
        while not is_over:
            decided = [self._decided.get()]
            with suppress(queue.Empty):
                while len(decided) < _MOST_DECIDED:
                    decided.append(self._decided.get_nowait())
            waiting = [one for one in decided if one is not None]
            is_over = len(waiting) < len(decided)
            try:
                results = self._make_durable([group for _, group in waiting])
            except Exception:
                logger.exception("%d groups of payments could not be made durable", len(waiting))
                results = [[Problem.common(500)] * sum(len(job.transactions) for job in jobs) for jobs, _ in waiting]
            _give([job for jobs, _ in waiting for job in jobs], [result for group in results for result in group])


def _give(jobs: Sequence[_Job], results: Sequence[Result]) -> None:
    """Hand each job its own of the results, on its event loop."""
    finished: dict[asyncio.AbstractEventLoop, list[_Finished]] = {}
    start = 0
    for job in jobs:
        own = list(results[start : start + len(job.transactions)])
        finished.setdefault(job.loop, []).append((job.future, own))
        start += len(job.transactions)
    for loop, futures in finished.items():
        try:
            loop.call_soon_threadsafe(_finish, futures)
        except RuntimeError:  # the event loop ended first: nobody waits any more, and what was decided is durable
            logger.warning("The service ended before %d answers could be given", len(futures))


_Finished = tuple["asyncio.Future[list[Result]]", list[Result]]


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
