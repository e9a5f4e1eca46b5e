"""One token bucket per API key, shared by every worker of a host through a small memory-mapped file.

A bucket is one number: the moment, in nanoseconds of the clock that all processes of a host share, at which it is full
again (the generic cell rate algorithm, ITU-T I.371). Every transaction admitted moves that moment on by the time the
rate allows for one; what would move it further ahead than the bucket is deep is refused, and moves nothing.

A lock of the kernel guards the file, for a microsecond: it goes with the process that held it, and the number is
written in one store, so a worker killed at any point leaves neither a lock nor half a number behind.
"""

import fcntl
import math
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SECOND = 1_000_000_000
# Two words of 64 bits each: the key, and the moment its bucket is full again. 64 KiB in all.
SLOTS = 4096
_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `burst + per_second * T` transactions in any T seconds.

    A client that leaves `interval_ns` between its transactions, the inverse of the rate rounded up, is never refused.
    """

    per_second: float
    burst: int
    interval_ns: int = field(init=False)

    def __post_init__(self) -> None:
        if not (0 < self.per_second <= SECOND and self.burst >= 1):
            raise ValueError(
                f"A rate limit takes more than 0 transactions per second and a burst of at least 1; "
                f"found {self.per_second} and {self.burst}."
            )
        numerator, denominator = self.per_second.as_integer_ratio()
        object.__setattr__(self, "interval_ns", math.ceil(SECOND * denominator / numerator))


class RateLimits:
    """The buckets in one file. A worker opens it once, after it was forked; its threads share it."""

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.monotonic_ns) -> None:
        """Open the file, or make it (mode 0600). It must lie on a disk of this host.

        Args:
            clock: nanoseconds of a clock that all processes of the host share and that never goes back.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Not before: closing any descriptor of a file gives up the process's locks on it.
        weakref.finalize(self, os.close, self._file)
        size = SLOTS * 2 * _WORD_BYTES
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            if os.fstat(self._file).st_size < size:
                # Its pages exist from now on: on a full disk the first use of one that does not ends the process.
                os.posix_fallocate(self._file, 0, size)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        # A view of whole words: assigning to one is a single store, where struct would write byte by byte.
        self._words = memoryview(mmap.mmap(self._file, size)).cast("Q")
        self._clock = clock
        self._threads = threading.Lock()  # the kernel's lock is between processes only
        self._slots: dict[str, tuple[int, int]] = {}

    def take(self, key_id: str, limit: RateLimit, cost: int = 1) -> float:
        """Take `cost` transactions, at most `limit.burst`, from a key's bucket.

        Args:
            key_id: 16 hexadecimal digits.
        Returns:
            0.0 when they were there; else the seconds until they will be, and nothing was taken.
        """
        interval = limit.interval_ns
        depth = interval * limit.burst
        words = self._words
        with self._threads:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                word, at = self._slots.get(key_id) or self._slot_of(key_id)
                if words[at] != word:  # another process gave the slot to another key
                    word, at = self._slot_of(key_id)
                # Inside the lock: a moment read before it might be older than the one in the file.
                now = self._clock()
                full_at = words[at + 1]
                # Further ahead than any bucket is deep: written before the clock began anew, at a reboot.
                if full_at < now or full_at > now + depth + SECOND:
                    full_at = now
                full_at += interval * cost
                excess = full_at - now - depth
                if excess > 0:
                    return excess / SECOND
                words[at + 1] = full_at
                return 0.0
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _slot_of(self, key_id: str) -> tuple[int, int]:
        """The key's word and where it lies; a key without a slot gets the one that was full the longest.

        An unused slot is one that was full at moment 0. Only with more than SLOTS keys in use at the same moment does
        a bucket that is not full change hands, and begin full again.
        """
        word = int(key_id, 16)
        keys, moments = self._words[::2].tolist(), self._words[1::2].tolist()
        try:
            slot = keys.index(word)
        except ValueError:
            slot = min(range(SLOTS), key=moments.__getitem__)
            self._words[2 * slot + 1] = 0
            self._words[2 * slot] = word
        self._slots[key_id] = word, 2 * slot
        return self._slots[key_id]
