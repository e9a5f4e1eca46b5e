"""The journal's files: what a line is, whose they are, how far they are delivered.

    <writer>-00000001.journal   a segment: records in the order they were appended, one per line
    <writer>.position           segment and offset up to which all is delivered; its owner holds a lock (flock) on it
    dead_letters.jsonl          what can never be delivered (forwarding.py)

A line is the CRC-32 of all that follows it but the newline (8 hex digits), the time of the append (ms since 1970, 13
digits), the record's length in bytes (8 digits), the record and a newline. The length finds the next line when a
newline is damaged, the newline finds it when anything else is: one flipped byte costs one record at most.

The lock, not a process id, says whether a writer lives: ids are reused, locks end with their process. It is lost on
some network file systems, so the folder must be on a local disk.
"""

import fcntl
import os
import re
import secrets
import time
from binascii import crc32
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fraud_pipelines.errors import ContractBroken

LINE_OVERHEAD_BYTES = 33
LARGEST_RECORD_BYTES = 99_999_999
# A batch read back, or a piece of a file that is only counted.
READ_BYTES = 1024 * 1024

_HEADER = re.compile(rb"([0-9a-f]{8})( (\d{13}) (\d{8}) )")
_WRITER = r"(?P<writer>\d{19}-[0-9a-f]{8})"
_SEGMENT = re.compile(_WRITER + r"-(?P<sequence>\d{8,})\.journal")
_FILE = re.compile(_WRITER + r"(-\d{8,}\.journal|\.position)")


class BrokenLine(NamedTuple):
    """A line that is not what was written: where (file and offset in bytes), its bytes, and what is wrong."""

    place: str
    content: bytes
    reason: str


class Lines(NamedTuple):
    """What was read: the records, the lines that were none, and the position behind them."""

    records: list[bytes]
    broken: list[BrokenLine]
    end: int


def framed(records: Sequence[bytes], at_ms: int) -> bytes:
    """The lines of records appended at `at_ms` (milliseconds since 1970).

    Raises:
        ContractBroken: a record holds a newline or is larger than LARGEST_RECORD_BYTES.
    """
    appended_at = b" %013d " % at_ms
    parts: list[bytes] = []
    for record in records:
        if b"\n" in record or len(record) > LARGEST_RECORD_BYTES:
            raise ContractBroken(
                f"A record of the journal is one line of at most {LARGEST_RECORD_BYTES:,} bytes, found "
                f"{len(record):,} bytes with {record.count(10)} newlines. Write it as JSON without line breaks."
            )
        head = b"%b%08d " % (appended_at, len(record))
        parts += (b"%08x" % crc32(record, crc32(head)), head, record, b"\n")
    return b"".join(parts)


@dataclass
class Segment:
    """One file of a writer. Positions count the bytes of all the writer's segments, from the first one found."""

    path: Path
    sequence: int
    start: int
    size: int = 0

    @property
    def end(self) -> int:
        """Position behind its last line that counts."""
        return self.start + self.size

    def read(self, start: int, stop: int, most: int, *, may_be_torn: bool) -> Lines:
        """At most `most` lines between two positions at which lines begin.

        Args:
            may_be_torn: whether the writer may have died while it wrote the last line, which then was never
                acknowledged and is left out.
        Raises:
            OSError: the file is there and cannot be read.
        """
        offset, wanted, size = start - self.start, stop - start, READ_BYTES
        while True:
            size = min(size, wanted)
            try:
                with self.path.open("rb", buffering=0) as file:
                    data = os.pread(file.fileno(), size, offset)
            except FileNotFoundError:
                data = b""
            is_all = size == wanted or len(data) < size
            records, broken, used = self._parsed(data, offset, most, is_all, may_be_torn)
            if used or is_all:
                break
            size *= 4
        if used == len(data) < size:
            missing = f"the file ends {wanted - used} bytes before the last record that was written"
            return Lines(records, [*broken, BrokenLine(f"{self.path.name}:{offset + used}", b"", missing)], stop)
        return Lines(records, broken, start + used)

    def _parsed(
        self, data: bytes, offset: int, most: int, is_all: bool, may_be_torn: bool
    ) -> tuple[list[bytes], list[BrokenLine], int]:
        """Records, broken lines, and how many bytes they took; a line that `data` cuts off is left for later."""
        records: list[bytes] = []
        broken: list[BrokenLine] = []
        at, size = 0, len(data)
        while at < size and len(records) + len(broken) < most:
            head = _HEADER.match(data, at)
            end = head.end() + int(head[4]) if head else at + LINE_OVERHEAD_BYTES
            if end >= size and not is_all:
                break
            if head and end <= size:
                record = data[head.end() : end]
                if crc32(record, crc32(head[2])) == int(head[1], 16):
                    records.append(record)
                    at = min(end + 1, size)
                    continue
            newline = data.find(b"\n", at)
            if newline < 0 and not is_all:
                break
            after = newline + 1 if newline >= 0 else size
            if newline >= 0 or not may_be_torn:
                broken.append(BrokenLine(f"{self.path.name}:{offset + at}", data[at:after], "its checksum is wrong"))
            at = after
        return records, broken, at

    def appended_at(self, position: int) -> float:
        """When the line at a position was appended, in seconds since 1970; of a damaged line, when the last one was."""
        with self.path.open("rb", buffering=0) as file:
            head = _HEADER.match(os.pread(file.fileno(), LINE_OVERHEAD_BYTES, position - self.start))
            return int(head[3]) / 1000 if head else os.fstat(file.fileno()).st_mtime


class WriterFiles:
    """The files of one writer, this process's own or a dead one's, while this process holds their lock.

    Not safe for threads: Journal guards it.

    Attributes:
        segments: oldest first; those that are delivered are gone.
        delivered, written: positions.
        pending_records: records between the two; for those of a dead writer the number of lines.
    """

    def __init__(self, folder: Path, writer: str, lock: int) -> None:
        self._folder, self._writer, self._lock = folder, writer, lock
        self._saved = b""
        self.segments: deque[Segment] = deque()
        self.delivered = self.written = self.pending_records = 0

    @classmethod
    def create(cls, folder: Path) -> "WriterFiles":
        """A new writer's; names are in the order of creation as far as the clock is."""
        while True:
            # Another process may take the new file for a dead writer's before it is locked, and remove it.
            if files := cls.claim(folder, f"{time.time_ns():019d}-{secrets.token_hex(4)}"):
                return files

    @classmethod
    def claim(cls, folder: Path, writer: str) -> "WriterFiles | None":
        """The files of a writer that no living process owns; None while one does.

        Raises:
            OSError: the files cannot be read.
        """
        position = folder / f"{writer}.position"
        lock = os.open(position, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner may have finished and removed the file between the two calls above.
            if not os.path.samestat(os.fstat(lock), position.stat()):
                raise FileNotFoundError(position)
            files = cls(folder, writer, lock)
            files._find_segments()
        except (BlockingIOError, FileNotFoundError):
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        return files

    def _find_segments(self) -> None:
        delivered = re.fullmatch(rb"(\d{8,} \d{16}) ([0-9a-f]{8})\n", os.pread(self._lock, 100, 0))
        sequence = offset = 0
        # The file is never synced. An old position costs a delivery more, one that cannot be read a few.
        if delivered and crc32(delivered[1]) == int(delivered[2], 16):
            sequence, offset = map(int, delivered[1].split())
        matches = (_SEGMENT.fullmatch(name) for name in os.listdir(self._folder))
        for found in sorted(int(match["sequence"]) for match in matches if match and match["writer"] == self._writer):
            path = self._folder / f"{self._writer}-{found:08d}.journal"
            if found < sequence:
                path.unlink(missing_ok=True)
                continue
            self.segments.append(Segment(path, found, self.written, path.stat().st_size))
            if found == sequence:
                self.delivered = min(offset, self.segments[-1].size)
            self.written += self.segments[-1].size
        self.pending_records = sum(_lines(item.path, max(0, self.delivered - item.start)) for item in self.segments)

    @property
    def pending_bytes(self) -> int:
        """Bytes not yet delivered."""
        return self.written - self.delivered

    def add_segment(self, sequence: int) -> int:
        """Begin a segment; its descriptor, which only appends."""
        path = self._folder / f"{self._writer}-{sequence:08d}.journal"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self.segments.append(Segment(path, sequence, self.written))
        return descriptor

    def first_pending(self) -> Segment:
        """The segment that holds the next record to be delivered, if there is one."""
        return next(segment for segment in self.segments if segment.end > self.delivered)

    def remove_delivered(self, *, keep_last: bool) -> None:
        """Remove the segments that are delivered; the last one is kept while it is written to."""
        while len(self.segments) > keep_last and self.segments[0].end <= self.delivered:
            self.segments[0].path.unlink(missing_ok=True)
            self.segments.popleft()

    def save_position(self) -> None:
        """Write down how far all is delivered, for whoever comes after a crash."""
        if not self.segments:
            return
        first = self.segments[0]
        position = b"%08d %016d" % (first.sequence, max(0, self.delivered - first.start))
        if position != self._saved:
            os.pwrite(self._lock, b"%b %08x\n" % (position, crc32(position)), 0)
            self._saved = position

    def release(self) -> None:
        """Leave to other processes what is pending; when nothing is, leave no file."""
        try:
            if self.pending_bytes:
                self.save_position()
            else:
                self.remove_delivered(keep_last=False)
                (self._folder / f"{self._writer}.position").unlink(missing_ok=True)
        finally:
            os.close(self._lock)


def writers(folder: Path) -> Iterator[str]:
    """The writers that have files in a folder, oldest first."""
    matches = (_FILE.fullmatch(name) for name in os.listdir(folder))
    yield from sorted({match["writer"] for match in matches if match})


def _lines(path: Path, offset: int) -> int:
    count = 0
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while piece := file.read(READ_BYTES):
            count += piece.count(b"\n")
    return count
