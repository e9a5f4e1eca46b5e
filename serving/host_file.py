"""A small SQLite file that the workers of one host share, for what they must agree on without any store.

What it holds is durable by the journal; it has to survive the end of a process, not that of the host.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud_pipelines.errors import JournalUnavailable
from fraud_pipelines.write_ahead_log import use_write_ahead_log

_BUSY_SECONDS = 5.0


class HostFile:
    """Opened with its first use. Safe for threads and processes; not to be used by a forked child.

    Args:
        path: on a local disk; None keeps everything in memory, for this object alone.
        tables: SQL that makes what is missing.
        problem: what is told when it cannot be used, with {place} and {error} in it.
    """

    def __init__(self, path: Path | None, tables: str, problem: str) -> None:
        self._place, self._tables, self._problem = str(path or ":memory:"), tables, problem
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def statements(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits each statement by itself, unless a transaction is begun; one left open is undone.

        Raises:
            JournalUnavailable: the file cannot be used.
        """
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._opened()
                try:
                    yield self._connection
                finally:
                    if self._connection.in_transaction:
                        self._connection.rollback()
            except (sqlite3.Error, OSError) as error:
                raise JournalUnavailable(self._problem.format(place=self._place, error=error)) from error

    def _opened(self) -> sqlite3.Connection:
        if self._place != ":memory:":
            Path(self._place).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(self._place, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        # A commit is only as durable as it has to be against the end of a process: nobody waits for the disk twice.
        connection.execute("pragma auto_vacuum = full")
        use_write_ahead_log(connection, busy_seconds=_BUSY_SECONDS)
        connection.executescript(f"pragma synchronous = normal; {self._tables}")
        return connection
