"""The models the ledger names, champion and challenger, kept up to date while the service runs; one watch for each.

    ledger row -> memory, this machine's disk, or the ledger's copy of the bundle -> verified, tried -> `current`

A promotion or rollback is a ledger row, so each replica asks for the newest one and follows it: there is no message to
be lost, and no order of arrival in which two replicas end on different versions. Whatever goes wrong on the way, the
model that decides goes on deciding.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from fraud_pipelines.errors import BundleCorrupt
from fraud_pipelines.ledger import CurrentChallenger, CurrentChampion, Ledger
from fraud_pipelines.models.archive import unpack
from fraud_pipelines.models.bento import BENTO_NAME
from fraud_pipelines.models.bundle import Bundle
from fraud_pipelines.reasons import BUNDLE_CORRUPT
from serving.champion import Champion, Loaded, compile_ahead, ready_to_decide
from serving.kept_champions import KeptChampions, Row

# A rollback to one of the last champions needs nothing but another pointer.
MOST_LOADED = 3
FIRST_CHECK_WITHIN_SECONDS = 5.0
LONGEST_PAUSE_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 30.0

logger = logging.getLogger("bentoml.fraud_scorer")


@dataclass(frozen=True)
class Role:
    """What the ledger can name a model to be.

    `row` is the type of the rows that do, `number` the name of their number, and `remedy` the command
    that puts a missing bundle into the ledger. `outlasts` tells
    whether a model keeps the role while the next one cannot be used.
    """

    name: str
    row: type[Row]
    number: str
    named: Callable[[Ledger], Row | None]
    remedy: str
    outlasts: bool


CHAMPION = Role(
    "champion",
    CurrentChampion,
    "promotion_id",
    lambda ledger: ledger.champion(),
    "fraud promote {version} --reason 'WHY'",
    True,
)
# What the ledger no longer names must decide on no card, and be compared with nothing.
CHALLENGER = Role(
    "challenger",
    CurrentChallenger,
    "challenge_id",
    lambda ledger: ledger.challenger(),
    "fraud challenge {version} --reason 'WHY'",
    False,
)


@dataclass(frozen=True)
class Pending:
    """A model that the ledger names and this service could not take over, and why.

    `cause` is a code of fraud_pipelines/reasons.py; `retry_at` is a reading of time.monotonic().
    """

    row: Row
    cause: str
    problem: str
    attempts: int
    retry_at: float


class ChampionWatch:
    """Keeps the model of one role up to date with the ledger.

    `current` is replaced whole, never changed: a request reads it once and is decided by one model.

    Args:
        open_ledger: called until it succeeds once.
        folder: where bundles and the last known champion are kept; replicas on one machine may share it.
        bento: what the Bento holds, or none and why: it has the role until the ledger names another.
        review_days: days after a promotion by which it must have been reviewed, for `Loaded.expires_at`.
        on_change: told of every new `current`, in the thread of the watch.
        on_pending: told of every failed attempt to take over a champion.
        interval_seconds: between two questions to the ledger.
        role: of the model.
    """

    def __init__(
        self,
        open_ledger: Callable[[], Ledger],
        folder: Path,
        *,
        bento: Loaded,
        review_days: int,
        on_change: Callable[[Loaded], None] | None = None,
        on_pending: Callable[[Pending], None] | None = None,
        interval_seconds: float = 0.5,
        role: Role = CHAMPION,
    ) -> None:
        self.pending: Pending | None = None
        self.ledger_problem: str | None = None
        self._open_ledger = open_ledger
        self._ledger: Ledger | None = None
        self._kept, self._bento, self._role = KeptChampions(folder, role.row), bento, role
        self._review = timedelta(days=review_days)
        self._on_change, self._on_pending, self._interval = on_change, on_pending, interval_seconds
        self._loaded: dict[str, Champion] = {}  # by digest, the one used last at the end
        self._row: Row | None = None
        self._one_check = threading.Lock()
        self._is_checked, self._is_stopping = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.current: Loaded = self._last_known() or bento

    def start(self) -> None:
        """Follow the ledger from now on. Returns after its first answer, or without it after some seconds."""
        compile_ahead()
        self._thread = threading.Thread(target=self._run, name=f"{self._role.name}-watch", daemon=True)
        self._thread.start()
        self._is_checked.wait(FIRST_CHECK_WITHIN_SECONDS)

    def stop(self) -> None:
        """Follow the ledger no longer; `current` stays."""
        self._is_stopping.set()
        if self._thread is not None:
            self._thread.join(LONGEST_PAUSE_SECONDS)

    def check_once(self) -> bool:
        """Ask the ledger once and follow it; False where that failed, and `problem` says why. Never raises."""
        with self._one_check:
            try:
                if self._ledger is None:
                    self._ledger = self._open_ledger()
                self._follow(self._ledger, self._role.named(self._ledger))
                self.ledger_problem = None
            except Exception as error:  # whatever a store or its driver raises: the last known champion decides
                if self.ledger_problem is None:
                    logger.warning("The last known %s stays until the ledger answers: %s", self._role.name, error)
                self.ledger_problem = str(error)
            return self.problem is None

    def champion_of(self, digest: str) -> Champion | None:
        """The model of a bundle, to explain what it decided: from here or the ledger; None where neither has it.

        Raises:
            LedgerUnavailable: it is not here, and the ledger is away.
        """
        current, held = self.current.champion, self._loaded.get(digest)
        if held is not None or (current is not None and current.digest == digest):
            return held or current
        ledger = self._ledger or self._open_ledger()
        content = ledger.bundle_content(digest)
        return _unpacked(content, f"ledger bundle {digest[:8]}", "", digest).champion if content else None

    @property
    def problem(self) -> str | None:
        """Why `current` may not be what the ledger names; None when it is."""
        return self.ledger_problem or (self.pending.problem if self.pending else None)

    def state(self) -> dict[str, Any]:
        """What decides, since which ledger row, until when, and what is in the way: plain values for a health page."""
        loaded, row, pending, number = self.current, self._row, self.pending, self._role.number
        waiting = None
        if pending:
            waiting = {name: getattr(pending.row, name) for name in ("model_version", "bundle_digest", number)}
            waiting |= {name: getattr(pending, name) for name in ("cause", "attempts")}
        return {
            "model_version": loaded.champion.version if loaded.champion else None,
            "bundle_digest": loaded.champion.digest if loaded.champion else None,
            number: getattr(row, number) if row else None,
            "expires_at": f"{loaded.expires_at.isoformat()}Z" if loaded.expires_at else None,
            "pending": waiting,
            # Texts of problems name hosts and files: those are for the log.
            "follows_the_ledger": self.ledger_problem is None,
        }

    def _run(self) -> None:
        pause = self._interval
        while not self._is_stopping.is_set():
            self.check_once()
            self._is_checked.set()
            pause = self._interval if self.ledger_problem is None else min(2 * pause, LONGEST_PAUSE_SECONDS)
            self._is_stopping.wait(pause)

    # Following

    def _follow(self, ledger: Ledger, row: Row | None) -> None:
        if row is None or row == self._row:
            self.pending = None
            if row is None and self.current is not self._bento:
                self._use(self._bento, None)
                self._kept.forget()
            return
        attempts = self.pending.attempts if self.pending and self.pending.row == row else 0
        if self.pending and attempts and time.monotonic() < self.pending.retry_at:
            return
        loaded = self._from_here(row) or self._from_ledger(ledger, row)
        if loaded.champion is None:
            self._postpone(row, loaded, attempts + 1)
            return
        self.pending = None
        self._use(loaded, row)
        self._hold(loaded.champion)
        self._kept.keep(loaded.champion, row)

    def _use(self, loaded: Loaded, row: Row | None) -> None:
        self.current, self._row = loaded, row
        logger.info(
            "%s from now on: %s, ledger row %s",
            self._role.name.capitalize(),
            f"version {loaded.champion.version}" if loaded.champion else f"none ({loaded.cause})",
            getattr(row, self._role.number) if row else "none",
        )
        if self._on_change:
            self._on_change(loaded)

    def _postpone(self, row: Row, failed: Loaded, attempts: int) -> None:
        retry_in = min(2.0 ** (attempts - 1), LONGEST_RETRY_SECONDS)
        cause, problem = failed.cause or BUNDLE_CORRUPT, failed.problem or ""
        self.pending = Pending(row, cause, problem, attempts, time.monotonic() + retry_in)
        logger.error(
            "Version %s, %s by ledger row %s, cannot be used (%s), tried again in %.0f s: %s",
            row.model_version, self._role.name, getattr(row, self._role.number), cause, retry_in, problem,
        )  # fmt: skip
        if not self._role.outlasts and self.current.champion is not None:
            self._use(failed, None)
            self._kept.forget()
        elif self.current.champion is None and self.current.cause != cause:
            # Answers name the cause, and this one says more than that there is no champion.
            self._use(failed, self._row)
        if self._on_pending:
            self._on_pending(self.pending)

    # Loading

    def _last_known(self) -> Loaded | None:
        """The champion that decided when this service last ran; None where that is unknown or it is not kept."""
        row = self._kept.last_known()
        loaded = self._from_here(row) if row else None
        if loaded is None or loaded.champion is None:
            return None
        logger.info("Version %s was %s last, and is until the ledger answers", loaded.champion.version, self._role.name)
        self._row = row
        self._hold(loaded.champion)
        return loaded

    def _from_here(self, row: Row) -> Loaded | None:
        """The champion of a row out of the Bento, memory or this machine's disk; None where none of them has it."""
        own, digest = self._bento.champion, row.bundle_digest
        if own and (own.digest == digest if digest else own.version == row.model_version):
            return self._promoted(Loaded(own), row)
        if digest is None:
            return None
        if digest in self._loaded:
            return self._promoted(Loaded(self._loaded[digest]), row)
        kept = self._kept.load(row.model_version, digest)
        return self._promoted(kept, row) if kept else None

    def _from_ledger(self, ledger: Ledger, row: Row) -> Loaded:
        digest = row.bundle_digest
        content = ledger.bundle_content(digest) if digest else None
        if digest is None or content is None:
            problem = (
                f"The ledger names version {row.model_version} {self._role.name} and holds no bundle of it. Put it "
                f"there: {self._role.remedy.format(version=row.model_version)}"
            )
            return Loaded(None, BUNDLE_CORRUPT, problem)
        origin = f"ledger bundle of version {row.model_version}"
        return self._promoted(_unpacked(content, origin, row.model_version, digest), row)

    def _promoted(self, loaded: Loaded, row: Row) -> Loaded:
        if loaded.champion is None:
            return loaded
        # The ledger's name for it: the same bundle may be another version in another registry.
        champion = replace(loaded.champion, version=row.model_version)
        canary_percent = row.canary_percent if isinstance(row, CurrentChallenger) else 0.0
        return Loaded(champion, expires_at=row.decided_at + self._review, canary_percent=canary_percent)

    def _hold(self, champion: Champion) -> None:
        self._loaded.pop(champion.digest, None)
        self._loaded[champion.digest] = champion
        for digest in list(self._loaded)[:-MOST_LOADED]:
            del self._loaded[digest]


def _unpacked(content: bytes, origin: str, version: str, digest: str) -> Loaded:
    """The champion of a bundle as the ledger holds it; `origin` is what problems call it."""

    def read() -> Bundle:
        files = unpack(content, origin=origin)

        def file(name: str) -> bytes:
            if name not in files:
                raise BundleCorrupt(f"The {origin} lacks {name}; it has {sorted(files)}.")
            return files[name]

        return Bundle.read(file, origin=origin, digest=digest)

    return ready_to_decide(BENTO_NAME, version, digest, origin, read)
