"""What must not be lost waits here for the ledger: on disk before it is answered, whether the ledger is there or not.

Every process of the service appends to segments of its own (segments.py says what they look like), and a Forwarder
delivers them (forwarding.py). Records come back in the order of their appends, each at least once: after a crash some
come twice.

Freshly appended records are also kept in memory, as one unbroken run that begins where the run's first append did. What
does not fit is on disk alone, and is read back when its turn comes; the next run begins when this one is used up.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fraud_pipelines.errors import JournalFull, JournalUnavailable
from serving.segments import LINE_OVERHEAD_BYTES, BrokenLine, WriterFiles, framed, writers

GIBIBYTE, MEBIBYTE = 1024**3, 1024**2
# While a batch is delivered, two more may gather: what is not in memory has to be read, and checked, from the file.
MEMORY_BYTES = 32 * MEBIBYTE
BATCH_BYTES = 8 * MEBIBYTE
SAVE_POSITION_SECONDS = 1.0

# A bytes object and its place in the queue, besides the bytes.
_OBJECT_BYTES = 48
# macOS has no fdatasync.
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Batch:
    """What is next to be delivered of one writer; `end` is the position behind it."""

    writer: WriterFiles
    records: list[bytes]
    broken: list[BrokenLine]
    end: int


class Journal:
    """Records on disk, in order, until they are delivered. Safe for threads; not to be used by a forked child.

    Args:
        folder: on a local disk; shared by the service's processes on this host. Made when it is not there.
        limit_bytes: of records that wait, this process's own and those it took over from dead ones.
        segment_bytes: size at which the next file is begun.
        memory_bytes: of waiting records that are also kept in memory.
    Raises:
        JournalUnavailable: the folder cannot be written to.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = GIBIBYTE,
        segment_bytes: int = 8 * MEBIBYTE,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._segment_bytes, self._memory_bytes = segment_bytes, memory_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(folder.parent)
            self._folder_descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            self._own = WriterFiles.create(folder)
        except OSError as error:
            raise self._unavailable(error) from error
        self._adopted: list[WriterFiles] = []
        # Held during an append, which waits for the disk; taken before _changed, which guards all the rest and is never
        # held for long.
        self._appending = threading.Lock()
        self._changed = threading.Condition()
        self._descriptor: int | None = None
        self._sequence = 0
        self._memory: deque[bytes] = deque()
        self._memory_start = self._memory_end = self._memory_used = 0
        self._turn = 0
        self._position_due = 0.0
        self._is_full = self._is_closed = False

    def append(self, records: Sequence[bytes]) -> None:
        """Append records, each one line of JSON without its newline; on return all of them are on disk.

        One write and one sync for all: whoever has several records should append them together.

        Raises:
            JournalFull: more would wait for delivery than the limit allows; nothing is kept.
            JournalUnavailable: the disk refused, or the journal is closed; nothing is kept, except that after a crash
                at this moment some may be delivered though they were refused.
            ContractBroken: a record is no line; nothing is kept.
        """
        if not records:
            return
        lines = framed(records, time.time_ns() // 1_000_000)
        with self._appending:
            self._check_room(len(lines))
            try:
                self._write(lines)
            except BaseException as error:
                self._give_up_segment()
                if isinstance(error, OSError):
                    raise self._unavailable(error) from error
                raise
            with self._changed:
                self._own.segments[-1].size += len(lines)
                self._remember(records, len(lines))
                self._own.written += len(lines)
                self._own.pending_records += len(records)
                self._changed.notify_all()

    @property
    def pending_records(self) -> int:
        """Records that wait for delivery."""
        with self._changed:
            return sum(writer.pending_records for writer in self._writers())

    def has_waiting(self, records: int) -> bool:
        """Whether so many records wait for delivery, or as many bytes as the largest batch."""
        with self._changed:
            return (
                self._pending_bytes() >= BATCH_BYTES
                or sum(writer.pending_records for writer in self._writers()) >= records
            )

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for delivery."""
        with self._changed:
            return self._pending_bytes()

    @property
    def oldest_pending_seconds(self) -> float:
        """How long the oldest record has been waiting, by the wall clock; 0 when none waits."""
        with self._changed:
            oldest = now = time.time()
            for writer in self._writers():
                if writer.pending_bytes:
                    with suppress(FileNotFoundError):
                        oldest = min(oldest, writer.first_pending().appended_at(writer.delivered))
            return now - oldest

    @property
    def is_full(self) -> bool:
        """Whether an append was refused for want of room, and nothing was delivered since."""
        return self._is_full

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be appended or delivered any more."""
        return self._is_closed

    def close(self) -> None:
        """Append nothing more. What still waits is left to the other processes, or to the next one."""
        with self._appending, self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
            if self._descriptor is not None:
                os.close(self._descriptor)
            os.close(self._folder_descriptor)
            self._memory.clear()
            for writer in self._writers():
                writer.release()

    # For the Forwarder: one thread at a time.

    def next_batch(self, most: int) -> Batch | None:
        """Up to `most` records of one writer that wait, the same ones until they are `delivered`; None when none waits.

        Writers take turns: neither a dead process's backlog nor the stream of new records holds up the other.

        Raises:
            OSError: a file cannot be read.
        """
        with self._changed:
            waiting = [writer for writer in self._writers() if writer.pending_bytes and not self._is_closed]
            if not waiting:
                return None
            writer = waiting[self._turn % len(waiting)]
            if writer is self._own and self._memory and self._memory_start == writer.delivered:
                return self._remembered(most)
            segment = writer.first_pending()
            stop = segment.end
        lines = segment.read(writer.delivered, stop, most, may_be_torn=writer is not self._own)
        return Batch(writer, *lines)

    def delivered(self, batch: Batch) -> None:
        """Forget a batch: it is where it belongs."""
        with self._changed:
            if self._is_closed:
                return
            writer = batch.writer
            writer.delivered = batch.end
            # Where a file is damaged, its lines are not as many as were counted.
            waiting = max(0, writer.pending_records - len(batch.records) - len(batch.broken))
            writer.pending_records = waiting if writer.pending_bytes else 0
            while self._memory and writer is self._own and self._memory_start < batch.end:
                self._memory_start += len(self._memory[0]) + LINE_OVERHEAD_BYTES
                self._memory_used -= len(self._memory.popleft()) + _OBJECT_BYTES
            self._is_full = False
            self._turn += 1
            self._clean_up()

    def settle(self) -> None:
        """With nothing left to deliver, keep next to nothing on disk."""
        with self._changed:
            if self._is_closed:
                return
            self._position_due = 0.0
            self._clean_up()
            is_large = sum(segment.size for segment in self._own.segments) > self._segment_bytes // 8
        if is_large:
            with self._appending, self._changed:
                if not self._is_closed and not self._own.pending_bytes:
                    self._end_segment()
                    self._clean_up()

    def adopt_orphans(self) -> None:
        """Take over what dead processes left in the folder, as far as it fits beside what waits here already.

        The rest is for the other processes, or for later; however large, one fits where nothing else waits.

        Raises:
            OSError: a file cannot be read.
        """
        with self._changed:
            if self._is_closed:
                return
        errors = []
        for name in writers(self.folder):
            try:
                # A lock belongs to an open file, not to a process: claiming one's own fails like claiming another's.
                if orphan := WriterFiles.claim(self.folder, name):
                    self._adopt(orphan)
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def wait(self, seconds: float, until: Callable[[], bool]) -> None:
        """Wait until a record is there to be delivered, `until` holds (`wake` has it looked at), or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending_bytes() or self._is_closed or until(), seconds)

    def wake(self) -> None:
        """End a `wait` whose `until` now holds."""
        with self._changed:
            self._changed.notify_all()

    def _adopt(self, orphan: WriterFiles) -> None:
        with self._changed:
            waiting = self._pending_bytes()
            if self._is_closed or (waiting and waiting + orphan.pending_bytes > self.limit_bytes):
                orphan.release()
            else:
                self._adopted.append(orphan)
                self._clean_up()

    def _writers(self) -> list[WriterFiles]:
        return [self._own, *self._adopted]

    def _pending_bytes(self) -> int:
        return self._own.pending_bytes + sum(writer.pending_bytes for writer in self._adopted)

    def _check_room(self, size: int) -> None:
        with self._changed:
            if self._is_closed:
                raise JournalUnavailable(
                    f"The journal in {self.folder} is closed: the service is stopping. Send again."
                )
            waiting = self._pending_bytes()
            if waiting + size > self.limit_bytes:
                self._is_full = True
                raise JournalFull(
                    f"The journal in {self.folder} cannot take {size:,} bytes more: {waiting:,} of at most "
                    f"{self.limit_bytes:,} wait for the ledger. It makes room by itself once the ledger takes records."
                )

    def _write(self, lines: bytes) -> None:
        descriptor, is_new = self._descriptor, False
        if descriptor is None or self._own.segments[-1].size + len(lines) > self._segment_bytes:
            with self._changed:
                self._end_segment()
                self._sequence += 1
                descriptor = self._descriptor = self._own.add_segment(self._sequence)
                is_new = True
        rest = memoryview(lines)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        _sync(descriptor)
        if is_new:
            os.fsync(self._folder_descriptor)

    def _give_up_segment(self) -> None:
        # After a failed sync nobody knows what is on disk, so the file gets no further record. The broken end goes;
        # where not even that works, it lies behind the part that counts, and only a crash brings it up.
        with self._changed:
            if self._descriptor is None:
                return
            segment = self._own.segments[-1]
            with suppress(OSError):
                os.ftruncate(self._descriptor, segment.size)
            with suppress(OSError):
                self._end_segment()
            if not segment.size:
                self._own.segments.pop()
                with suppress(OSError):
                    segment.path.unlink()

    def _end_segment(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _remember(self, records: Sequence[bytes], size: int) -> None:
        start, used = self._own.written, size + len(records) * (_OBJECT_BYTES - LINE_OVERHEAD_BYTES)
        if self._memory_used + used > self._memory_bytes:
            return
        if not self._memory:
            self._memory_start = self._memory_end = start
        if self._memory_end == start:
            self._memory.extend(records)
            self._memory_end += size
            self._memory_used += used

    def _remembered(self, most: int) -> Batch:
        records: list[bytes] = []
        size = 0
        for record in self._memory:
            size += len(record) + LINE_OVERHEAD_BYTES
            if len(records) == most or (records and size > BATCH_BYTES):
                size -= len(record) + LINE_OVERHEAD_BYTES
                break
            records.append(record)
        return Batch(self._own, records, [], self._own.delivered + size)

    def _clean_up(self) -> None:
        now = time.monotonic()
        self._own.remove_delivered(keep_last=self._descriptor is not None)
        if now >= self._position_due:
            self._position_due = now + SAVE_POSITION_SECONDS
            for writer in self._writers():
                writer.save_position()
        for writer in list(self._adopted):
            writer.remove_delivered(keep_last=False)
            if not writer.pending_bytes:
                self._adopted.remove(writer)
                writer.release()

    def _unavailable(self, error: OSError) -> JournalUnavailable:
        return JournalUnavailable(
            f"The journal in {self.folder} cannot be written to: {error.strerror or error}. "
            "Make room on its disk, or let the service write there."
        )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
