"""From the journal to the ledger: a background thread that delivers what waits, in order, for as long as it takes.

What it delivers to must be idempotent: a record comes again when a process died between the delivery and the note of
it, and when a batch failed after part of it had arrived.
"""

import base64
import fcntl
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fraud_pipelines.errors import PermanentError
from serving.journal import Batch, Journal

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
LOOK_FOR_ORPHANS_SECONDS = 2.0
BEHIND_AFTER_SECONDS = 5.0

logger = logging.getLogger("bentoml.fraud_scorer")


class _StopNow(Exception):
    """The time that `stop` gave is over."""


class Forwarder:
    """Delivers a journal's records, and those that dead processes left in its folder.

    Args:
        journal: to be closed after `stop`, not before.
        deliver: gets records in the order of their appends (those of one process, that is) and returns once all are
            where they belong. A PermanentError means that a record of the batch can never be delivered: the batch is
            halved until that record is alone and can be put into dead_letters.jsonl. So it must not be raised for
            anything but a record; any other exception is taken for an outage, and the same records are delivered again.
        batch_records: how many records `deliver` gets at most.
        linger_seconds: how long records may gather while fewer wait than make a batch: each delivery costs a
            transaction of the ledger, which is as much as several decisions, and each page of the ledger's indexes that
            it changes is written once per delivery.

    Attributes:
        delivered_records, dead_letters: counted since `start`.
    """

    def __init__(
        self,
        journal: Journal,
        deliver: Callable[[list[bytes]], None],
        *,
        batch_records: int = 8_000,
        linger_seconds: float = 0.0,
    ) -> None:
        self._linger_seconds = linger_seconds
        self._journal, self._deliver, self._batch_records = journal, deliver, batch_records
        self._thread = threading.Thread(target=self._run, name="journal-forwarder", daemon=True)
        self._stopping = threading.Event()
        self._stop_at = float("inf")
        self._failures = 0
        self.delivered_records = self.dead_letters = 0
        self._delivery_error: str | None = None
        self._orphans_error: str | None = None

    @property
    def last_error(self) -> str | None:
        """What keeps records from being delivered now; None while nothing does."""
        return self._delivery_error or self._orphans_error

    @property
    def is_behind(self) -> bool:
        """Whether deliveries fail, or a record has been waiting for longer than BEHIND_AFTER_SECONDS."""
        return self.last_error is not None or self._journal.oldest_pending_seconds > BEHIND_AFTER_SECONDS

    def start(self) -> None:
        """Begin to deliver, once."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Deliver what can be delivered within `timeout` seconds; whether that was all. The rest stays on disk."""
        self._stop_at = time.monotonic() + timeout
        self._stopping.set()
        self._journal.wake()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._journal.pending_bytes

    def _run(self) -> None:
        with suppress(_StopNow):
            look_for_orphans_at = 0.0
            while not (self._stopping.is_set() and self._is_done()):
                if time.monotonic() >= look_for_orphans_at and not self._stopping.is_set():
                    self._look_for_orphans()
                    look_for_orphans_at = time.monotonic() + LOOK_FOR_ORPHANS_SECONDS
                try:
                    if batch := self._journal.next_batch(self._batch_records):
                        self._forward(batch)
                        if not self._journal.has_waiting(self._batch_records):
                            self._stopping.wait(self._linger_seconds)
                        continue
                    self._journal.settle()
                except OSError as error:  # the journal's own disk
                    self._pause_after(error)
                    continue
                if self._journal.is_closed:
                    return
                self._recovered()
                self._journal.wait(look_for_orphans_at - time.monotonic(), self._stopping.is_set)

    def _is_done(self) -> bool:
        return not self._journal.pending_bytes or time.monotonic() >= self._stop_at

    def _look_for_orphans(self) -> None:
        # Apart from the deliveries: an orphan that cannot be read must not hold up the records that can.
        try:
            self._journal.adopt_orphans()
            self._orphans_error = None
        except OSError as error:
            if self._orphans_error is None:
                logger.warning("Records of a process that has ended cannot be read: %s", error)
            self._orphans_error = f"{type(error).__name__}: {error}"

    def _forward(self, batch: Batch) -> None:
        for place, content, reason in batch.broken:
            self._bury(content, f"{place}: {reason}")
        parts = [batch.records] if batch.records else []
        while parts:
            part = parts.pop()
            try:
                self._until_it_succeeds(partial(self._deliver, part))
                self.delivered_records += len(part)
            except PermanentError as error:
                if len(part) == 1:
                    self._bury(part[0], str(error))
                else:
                    half = len(part) // 2
                    parts += [part[half:], part[:half]]
        self._journal.delivered(batch)

    def _bury(self, content: bytes, reason: str) -> None:
        logger.error("A record cannot be delivered and is now in %s: %s", self._dead_letters, reason)
        self._until_it_succeeds(partial(add_dead_letter, self._dead_letters, content, reason))
        self.dead_letters += 1

    @property
    def _dead_letters(self) -> Path:
        return self._journal.folder / "dead_letters.jsonl"

    def _until_it_succeeds(self, action: Callable[[], None]) -> None:
        while True:
            try:
                action()
            except PermanentError:
                self._recovered()
                raise
            except Exception as error:  # whatever a database driver raises while its server is away
                self._pause_after(error)
            else:
                self._recovered()
                return

    def _pause_after(self, error: Exception) -> None:
        if self._delivery_error is None:
            logger.warning("Records stay in the journal for now: %s: %s", type(error).__name__, error)
        self._delivery_error = f"{type(error).__name__}: {error}"
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        # Not all the processes at once when the ledger is back.
        pause = longest * random.uniform(0.5, 1)  # noqa: S311
        if not self._stopping.wait(pause):
            return
        time.sleep(max(0.0, min(FIRST_PAUSE_SECONDS, self._stop_at - time.monotonic())))
        if time.monotonic() >= self._stop_at:
            raise _StopNow

    def _recovered(self) -> None:
        if self._delivery_error is not None:
            logger.info("The journal's records are delivered again")
        self._failures, self._delivery_error = 0, None


def add_dead_letter(path: Path, content: bytes, reason: str) -> None:
    """Append one line of JSON, durably: when, why, and the record, as text or, when it is none, in base64.

    Raises:
        OSError: the disk refuses; nothing is added.
    """
    letter = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason}
    try:
        letter["record"] = content.decode()
    except UnicodeDecodeError:
        letter["record_base64"] = base64.b64encode(content).decode()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # other processes of the service add to the same file
        size = os.fstat(descriptor).st_size
        # A process may have died while it wrote the last line.
        is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        rest = memoryview(b"\n" * is_torn + json.dumps(letter).encode() + b"\n")
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
